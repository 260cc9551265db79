#!/bin/bash
# At most nine minutes on one GPU, offline, from the repository's root: bash benchmarks/gpu/check.sh   (README.md)
# Parts come in order of worth, each with a limit of its own, so that one that hangs costs no other. $OUT/summary.txt has
# every figure as soon as it is known, also of a part that ran out of time. ONLY="rates compile" runs some parts only.
set -u
: "${OUT:=.gpu/out}"; mkdir -p "$OUT"; export OUT
started=$SECONDS; left() { echo $(( ${LIMIT_S:-540} - (SECONDS - started) )); }
part() { # name, seconds at most, command...
  local name=$1 most=$2 rest; shift 2; rest=$(left); [ "$rest" -lt "$most" ] && most=$rest
  [[ -n "${ONLY:-}" && " $ONLY " != *" $name "* ]] && return
  if [ "$most" -lt 15 ]; then echo "== $name: left out, no time" | tee -a "$OUT/summary.txt"; return; fi
  local began=$SECONDS; timeout -k 5 "$most" "$@" > "$OUT/part.log" 2>&1; local rc=$?
  { echo "== $name: rc $rc, $((SECONDS - began)) s of $most"; grep -E '^(RESULT|FAILED|ERROR|[0-9]+ (passed|failed)|.* (passed|failed).* in )' "$OUT/part.log" | cut -c1-400; [ $rc -ne 0 ] && tail -25 "$OUT/part.log" | cut -c1-300; } | tee -a "$OUT/summary.txt"
  { echo "######## $name"; cat "$OUT/part.log"; } >> "$OUT/full.log"; rm -f "$OUT/part.log"
}
PY=${PY:-python3}
if [ -d .gpu/whl ] && [ -z "${NO_INSTALL:-}" ]; then
  $PY -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target "$PWD/.gpu/site" .gpu/whl/*.whl || exit 1
fi
export PYTHONPATH="$PWD/src:$PWD/.gpu/site:$PWD/tests:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 NO_ALBUMENTATIONS_UPDATE=1
export DMDD_DATA=${DMDD_DATA:-$PWD/.gpu/data} HYDRA_FULL_ERROR=1
{ date -u; nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv,noheader 2>/dev/null; nproc
  $PY -c 'import torch, lightning, timm, torchmetrics, hydra; print("torch", torch.__version__, "lightning", lightning.__version__, "timm", timm.__version__, "torchmetrics", torchmetrics.__version__, "cudnn", torch.backends.cudnn.version())'; } 2>&1 | tee "$OUT/summary.txt"
PROBE="$PY benchmarks/gpu/probe.py"
S=${SLOW:-1} # factor of the limits, for a slow machine: SLOW=10 LIMIT_S=5400
# The floor, what recipe=paper takes a step, and what compile=true makes of it.
part rates $((20 * S)) $PROBE rates
part base $((60 * S)) $PROBE product base
part compile $((150 * S)) $PROBE product compile
# Is what it computes right? A warning that only a GPU gives is no failure here.
part tests $((80 * S)) $PY -m pytest -q -n "${WORKERS:-8}" --dist loadfile -p no:cacheprovider -o filterwarnings=default -rfE \
  ${TESTS:-tests/gpu tests/pairs/test_pairs_synthesis.py tests/metrics/test_states.py tests/training tests/models/test_detector.py}
part pairs $((50 * S)) $PROBE pairs
part same_as_cpu $((70 * S)) $PROBE same
# Where a step's time goes, before and after; figures of a whole training.
part profile $((45 * S)) $PROBE product profile
part profile_compiled $((90 * S)) $PROBE product compile+profile
part lite0_cpu_recipe $((110 * S)) $PROBE train
part syncs $((30 * S)) $PROBE product syncs
part deterministic $((40 * S)) $PROBE deterministic
part two_on_one $((40 * S)) $PROBE two
# What single parts of our work give.
for variant in one_resident_batch step_by_step images_on_host no_copies no_benchmark no_jitter; do
  part "$variant" $((30 * S)) $PROBE product "$variant"
done
echo "total $((SECONDS - started)) s" | tee -a "$OUT/summary.txt"
