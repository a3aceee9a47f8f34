"""Pictures that hold things side by side: robots on a radar, formats by cost, stages, energy.

    draw_radar({"Drone": {"precision": 0.9, "recall": 0.8, "F1": 0.85}, ...}, Path("radar"), "Test")
    draw_pareto({"q4_0": {"exact_set": {...}, "megabytes": {...}}, ...}, Path("pareto"), "Test")

Each takes what a report or a run's folder holds, and finds out nothing by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from embervlm.evaluation.drawing import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    MARKS,
    RED,
    WORDS,
    Sheet,
    Shown,
    number_of,
    put_heading,
    put_title,
    save_picture,
)

# What a format costs, and how that is called on an axis.
COSTS = {"megabytes": "size of the file, MB", "request_ms": "time of a decision, ms",
         "memory_mb": "most memory used, MiB"}  # fmt: skip
# Width of a letter in a legend, inches.
_LETTER = 0.062


def draw_radar(figures: Mapping[str, Mapping[str, float | None]], path: Path, title: str) -> None:
    """Write each robot as a spoke, and a ring for each of its figures; the rim is 100 %."""
    sheet = Sheet((3.6, 3.6), left=1.3, bottom=1.15, top=1.15, right=1.3)
    picture, (ax,) = sheet.panels(1, 1, projection="polar")
    robots = list(figures)
    angles = np.linspace(0, 2 * np.pi, len(robots), endpoint=False)
    around = [*angles, angles[0]]
    for i, name in enumerate(next(iter(figures.values()))):
        values = [figures[robot][name] for robot in robots]
        ring = [np.nan if value is None else value for value in [*values, values[0]]]
        ax.plot(
            around, ring, color=COLOURS[i], marker=MARKS[i], markersize=5, linewidth=1.5,
            label=name, linestyle=("-", (0, (5, 2)), (0, (1, 1.5)))[i % 3],
        )  # fmt: skip
    assert isinstance(ax, PolarAxes)
    ax.set_theta_offset(np.pi / 2)
    ax.set_theta_direction(-1)
    ax.set_xticks(angles, [name.replace(" ", "\n", 1) for name in robots], **WORDS)
    ax.tick_params(axis="x", pad=14)
    ax.set_ylim(0, 1)
    ax.set_yticks([0.25, 0.5, 0.75, 1], ["25%", "50%", "75%", "100%"], color=INK, fontsize=7)
    for label in ax.get_yticklabels():
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8})
    ax.grid(color="#cbd2d9", linewidth=0.7)
    ax.legend(
        loc="lower center", bbox_to_anchor=(0.5, -0.31), ncols=3, frameon=False, fontsize=9,
        labelcolor=INK,
    )  # fmt: skip
    put_heading(picture, title)
    save_picture(picture, path)


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Return which points no other beats: none is as cheap and as good, and better in one.

    In order of cost. Of equal points all stay.

    >>> pareto_front([1.0, 2.0, 3.0], [0.8, 0.9, 0.85])
    [0, 1]
    """
    points = list(zip(costs, values, strict=True))

    def beaten(cost: float, value: float) -> bool:
        return any(c <= cost and v >= value and (c < cost or v > value) for c, v in points)

    kept = [i for i, point in enumerate(points) if not beaten(*point)]
    return sorted(kept, key=lambda i: points[i])


