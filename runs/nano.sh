#!/usr/bin/env bash
# From the shared data to the model that ships: ember-nano.
#
#   bash runs/nano.sh ../shared build/nano
#
# Run it again to go on: a finished stage is skipped, vision and decisions go on after their last epoch.
# Measured on one shared core a stage: vision 22 minutes, decisions 50 a seed, roles 4, reasoning 15. The stages were run
# one by one with these commands (docs/LOG.md); the script in one piece never.
# Needs: pip install -e '.[train]'. Every stage leaves its result in the second folder.
set -euo pipefail

shared=${1:-../shared}
out=${2:-build/nano}
python=${PYTHON:-python}
seeds=${SEEDS:-"1 2"}
threads=${THREADS:-2}
export OMP_NUM_THREADS=$threads
mkdir -p "$out"

log() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" | tee -a "$out/nano.log"; }
log "start: $($python --version), $(uname -m), $(nproc) cores, commit $(git rev-parse --short HEAD 2>/dev/null || echo none)"

if [ ! -f "$out/tokenizer.json" ]; then
  log "1 tokenizer"
  $python -m embervlm.training.tokenizer --shared "$shared" --out "$out/tokenizer.json"
fi

if [ ! -f "$out/vision/features.npz" ]; then
  log "2 vision: MobileNetV2 fine-tuned on places"
  $python -m embervlm.training.vision --shared "$shared" --out "$out/vision" --epochs 7 --threads "$threads"
fi

if [ ! -f "$out/encoder.safetensors" ]; then
  log "3 text encoder: MiniLM's body, our vocabulary"
  $python -m embervlm.training.distillation --shared "$shared" --tokenizer "$out/tokenizer.json" \
    --out "$out/encoder.safetensors" --minutes "${DISTIL_MINUTES:-0}" --threads "$threads"
fi

for seed in $seeds; do
  if [ ! -f "$out/decisions-$seed/done" ]; then
    log "4 decisions, seed $seed"
    $python -m embervlm.training.decisions --shared "$shared" --vision "$out/vision" \
      --encoder "$out/encoder.safetensors" --tokenizer "$out/tokenizer.json" \
      --out "$out/decisions-$seed" --seed "$seed" --threads "$threads"
    touch "$out/decisions-$seed/done"
  fi
done

if [ ! -f "$out/average/network.safetensors" ]; then
  log "5 average of the seeds"
  $python -m embervlm.training.averaging --shared "$shared" --vision "$out/vision" \
    --tokenizer "$out/tokenizer.json" --out "$out/average" --threads "$threads" \
    "$out"/decisions-*/network.safetensors
fi

if [ ! -f "$out/compressed/done" ]; then
  log "6 compression: 960 of 1,536 hidden units, four-bit weights, taught by the average"
  $python -m embervlm.training.compression --shared "$shared" --vision "$out/vision" \
    --tokenizer "$out/tokenizer.json" --model "$out/average/network.safetensors" \
    --out "$out/compressed" --threads "$threads"
  touch "$out/compressed/done"
fi

if [ ! -f "$out/ngrams/network.safetensors" ]; then
  log "7 n-grams beside the reader"
  $python -m embervlm.training.ngrams --tokenizer "$out/tokenizer.json" \
    --model "$out/compressed/network.safetensors" --out "$out/ngrams" --threads "$threads"
fi

if [ ! -f "$out/roles/network.safetensors" ]; then
  log "8 roles of numbers, with numbers re-drawn"
  $python -m embervlm.training.roles --tokenizer "$out/tokenizer.json" \
    --model "$out/ngrams/network.safetensors" --out "$out/roles" --threads "$threads"
fi

if [ ! -f "$out/reasoning/network.safetensors" ]; then
  log "9 reasoning decoder"
  $python -m embervlm.training.reasoning --shared "$shared" --tokenizer "$out/tokenizer.json" \
    --model "$out/roles/network.safetensors" --out "$out/reasoning" --threads "$threads"
fi

log "10 export and calibrate"
$python -m embervlm.export.gguf --network "$out/reasoning/network.safetensors" \
  --tokenizer "$out/tokenizer.json" --type q4_0 --out "$out/ember-nano.gguf"
$python -m embervlm.evaluation.calibration --model "$out/ember-nano.gguf" --shared "$shared"
log "done: $out/ember-nano.gguf; copy it to embervlm/weights if 'embervlm eval --split validation --model $out/ember-nano.gguf' is better"
