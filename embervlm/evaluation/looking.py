"""Pictures of what goes on in one network: where it looks, what it keeps, where things lie.

    embervlm look network.safetensors --shared ../shared --out pictures
    embervlm look model.gguf --photo a.jpg --task "find the valve" --out pictures

Of any network: the heads of its layers for one request with one photo, and which parts of it the
answer hangs on (`attention` where it has a map, `occlusion` where it pools the photo). Of one
with them: the memory's slots, the ternary weights, and exact sets with the steps of reasoning and
without. With `--shared`, whose photos have captions: photos and captions in the common space by PCA
and t-SNE, their cosines, and the photos nearest to a few captions. What a network lacks is named
with the reason. Only validation is looked at.

Axes: B batch, T words, N photos, D width, K slots, G places along a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from embervlm.backends.base import MAX_TASK_TOKENS
from embervlm.backends.pytorch import PyTorchBackend, load_pytorch
from embervlm.data import scenarios
from embervlm.data.photos import load_captions, load_photos
from embervlm.evaluation.attention import Seen, look_at
from embervlm.evaluation.cases import SEED, decide, seeded_number, text_cases, watched
from embervlm.evaluation.metrics import Answer, measure
from embervlm.evaluation.plots import check_matplotlib
from embervlm.imaging import crop_square, load_image, preprocess
from embervlm.models.bitnet import ternary, ternary_layers
from embervlm.models.modeling import EmberNetwork
from embervlm.occlusion import cover_parts
from embervlm.prompts import read_task
from embervlm.scenario import Scenario
from embervlm.selector import Selector

SHOWN_PX = 240
MOST_PHOTOS, IN_MATRIX, ASKED, NEAREST = 120, 14, 4, 6
_WORDS_SHOWN = 7


@dataclass
class Looked:
    """The PNG files that were drawn, and what was not, with the reason."""

    drawn: list[Path] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def look(
    model: Path | None, out: Path, photo: Path, task: str, shared: Path | None = None
) -> Looked:
    """Draw every picture that a network allows into `out`, PNG and SVG.

    Args:
        model: a GGUF file or the `network.safetensors` of a run; None is the one that ships.
        out: the folder of the pictures.
        photo: the photo of the request that is looked at.
        task: its words.
        shared: the folder that holds photos/ with a manifest of captions; None: no such pictures.

    Raises:
        ValueError: a file is missing or not what it should be, or Matplotlib is.
    """
    check_matplotlib()
    backend = load_pytorch(model)
    out.mkdir(parents=True, exist_ok=True)
    found = Looked()
    _draw_attention(backend, photo, task, out, found)
    if not isinstance(backend, PyTorchBackend):
        found.missing["slots, ternary weights, common space"] = "this family has none of them"
        return found
    draw_inside(backend.network, out, found)
    _draw_with_and_without(backend, out, found)
    if shared is None:
        found.missing["photos and captions"] = "no --shared was given"
    else:
        _draw_common_space(backend, shared / "photos", out, found)
    return found


def draw_inside(network: Any, out: Path, found: Looked | None = None) -> Looked:
    """Draw the memory's slots and the ternary weights of a network that has them."""
    from embervlm.evaluation.network_pictures import draw_memory, draw_ternary

    found = found or Looked()
    memory = getattr(network, "memory", None)
    if memory is None:
        found.missing["memory"] = "this network has no episodic memory"
    else:
        slots_KM = F.normalize(memory.slots.float(), dim=-1)
        age_K = (memory.clock - 1 - memory.written_at).double()
        age_K[memory.written_at < 0] = float("nan")
        draw_memory(
            memory.writes.double().numpy(force=True), age_K.numpy(force=True),
            (slots_KM @ slots_KM.T).double().numpy(force=True), out / "memory",
            "The slots of the episodic memory",
        )  # fmt: skip
        found.drawn.append(out / "memory.png")
    shares = ternary_shares(network)
    if not shares:
        found.missing["ternary"] = "this network has no ternary weights"
    else:
        draw_ternary(shares, out / "ternary", "Ternary weights, matrix by matrix")
        found.drawn.append(out / "ternary.png")
    return found


