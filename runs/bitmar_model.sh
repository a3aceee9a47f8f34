#!/usr/bin/env bash
# From the result of runs/nano.sh to bitmar's file, ternary, as the engine runs it.
#
#   bash runs/bitmar_model.sh ../shared build/nano build/bitmar
#
# Run it again to go on: a finished step is skipped, training goes on from its last checkpoint.
# Needs: pip install -e '.[train]'. The recipes are in recipes/bitmar.
set -euo pipefail

shared=${1:-../shared}
nano=${2:-build/nano}
out=${3:-build/bitmar}
bin=${BIN:-.venv/bin}
threads=${THREADS:-2}
export OMP_NUM_THREADS=$threads
mkdir -p "$out"

log() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" | tee -a "$out/bitmar.log"; }
step() { if [ -e "$1" ]; then return 1; fi; log "${*:2}"; }
train() { "$bin/embervlm" train --threads "$threads" --shared "$shared" --tokenizer "$nano/tokenizer.json" "$@"; }
log "start: $("$bin/python" --version), $(uname -m), $(nproc) cores, commit $(git rev-parse --short HEAD 2>/dev/null || echo none)"

step "$nano/vision/grid-5.npy" "1 photos: what the eye says of each place" &&
  "$bin/python" -m embervlm.training.photo_grid --shared "$shared" --vision "$nano/vision" --threads "$threads"

step "$out/start/network.safetensors" "2 start: what bitmar takes of ember-nano in floats" &&
  "$bin/python" -m embervlm.training.bitmar_start --model "$nano/average/network.safetensors" \
    --out "$out/start/network.safetensors"

step "$out/pretrain/network.safetensors" "3 pretrain: photos and captions" &&
  train --recipe recipes/bitmar/pretrain.yaml --vision "$nano/vision" --model "$out/start/network.safetensors" \
    --output-dir "$out/pretrain"

step "$out/robot/network.safetensors" "4 robot: the decision, taught by ember-nano in floats" &&
  train --recipe recipes/bitmar/robot.yaml --vision "$nano/vision" --model "$out/pretrain/network.safetensors" \
    --teacher "$nano/average/network.safetensors" --output-dir "$out/robot"

step "$out/robot-more/network.safetensors" "4 robot: two epochs more, at a lower rate" &&
  train --recipe recipes/bitmar/robot.yaml --vision "$nano/vision" --model "$out/robot/network.safetensors" \
    --teacher "$nano/average/network.safetensors" --epochs 2 --learning-rate 3e-4 --head-learning-rate 6e-4 \
    --seed 3 --output-dir "$out/robot-more"

step "$out/ngrams/network.safetensors" "5 n-grams beside the reader" &&
  "$bin/python" -m embervlm.training.ngrams --tokenizer "$nano/tokenizer.json" \
    --model "$out/robot-more/network.safetensors" --out "$out/ngrams" --threads "$threads"

step "$out/words/network.safetensors" "6 words: the decoder repeats what was read" &&
  train --recipe recipes/bitmar/words.yaml --model "$out/ngrams/network.safetensors" --output-dir "$out/words"

step "$out/reason/network.safetensors" "7 reason: decisions put into words" &&
  train --recipe recipes/bitmar/reason.yaml --model "$out/words/network.safetensors" --output-dir "$out/reason"

step "$out/match/network.safetensors" "8 match: photos near what is said of them, for nothing but that" &&
  "$bin/python" -m embervlm.training.matching --model "$out/reason/network.safetensors" --vision "$nano/vision" \
    --tokenizer "$nano/tokenizer.json" --shared "$shared" --out "$out/match" --threads "$threads"

log "9 export and calibrate"
"$bin/python" -m embervlm.export.gguf --network "$out/reason/network.safetensors" \
  --tokenizer "$nano/tokenizer.json" --type q4_0 --out "$out/bitmar.gguf"
"$bin/python" -m embervlm.evaluation.calibration --model "$out/bitmar.gguf" --shared "$shared" \
  --no-robot-recall 0.85
log "done: $out/bitmar.gguf"
