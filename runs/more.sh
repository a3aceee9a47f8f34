#!/usr/bin/env bash
# From a model that exists and more requests or photos to a better one, without training it from its start.
#
#   bash runs/more.sh embervlm/weights/ember-nano.gguf ../shared build/more
#
# Run it again to go on: a finished step is skipped, training goes on from its last checkpoint. RECIPE=recipes/nano/top.yaml moves only the reader's last
# four layers and the heads: quicker, and the plans' part of the model fits behind it still.
# Needs: pip install -e '.[train]'. The new requests are in data/ already (data/README.md). Some three hours on two cores, most of them for the plans.
set -euo pipefail

model=${1:-embervlm/weights/ember-nano.gguf}
shared=${2:-../shared}
out=${3:-build/more}
bin=${BIN:-.venv/bin}
threads=${THREADS:-2}
recipe=${RECIPE:-recipes/nano/more.yaml}
export OMP_NUM_THREADS=$threads
mkdir -p "$out"

log() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" | tee -a "$out/more.log"; }
step() { if [ -e "$out/$1" ]; then return 1; fi; log "${*:2}"; }
train() { "$bin/embervlm" train --threads "$threads" --shared "$shared" --tokenizer "$out/tokenizer.json" "$@"; }
[ -e "$out/tokenizer.json" ] || "$bin/python" -c "
import sys
from embervlm.checkpoint import load_checkpoint
load_checkpoint(sys.argv[1]).tokenizer.save(sys.argv[2])" "$model" "$out/tokenizer.json"

step eye/features.npz "1 what the model's eye sees, training photos in three more views" &&
  "$bin/python" -m embervlm.training.photo_features --model "$model" --shared "$shared" --out "$out/eye"

step more/network.safetensors "2 the decision, some epochs more" &&
  train --recipe "$recipe" --model "$model" --vision "$out/eye" --output-dir "$out/more"

step ngrams/network.safetensors "3 n-grams beside the reader" &&
  "$bin/python" -m embervlm.training.ngrams --tokenizer "$out/tokenizer.json" \
    --model "$out/more/network.safetensors" --out "$out/ngrams" --threads "$threads"

step roles/network.safetensors "4 roles: what each number is for, numbers drawn anew" &&
  train --recipe recipes/nano/roles.yaml --model "$out/ngrams/network.safetensors" --output-dir "$out/roles"

step reason/network.safetensors "5 reason: decisions put into words, for two epochs at a lower rate" &&
  train --recipe recipes/nano/reason.yaml --model "$out/roles/network.safetensors" --epochs 2 \
    --learning-rate 5e-4 --head-learning-rate 5e-4 --output-dir "$out/reason"

log "6 export"
"$bin/python" -m embervlm.export.gguf --network "$out/reason/network.safetensors" \
  --tokenizer "$out/tokenizer.json" --type q4_0 --out "$out/ember-nano.gguf"
step plan/plan.safetensors "7 plans: a job in steps" &&
  "$bin/python" -m embervlm.training.plan_steps --model "$out/ember-nano.gguf" --out "$out/plan" --threads "$threads"
"$bin/python" -m embervlm.export.plan_steps --model "$out/ember-nano.gguf" --plan "$out/plan/plan.safetensors" --out "$out/ember-nano.gguf"
"$bin/python" -m embervlm.evaluation.calibration --model "$out/ember-nano.gguf" --shared "$shared"
log "done: $out/ember-nano.gguf; copy it to embervlm/weights if 'embervlm eval --split validation --model $out/ember-nano.gguf' is better"