def draw_pareto(rows: Mapping[str, Mapping[str, Shown]], path: Path, title: str) -> None:
    """Write exact sets of each format against each of `COSTS`, and the line of the unbeaten."""
    sheet = Sheet((2.7, 2.6), left=0.8, bottom=0.75, top=0.95, between=(0.35, 0))
    picture, axes = sheet.panels(1, len(COSTS))
    for ax, (key, label) in zip(axes, COSTS.items(), strict=True):
        found = {
            name: (number_of(row[key], "value"), row["exact_set"])
            for name, row in rows.items()
            if row.get(key, {}).get("value") is not None
        }
        for i, (name, (cost, exact)) in enumerate(found.items()):
            ax.plot(
                [cost] * 2,
                [number_of(exact, "low"), number_of(exact, "high")],
                color=COLOURS[i],
                linewidth=1.3,
            )
            ax.plot(
                [cost], [number_of(exact, "value")], color=COLOURS[i], marker=MARKS[i],
                markersize=7, linestyle="", label=f"{name}, {cost:.3g}",
            )  # fmt: skip
        names = list(found)
        costs = [found[name][0] for name in names]
        values = [float(found[name][1]["value"] or 0.0) for name in names]
        front = pareto_front(costs, values)
        ax.plot(
            [costs[i] for i in front], [values[i] for i in front], color=GREY, linewidth=1,
            zorder=0, linestyle=(0, (4, 3)),
        )  # fmt: skip
        low = min(exact["low"] or 0.0 for _, exact in found.values())
        ax.set_ylim(max(0.0, low - 0.03), 1)
        ax.set_xlim(0, 1.15 * max(costs))
        ax.spines[["left", "bottom"]].set_visible(True)
        ax.set_xlabel(label, labelpad=6, **WORDS)
        ax.tick_params(colors=INK, labelsize=8, length=3)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=5))
        ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        ax.legend(loc="upper left", frameon=False, fontsize=8, labelcolor=INK)
        if ax is not axes[0]:
            ax.set_yticklabels([])
    axes[0].set_ylabel("exactly right sets", labelpad=6, **WORDS)
    put_heading(picture, title)
    picture.text(
        0.15 / picture.get_figwidth(), 1 - 0.4 / picture.get_figheight(),
        "the line joins what nothing beats in both; bars are 95 % intervals", va="top",
        color="#52606d", fontsize=8,
    )  # fmt: skip
    save_picture(picture, path)


def draw_points(
    points: Mapping[str, tuple[float, Shown]], path: Path, title: str, x_label: str
) -> None:
    """Write exact sets of some models against one figure of theirs, above 0."""
    picture, (ax,) = Sheet((4.6, 3.2), left=0.8, bottom=0.75, top=0.75).panels(1, 1)
    for i, (name, (x, exact)) in enumerate(points.items()):
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        ax.plot(
            [x] * 2,
            [number_of(exact, "low"), number_of(exact, "high")],
            color=colour,
            linewidth=1.3,
        )
        ax.plot([x], [number_of(exact, "value")], color=colour, marker=mark, markersize=7,
                linestyle="", label=f"{name}: {exact['value']:.1%} of {exact['n']:,}")  # fmt: skip
    ax.set_xlim(0, 1.2 * max(x for x, _ in points.values()))
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    ax.spines[["left", "bottom"]].set_visible(True)
    ax.tick_params(colors=INK, labelsize=8, length=3)
    ax.set_xlabel(x_label, labelpad=6, **WORDS)
    ax.set_ylabel("exactly right sets", labelpad=6, **WORDS)
    ax.legend(loc="lower right", frameon=False, fontsize=8, labelcolor=INK)
    put_title(ax, title, "bars are 95 % intervals")
    save_picture(picture, path)


def draw_progression(
    stages: Mapping[str, Mapping[str, float]], path: Path, title: str, what: str
) -> None:
    """Write how the last figures of each stage follow each other; a stage without one has a gap."""
    width = max(3.6, 0.9 * len(stages))
    names = list(dict.fromkeys(name for figures in stages.values() for name in figures))
    right = 0.5 + _LETTER * max(len(f"{name}, last 100.0%") for name in names)
    sheet = Sheet((width, 2.8), left=0.8, bottom=0.75, top=0.75, right=right)
    picture, (ax,) = sheet.panels(1, 1)
    for i, name in enumerate(names):
        colour, mark = COLOURS[i % len(COLOURS)], MARKS[i % len(MARKS)]
        held = [(x, one[name]) for x, one in enumerate(stages.values()) if name in one]
        xs, ys = zip(*held, strict=True)
        ax.plot(
            xs, ys, color=colour, marker=mark, markersize=6, linewidth=1.4,
            label=f"{name}, last {ys[-1]:.1%}",
        )  # fmt: skip
    ax.set_xticks(range(len(stages)), list(stages), **WORDS)
    ax.set_xlim(-0.3, len(stages) - 0.7)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
    ax.spines[["left", "bottom"]].set_visible(True)
    ax.tick_params(colors=INK, labelsize=8, length=3)
    ax.set_xlabel("stage of training, in the order in which they ran", labelpad=6, **WORDS)
    ax.set_ylabel(what, labelpad=6, **WORDS)
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8,
              labelcolor=INK)  # fmt: skip
    put_title(ax, title, "the last evaluation of each stage, on validation")
    save_picture(picture, path)


