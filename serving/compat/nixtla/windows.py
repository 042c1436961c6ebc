"""Which rows of a series are forecast from the rows before them, and where those stand in `y`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.problems import Item, Problem
from serving.rolling import Cuts

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Extent:
    """The series from their first values on: where those stand in `y`, and how many rows follow."""

    firsts: Rows
    lengths: Rows

    @staticmethod
    def of(y: Sequence[float | None], sizes: Sequence[int]) -> Extent:
        """The series of `sizes` in `y`; one without any value is whole."""
        ends = np.cumsum(sizes)
        starts = ends - sizes
        known = np.isfinite(np.array(y, dtype=np.float64))
        observed = np.append(np.flatnonzero(known), len(y))
        firsts = observed[np.searchsorted(observed, starts)]
        firsts = np.where(firsts < ends, firsts, starts)
        return Extent(firsts, ends - firsts)

    def __len__(self) -> int:
        return len(self.firsts)


@dataclass(frozen=True, slots=True)
class Windows:
    """Forecasts of `steps` rows, or to the end of the series, from each cut on."""

    cuts: Cuts
    steps: int
    series: Extent

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which of the steps `[cut, step]` are rows of the series."""
        left = self.series.lengths[self.cuts.places] - self.cuts.rows
        kept: NDArray[np.bool_] = np.arange(self.steps) < left[:, None]
        return kept

    @property
    def places(self) -> Rows:
        """The rows in the flat `y`, window after window."""
        starts = self.series.firsts[self.cuts.places] + self.cuts.rows
        places: Rows = (starts[:, None] + np.arange(self.steps))[self.kept]
        return places

    @property
    def sizes(self) -> Rows:
        """How many rows of each series are forecast."""
        counted = np.bincount(self.cuts.places, self.kept.sum(axis=1), len(self.series))
        return counted.astype(np.int64)


def check_rows(series: Extent, reach: int) -> None:
    """Raises `insufficient-history` for series without a row before their last `reach` rows."""
    short = np.flatnonzero(series.lengths <= reach)
    if len(short):
        message = "A value before the first window is needed."
        items = [
            Item(message, "/series/sizes", "insufficient_history", str(place))
            for place in short.tolist()
        ]
        detail = f"{len(items)} series have too few rows for these windows. Send more, or ask less."
        raise Problem("insufficient-history", detail, items)


def of_backtest(series: Extent, *, h: int, step: int, windows: int) -> Windows:
    """`windows` forecasts of `h` rows that end with each series, `step` rows apart.

    All of them must lie within the series; see `check_rows`.
    """
    places, at = _ragged(np.full(len(series), windows))
    return _from_ends(places, h + step * (windows - 1 - at), series, h)


def of_history(series: Extent, *, h: int, least: int) -> Windows:
    """Blocks of `h` rows that end with each series, as many as have `least` rows before them.

    A series too short for one has a shorter one, from its second row on at the earliest.
    """
    check_rows(series, 1)
    counts = np.maximum((series.lengths - least) // h, 1)
    places, at = _ragged(counts)
    back = np.minimum((counts[places] - at) * h, series.lengths[places] - 1)
    return _from_ends(places, back, series, h)


def of_newest(series: Extent, *, last: int, h: int, step: int) -> Windows:
    """Blocks over the last rows of each series, `step` apart and up to `h` long.

    A series that is too short is judged from its second row on.
    """
    check_rows(series, 1)
    judged = np.minimum(last, series.lengths - 1)
    places, at = _ragged(-(-judged // step))
    return _from_ends(places, judged[places] - step * at, series, min(h, step))


def _ragged(counts: Rows) -> tuple[Rows, Rows]:
    """The series of each window, and its number within the series."""
    places = np.repeat(np.arange(len(counts)), counts)
    return places, np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)


def _from_ends(places: Rows, back: Rows, series: Extent, steps: int) -> Windows:
    """Windows that begin `back` rows before the ends of their series."""
    return Windows(Cuts(places, series.lengths[places] - back), steps, series)