@torch.no_grad()
def ternary_shares(network: Any) -> dict[str, tuple[float, float, float]]:
    """Return which share of each ternary matrix is -1, 0 and +1; none of a network without."""
    shares = {}
    for name, layer in ternary_layers(network).items():
        weight_OI = layer.weight if layer.is_ternary else ternary(layer.weight)
        count = weight_OI.numel()
        minus, plus = int((weight_OI < 0).sum()), int((weight_OI > 0).sum())
        shares[name] = (minus / count, (count - minus - plus) / count, plus / count)
    return shares


def _draw_attention(backend: Any, photo: Path, task: str, out: Path, found: Looked) -> None:
    from embervlm.evaluation.network_pictures import cut, draw_attention, draw_heads

    seen, words, places = attention_of(backend, photo, task)
    photo_HWC = crop_square(load_image(photo), SHOWN_PX)
    if seen.over_photo is None or seen.by_word is None:
        chances = cover_parts(Selector(backend), Scenario(task=task, image=photo))
        draw_attention(
            photo_HWC, {"how far it falls": np.maximum(chances.drops, 0)}, out / "attention",
            f"Which parts {' and '.join(chances.robots)} hangs on: {cut(task, 60)}",
            f"fall of its chance ({chances.chance:.0%}) when the part is covered",
        )  # fmt: skip
        found.missing["attention over the photo"] = (
            "this network pools a photo into one vector; drawn instead: parts are covered"
        )
    else:
        peaks_T = seen.by_word.flatten(1).amax(1)
        # Where the photo stands among the words it has no map of its own.
        spoken = [words[i] for i in range(len(words)) if i not in places]
        chosen = [i for i in range(len(spoken)) if spoken[i].strip().isalpha()] or [0]
        chosen = sorted(sorted(chosen, key=lambda i: -float(peaks_T[i]))[:_WORDS_SHOWN])
        maps = {"all words": seen.over_photo.double().numpy()}
        maps |= {spoken[i].strip(): seen.by_word[i].double().numpy() for i in chosen}
        draw_attention(
            photo_HWC, maps, out / "attention", f"Where the words look: {cut(task, 70)}",
            f"attention rollout: {seen.places_share:.1%} of all is from these places; the shares "
            "of that, dark blue: least, yellow: most",
        )  # fmt: skip
    found.drawn.append(out / "attention.png")
    for name, shares_HQK in seen.heads.items():
        path = out / f"heads-{name.replace(' ', '-')}"
        Q, K = shares_HQK.shape[1:]
        # Who reads whom, of cross-attention, is what the layer is called by.
        queries = _names(Q, [] if name.startswith("the photo reads") else words)
        keys = _names(K, [] if name.startswith("words read") else words)
        draw_heads(
            shares_HQK.double().numpy(), queries, keys, path, f"Attention head by head: {name}"
        )
        found.drawn.append(path.with_suffix(".png"))


def attention_of(backend: Any, photo: Path, task: str) -> tuple[Seen, list[str], frozenset[int]]:
    """Return where a backend's network looks, the tokens of the request as it reads them, and which
    of those stand for places of the photo."""
    pixels = preprocess(load_image(photo), backend.image_size)
    places: frozenset[int] = frozenset()
    if isinstance(backend, PyTorchBackend):
        tokens = read_task(task, backend.tokenizer, MAX_TASK_TOKENS).tokens
        words = [_as_text(backend.tokenizer, token) for token in tokens]
    else:
        from embervlm.models.prefix_formats import read_request

        config = backend.network.config
        tokens = read_request(task, backend.tokenizer, MAX_TASK_TOKENS, config.image_tokens).tokens
        words = [backend.tokenizer.decode([token]) for token in tokens]
        places = frozenset(i for i, token in enumerate(tokens) if token == config.image_token)
        words = [f"photo {i}" if i in places else word for i, word in enumerate(words)]
    seen = look_at(backend.network, torch.tensor([tokens]), torch.from_numpy(pixels)[None])
    return seen, words, places


def _as_text(tokenizer: Any, token: int) -> str:
    for mark, number in tokenizer.specials.items():
        if number == token:
            return str(mark)
    return str(tokenizer.token_bytes(token).decode("utf-8", "replace"))


def _names(count: int, words: Sequence[str]) -> list[str]:
    """Return the names of states: the words, with the photo's tokens in front."""
    return [f"photo {i + 1}" for i in range(count - len(words))] + [word.strip() for word in words]


