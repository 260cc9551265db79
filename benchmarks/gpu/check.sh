#!/bin/bash
# At most nine minutes on one GPU, offline, from the repository's root: bash benchmarks/gpu/check.sh   (README.md)
# Answers, in this order: do the GPU tests pass; are pairs, losses and a whole training there those of a CPU; what does
# recipe=paper take a step, what is that of the floor, where does it go, what do the parts of our work give; memory; determinism;
# two processes on one GPU (gloo) against one. $OUT/summary.txt has it all in short, the other files in full.
set -u
: "${OUT:=.gpu/out}"; mkdir -p "$OUT"; export OUT
started=$SECONDS; left() { echo $(( ${LIMIT_S:-540} - (SECONDS - started) )); }
part() { # name, seconds at most, command...
  local name=$1 most=$2 rest; shift 2; rest=$(left); [ "$rest" -lt "$most" ] && most=$rest
  if [ "$most" -lt 15 ]; then echo "== $name: left out, no time" | tee -a "$OUT/summary.txt"; return; fi
  local began=$SECONDS; timeout -k 5 "$most" "$@" > "$OUT/part.log" 2>&1; local rc=$?
  { echo "== $name: rc $rc, $((SECONDS - began)) s"; grep -E '^(RESULT|FAILED|ERROR|[0-9]+ (passed|failed)|.* (passed|failed).* in )' "$OUT/part.log" | cut -c1-400; [ $rc -ne 0 ] && tail -25 "$OUT/part.log" | cut -c1-300; } | tee -a "$OUT/summary.txt"
  { echo "######## $name"; cat "$OUT/part.log"; } >> "$OUT/full.log"; rm -f "$OUT/part.log"
}
PY=${PY:-python3}
if [ -d .gpu/whl ] && [ -z "${NO_INSTALL:-}" ]; then
  $PY -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target $PWD/.gpu/site .gpu/whl/*.whl || exit 1
fi
export PYTHONPATH="$PWD/src:$PWD/.gpu/site:$PWD/tests:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1
export DMDD_DATA=${DMDD_DATA:-$PWD/.gpu/data} HYDRA_FULL_ERROR=1
{ date -u; nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader 2>/dev/null; nproc
  $PY -c 'import torch, lightning, timm, torchmetrics, hydra; print("torch", torch.__version__, "lightning", lightning.__version__, "timm", timm.__version__, "torchmetrics", torchmetrics.__version__, "cudnn", torch.backends.cudnn.version())'; } 2>&1 | tee "$OUT/summary.txt"
PROBE="$PY benchmarks/gpu/probe.py"
# A warning that only a GPU gives is no failure here.
part tests 80 $PY -m pytest -q -n 8 --dist loadfile -p no:cacheprovider -o filterwarnings=default -rfE \
  tests/gpu tests/pairs/test_pairs_synthesis.py tests/metrics/test_states.py tests/training tests/models/test_detector.py
part rates 20 $PROBE rates
part pairs 50 $PROBE pairs
part same_as_cpu 70 $PROBE same
part product_paper 60 $PROBE product base
part profile 45 $PROBE product profile
part syncs 30 $PROBE product syncs
part lite0_cpu_recipe 110 $PROBE train
for variant in one_resident_batch step_by_step images_on_host no_copies no_benchmark no_jitter; do
  part "product $variant" 30 $PROBE product "$variant"
done
part deterministic 40 $PROBE deterministic
part two_on_one 40 $PROBE two
part compile 75 $PROBE product compile
echo "total $((SECONDS - started)) s" | tee -a "$OUT/summary.txt"
