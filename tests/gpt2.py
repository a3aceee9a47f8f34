"""A tokenizer of GPT-2's kind, learnt in a moment and written as publishers write it."""

from __future__ import annotations

import json
from pathlib import Path

from bpe import TEXT
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from embervlm.models.gpt2_tokenizer import END, byte_level


def write_gpt2_tokenizer(folder: Path, *, one_file: bool = True, size: int = 320) -> int:
    """Write `tokenizer.json`, or `vocab.json` and `merges.txt`, as beside GPT-2's weights; return
    the number of tokens, the last of them `<|endoftext|>`."""
    folder.mkdir(parents=True, exist_ok=True)
    learnt = byte_level(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
    )
    learnt.train_from_iterator([TEXT] * 3, trainer)
    content = json.loads(learnt.to_str())["model"]
    vocabulary = {**content["vocab"], END: len(content["vocab"])}
    merges = [tuple(pair) for pair in content["merges"]]
    if one_file:
        whole: Tokenizer = byte_level(models.BPE(vocabulary, merges))
        whole.add_special_tokens([END])
        whole.post_processor = processors.ByteLevel(trim_offsets=False)
        whole.save(str(folder / "tokenizer.json"))
    else:
        (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return len(vocabulary)