def draw_energy(
    sessions: Sequence[tuple[str, float, float | None]], path: Path, title: str, found: str
) -> None:
    """Write the energy that was used up to the end of each (stage, hours, kWh) session, summed.

    A session whose energy is not known breaks the line, and the picture says so.
    """
    picture, (ax,) = Sheet((5.0, 2.8), left=0.8, bottom=0.75, top=0.95, right=1.4).panels(1, 1)
    hours, used, unknown = 0.0, 0.0, 0
    stages = list(dict.fromkeys(stage for stage, _, _ in sessions))
    for stage, lasted, kwh in sessions:
        i = stages.index(stage)
        if kwh is None:
            unknown += 1
            ax.axvspan(hours, hours + lasted, color="#e4e7eb", linewidth=0)
        else:
            ax.plot(
                [hours, hours + lasted], [used, used + kwh], color=COLOURS[i % len(COLOURS)],
                linewidth=2, marker=MARKS[i % len(MARKS)], markersize=4,
            )  # fmt: skip
            used += kwh
        hours += lasted
    for i, stage in enumerate(stages):
        ax.plot([], [], color=COLOURS[i % len(COLOURS)], marker=MARKS[i % len(MARKS)], label=stage)
    ax.set_xlim(0, hours or 1)
    ax.set_ylim(0, max(1.1 * used, 1e-6))
    ax.spines[["left", "bottom"]].set_visible(True)
    ax.tick_params(colors=INK, labelsize=8, length=3)
    ax.set_xlabel("time of the sessions, one after the other, hours", labelpad=6, **WORDS)
    ax.set_ylabel("energy until then, kWh", labelpad=6, **WORDS)
    ax.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False, fontsize=8,
              labelcolor=INK)  # fmt: skip
    below = f"{used:.3g} kWh in {hours:.3g} h"
    if unknown:
        below += f"; {unknown} of {len(sessions)} sessions are not known (grey)"
    put_title(ax, title, f"{below}\n{_shortened(found)}")
    save_picture(picture, path)


def draw_pairs(pairs: Mapping[str, Mapping[str, Shown]], path: Path, title: str, what: str) -> None:
    """Write two bars or more for each name, one for each way in which it was measured."""
    ways = list(next(iter(pairs.values())))
    picture, (ax,) = Sheet(
        (4.2, 0.5 * len(pairs) + 0.12 * len(ways)), left=2.3, bottom=0.75, top=0.95
    ).panels(1, 1)
    high = 0.8 / len(ways)
    for y, figures in enumerate(pairs.values()):
        for i, way in enumerate(ways):
            one, at = figures[way], y + (i - (len(ways) - 1) / 2) * high
            colour = (BLUE, RED, *COLOURS[2:])[i]
            value = float(one["value"] or 0.0)
            ax.barh(
                at, value, height=0.85 * high, color=colour, alpha=0.45 if i % 2 else 0.8,
                hatch="///" if i % 2 else None, edgecolor="white", label=way if y == 0 else None,
            )  # fmt: skip
            if one["low"] is not None and one["high"] is not None:
                ax.plot([one["low"], one["high"]], [at, at], color=INK, linewidth=1.2)
            edge = max(value, float(one["high"] or 0.0))
            ax.annotate(
                f"{value:.1%}", (edge, at), xytext=(5, 0), textcoords="offset points",
                va="center", color=INK, fontsize=8,
            )  # fmt: skip
    ax.set_yticks(range(len(pairs)), list(pairs), **WORDS)
    ax.set_ylim(len(pairs) - 0.5, -0.5)
    ax.set_xlim(0, 1.12)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"], **WORDS)
    ax.spines["bottom"].set_visible(True)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"{what}; the line is the 95 % interval", labelpad=8, **WORDS)
    ax.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=len(ways), frameon=False, fontsize=8,
        labelcolor=INK,
    )  # fmt: skip
    put_heading(picture, title)
    save_picture(picture, path)


def _shortened(words: str, longest: int = 90) -> str:
    return words if len(words) <= longest else f"{words[:longest].rsplit(' ', 1)[0]} ..."
