"""Figures a person wants to look at: fans, error by step, calibration, leaderboard, training.

All in the style of `pipelines.sheet`, and without pyplot: nothing is global.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from pipelines.sheet import (
    BLUE,
    DASHES,
    FADED,
    INK,
    PALETTE,
    PAPER,
    VERMILION,
    Floats,
    frame,
    legend,
    name_ends,
    sheet,
)

Stamps = NDArray[np.datetime64] | NDArray[np.int64]
Band = tuple[float, float]

PANEL_INCHES = (5.8, 2.35)
LONE_PANEL_INCHES = (9.0, 3.4)
HISTORY_SHOWN = 2.0  # times the horizon: enough to see the season, and the fan stays large


@dataclass(frozen=True, slots=True)
class FanChart:
    """One series: its past, its forecast with intervals, and what came (if it is known).

    `bands` maps a pair of levels to the lower and upper line `[horizon]`.
    """

    title: str
    times: Stamps
    history: Floats
    future_times: Stamps
    point: Floats
    actual: Floats | None = None
    bands: Mapping[Band, tuple[Floats, Floats]] = field(default_factory=dict)


def forecast_figure(
    charts: Sequence[FanChart], *, title: str, unit: str = "", columns: int = 2
) -> Figure:
    """A panel for each series: context, forecast fan and, where known, the actuals."""
    columns = min(columns, len(charts))
    rows = math.ceil(len(charts) / columns)
    width, height = LONE_PANEL_INCHES if columns == 1 else PANEL_INCHES
    figure = sheet(width * columns, height * rows, f"{title}\n")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, chart in zip(panels.flat, charts, strict=False):
        _fan(axes, chart)
    for axes in panels.flat[len(charts) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel(unit)
    bands = sorted({band for chart in charts for band in chart.bands}, key=_width, reverse=True)
    handles: list[Artist] = [Line2D([], [], color=FADED, lw=1.2, label="history")]
    if any(chart.actual is not None for chart in charts):
        handles.append(Line2D([], [], color=VERMILION, lw=1.3, label="actual"))
    handles.append(Line2D([], [], color=BLUE, lw=2.2, label="forecast"))
    handles += [
        Patch(color=BLUE, alpha=_shade(i, len(bands)), lw=0, label=f"{_width(band):.0%} interval")
        for i, band in enumerate(bands)
    ]
    legend(figure, handles)
    return figure


def horizon_error_figure(
    errors: Mapping[str, Floats], *, metric: str, step: str = "step", title: str = ""
) -> Figure:
    """Error by horizon step, one line a model; each line is named at its end."""
    figure = sheet(8.4, 4.2, title or f"{metric} by horizon step")
    axes = figure.subplots()
    frame(axes)
    for i, (name, values) in enumerate(errors.items()):
        axes.plot(
            np.arange(1, len(values) + 1), values, label=name, zorder=3,
            color=PALETTE[i % len(PALETTE)], ls=DASHES[i % len(DASHES)], lw=1.8,
        )  # fmt: skip
    longest = max(len(values) for values in errors.values())
    axes.set_xlim(1, max(2, longest))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"{step} ahead")
    axes.set_ylabel(metric)
    name_ends(axes, errors)
    return figure


def calibration_figure(
    shares: Mapping[str, tuple[Floats, Floats]], *, title: str = "Calibration"
) -> Figure:
    """The share of actuals at or below each quantile, one line a model; the diagonal is right.

    `shares` maps a model to its nominal levels and the shares that were observed.
    """
    figure = sheet(6.2, 5.2, title)
    axes = figure.subplots()
    frame(axes)
    axes.plot([0, 1], [0, 1], color=FADED, lw=0.9, ls=DASHES[2], zorder=1)
    for i, (name, (nominal, observed)) in enumerate(shares.items()):
        axes.plot(
            nominal, observed, label=name, zorder=3, marker="o", ms=3.5,
            color=PALETTE[i % len(PALETTE)], ls=DASHES[i % len(DASHES)], lw=1.8,
        )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="quantile level", ylabel="actuals at or below it")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.legend(loc="lower right", frameon=False, fontsize=9.5, labelcolor=INK, handlelength=2.6)
    return figure


def leaderboard_figure(scores: Mapping[str, float], *, metric: str, title: str = "") -> Figure:
    """One bar a model, the best on top; lower is better."""
    ranked = sorted(scores.items(), key=lambda item: item[1])
    figure = sheet(7.2, 1.3 + 0.42 * len(ranked), title or f"Leaderboard: {metric}")
    axes = figure.subplots()
    frame(axes)
    axes.grid(visible=False)
    names = [name for name, _ in ranked]
    values = [value for _, value in ranked]
    colours = [BLUE, *["#b9c4d0"] * (len(ranked) - 1)]
    bars = axes.barh(range(len(names)), values, color=colours, height=0.66)
    axes.bar_label(bars, labels=[f"{value:.4g}" for value in values], padding=5, color=INK, size=9)
    axes.set_yticks(range(len(names)), labels=names)
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", labelbottom=False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10)
    axes.set_xlim(0, max(values) * 1.12)
    axes.set_xlabel(f"{metric} (shorter is better)")
    return figure


def training_curve_figure(
    epochs: Sequence[Mapping[str, float]], *, best: int, loss: str, title: str = "Training"
) -> Figure:
    """Training and validation loss by epoch; `best` is the epoch whose weights were taken."""
    figure = sheet(8.4, 4.0, title)
    axes = figure.subplots()
    frame(axes)
    numbers = [int(row["epoch"]) for row in epochs]
    train = np.array([row["train_loss"] for row in epochs])
    validation = np.array([row["validation_loss"] for row in epochs])
    place = numbers.index(best)
    axes.plot(numbers, train, color=FADED, lw=1.6, ls=DASHES[1], label="training")
    axes.plot(numbers, validation, color=BLUE, lw=2.0, label="validation")
    axes.plot(best, validation[place], "o", color=BLUE, ms=8, mec=PAPER, mew=1.5, zorder=4)
    axes.annotate(
        f"best: epoch {best}, {validation[place]:.4g}",
        (best, validation[place]), xytext=(0, 12), textcoords="offset points",
        ha="center", color=BLUE, size=9, weight="bold",
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.18)
    axes.set_xlabel("epoch")
    axes.set_ylabel(loss)
    name_ends(axes, {"training": train, "validation": validation}, x=numbers[-1])
    return figure


# --- parts ----------------------------------------------------------------------------------


def _fan(axes: Any, chart: FanChart) -> None:
    """History up to the cutoff; after it the intervals, the forecast and the actuals."""
    frame(axes)
    shown = min(len(chart.history), math.ceil(HISTORY_SHOWN * len(chart.point)))
    axes.plot(chart.times[-shown:], chart.history[-shown:], color=FADED, lw=1.2, zorder=3)
    bands = sorted(chart.bands.items(), key=lambda item: _width(item[0]), reverse=True)
    for i, (_, (low, high)) in enumerate(bands):
        shade = _shade(i, len(bands))
        axes.fill_between(chart.future_times, low, high, color=BLUE, alpha=shade, lw=0, zorder=2)
    if chart.actual is not None:
        # Joined to the past: the line that came goes on from the line that was.
        times = np.concatenate([chart.times[-1:], chart.future_times])
        values = np.concatenate([chart.history[-1:], chart.actual])
        axes.plot(times, values, color=VERMILION, lw=1.3, zorder=5)
    axes.plot(chart.future_times, chart.point, color=BLUE, lw=2.2, zorder=4)
    axes.axvline(chart.times[-1], color=FADED, lw=0.9, ls=DASHES[2], zorder=1)
    axes.set_title(chart.title, loc="left", color=INK, size=11, weight="bold", pad=6)
    axes.margins(x=0.01)
    if np.issubdtype(chart.times.dtype, np.datetime64):
        locator = AutoDateLocator(minticks=4, maxticks=8)
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _width(band: Band) -> float:
    return band[1] - band[0]


def _shade(place: int, count: int) -> float:
    """Opacity of a band: the widest is the faintest, and they add up where they overlap."""
    return 0.22 if count == 1 else 0.17 + 0.15 * place / (count - 1)
