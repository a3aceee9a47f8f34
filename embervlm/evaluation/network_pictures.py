"""Pictures of a network's inside: attention, the memory's slots, ternary weights, the common space.

    draw_attention(photo_HWC, {"all words": map_GG, "sensor": map_GG}, Path("attention"), "...")
    draw_space(image_ND, text_ND, labels, Path("space"), "...")

Plain arrays come in; `attention.py` and `looking.py` find them. Colours go from light to dark in
one hue, or along "cividis", which everybody tells apart, with the scale beside or above it.

Axes: N photos (and their captions), D width, G places along a side, H heads, K slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from embervlm.evaluation.drawing import (
    BLUE,
    BLUES,
    COLOURS,
    GREEN,
    GREY,
    INK,
    MARKS,
    RED,
    WORDS,
    Sheet,
    put_heading,
    put_title,
    save_picture,
)

Floats = NDArray[np.float64]
_SMALL: dict[str, Any] = {"color": "#52606d", "fontsize": 8}


def draw_attention(
    photo_HWC: NDArray[np.uint8], maps: Mapping[str, Floats], path: Path, title: str, below: str
) -> None:
    """Write the photo, then again under each map: dark blue is its least, yellow its most."""
    columns = min(4, len(maps) + 1)
    rows = -(-(len(maps) + 1) // columns)
    sheet = Sheet((1.9, 1.9), left=0.15, bottom=0.55, top=0.95, between=(0.12, 0.35))
    picture, axes = sheet.panels(rows, columns)
    for ax in axes:
        ax.set_axis_off()
    grey_HW = photo_HWC.mean(2)
    axes[0].imshow(photo_HWC)
    axes[0].set_title("the photo", loc="left", color=INK, fontsize=9)
    side = (0, photo_HWC.shape[1], photo_HWC.shape[0], 0)
    for ax, (name, map_GG) in zip(axes[1:], maps.items(), strict=False):
        ax.imshow(grey_HW, cmap="gray", vmin=0, vmax=255, extent=side)
        low, high = float(map_GG.min()), float(map_GG.max())
        ax.imshow(
            map_GG, cmap="cividis", alpha=0.6, extent=side, interpolation="bilinear", vmin=low,
            vmax=max(high, low + 1e-9),
        )  # fmt: skip
        ax.set_title(f"{name}: {low:.1%} to {high:.1%}", loc="left", color=INK, fontsize=9)
    put_heading(picture, title)
    picture.text(
        0.15 / picture.get_figwidth(), 1 - 0.4 / picture.get_figheight(), below, va="top", **_SMALL
    )
    save_picture(picture, path)


def draw_heads(
    shares_HQK: Floats, queries: Sequence[str], keys: Sequence[str], path: Path, title: str
) -> None:
    """Write what each head of a layer reads: a row for each that reads, a column for each read."""
    H = len(shares_HQK)
    columns = min(4, H)
    high = max(1.4, 0.15 * len(queries))
    sheet = Sheet(
        (max(1.6, 0.15 * len(keys)), high), left=1.15, bottom=1.0, top=1.0, between=(0.15, 0.4)
    )
    picture, axes = sheet.panels(-(-H // columns), columns)
    for ax in axes[H:]:
        ax.set_visible(False)
    for h in range(H):
        ax = axes[h]
        ax.imshow(shares_HQK[h], cmap=BLUES, vmin=0, vmax=1, aspect="auto")
        ax.set_title(f"head {h + 1}, most {shares_HQK[h].max():.0%}", loc="left", color=INK,
                     fontsize=9)  # fmt: skip
        ax.set_xticks(range(len(keys)), keys if h + columns >= H else [""] * len(keys),
                      rotation=90, color=INK, fontsize=6)  # fmt: skip
        ax.set_yticks(range(len(queries)), queries if h % columns == 0 else [""] * len(queries),
                      color=INK, fontsize=6)  # fmt: skip
        ax.tick_params(length=0)
    put_heading(picture, title)
    picture.text(
        0.15 / picture.get_figwidth(), 1 - 0.4 / picture.get_figheight(),
        "each row is who reads, each column what is read; white 0 %, dark blue 100 %", va="top",
        **_SMALL,
    )  # fmt: skip
    save_picture(picture, path)


def draw_memory(writes_K: Floats, age_K: Floats, alike_KK: Floats, path: Path, title: str) -> None:
    """Write of each slot how often it was written, how long ago, and how alike slots are.

    `age_K` counts writes since the slot's last, NaN where it was never used.
    """
    picture, axes = Sheet(
        (2.9, 2.7), left=0.75, bottom=0.75, top=0.95, between=(0.85, 0), right=0.9
    ).panels(1, 3)
    slots = np.arange(len(writes_K))
    for ax, values, label, colour in (
        (axes[0], writes_K, "writes since it was last replaced", BLUE),
        (axes[1], age_K, "writes to any slot since its last", RED),
    ):
        ax.bar(slots, np.nan_to_num(values), color=colour, width=0.8)
        ax.spines[["left", "bottom"]].set_visible(True)
        ax.set_xlabel("slot", **WORDS)
        ax.set_ylabel(label, **WORDS)
        ax.tick_params(colors=INK, labelsize=8, length=3)
    used = int((~np.isnan(age_K)).sum())
    shown = axes[2].imshow(alike_KK, cmap=BLUES, vmin=-1, vmax=1)
    axes[2].set_xlabel("slot", **WORDS)
    axes[2].set_ylabel("slot", **WORDS)
    axes[2].tick_params(colors=INK, labelsize=8, length=3)
    _scale(picture, axes[2], shown, "cosine")
    put_title(axes[0], "Use", f"{used} of {len(writes_K)} slots were ever written", size=10)
    put_title(axes[1], "Age", "0: written last", size=10)
    put_title(axes[2], "Likeness", "of two slots", size=10)
    put_heading(picture, title)
    save_picture(picture, path)


def draw_ternary(shares: Mapping[str, tuple[float, float, float]], path: Path, title: str) -> None:
    """Write of each ternary matrix which share of its weights is -1, 0 and +1."""
    picture, (ax,) = Sheet((4.4, 0.2 * len(shares) + 0.3), left=2.5, bottom=0.75, top=0.95).panels(
        1, 1
    )
    left = np.zeros(len(shares))
    parts = (("-1", RED, "///"), ("0", "#e4e7eb", ""), ("+1", BLUE, ""))
    for (name, colour, hatch), values in zip(parts, np.array(list(shares.values())).T, strict=True):
        ax.barh(
            range(len(shares)), values, left=left, color=colour, label=name, height=0.8,
            hatch=hatch, edgecolor="white", linewidth=0.5,
        )  # fmt: skip
        left = left + values
    ax.set_yticks(range(len(shares)), list(shares), color=INK, fontsize=7)
    ax.set_ylim(len(shares) - 0.4, -0.6)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"], **WORDS)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("share of the matrix's weights", labelpad=8, **WORDS)
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, fontsize=8,
        labelcolor=INK,
    )  # fmt: skip
    put_heading(picture, title)
    save_picture(picture, path)


def draw_space(
    image_ND: Floats, text_ND: Floats, labels: Sequence[str], path: Path, title: str
) -> None:
    """Write photos and captions in two dimensions, by PCA and by t-SNE; a line joins the pairs.

    The principal components are those of both together. The most frequent labels have a colour.
    """
    picture, axes = Sheet(
        (3.6, 3.4), left=0.4, bottom=0.6, top=0.95, between=(0.4, 0), right=1.9
    ).panels(1, 2)
    both_XD = np.concatenate([image_ND, text_ND]).astype(np.float64)
    flat = {"PCA": principal_components(both_XD)}
    if (placed := neighbours(both_XD)) is not None:
        flat["t-SNE"] = placed
    names = sorted(dict.fromkeys(labels), key=lambda name: (-list(labels).count(name), name))
    shown = names[: len(COLOURS) - 1]
    N = len(image_ND)
    for ax, (way, at_X2) in zip(axes, flat.items(), strict=False):
        for n in range(N):
            ax.plot(*at_X2[[n, N + n]].T, color="#e4e7eb", linewidth=0.6, zorder=0)
        for i, name in enumerate([*shown, "other"]):
            own = [label if label in shown else "other" for label in labels]
            held = np.array([n for n in range(N) if own[n] == name], dtype=int)
            if not len(held):
                continue
            colour = GREY if name == "other" else COLOURS[i]
            mark = MARKS[i % len(MARKS)]
            ax.plot(*at_X2[held].T, color=colour, marker=mark, linestyle="", markersize=5,
                    label=name.replace("_", " "))  # fmt: skip
            ax.plot(*at_X2[N + held].T, markeredgecolor=colour, marker=mark, linestyle="",
                    markersize=5, markerfacecolor="white")  # fmt: skip
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(True)
        put_title(ax, way, "filled: photo, hollow: its caption", size=10)
        ax.set_xlabel("first dimension, no unit", **WORDS)
    axes[0].set_ylabel("second dimension, no unit", **WORDS)
    for ax in axes[len(flat) :]:
        ax.set_visible(False)
    axes[len(flat) - 1].legend(
        loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8, labelcolor=INK
    )
    put_heading(picture, title)
    save_picture(picture, path)


def principal_components(x_ND: Floats, count: int = 2) -> Floats:
    """Return the rows in the directions in which they differ most (PCA), (N, count)."""
    centred_ND = x_ND - x_ND.mean(0)
    u_NK, s_K, _ = np.linalg.svd(centred_ND, full_matrices=False)
    found_NK: Floats = u_NK[:, :count] * s_K[:count]
    return found_NK


def neighbours(x_ND: Floats, seed: int = 1) -> Floats | None:
    """Return the rows placed by t-SNE (van der Maaten and Hinton 2008), (N, 2); None: too few."""
    if len(x_ND) < 8:
        return None
    from sklearn.manifold import TSNE

    perplexity = min(15.0, (len(x_ND) - 1) / 4)
    found_N2: Floats = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(
        x_ND
    )
    return found_N2


def draw_similarity(
    near_NN: Floats, photos: Sequence[str], captions: Sequence[str], path: Path, title: str
) -> None:
    """Write the cosine of each photo (row) with each caption (column); its own are the diagonal."""
    side = 0.3 * len(photos)
    picture, (ax,) = Sheet((side, side), left=2.3, bottom=2.5, top=0.75, right=0.9).panels(1, 1)
    low = float(min(near_NN.min(), 0.0))
    shown = ax.imshow(near_NN, cmap=BLUES, vmin=low, vmax=float(near_NN.max()))
    for n in range(len(photos)):
        ax.add_patch(_box(n))
    ax.set_xticks(range(len(captions)), [cut(one, 38) for one in captions], rotation=90,
                  color=INK, fontsize=7)  # fmt: skip
    ax.set_yticks(range(len(photos)), photos, color=INK, fontsize=7)
    ax.tick_params(length=0)
    _scale(picture, ax, shown, "cosine")
    own = float(np.diag(near_NN).mean())
    count = len(near_NN)
    others = float((near_NN.sum() - np.trace(near_NN)) / max(1, count * (count - 1)))
    put_title(ax, title, f"own caption {own:.2f} (boxes), others {others:.2f} on the mean")
    save_picture(picture, path)


def draw_retrieval(
    asked: Sequence[tuple[str, Sequence[tuple[NDArray[np.uint8], float, bool]]]],
    path: Path,
    title: str,
) -> None:
    """Write for each text the photos nearest to it: (photo, cosine, whether it is its own)."""
    columns = max(len(found) for _, found in asked)
    sheet = Sheet((1.35, 1.35), left=0.15, bottom=0.4, top=0.8, between=(0.1, 0.62))
    picture, axes = sheet.panels(len(asked), columns)
    for ax in axes:
        ax.set_axis_off()
    for row, (text, found) in enumerate(asked):
        for column, (photo_HWC, cosine, is_own) in enumerate(found):
            ax = axes[row * columns + column]
            ax.imshow(photo_HWC)
            words = f"{cosine:.2f}" + (", its own" if is_own else "")
            ax.text(
                0, -0.04, words, transform=ax.transAxes, va="top", fontsize=8,
                color=GREEN if is_own else INK, weight="bold" if is_own else "normal",
            )  # fmt: skip
        axes[row * columns].set_title(f'"{cut(text, 90)}"', loc="left", color=INK, fontsize=9)
    put_heading(picture, title)
    save_picture(picture, path)


def _scale(picture: Picture, ax: Axes, shown: Any, label: str) -> None:
    """Put the scale of an image's colours beside it."""
    box = ax.get_position()
    width = 0.1 / picture.get_figwidth()
    at = (box.x1 + width, box.y0, width, box.height)
    bar = picture.colorbar(shown, cax=picture.add_axes(at))
    bar.set_label(label, **WORDS)
    bar.ax.tick_params(colors=INK, labelsize=7, length=2)
    bar.outline.set_visible(False)


def _box(n: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((n - 0.5, n - 0.5), 1, 1, fill=False, edgecolor=RED, linewidth=1)


def cut(text: str, longest: int) -> str:
    """Return a text of at most so many letters, whole words."""
    return text if len(text) <= longest else f"{text[:longest].rsplit(' ', 1)[0]} ..."
