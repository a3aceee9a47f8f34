"""The one style of all pictures: sheets of panels, marks, axes, colours, and how they are saved.

    picture, axes = Sheet((4.0, 3.0), left=0.8, bottom=0.7, top=0.6).panels(1, 1)
    put_title(axes[0], "What is shown", "of what, in which unit")
    save_picture(picture, Path("name"))                 # name.png and name.svg

Quiet: blue, orange and green that colour-blind people tell apart, and another mark for each;
numbers in the cells, no frames, no grid where the numbers are to be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

INK, GREY, BLUE, RED, GREEN = "#1f2933", "#9aa5b1", "#2b6cb0", "#c05621", "#00866a"
# A figure as a report holds it: "value", "low", "high" and "n".
Shown = Mapping[str, float | int | None]
BLUES = LinearSegmentedColormap.from_list("quiet", ["#f7fafc", BLUE])
WORDS: dict[str, Any] = {"color": INK, "fontsize": 9}
# More than three lines or groups: Okabe and Ito (2008), and a mark for each.
COLOURS = (BLUE, RED, GREEN, "#8a5ba6", "#b08900", "#1f2933", "#d1649c", "#56a3c9")
MARKS = ("o", "s", "D", "^", "v", "P", "X", "*")


@dataclass(frozen=True)
class Sheet:
    """Where panels lie, in inches: their own size, what is free around and between them. Said, not
    searched: Matplotlib's layout engines draw a picture several times to find it out."""

    panel: tuple[float, float]
    left: float
    bottom: float
    top: float
    right: float = 0.25
    between: tuple[float, float] = (0.0, 0.0)

    def panels(
        self, rows: int, columns: int, *, projection: str | None = None
    ) -> tuple[Picture, list[Axes]]:
        """Return an empty picture and its panels, row by row, without frames."""
        (w, h), (gap_x, gap_y) = self.panel, self.between
        width = self.left + columns * w + (columns - 1) * gap_x + self.right
        height = self.top + rows * h + (rows - 1) * gap_y + self.bottom
        picture = Picture(figsize=(width, height), dpi=110, facecolor="white")
        FigureCanvasAgg(picture)
        axes = []
        for row in range(rows):
            for column in range(columns):
                x = self.left + column * (w + gap_x)
                y = self.bottom + (rows - 1 - row) * (h + gap_y)
                box = (x / width, y / height, w / width, h / height)
                ax = picture.add_axes(box, projection=projection)
                ax.spines[:].set_visible(False)
                ax.spines[:].set_color(GREY)
                axes.append(ax)
        return picture, axes


def number_of(one: Shown, key: str) -> float:
    """Return a value of a figure, NaN, which is not drawn, where it is not known."""
    value = one.get(key)
    return float("nan") if value is None else float(value)


def put_cells(ax: Axes, shares: NDArray[np.float64], words: Sequence[Sequence[str]]) -> None:
    """Shade a matrix of shares, 0 to 1, and write the words into its cells."""
    ax.imshow(shares, cmap=BLUES, vmin=0, vmax=1)
    for y, row in enumerate(words):
        for x, word in enumerate(row):
            colour = "white" if shares[y, x] > 0.55 else INK
            ax.text(x, y, word, ha="center", va="center", color=colour, fontsize=10)
    ax.set_xticks(np.arange(1, shares.shape[1]) - 0.5, minor=True)
    ax.set_yticks(np.arange(1, shares.shape[0]) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=2)
    ax.tick_params(which="both", length=0)


def put_figure(
    ax: Axes, one: Shown, y: float, colour: str, mark: str, label: str | None = None
) -> None:
    """Put a figure's mark at height y, its interval as a line; nothing where it is undefined."""
    if one["value"] is None:
        return
    if one["low"] is not None and one["high"] is not None:
        ax.plot([one["low"], one["high"]], [y, y], color=colour, linewidth=1.4, zorder=2)
    ax.plot(
        [one["value"]], [y], color=colour, marker=mark, markersize=5, linestyle="", label=label,
        zorder=3, clip_on=False,
    )  # fmt: skip


def share_axis(ax: Axes, label: str, start: float = 0.0, end: float = 1.0) -> None:
    """Give the x axis five steps in per cent and a label."""
    ax.set_xlim(start, end)
    ticks = [start + i * (end - start) / 5 for i in range(6)]
    ax.set_xticks(ticks, [f"{100 * tick:g}%" for tick in ticks], **WORDS)
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_visible(True)
    ax.set_xlabel(label, labelpad=8, **WORDS)


def put_title(ax: Axes, title: str, below: str, size: int = 12) -> None:
    """Put a title over a panel, and below it what is shown, in small, of one line or more."""
    lines = below.count("\n") + 1
    ax.set_title(title + "\n" * lines, loc="left", color=INK, fontsize=size)
    ax.text(0, 1.02, below, transform=ax.transAxes, color="#52606d", fontsize=8, va="bottom")


def put_heading(picture: Picture, title: str) -> None:
    """Put a title over a whole picture of several panels."""
    y = 1 - 0.12 / picture.get_figheight()
    picture.text(0.15 / picture.get_figwidth(), y, title, va="top", color=INK, fontsize=12)


def save_picture(picture: Picture, path: Path) -> None:
    """Write the kind of file that the path names, or PNG and SVG; the same picture, the same
    bytes."""
    for suffix in [path.suffix] if path.suffix else [".png", ".svg"]:
        # An SVG holds the day, and names of its parts that are drawn by chance, unless told not to.
        noted: dict[str, Any] = {"Date": None} if suffix == ".svg" else {"Software": None}
        with rc_context({"svg.hashsalt": path.stem}):
            picture.savefig(path.with_suffix(suffix), metadata=noted)
