"""The grid of a panel that is larger than the memory, written span by span into mapped files.

The numbers are those of a panel in memory, but for the scaling of covariate columns, which is summed
up over spans instead of over all rows at once: the same to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipelines.covariates import Covariate, Inputs, known_rows, past_rows, static_rows
from pipelines.features.categories import Vocabulary, as_words
from pipelines.mapping import Scratch
from pipelines.panel import Panel
from pipelines.windows import Floats, Grid, Rows, Scaler, mean_std
from tsformer.metrics import only_rounding, seasonal_scale

ROWS_AT_ONCE = 2**18  # of a span, if no series is longer


@dataclass(frozen=True, slots=True)
class Span:
    """Whole series next to each other: their numbers, and their rows."""

    series: slice
    rows: slice


def spans(offsets: Rows, rows: int = ROWS_AT_ONCE) -> Iterator[Span]:
    """The series between `offsets` in spans of about `rows` rows."""
    edges = [0, *(np.flatnonzero(np.diff(offsets[:-1] // rows)) + 1).tolist(), len(offsets) - 1]
    for first, last in pairwise(edges):
        yield Span(slice(first, last), slice(int(offsets[first]), int(offsets[last])))


def fitted_inputs(panel: Panel, inputs: Inputs, *, train: Rows, categories: set[str]) -> Inputs:
    """`inputs` with scalings and words of the first `train` rows `[series]` of each series."""

    def fitted(columns: tuple[Covariate, ...]) -> tuple[Covariate, ...]:
        return tuple(_fitted(panel, c.name, train, words=c.name in categories) for c in columns)

    return replace(inputs, known=fitted(inputs.known), past=fitted(inputs.past))


def large_grid(panel: Panel, inputs: Inputs, names: Vocabulary | None) -> Grid:
    """The series of `panel`, each a group, with what `inputs` name of them, in files."""
    assert panel.scratch is not None
    rows, scratch = len(panel.table), panel.scratch
    values = scratch.array((rows, 1), np.float64)
    gaps = panel.table["y"].has_nulls()
    observed = scratch.array((rows, 1), np.bool_) if gaps else None
    for span in spans(panel.offsets):
        part = panel.target[span.rows, None]
        values[span.rows] = np.nan_to_num(part, nan=0.0)
        if observed is not None:
            observed[span.rows] = ~np.isnan(part)
    grid = Grid(
        values=torch.from_numpy(values),
        observed=None if observed is None else torch.from_numpy(observed),
        known=None,
        covariates=None,
        static=None,
        series=None,
        offsets=panel.offsets.astype(np.int64),
        files={"values": values} | ({} if observed is None else {"observed": observed}),
    )
    return with_inputs(grid, panel, inputs, names)


def with_inputs(grid: Grid, panel: Panel, inputs: Inputs, names: Vocabulary | None) -> Grid:
    """`grid` with the covariates that `inputs` name, and the numbers of the series in `names`."""
    assert panel.scratch is not None
    static = static_rows(panel, inputs)
    numbers = (names or Vocabulary(())).encode(pl.Series(panel.ids))
    known = _written(panel, inputs, "known")
    past = _written(panel, inputs, "past")
    kept = {name: file for name, file in grid.files.items() if name in ("values", "observed")}
    written = {"known": known, "covariates": past}
    return replace(
        grid,
        known=None if known is None else torch.from_numpy(known),
        covariates=None if past is None else torch.from_numpy(past),
        static=None if static is None else torch.from_numpy(static[:, None]),
        series=torch.from_numpy(numbers[:, None]),
        files=kept | {name: array for name, array in written.items() if array is not None},
    )


def fitted_scaler(panel: Panel, train: Rows) -> Scaler:
    """Mean and deviation of the first `train` rows `[series]` of each series."""
    pairs = [mean_std(part) for part in _training_parts(panel, train)]
    means, stds = zip(*pairs, strict=True)
    return Scaler(np.stack(means), np.stack(stds))


def seasonal_scales(panel: Panel, train: Rows, *, season: int) -> tuple[Floats, Floats]:
    """The in-sample errors of seasonal naive, absolute and squared, `[series]`."""
    parts = [
        (seasonal_scale(part, season, power=1), seasonal_scale(part, season, power=2))
        for part in _training_parts(panel, train)
    ]
    absolute, square = zip(*parts, strict=True)
    return np.concatenate(absolute), np.concatenate(square)


def standardised(grid: Grid, scaler: Scaler, scratch: Scratch) -> Grid:
    """As `Grid.standardised`, in a file."""
    scaled = scratch.array(grid.values.shape, np.float32)
    lengths = grid.lengths
    for span in spans(grid.offsets):
        times = lengths[span.series]
        mean, std = (np.repeat(s[span.series], times, axis=0) for s in (scaler.mean, scaler.std))
        part = (grid.values[span.rows].numpy() - mean) / std
        if grid.observed is not None:
            part *= grid.observed[span.rows].numpy()
        scaled[span.rows] = part
    files = {**grid.files, "values": scaled}
    return replace(grid, values=torch.from_numpy(scaled), files=files)


def _training_parts(panel: Panel, train: Rows) -> Iterator[Floats]:
    """The training rows `[time, 1]` of each series."""
    for start, rows in zip(panel.offsets[:-1], train, strict=True):
        yield np.asarray(panel.target[start : start + rows, None])


def _written(panel: Panel, inputs: Inputs, use: str) -> NDArray[np.float32] | None:
    """The rows of what is known ahead, or in the past, in a file; None where nothing is."""
    assert panel.scratch is not None
    rows_of = known_rows if use == "known" else past_rows
    written: NDArray[np.float32] | None = None
    for span in spans(panel.offsets):
        part = rows_of(_part(panel, span.rows), inputs)
        if part is None:
            return None
        if written is None:
            written = panel.scratch.array((len(panel.table), part.shape[1]), np.float32)
        written[span.rows] = part
    return written


def _part(panel: Panel, rows: slice) -> Panel:
    """The panel with some rows of its table alone; its other parts are those of the whole."""
    return replace(panel, table=panel.table[rows], scratch=None)


def _fitted(panel: Panel, name: str, train: Rows, *, words: bool) -> Covariate:
    if words:
        found = [as_words(part).drop_nulls().unique() for part in _cells(panel, name, train)]
        return Covariate.fit(name, pl.concat(found))
    return Covariate(name, *_mean_std(panel, name, train))


def _cells(panel: Panel, name: str, train: Rows) -> Iterator[pl.Series]:
    """The training cells of a column, span by span."""
    column = panel.table[name]
    for span in spans(panel.offsets):
        counts = train[span.series]
        ends = np.cumsum(counts)
        place = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        yield column.gather(np.repeat(panel.offsets[span.series], counts) + place)


def _mean_std(panel: Panel, name: str, train: Rows) -> tuple[float, float]:
    """As `pipelines.windows.mean_std` of the training cells of a column, span by span."""
    count, total, low, high = 0, 0.0, np.inf, -np.inf
    for part in _cells(panel, name, train):
        cells = part.drop_nulls().to_numpy()
        count, total = count + len(cells), total + float(cells.sum())
        low, high = cells.min(initial=low), cells.max(initial=high)
    if not count:
        return 0.0, 1.0
    mean = total / count
    largest = np.array(max(abs(low), abs(high)))
    if bool(only_rounding(np.array(high - low), largest=largest)):
        return mean, 1.0
    parts = (part.drop_nulls().to_numpy() for part in _cells(panel, name, train))
    squares = sum(float(((cells - mean) ** 2).sum()) for cells in parts)
    return mean, float(np.sqrt(squares / count))
