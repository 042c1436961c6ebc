"""The sheet that figures are drawn on: colours, frame, legend, names of lines.

Drawn on `Figure` objects without pyplot, so nothing is global and no display is needed. Colours
are those of Okabe & Ito (Color Universal Design, 2008), told apart by colour-blind readers, and
never the only difference: lines differ in width or dash and carry their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

INK, FADED, RULE, PAPER = "#1f2430", "#6b7280", "#e3e6eb", "#ffffff"
BLUE, VERMILION = "#0072b2", "#d55e00"
PALETTE = (BLUE, VERMILION, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
DPI = 144


def sheet(width: float, height: float, title: str) -> Figure:
    """An empty figure; sizes in inches."""
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.10, wspace=0.03, hspace=0.04)
    figure = Figure(figsize=(width, height + 0.7), facecolor=PAPER, layout=layout)
    figure.suptitle(title, x=0.012, ha="left", color=INK, size=13, weight="bold")
    return figure


def frame(axes: Any) -> None:
    """A quiet frame: a baseline, faint horizontal rules, small faded numbers."""
    axes.set_facecolor(PAPER)
    axes.grid(axis="y", color=RULE, lw=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FADED)
    axes.tick_params(colors=FADED, labelsize=8.5, length=0, pad=5)
    axes.xaxis.label.set(color=FADED, size=9)
    axes.yaxis.label.set(color=FADED, size=9)
    axes.xaxis.get_offset_text().set(color=FADED, size=8.5)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    under_title = 1 - 0.34 / figure.get_figheight()
    figure.legend(
        handles=[*handles], loc="upper left", bbox_to_anchor=(0.012, under_title),
        ncols=len(handles), frameon=False, fontsize=9.5, labelcolor=INK, handlelength=1.6,
        columnspacing=1.6, borderaxespad=0, borderpad=0,
    )  # fmt: skip


def name_ends(axes: Any, lines: Mapping[str, Floats], *, x: float | None = None) -> None:
    """Writes each line's name where it ends, moved apart where two would overlap."""
    low, high = axes.get_ylim()
    gap = (high - low) * 0.055
    ends = sorted((float(values[-1]), name, i) for i, (name, values) in enumerate(lines.items()))
    heights: list[float] = []
    for value, _, _ in ends:
        heights.append(max(value, heights[-1] + gap) if heights else value)
    colours = {line.get_label(): line.get_color() for line in axes.get_lines()}
    for (_, name, _), height in zip(ends, heights, strict=True):
        end = axes.get_xlim()[1] if x is None else x
        axes.annotate(
            name, (end, height), xytext=(7, 0), textcoords="offset points", va="center",
            color=colours[name], size=9.5, weight="bold", annotation_clip=False,
        )  # fmt: skip


def save_figure(figure: Figure, path: Path) -> None:
    """Writes `figure` as PNG, SVG or PDF, by the name of the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
