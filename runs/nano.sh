#!/usr/bin/env bash
# From the shared data to the model that ships: ember-nano.
#
#   bash runs/nano.sh ../shared build/nano
#
# Run it again to go on: a finished step is skipped, training goes on from its last checkpoint.
# Needs: pip install -e '.[train]'. Every step leaves its result in the second folder. The recipes are in recipes/nano.
# SEEDS="1 2 3": that many runs of the decision, averaged; each takes as long as all the rest together.
set -euo pipefail

shared=${1:-../shared}
out=${2:-build/nano}
bin=${BIN:-.venv/bin}
seeds=${SEEDS:-1}
threads=${THREADS:-2}
export OMP_NUM_THREADS=$threads
mkdir -p "$out"

log() { printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" | tee -a "$out/nano.log"; }
# step NAME MADE WORDS...: say what comes; true where MADE is not there yet.
step() { if [ -e "$out/$1" ]; then return 1; fi; log "${*:2}"; }
train() { "$bin/embervlm" train --threads "$threads" --shared "$shared" --tokenizer "$out/tokenizer.json" "$@"; }
log "start: $("$bin/python" --version), $(uname -m), $(nproc) cores, commit $(git rev-parse --short HEAD 2>/dev/null || echo none)"

step tokenizer.json "1 tokenizer" &&
  "$bin/python" -m embervlm.training.tokenizer --shared "$shared" --out "$out/tokenizer.json"

step vision/report.json "2 vision: MobileNetV2 fine-tuned on places" &&
  "$bin/python" -m embervlm.training.vision --shared "$shared" --out "$out/vision" --epochs 7 --threads "$threads"

step start/network.safetensors "3 start: MiniLM's body in our vocabulary, the eye of step 2" &&
  "$bin/python" -m embervlm.training.start --tokenizer "$out/tokenizer.json" --vision "$out/vision" \
    --out "$out/start/network.safetensors"

step pruned/network.safetensors "4 pruning: 960 of 1,536 hidden units" &&
  "$bin/python" -m embervlm.training.pruning --tokenizer "$out/tokenizer.json" \
    --model "$out/start/network.safetensors" --out "$out/pruned/network.safetensors"

step align/network.safetensors "5 align: photos and captions" &&
  train --recipe recipes/nano/align.yaml --vision "$out/vision" --model "$out/pruned/network.safetensors" \
    --output-dir "$out/align"

for seed in $seeds; do
  step "select-$seed/network.safetensors" "6 select, seed $seed" &&
    train --recipe recipes/nano/select.yaml --vision "$out/vision" --model "$out/align/network.safetensors" \
      --output-dir "$out/select-$seed" --seed "$seed"
done

step average/network.safetensors "7 average of the seeds" &&
  "$bin/python" -m embervlm.training.averaging --shared "$shared" --vision "$out/vision" \
    --tokenizer "$out/tokenizer.json" --out "$out/average" --threads "$threads" "$out"/select-*/network.safetensors

step compress/network.safetensors "8 compress: four-bit weights, taught by step 7" &&
  train --recipe recipes/nano/compress.yaml --vision "$out/vision" --model "$out/average/network.safetensors" \
    --teacher "$out/average/network.safetensors" --output-dir "$out/compress"

step ngrams/network.safetensors "9 n-grams beside the reader" &&
  "$bin/python" -m embervlm.training.ngrams --tokenizer "$out/tokenizer.json" \
    --model "$out/compress/network.safetensors" --out "$out/ngrams" --threads "$threads"

step roles/network.safetensors "10 roles: what each number is for, numbers drawn anew" &&
  train --recipe recipes/nano/roles.yaml --model "$out/ngrams/network.safetensors" --output-dir "$out/roles"

step words/network.safetensors "11 words: the decoder repeats what was read" &&
  train --recipe recipes/nano/words.yaml --model "$out/roles/network.safetensors" --output-dir "$out/words"

step reason/network.safetensors "12 reason: decisions put into words" &&
  train --recipe recipes/nano/reason.yaml --model "$out/words/network.safetensors" --output-dir "$out/reason"

log "13 export"
"$bin/python" -m embervlm.export.gguf --network "$out/reason/network.safetensors" \
  --tokenizer "$out/tokenizer.json" --type q4_0 --out "$out/ember-nano.gguf"
step steady/eye.safetensors "14 steady: the eye learns not to mind damage" &&
  "$bin/python" -m embervlm.training.steady --model "$out/ember-nano.gguf" --shared "$shared" --photos "$out/vision" \
    --out "$out/steady" --epochs 2 --threads "$threads"
"$bin/python" -m embervlm.export.steady --model "$out/ember-nano.gguf" --eye "$out/steady/eye.safetensors" --out "$out/ember-nano.gguf"
log "15 looks: a photo is told by the training photos that look most like it"
"$bin/python" -m embervlm.export.photo_recall --model "$out/ember-nano.gguf" --shared "$shared" --out "$out/ember-nano.gguf"
"$bin/python" -m embervlm.evaluation.calibration --model "$out/ember-nano.gguf" --shared "$shared"
step plan/plan.safetensors "16 plans: a job in steps" &&
  "$bin/python" -m embervlm.training.plan_steps --model "$out/ember-nano.gguf" --out "$out/plan" --threads "$threads"
"$bin/python" -m embervlm.export.plan_steps --model "$out/ember-nano.gguf" --plan "$out/plan/plan.safetensors" --out "$out/ember-nano.gguf"
"$bin/python" -m embervlm.evaluation.calibration --model "$out/ember-nano.gguf" --only teams
log "done: $out/ember-nano.gguf; copy it to embervlm/weights if 'embervlm eval --split validation --model $out/ember-nano.gguf' is better"
