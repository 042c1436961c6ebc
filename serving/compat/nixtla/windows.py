"""Which rows of a series are forecast from the rows before them, and where those stand in `y`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.problems import Item, Problem
from serving.rolling import Cuts

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Windows:
    """Forecasts of `steps` rows, or to the end of the series, from each cut on."""

    cuts: Cuts
    steps: int
    lengths: Rows  # of the series

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which of the steps `[cut, step]` are rows of the series."""
        left = self.lengths[self.cuts.places] - self.cuts.rows
        kept: NDArray[np.bool_] = np.arange(self.steps) < left[:, None]
        return kept

    @property
    def places(self) -> Rows:
        """The rows in the flat `y`, window after window."""
        starts = (np.cumsum(self.lengths) - self.lengths)[self.cuts.places] + self.cuts.rows
        places: Rows = (starts[:, None] + np.arange(self.steps))[self.kept]
        return places

    @property
    def sizes(self) -> Rows:
        """How many rows of each series are forecast."""
        counted = np.bincount(self.cuts.places, self.kept.sum(axis=1), len(self.lengths))
        return counted.astype(np.int64)


def of_backtest(lengths: Rows, *, h: int, step: int, windows: int) -> Windows:
    """`windows` forecasts of `h` rows that end with each series, `step` rows apart."""
    back = h + step * np.arange(windows - 1, -1, -1)
    return _from_ends(lengths, np.tile(back, (len(lengths), 1)), h)


def of_history(lengths: Rows, *, h: int, least: int) -> Windows:
    """Blocks of `h` rows that end with each series, as many as have `least` rows before them.

    A series too short for one has a shorter one, from its second row on at the earliest.
    """
    counts = np.maximum((lengths - least) // h, 1)
    order = np.arange(counts.max(), 0, -1)
    back = np.where(order <= counts[:, None], order * h, 0)
    return _from_ends(lengths, np.minimum(back, lengths[:, None] - 1), h)


def of_newest(lengths: Rows, *, last: int, h: int, step: int) -> Windows:
    """Blocks over the last rows of each series, `step` apart and up to `h` long.

    A series that is too short is judged from its second row on.
    """
    back = np.arange(last, 0, -step)
    most = np.minimum(last, lengths - 1)[:, None]
    inside = back - step < most  # the first block of a short series begins later
    return _from_ends(lengths, np.where(inside, np.minimum(back, most), 0), min(h, step))


def _from_ends(lengths: Rows, back: Rows, steps: int) -> Windows:
    """Windows that begin `back` `[series, window]` rows before the ends; 0 is no window."""
    short = np.flatnonzero((lengths - back.max(axis=1) < 1) | (back.max(axis=1) < 1))
    if len(short):
        message = "A row before the first window is needed."
        items = [
            Item(message, "/series/sizes", "insufficient_history", str(place))
            for place in short.tolist()
        ]
        detail = f"{len(items)} series have too few rows for these windows. Send more, or ask less."
        raise Problem("insufficient-history", detail, items)
    places = np.repeat(np.arange(len(lengths)), (back > 0).sum(axis=1))
    rows = (lengths[:, None] - back)[back > 0]
    return Windows(Cuts(places, rows), steps, lengths)