def _draw_with_and_without(backend: PyTorchBackend, out: Path, found: Looked) -> None:
    """Draw exact sets of validation's requests as they are and without the steps of reasoning."""
    from embervlm.evaluation.comparison_pictures import draw_pairs

    network = backend.network
    if network.reasoning is None:
        found.missing["with and without reasoning"] = (
            "this network decides before it gives reasons; leaving them out changes no decision"
        )
        return
    rows = text_cases("validation")
    ways = {}
    steps = network.reasoning
    for way, part in (("with its steps", steps), ("without", None)):
        network.reasoning = part
        answers = [
            Answer.of(decide(Selector(backend), case.scenario)[1])
            for case in watched(rows, f"decide {way}")
        ]
        ways[way] = measure(answers, [case.truth for case in rows], seed=SEED)
    network.reasoning = steps
    names = {"exact_set": "exact set", "top1": "first in the set", "environment": "place"}
    pairs = {
        words: {way: figures[key].to_dict() for way, figures in ways.items()}
        for key, words in names.items()
    }
    title = f"Steps of reasoning behind the reader: validation, {len(rows):,} requests"
    draw_pairs(pairs, out / "with-without-reasoning", title, "share right")
    found.drawn.append(out / "with-without-reasoning.png")


def _draw_common_space(backend: PyTorchBackend, photos_dir: Path, out: Path, found: Looked) -> None:
    from embervlm.evaluation.network_pictures import draw_retrieval, draw_similarity, draw_space

    files, texts, labels = captioned(photos_dir)
    if len(files) < 2:
        found.missing["photos and captions"] = f"{photos_dir} has too few photos with captions"
        return
    image_ND, text_ND = place_pairs(backend, [photos_dir / file for file in files], texts)
    shown = [crop_square(load_image(photos_dir / file), SHOWN_PX // 2) for file in files]
    draw_space(image_ND, text_ND, labels, out / "space", "Photos and captions in one space")
    near_NN = image_ND @ text_ND.T
    few = slice(0, IN_MATRIX)
    draw_similarity(
        near_NN[few, few], files[few], texts[few], out / "similarity",
        "How near photos are to captions",
    )  # fmt: skip
    asked = []
    for n in range(min(ASKED, len(files))):
        nearest = np.argsort(-near_NN[:, n])[:NEAREST]
        asked.append((texts[n], [(shown[m], float(near_NN[m, n]), bool(m == n)) for m in nearest]))
    title = f"The nearest of {len(files)} photos to a caption, with the cosine"
    draw_retrieval(asked, out / "retrieval", title)
    found.drawn += [out / f"{name}.png" for name in ("space", "similarity", "retrieval")]


def captioned(photos_dir: Path) -> tuple[list[str], list[str], list[str]]:
    """Return files, a caption of each, and what kind of place each shows; validation's photos, at
    most `MOST_PHOTOS` of them by a hash of their names."""
    texts = load_captions(photos_dir)
    table = load_photos(scenarios.DATA_DIR / "photos.jsonl")
    photos = [one for one in table if one.split == "validation" and one.file in texts]
    photos = sorted(photos, key=lambda one: seeded_number(f"{SEED} {one.file}"))[:MOST_PHOTOS]
    return (
        [one.file for one in photos],
        [texts[one.file][0] for one in photos],
        [one.place for one in photos],
    )


@torch.inference_mode()
def place_pairs(
    backend: PyTorchBackend, files: Sequence[Path], texts: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where photos and texts lie, (N, D) each, of length 1."""
    network: EmberNetwork = backend.network
    images, words = [], []
    for file, text in watched(list(zip(files, texts, strict=True)), "place photos and captions"):
        pixels = preprocess(load_image(file), backend.image_size)
        features, _ = network.look(torch.from_numpy(pixels)[None])
        images.append(network.place_photo(features)[0])
        tokens = torch.tensor([read_task(text, backend.tokenizer, MAX_TASK_TOKENS).tokens])
        read = network.read_alone(tokens, torch.ones_like(tokens, dtype=torch.bool))
        words.append(network.place_words(*read)[0])
    return torch.stack(images).double().numpy(), torch.stack(words).double().numpy()
