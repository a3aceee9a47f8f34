"""Write what the eye says of every place of every photo, once: training then reads it from disk.

    python -m embervlm.training.photo_grid --shared ../shared --vision build/nano/vision
    python -m embervlm.training.photo_grid --shared ../shared --vision build/dinov2 --dinov2
    facebook/dinov2-small

The first adds `grid-5.npy` (photos, 25 places, channels; half precision) to the folder of a vision
run. The second makes such a folder with DINOv2's features, by a name on the hub or from a local
folder: `features.npz`, the grid, and `scene.safetensors`, a linear classifier of the place, fitted
on the photos of the train split.

Axes: N photos, C channels, P places of a photo, E environments.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from embervlm.data.photos import TABLE, load_photos
from embervlm.fleet import ENVIRONMENTS
from embervlm.models.dinov2 import Dinov2Vision
from embervlm.models.modeling import grid_of
from embervlm.models.vision import MobileNetV2
from embervlm.training.vision import Pixels, load_checkpoint, load_pixels, to_pixels

BATCH = 32
DINOV2_SIZE = 224


def grid_file(side: int) -> str:
    """Return the name of the file that holds a grid of this many places a side."""
    return f"grid-{side}.npy"


@torch.inference_mode()
def grids(
    vision: MobileNetV2 | Dinov2Vision, pixels: Sequence[Pixels], side: int
) -> NDArray[np.float16]:
    """Return the features (N, P, C) of photos' places."""
    found = []
    for at in tqdm(range(0, len(pixels), BATCH), desc="photos", disable=None):
        batch_BCHW = to_pixels(np.stack(pixels[at : at + BATCH]))
        found.append(grid_of(vision.places(batch_BCHW), side).half().numpy())
    return np.concatenate(found)


def fit_scene(features_NC: Tensor, environment_N: Tensor, steps: int = 300) -> nn.Linear:
    """Return a linear classifier of the place, each environment weighing the same; -1: unknown."""
    known = environment_N >= 0
    x_NC, y_N = features_NC[known], environment_N[known]
    counts_E = torch.bincount(y_N, minlength=len(ENVIRONMENTS)).float()
    weights_E = torch.where(counts_E > 0, counts_E.clamp(min=1).reciprocal(), 0.0)
    scene = nn.Linear(x_NC.shape[1], len(ENVIRONMENTS))
    optimizer = torch.optim.AdamW(scene.parameters(), lr=0.02, weight_decay=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(scene(x_NC), y_N, weights_E * len(y_N)).backward()
        optimizer.step()
    return scene


def main() -> None:
    """Read the flags, write the files."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shared", type=Path, required=True, help="folder that holds photos/")
    parser.add_argument("--vision", type=Path, required=True, help="folder to read and write")
    parser.add_argument("--side", type=int, default=5, help="places along a side [5]")
    parser.add_argument("--dinov2", help="a name on the hub, or a folder, of DINOv2's weights")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    out: Path = options.vision
    if options.dinov2:
        out.mkdir(parents=True, exist_ok=True)
        files = _write_dinov2(options.dinov2, options.shared, out, options.side)
    else:
        model, recipe, _ = load_checkpoint(out / "vision.safetensors")
        found = load_pixels(options.shared, out, recipe.size)
        with np.load(out / "features.npz", allow_pickle=False) as content:
            files = content["files"].tolist()
        np.save(
            out / grid_file(options.side),
            grids(model.vision.eval(), [found[file] for file in files], options.side),
        )
    sys.stdout.write(f"{out / grid_file(options.side)}: {len(files)} photos\n")


def _write_dinov2(name: str, shared: Path, out: Path, side: int) -> list[str]:
    vision = Dinov2Vision.from_pretrained(name).eval()
    found = load_pixels(shared, out, DINOV2_SIZE)
    files = list(found)
    grid_NPC = grids(vision, list(found.values()), side)
    features_NC = torch.from_numpy(grid_NPC.astype(np.float32)).mean(1)
    place_of = {
        photo.file: ENVIRONMENTS.index(photo.environment)
        for photo in load_photos(TABLE)
        if photo.environment and photo.split == "train"
    }
    scene = fit_scene(features_NC, torch.tensor([place_of.get(file, -1) for file in files]))
    with torch.no_grad():
        logits_NE = scene(features_NC)
    np.save(out / grid_file(side), grid_NPC)
    np.savez(
        out / "features.npz",
        files=np.array(files),
        features=features_NC.numpy().astype(np.float16),
        environment_logits=logits_NE.numpy(),
    )
    save_file(
        {"scene.weight": scene.weight.detach(), "scene.bias": scene.bias.detach()},
        out / "scene.safetensors",
    )
    return files


if __name__ == "__main__":
    main()
