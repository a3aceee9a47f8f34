"""Teach the eye of a finished model not to mind damage: noise, blur, darkness, words painted in.

    python -m embervlm.training.steady --model MODEL.gguf --shared ../shared --out build/steady
    # build/steady/eye.safetensors, metrics.jsonl; python -m embervlm.export.steady puts it in

The model is its own teacher. What its eye sees in a clean view of a photo, a copy of the eye learns
to see in the same view damaged: the vector that the reader gets, and the place. Nothing else of the
model changes, so nothing else needs to be trained again. Where the model has a table of looks
(`models/photo_recall.py`), both see through it, and it stays as it is. A quarter of the views stay
clean, which holds the copy where it is. Words are of any kind, place, size and colour: they mean
nothing. Half of the damaged views have the light and colours of another camera besides, or none.

Axes: B batch, C channels, H height, W width, V view, E environments.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from embervlm.checkpoint import load_checkpoint
from embervlm.data.photos import TABLE, load_photos
from embervlm.data.scenarios import load
from embervlm.models.configuration import EmberConfig
from embervlm.models.photo_recall import PhotoRecall
from embervlm.models.vision import MobileNetV2
from embervlm.training.vision import (
    STORED_SIZE,
    Pixels,
    augment,
    jitter_colour,
    load_pixels,
    to_pixels,
)

_EYE = ("vision.", "recall.", "image.view.", "image.scene.")
# Kinds of damage, and how often each is drawn: words move what an eye sees more than the others.
_KINDS = {"words": 0.5, "noise": 0.15, "blur": 0.1, "dark": 0.1, "jpeg": 0.1, "turn": 0.05}


@dataclass(frozen=True)
class Settings:
    """How it is trained; `clean` is the share of views that stay as they are, `own` that of the
    damaged ones in their own colours, `grey` that of the others without any."""

    epochs: int = 3
    batch: int = 32
    learning_rate: float = 2e-4
    warmup: int = 50
    clean: float = 0.25
    own: float = 0.5
    grey: float = 0.4
    scene_weight: float = 0.5
    mean_decay: float = 0.995
    seed: int = 0


class Eye(nn.Module):
    """MobileNetV2, the table of looks if there is one, and the two maps that make of its features
    what the reader gets."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.vision = MobileNetV2()
        self.vision.load_state_dict(_part(weights, "vision."))
        self.recall = None
        if table := _part(weights, "recall."):
            (rows, width), (channels, _) = table["rows.weight"].shape, table["value.weight"].shape
            config = EmberConfig(image_width=channels, recall_width=width, recall_rows=rows)
            self.recall = PhotoRecall(config)
            self.recall.load_state_dict(table)
            self.recall.requires_grad_(False)
        self.maps = [
            (weights[f"image.{name}.weight"], weights[f"image.{name}.bias"])
            for name in ("view", "scene")
        ]

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the view (B, V) and the logits of the environment (B, E)."""
        features_BC = self.vision(pixels_BCHW)
        if self.recall is not None:
            features_BC = self.recall(features_BC)
        view, scene = (F.linear(features_BC, weight, bias) for weight, bias in self.maps)
        return view, scene


def eye_of(model: Path) -> Eye:
    """Return the eye of a model file, in floats.

    Raises:
        ValueError: the file holds no sound model, or one that sees otherwise.
    """
    weights = load_checkpoint(model).weights
    found = {name: torch.tensor(w) for name, w in weights.items() if name.startswith(_EYE)}
    if "image.view.weight" not in found:
        raise ValueError(f"{model} has no eye of its own to make steady.")
    return Eye(found)


def damage(view_HWC: Pixels, words: Sequence[str], random: np.random.Generator) -> Pixels:
    """Return a view, uint8, as a bad camera or a prankster would give it."""
    kind = random.choice(list(_KINDS), p=list(_KINDS.values()))
    image = Image.fromarray(view_HWC)
    if kind == "words":
        return np.asarray(with_words(image, words, random))
    if kind == "noise":
        grain = random.normal(0, random.uniform(5, 40), view_HWC.shape)
        if random.random() < 0.5:  # finer than a pixel of the view, as large photos have it
            grain = grain * 0.6
        return (view_HWC + grain).round().clip(0, 255).astype(np.uint8)
    if kind == "blur":
        return np.asarray(image.filter(ImageFilter.GaussianBlur(random.uniform(0.7, 3.0))))
    if kind == "dark":
        return (view_HWC * random.uniform(0.15, 0.7)).round().astype(np.uint8)
    if kind == "turn":
        return np.asarray(turned(image, random.uniform(-20, 20)))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(random.integers(5, 40)))
    return np.asarray(Image.open(file))


def recoloured(views_BHWC: Pixels, grey: float, random: np.random.Generator) -> Pixels:
    """Return views, uint8, with other light and colours; a share `grey` of them without colour."""
    pixels_BCHW = jitter_colour(to_pixels(views_BHWC), random)
    is_grey_B = torch.from_numpy(random.random(len(views_BHWC)) < grey)
    pixels_BCHW[is_grey_B] = pixels_BCHW[is_grey_B].mean(1, keepdim=True).expand(-1, 3, -1, -1)
    bytes_BCHW = (pixels_BCHW * 128 + 128).round().clamp(0, 255).to(torch.uint8)
    return bytes_BCHW.permute(0, 2, 3, 1).contiguous().numpy()


def shown_to_copy(
    views_BHWC: Pixels, words: Sequence[str], settings: Settings, random: np.random.Generator
) -> Pixels:
    """Return the views as the copy sees them, uint8: clean, damaged, or recoloured and damaged."""
    shown_BHWC = views_BHWC.copy()
    is_clean_B, is_own_B = (
        random.random(len(views_BHWC)) < share for share in (settings.clean, settings.own)
    )
    other_BHWC = recoloured(views_BHWC, settings.grey, random)
    for b in np.flatnonzero(~is_clean_B):
        shown_BHWC[b] = damage((views_BHWC if is_own_B[b] else other_BHWC)[b], words, random)
    return shown_BHWC


def turned(image: Image.Image, degrees: float) -> Image.Image:
    """Return a square image turned about its centre, cut to the largest upright square within."""
    angle, side = math.radians(abs(degrees)), image.width
    margin = (side - side / (math.cos(angle) + math.sin(angle))) / 2
    box = (margin, margin, side - margin, side - margin)
    whole = image.rotate(degrees, Image.Resampling.BILINEAR)
    return whole.resize(image.size, Image.Resampling.BILINEAR, box=box)


def with_words(
    image: Image.Image, words: Sequence[str], random: np.random.Generator
) -> Image.Image:
    """Return a copy with one to four words painted over it."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    chosen = [str(random.choice(words)) for _ in range(random.integers(1, 5))]
    if random.random() < 0.3:
        chosen = ["".join(random.choice(list(string.ascii_letters + string.digits), 6))]
    text = " ".join(chosen)
    text = text.upper() if random.random() < 0.5 else text
    width = image.width * random.uniform(0.3, 1.1)
    trial = draw.textlength(text, ImageFont.load_default(size=100))
    font = ImageFont.load_default(size=float(np.clip(100 * width / trial, 6, 60)))
    ink = [(255, 255, 255), (0, 0, 0), tuple(random.integers(0, 256, 3).tolist())]
    place = tuple(random.uniform(0.1, 0.9, 2) * image.width)
    first, second = random.permutation(3)[:2]
    draw.text(
        place, text, ink[first], font, anchor="mm", stroke_width=int(random.integers(0, 3)),
        stroke_fill=ink[second],
    )  # fmt: skip
    return image


