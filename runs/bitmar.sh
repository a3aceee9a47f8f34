#!/usr/bin/env bash
# What fusion, memory, ternary weights and GRPO bring: each left out in turn, three seeds, short trainings; the
# table is benchmarks/bitmar.json.
#
#   bash runs/bitmar.sh ../shared build/nano build/bitmar-grid
#
# Needs the result of runs/nano.sh up to its step 7, and pip install -e '.[train]'. Run it again to go on.
set -euo pipefail

shared=${1:-../shared}
nano=${2:-build/nano}
out=${3:-build/bitmar-grid}
bin=${BIN:-.venv/bin}
threads=${THREADS:-2}
export OMP_NUM_THREADS=$threads

if [ ! -e "$nano/vision/grid-5.npy" ]; then
  "$bin/python" -m embervlm.training.photo_grid --shared "$shared" --vision "$nano/vision" --threads "$threads"
fi
"$bin/python" benchmarks/bitmar.py --model "$nano/average/network.safetensors" --vision "$nano/vision" \
  --tokenizer "$nano/tokenizer.json" --shared "$shared" --out "$out" --threads "$threads" \
  --json benchmarks/bitmar.json
