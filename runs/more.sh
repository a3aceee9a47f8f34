#!/usr/bin/env bash
# From a model that exists and more requests or photos to a better one, without training it from its start.
#
#   bash runs/more.sh embervlm/weights/ember-nano.gguf ../shared build/more
#
# Run it again to go on: a finished step is skipped, training goes on from its last checkpoint.
# Needs: pip install -e '.[train]'. The new requests are in data/ already (data/README.md). About two hours on one core.
set -euo pipefail

model=${1:-embervlm/weights/ember-nano.gguf}
shared=${2:-../shared}
out=${3:-build/more}
bin=${BIN:-.venv/bin}
threads=${THREADS:-2}
export OMP_NUM_THREADS=$threads
mkdir -p "$out"

log() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" | tee -a "$out/more.log"; }
step() { if [ -e "$out/$1" ]; then return 1; fi; log "${*:2}"; }
train() { "$bin/embervlm" train --threads "$threads" --shared "$shared" "$@"; }

step eye/features.npz "1 what the model's eye sees, training photos in three more views" &&
  "$bin/python" -m embervlm.training.photo_features --model "$model" --shared "$shared" --out "$out/eye"

step more/network.safetensors "2 the decision, two epochs more" &&
  train --recipe recipes/nano/more.yaml --model "$model" --vision "$out/eye" --output-dir "$out/more"

step roles/network.safetensors "3 roles: what each number is for, numbers drawn anew" &&
  train --recipe recipes/nano/roles.yaml --model "$out/more/network.safetensors" --output-dir "$out/roles"

step reason/network.safetensors "4 reason: decisions put into words" &&
  train --recipe recipes/nano/reason.yaml --model "$out/roles/network.safetensors" --epochs 2 --output-dir "$out/reason"
