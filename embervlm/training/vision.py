"""Fine-tune the eye: from ImageNet's MobileNetV2 to the place that a photo shows.

All layers learn two questions about a photo of the train split: which environment of the labelling
guide is it (`scene`), and which class of the table of photos (`place`). Environments are drawn
equally often. The augmentation takes away what gives a source away and has nothing to do with the
place: resolution, JPEG traces, sharpness, colour cast and framing. An exponential mean of the
weights is what is kept, and the best epoch on the validation split is what is written.

    python -m embervlm.training.vision --shared ../shared --out runs/vision --epochs 20

The folder `--out` then holds `vision.safetensors` (`vision.*`, `scene.*`, `place.*`),
`features.npz` (features and logits of every photo), `report.json` (all splits; nothing was chosen
on the test), and what a restarted run needs to go on: `state.safetensors` and `metrics.jsonl`.

Axes: B batch, C channels, H height, W width, N photos, E environments, P places.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from embervlm.data.photos import TABLE, Photo, load_photos, pack
from embervlm.fleet import ENVIRONMENTS
from embervlm.json_lines import json_lines
from embervlm.models.vision import MobileNetV2

TEACHER = Path("teachers/mobilenet_v2_1.0_224_quant.tflite")
SPLITS = ("train", "validation", "test")
STORED_SIZE = 192  # pixels a side from which training crops are cut

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on, besides the photos and the teacher."""

    epochs: int = 20
    size: int = 160
    last_channels: int = 0
    batch: int = 32
    learning_rate: float = 3e-4
    head_learning_rate: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warmup_steps: int = 100
    gradient_norm: float = 1.0
    mean_decay: float = 0.995
    seed: int = 0