def loss_of(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], scene: float) -> Tensor:
    """Return how far the student's view is off, as a share of how views differ, and its place."""
    (view_BV, scene_BE), (wanted_BV, wanted_BE) = student, teacher
    spread = (wanted_BV - wanted_BV.mean(0)).square().mean()
    off = (view_BV - wanted_BV).square().mean() / spread
    divergence = F.kl_div(
        scene_BE.log_softmax(-1), wanted_BE.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    return off + scene * divergence


def train(
    settings: Settings,
    eye: Eye,
    photos: Mapping[str, Pixels],
    files: Sequence[str],
    words: Sequence[str],
    out: Path,
    size: int,
    start: Eye | None = None,
) -> Eye:
    """Return the steady eye, the running mean of what is trained; `out` gets it after each epoch.

    Args:
        settings: how.
        eye: the teacher; it stays as it is.
        photos: squares of any size, by file.
        files: those to learn from.
        words: what is painted into them.
        out: folder of the run; it must exist.
        size: the side of a view, in pixels.
        start: what to begin with, from an earlier run; None is the teacher.
    """
    torch.manual_seed(settings.seed)
    teacher = eye.eval().requires_grad_(False)
    student = Eye(_weights_of(eye if start is None else start)).train()
    mean = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    optimizer = torch.optim.AdamW(
        student.vision.parameters(), settings.learning_rate, weight_decay=0.01
    )
    steps = settings.epochs * (len(files) // settings.batch)
    step = 0
    for epoch in range(settings.epochs):
        random = np.random.default_rng([settings.seed, epoch])
        order, total = random.permutation(len(files)), 0.0
        starts = range(0, len(files) - settings.batch + 1, settings.batch)
        for first in track(starts, f"epoch {epoch + 1}", console=Console(stderr=True)):
            chosen = [files[i] for i in order[first : first + settings.batch]]
            views_BHWC = np.stack([augment(photos[file], size, random) for file in chosen])
            shown_BHWC = shown_to_copy(views_BHWC, words, settings, random)
            with torch.no_grad():
                wanted = teacher(to_pixels(views_BHWC))
            loss = loss_of(student(to_pixels(shown_BHWC)), wanted, settings.scene_weight)
            rate = settings.learning_rate * _share(step, settings.warmup, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            step += 1
            decay = min(settings.mean_decay, (1 + step) / (10 + step))
            for name, tensor in student.state_dict().items():
                mean[name].lerp_(tensor, 1 - decay)
            total += loss.item()
        save_file({n: t.contiguous() for n, t in mean.items()}, out / "eye.safetensors")
        line = {"epoch": epoch + 1, "loss": round(total / len(starts), 4), **asdict(settings)}
        with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    steady = Eye(_weights_of(eye))
    steady.load_state_dict(mean)
    return steady


def _part(weights: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {name[len(start) :]: w for name, w in weights.items() if name.startswith(start)}


def _weights_of(eye: Eye) -> dict[str, Tensor]:
    weights = {name: tensor.clone() for name, tensor in eye.state_dict().items()}
    for name, (weight, bias) in zip(("view", "scene"), eye.maps, strict=True):
        weights |= {f"image.{name}.weight": weight, f"image.{name}.bias": bias}
    return weights


def _share(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def main() -> None:
    """Read the flags, and train."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="folder that holds or gets the packed photos")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--start", type=Path, help="eye.safetensors of an earlier run to go on with"
    )
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    size = int(load_checkpoint(options.model).config["image_size"])
    pixels = load_pixels(options.shared, options.photos or options.out, STORED_SIZE)
    files = [p.file for p in load_photos(TABLE) if p.split == "train" and p.file in pixels]
    words = sorted({w for row in load("scenarios", "train") for w in row["task"].split()[:8]})
    settings = Settings(epochs=options.epochs, seed=options.seed)
    eye = eye_of(options.model)
    start = None
    if options.start is not None:
        start = eye_of(options.model)
        start.load_state_dict(load_file(options.start))
    train(settings, eye, pixels, files, words, options.out, size, start)


if __name__ == "__main__":
    main()
