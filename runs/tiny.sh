#!/usr/bin/env bash
# Every stage and GRPO for a few steps, in minutes on two cores: from the model that ships to one that decides.
# It shows that the pipeline runs from end to end; what it ends with is no better than it began.
#
#     bash runs/tiny.sh [OUT]        # OUT: build/tiny
set -euo pipefail
out=${1:-build/tiny}
bin=${BIN:-.venv/bin}
short=(--report-to none --examples 32 --batch-size 8 --epochs 1 --warmup-steps 2 --learning-rate 2e-5
  --head-learning-rate 1e-4 --log-steps 2)
shipped=embervlm/weights/ember-nano.gguf

"$bin/python" runs/tiny_data.py "$out/data"
captions='[{"set": "coco_captions", "annotations": "'$out'/data/captions_tiny.json", "images": "'$out'/data/images"}]'
talks='[{"set": "llava_instruct", "conversations": "'$out'/data/llava_tiny.json", "images": "'$out'/data/images"}]'

"$bin/embervlm" train --stage align --model $shipped --data "$captions" --output-dir "$out/align" "${short[@]}"
"$bin/embervlm" train --stage instruct --data "$talks" --output-dir "$out/instruct" "${short[@]}" \
  --model "$out/align/network.safetensors"
"$bin/embervlm" train --stage select --model "$out/instruct/network.safetensors" --output-dir "$out/select" "${short[@]}"
"$bin/embervlm" train --stage reason --model "$out/select/network.safetensors" --output-dir "$out/reason" \
  "${short[@]}" --epochs 2

"$bin/embervlm" train --stage grpo --model "$out/reason/network.safetensors" --output-dir "$out/grpo" \
  "${short[@]}" --batch-size 4 --group 4 --max-steps 4

"$bin/python" -m embervlm.export.gguf --network "$out/grpo/network.safetensors" \
  --tokenizer "$out/grpo/tokenizer.json" --type q4_0 --out "$out/tiny.gguf"
"$bin/python" -m embervlm.evaluation.calibration --model "$out/tiny.gguf"
"$bin/embervlm" eval --split validation --only requests --no-baselines --model "$out/tiny.gguf"
"$bin/embervlm" decide --model "$out/tiny.gguf" embervlm/demo/seabed.jpg \
  "Our sensor came off its mooring somewhere here. Find it and cut the line."