class SceneModel(nn.Module):
    """The eye and two linear heads on its features."""

    def __init__(self, vision: MobileNetV2, places: int) -> None:
        super().__init__()
        self.vision = vision
        self.scene = nn.Linear(vision.channels, len(ENVIRONMENTS))
        self.place = nn.Linear(vision.channels, places)

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features (B, channels), environment logits (B, E) and place logits (B, P)."""
        features_BC = self.vision(pixels_BCHW)
        return features_BC, self.scene(features_BC), self.place(features_BC)


def augment(pixels_HWC: Pixels, size: int, random: np.random.Generator) -> Pixels:
    """Return another view of a photo, uint8 of shape (size, size, 3)."""
    stored = pixels_HWC.shape[0]
    area = stored * stored * random.uniform(0.3, 1.0)
    stretch = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
    width, height = (
        min(math.sqrt(area * stretch), stored),
        min(math.sqrt(area / stretch), stored),
    )
    left, top = random.uniform(0, stored - width), random.uniform(0, stored - height)
    box: tuple[float, float, float, float] | None = (left, top, left + width, top + height)
    image = Image.fromarray(pixels_HWC)
    if random.random() < 0.3:
        coarse = int(random.integers(size // 3, size))
        image, box = image.resize((coarse, coarse), Image.Resampling.BILINEAR, box=box), None
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(0.3, 1.5)))
    if random.random() < 0.3:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(random.integers(20, 90)))
        image = Image.open(buffer)
    if random.random() < 0.1:
        image = image.convert("L").convert("RGB")
    return np.asarray(image)


def jitter_colour(pixels_BCHW: Tensor, random: np.random.Generator) -> Tensor:
    """Change brightness, contrast, saturation and colour cast of each photo by itself.

    Takes and returns float pixels in [-1, 1).
    """

    def factors(low: float, high: float, channels: int = 1) -> Tensor:
        drawn = random.uniform(low, high, (len(pixels_BCHW), channels, 1, 1))
        return torch.from_numpy(drawn.astype(np.float32))

    grey_B1HW = pixels_BCHW.mean(1, keepdim=True)
    x_BCHW = grey_B1HW + (pixels_BCHW - grey_B1HW) * factors(0.4, 1.5)
    mean_B111 = grey_B1HW.mean((2, 3), keepdim=True)
    x_BCHW = mean_B111 + (x_BCHW - mean_B111) * factors(0.6, 1.4)
    x_BCHW = (x_BCHW + 1) * factors(0.7, 1.3) * factors(0.9, 1.1, channels=3) - 1
    return x_BCHW.clamp(-1, 127 / 128)


def to_pixels(batch_BHWC: Pixels) -> Tensor:
    """Scale as `embervlm.imaging.preprocess` does: float32 in [-1, 1), shape (B, 3, H, W)."""
    pixels_BCHW = torch.from_numpy(batch_BHWC).permute(0, 3, 1, 2)
    return ((pixels_BCHW.float() - 128) / 128).contiguous(memory_format=torch.channels_last)


def train(
    recipe: Recipe,
    vision: MobileNetV2,
    photos: Sequence[Photo],
    pixels: Mapping[str, Pixels],
    centred: Mapping[str, Pixels],
    out: Path,
) -> None:
    """Train, or go on after the last finished epoch; write the checkpoint of the best one.

    Args:
        recipe: the settings.
        vision: the network to start from; it is changed.
        photos: the table; the splits train and validation of photos with an environment are used.
        pixels: the photos from which training crops are cut, squares of any size.
        centred: the same photos at `recipe.size`, as a request would have them.
        out: folder of the run; it must exist.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    torch.manual_seed(recipe.seed)
    places = sorted({photo.place for photo in photos if photo.environment})
    learn = [photo for photo in photos if photo.environment and photo.split == "train"]
    check = [photo for photo in photos if photo.environment and photo.split == "validation"]
    model = _channels_last(SceneModel(vision, len(places)))
    heads = [*model.scene.parameters(), *model.place.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(model.vision.parameters()), "lr": recipe.learning_rate},
            {"params": heads, "lr": recipe.head_learning_rate},
        ],
        weight_decay=recipe.weight_decay,
    )
    steps = recipe.epochs * (len(learn) // recipe.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _cosine(step, recipe.warmup_steps, steps)
    )
    mean = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    done = _resume(out, recipe, model, mean, optimizer, schedule)
    environment_N = torch.tensor([ENVIRONMENTS.index(photo.environment) for photo in learn])
    place_N = torch.tensor([places.index(photo.place) for photo in learn])
    counts = Counter(photo.environment for photo in learn)
    chance_N = np.array([1 / counts[photo.environment] for photo in learn])
    chance_N /= chance_N.sum()
    best = max((entry["validation"] for entry in _metrics(out)), default=0.0)
    for epoch in range(done, recipe.epochs):
        random = np.random.default_rng([recipe.seed, epoch])
        order = random.choice(len(learn), size=len(learn), p=chance_N)
        began, total = time.monotonic(), 0.0
        batches = range(0, len(learn) - recipe.batch + 1, recipe.batch)
        model.train()
        for start in tqdm(batches, desc=f"epoch {epoch + 1}/{recipe.epochs}", mininterval=10):
            chosen = order[start : start + recipe.batch]
            views = [augment(pixels[learn[i].file], recipe.size, random) for i in chosen]
            pixels_BCHW = jitter_colour(to_pixels(np.stack(views)), random)
            _, scene_BE, place_BP = model(pixels_BCHW)
            smoothing = recipe.label_smoothing
            loss = F.cross_entropy(scene_BE, environment_N[chosen], label_smoothing=smoothing)
            loss += F.cross_entropy(place_BP, place_N[chosen], label_smoothing=smoothing)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm)
            optimizer.step()
            schedule.step()
            _update_mean(mean, model, recipe.mean_decay, schedule.last_epoch)
            total += loss.item()
        kept = SceneModel(MobileNetV2(recipe.last_channels), len(places))
        kept.load_state_dict(mean)
        accuracy = _accuracy(run(kept, centred, [photo.file for photo in check]), check, places)
        entry = {
            "epoch": epoch + 1,
            "loss": total / len(batches),
            "validation": accuracy["environment_balanced"],
            **accuracy,
            "seconds": time.monotonic() - began,
        }
        if accuracy["environment_balanced"] >= best:
            best = accuracy["environment_balanced"]
            _save_checkpoint(kept, out / "vision.safetensors", recipe, places)
        _save_state(out, model, mean, optimizer)
        with (out / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        tqdm.write(json.dumps(entry))


def evaluate(photos: Sequence[Photo], centred: Mapping[str, Pixels], out: Path) -> dict[str, Any]:
    """Run the checkpoint over every photo; write `features.npz`, write and return `report.json`."""
    model, recipe, places = load_checkpoint(out / "vision.safetensors")
    files = list(centred)
    outputs = run(model, centred, files)
    split = {photo.file: photo.split for photo in photos}
    np.savez(
        out / "features.npz",
        files=np.array(files),
        features=outputs[0].astype(np.float16),
        environment_logits=outputs[1],
        place_logits=outputs[2],
        split=np.array([split.get(file, "unused") for file in files]),
        environments=np.array(ENVIRONMENTS),
        places=np.array(places),
    )
    row = {file: index for index, file in enumerate(files)}
    report: dict[str, Any] = {"recipe": asdict(recipe)}
    for name in SPLITS:
        chosen = [photo for photo in photos if photo.environment and photo.split == name]
        rows = [row[photo.file] for photo in chosen]
        report[name] = _report([values[rows] for values in outputs], chosen, places)
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (out / "report.json").write_text(text + "\n", encoding="utf-8")
    return report


def load_checkpoint(path: Path) -> tuple[SceneModel, Recipe, list[str]]:
    """Return the model, the recipe and the names of the places of a `vision.safetensors`."""
    with safe_open(path, "pt") as file:
        recipe = Recipe(**json.loads(file.metadata()["recipe"]))
        places = json.loads(file.metadata()["places"])
    model = SceneModel(MobileNetV2(recipe.last_channels), len(places))
    model.load_state_dict(load_file(path))
    return model, recipe, places


@torch.inference_mode()
def run(
    model: SceneModel, centred: Mapping[str, Pixels], files: Sequence[str], batch: int = 32
) -> list[NDArray[np.float32]]:
    """Return features (N, channels), environment logits (N, E) and place logits (N, P)."""
    _channels_last(model).eval()
    parts = []
    for start in range(0, len(files), batch):
        batch_BHWC = np.stack([centred[file] for file in files[start : start + batch]])
        parts.append([tensor.numpy() for tensor in model(to_pixels(batch_BHWC))])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def load_pixels(shared: Path, out: Path, size: int) -> dict[str, Pixels]:
    """Return the pixels of all photos at one size, by file; they are packed into `out` once."""
    path = out / f"photos-{size}.npz"
    if not path.exists():
        pack(shared / "photos", path, size)
    with np.load(path, allow_pickle=False) as archive:
        return dict(zip(archive["files"].tolist(), archive["pixels"], strict=True))


def _channels_last(model: SceneModel) -> SceneModel:
    """Store the kernels as the processor's convolutions like them: twice as fast on a CPU."""
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def _cosine(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


@torch.no_grad()
def _update_mean(mean: dict[str, Tensor], model: nn.Module, decay: float, step: int) -> None:
    decay = min(decay, (1 + step) / (10 + step))
    for name, tensor in model.state_dict().items():
        mean[name].lerp_(tensor, 1 - decay)


def _accuracy(
    outputs: Sequence[NDArray[np.float32]], photos: Sequence[Photo], places: Sequence[str]
) -> dict[str, float]:
    """Return shares of right answers; `balanced` is the mean over the environments."""
    _, scene_NE, place_NP = outputs
    environment = np.array([ENVIRONMENTS.index(photo.environment or "") for photo in photos])
    place = np.array([places.index(photo.place) for photo in photos])
    is_right = scene_NE.argmax(1) == environment
    per_environment = [is_right[environment == value].mean() for value in np.unique(environment)]
    return {
        "environment": float(is_right.mean()),
        "environment_balanced": float(np.mean(per_environment)),
        "place": float((place_NP.argmax(1) == place).mean()),
    }


def _report(
    outputs: Sequence[NDArray[np.float32]], photos: Sequence[Photo], places: Sequence[str]
) -> dict[str, Any]:
    """Return the accuracy, also by environment and by class, and the confusion of environments."""
    guessed = [ENVIRONMENTS[index] for index in outputs[1].argmax(1)]
    guessed_place = [places[index] for index in outputs[2].argmax(1)]
    confusion: dict[str, Counter[str]] = {}
    by_place: dict[str, list[tuple[bool, bool]]] = {}
    for photo, scene, place in zip(photos, guessed, guessed_place, strict=True):
        confusion.setdefault(photo.environment or "", Counter())[scene] += 1
        answers = (scene == photo.environment, place == photo.place)
        by_place.setdefault(photo.place, []).append(answers)
    return {
        "photos": len(photos),
        **_accuracy(outputs, photos, places),
        "by_environment": {
            name: counts[name] / counts.total() for name, counts in sorted(confusion.items())
        },
        "by_place": {
            name: {
                "photos": len(answers),
                "environment": float(np.mean([scene for scene, _ in answers])),
                "place": float(np.mean([place for _, place in answers])),
            }
            for name, answers in sorted(by_place.items())
        },
        "confusion": {name: dict(counts.most_common()) for name, counts in confusion.items()},
    }


def _save_checkpoint(model: SceneModel, path: Path, recipe: Recipe, places: list[str]) -> None:
    metadata = {
        "recipe": json.dumps(asdict(recipe)),
        "environments": json.dumps(list(ENVIRONMENTS)),
        "places": json.dumps(places),
    }
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path.with_suffix(".unfinished"), metadata)
    path.with_suffix(".unfinished").replace(path)


def _save_state(
    out: Path, model: nn.Module, mean: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Write what the next epoch needs; the schedule follows from the number of steps."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"mean.{name}": tensor for name, tensor in mean.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, out / "state.unfinished")
    (out / "state.unfinished").replace(out / "state.safetensors")


def _resume(
    out: Path,
    recipe: Recipe,
    model: nn.Module,
    mean: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> int:
    """Load the state of an interrupted run, if there is one, and return its finished epochs.

    Raises:
        ValueError: the folder holds a run of another recipe.
    """
    noted = out / "recipe.json"
    if not (out / "state.safetensors").exists():
        noted.write_text(json.dumps(asdict(recipe)), encoding="utf-8")
        return 0
    if json.loads(noted.read_text(encoding="utf-8")) != asdict(recipe):
        raise ValueError(f"{out} holds a run of another recipe; choose another folder")
    tensors = load_file(out / "state.safetensors")
    model.load_state_dict({name: tensors[f"model.{name}"] for name in mean})
    for name, tensor in mean.items():
        tensor.copy_(tensors[f"mean.{name}"])
    state = optimizer.state_dict()
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".")
            state["state"].setdefault(int(index), {})[moment] = tensor
    optimizer.load_state_dict(state)
    schedule.last_epoch = int(state["state"][0]["step"])
    factor = schedule.lr_lambdas[0](schedule.last_epoch)
    for group, rate in zip(optimizer.param_groups, schedule.base_lrs, strict=True):
        group["lr"] = rate * factor
    return int(_metrics(out)[-1]["epoch"])


def _metrics(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for _, line in json_lines(path)]


def main() -> None:
    """Train and evaluate from the command line."""
    parser = argparse.ArgumentParser(description="Fine-tune the eye on the photos.")
    parser.add_argument("--shared", type=Path, required=True, help="folder of photos and teachers")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--threads", type=int, default=1)
    defaults = asdict(Recipe())
    for name, value in defaults.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(**{name: getattr(arguments, name) for name in defaults})
    arguments.out.mkdir(parents=True, exist_ok=True)
    photos = load_photos(TABLE)
    centred = load_pixels(arguments.shared, arguments.out, recipe.size)
    pixels = load_pixels(arguments.shared, arguments.out, STORED_SIZE)
    vision = MobileNetV2.from_tflite(arguments.shared / TEACHER, recipe.last_channels)
    train(recipe, vision, photos, pixels, centred, arguments.out)
    evaluate(photos, centred, arguments.out)


if __name__ == "__main__":
    main()
