"""Figures of a search: how its trials went, what each setting did to the loss, what mattered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from pipelines.search import Choice, Dimension, Search
from pipelines.sheet import BLUE, FADED, INK, PAPER, VERMILION, frame, legend, sheet
from pipelines.trials import COMPARED, Trial, best_of

PALE = "#b9c4d0"
PANEL_INCHES = (3.6, 2.5)
COLUMNS = 3


def curves_figure(trials: Sequence[Trial], *, loss: str, title: str) -> Figure:
    """Validation loss by epoch, a line a trial; the best stands out, a dot ends each."""
    figure = sheet(8.4, 4.2, title)
    axes = figure.subplots()
    frame(axes)
    best = best_of(trials)
    for trial in trials:
        first = trial is best
        axes.plot(
            [row.epoch for row in trial.epochs], [row.loss for row in trial.epochs],
            color=BLUE if first else PALE, lw=2.2 if first else 1.2, zorder=4 if first else 3,
        )  # fmt: skip
        for row in trial.epochs[-1:]:
            colour = _colour(trial, best)
            axes.plot(row.epoch, row.loss, "o", color=colour, ms=5, mec=PAPER, zorder=5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{loss}, validation")
    legend(figure, _handles(trials, best))
    return figure


def settings_figure(
    trials: Sequence[Trial], search: Search, shares: Mapping[str, float] | None, *, title: str
) -> Figure:
    """A panel a setting: its value and the best loss of each trial, with its importance if known."""
    columns = min(COLUMNS, math.ceil(math.sqrt(len(search.space))))
    rows = math.ceil(len(search.space) / columns)
    width, height = PANEL_INCHES
    figure = sheet(width * columns, height * rows + 0.3, f"{title}\n")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    names = sorted(search.space, key=lambda name: -(shares or {}).get(name, 0.0))
    best = best_of(trials)
    for axes, name in zip(panels.flat, names, strict=False):
        frame(axes)
        _panel(axes, name, search.space[name], trials, best)
        share = "" if shares is None else f"  {shares[name]:.0%}"
        axes.set_title(f"{name}{share}", loc="left", color=INK, size=10, weight="bold", pad=6)
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    for axes in panels[:, 0]:
        axes.set_ylabel("validation loss")
    legend(figure, _handles(trials, best))
    return figure


def importance_figure(shares: Mapping[str, float], *, trials: int) -> Figure:
    """One bar a setting, the most important on top."""
    figure = sheet(7.2, 1.3 + 0.42 * len(shares), f"Importance of the settings, {trials} trials")
    axes = figure.subplots()
    frame(axes)
    axes.grid(visible=False)
    names, values = [*shares], [*shares.values()]
    bars = axes.barh(range(len(names)), values, color=BLUE, height=0.66)
    axes.bar_label(bars, labels=[f"{v:.0%}" for v in values], padding=5, color=INK, size=9)
    axes.set_yticks(range(len(names)), labels=names)
    axes.invert_yaxis()
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", labelbottom=False)
    axes.tick_params(axis="y", labelcolor=INK, labelsize=10)
    axes.set_xlim(0, max(*values, 0.01) * 1.15)
    axes.set_xlabel("share in what made trials good (PED-ANOVA)")
    return figure


def _panel(
    axes: Any, name: str, dimension: Dimension, trials: Sequence[Trial], best: Trial | None
) -> None:
    """The trials as dots over the values of one setting."""
    compared = [trial for trial in trials if trial.state in COMPARED and trial.epochs]
    for trial in compared:
        value = trial.parameters[name]
        x = dimension.values.index(value) if isinstance(dimension, Choice) else value
        axes.plot(
            x, trial.loss, "o", color=_colour(trial, best), ms=7, mec=PAPER, zorder=3,
            clip_on=False,
        )  # fmt: skip
    if isinstance(dimension, Choice):
        axes.set_xticks(range(len(dimension.values)), labels=[*map(str, dimension.values)])
        axes.set_xlim(-0.5, len(dimension.values) - 0.5)
        return
    if dimension.log:
        axes.set_xscale("log")
        axes.tick_params(which="minor", length=0)
    axes.set_xlim(dimension.low, dimension.high)


def _colour(trial: Trial, best: Trial | None) -> str:
    if trial is best:
        return BLUE
    return {"finished": FADED, "stopped": PALE}.get(trial.state, VERMILION)


def _handles(trials: Sequence[Trial], best: Trial | None) -> list[Artist]:
    """A dot for each way a trial ended that is there, and for the best."""
    found = {_colour(trial, best) for trial in trials if trial.epochs}
    words = {
        BLUE: "best",
        FADED: "finished",
        PALE: "stopped early",
        VERMILION: "diverged or failed",
    }
    return [
        Line2D([], [], color=colour, marker="o", lw=0, ms=6, label=word)
        for colour, word in words.items()
        if colour in found
    ]
