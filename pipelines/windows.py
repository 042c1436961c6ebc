"""Windows cut from series without copying them: the same code makes training and serving batches.

Series lie end to end in one array; a window is a row number, and only the windows of a batch
are ever copied. Needs numpy and torch alone, so it runs wherever `tsformer` runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tsformer.batch import Batch, Shape, Target
from tsformer.errors import ConfigError, DataError
from tsformer.metrics import only_rounding

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scaler:
    """Mean and standard deviation of each group and variate, `[group, variate]`.

    Fitted on training rows alone, in float64, with the population standard deviation, as all
    published long-horizon tables do. A column that never varies is only shifted (`mean_std`).
    """

    mean: Floats
    std: Floats


@dataclass(frozen=True, slots=True)
class Grid:
    """Groups of variates on regular grids, end to end.

    - `values` `[row, variate]`: 0 where missing.
    - `observed` `[row, variate]` bool, or None where everything is.
    - `known` `[row, column]`: covariates known ahead, or None.
    - `covariates` `[row, column]`: covariates known to the cutoff, or None.
    - `static` `[group, variate, column]`: attributes of the series, or None.
    - `series` `[group, variate]`: the numbers of the series, or None.
    - `offsets` `[group + 1]`: the first row of each group, and the end.
    - `files`: the arrays behind those of the tensors that are mapped from files.
    """

    values: Tensor
    observed: Tensor | None
    known: Tensor | None
    covariates: Tensor | None
    static: Tensor | None
    series: Tensor | None
    offsets: Rows
    files: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @staticmethod
    def of(
        groups: Sequence[Floats],
        *,
        known: Sequence[Floats32] | None = None,
        covariates: Sequence[Floats32] | None = None,
        static: Floats32 | None = None,
        series: Rows | None = None,
    ) -> Grid:
        """A grid of groups `[time, variate]` (NaN is missing), with covariates `[time, column]`.

        `static` is `[group, variate, column]`, `series` `[group, variate]`.
        """
        if not groups:
            raise DataError("There is no series to cut windows from.")
        rows = torch.from_numpy(np.concatenate(groups))
        observed = ~rows.isnan()
        return Grid(
            values=rows.nan_to_num_(nan=0.0),
            observed=None if bool(observed.all()) else observed,
            known=_joined(known),
            covariates=_joined(covariates),
            static=None if static is None else torch.from_numpy(static),
            series=None if series is None else torch.from_numpy(series),
            offsets=np.cumsum([0, *(len(group) for group in groups)], dtype=np.int64),
        )

    @property
    def lengths(self) -> Rows:
        """Rows of each group `[group]`."""
        return np.diff(self.offsets)

    def fit_scaler(self, train_rows: Rows) -> Scaler:
        """Mean and std of the first `train_rows[group]` rows of each group."""
        groups = range(len(train_rows))
        spans = [slice(self.offsets[g], self.offsets[g] + train_rows[g]) for g in groups]
        columns = [self._numpy(span) for span in spans]
        means, stds = zip(*(mean_std(column) for column in columns), strict=True)
        return Scaler(np.stack(means), np.stack(stds))

    def standardised(self, scaler: Scaler) -> Grid:
        """The grid as `(values - mean) / std` in float32; what is missing stays 0.

        Each variate lies in one piece in memory, from which windows are cut at the speed of a copy.
        """
        lengths = torch.from_numpy(self.lengths)
        mean = torch.from_numpy(scaler.mean).repeat_interleave(lengths, dim=0)
        std = torch.from_numpy(scaler.std).repeat_interleave(lengths, dim=0)
        values = (self.values - mean) / std
        if self.observed is not None:
            values *= self.observed
        observed = None if self.observed is None else _by_column(self.observed)
        return replace(self, values=_by_column(values.float()), observed=observed)

    def _numpy(self, rows: slice) -> Floats:
        values = self.values[rows].double().numpy()
        if self.observed is None:
            return values
        return np.where(self.observed[rows].numpy(), values, np.nan)


def _by_column(rows: Tensor) -> Tensor:
    """The same `[row, column]`, each column in one piece in memory."""
    return rows.mT.contiguous().mT


def _joined(groups: Sequence[Floats32] | None) -> Tensor | None:
    return None if groups is None else torch.from_numpy(np.concatenate(groups)).float()


def mean_std(columns: Floats) -> tuple[Floats, Floats]:
    """Mean and population deviation over time of `columns` `[time, ...]`, NaN left out.

    The deviation of a column that never varies is 1: the computed one is rounding (490 times 1.1
    has 1e-14), and what is divided by that explodes. A column without values, such as that of a
    series that begins after the training part, has mean 0.
    """
    empty = np.isnan(columns).all(axis=0)
    filled = np.where(empty, 0.0, columns) if len(columns) else np.zeros((1, *empty.shape))
    span = np.nanmax(filled, axis=0) - np.nanmin(filled, axis=0)
    flat = only_rounding(span, largest=np.nanmax(np.abs(filled), axis=0))
    return np.nanmean(filled, axis=0), np.where(flat, 1.0, np.nanstd(filled, axis=0))


@dataclass(frozen=True, slots=True)
class Borders:
    """Where the parts of each group end: rows `[group]` from the group's start.

    Windows of a part have their whole target inside it; their context may reach back into the
    part before (the usual rule: target ranges stay disjoint, no target row is wasted).
    """

    train: Rows
    validation: Rows
    test: Rows

    @staticmethod
    def by_rows(parts: Sequence[int], lengths: Rows) -> Borders:
        """`parts` rows for train, validation and test, the same in every group."""
        ends = np.minimum(np.cumsum(parts)[:, None], lengths[None, :])  # [part, group]
        return Borders(*ends)

    @staticmethod
    def by_fractions(parts: Sequence[float], lengths: Rows) -> Borders:
        """Train and test take the floor of their fraction, validation the rest (70/10/20)."""
        train = np.floor(lengths * parts[0]).astype(np.int64)
        test = np.floor(lengths * parts[2]).astype(np.int64)
        return Borders(train, lengths - test, lengths)

    def cutoffs(self, part: str, grid: Grid, shape: Shape, *, stride: int = 1) -> Rows:
        """The cutoffs of `part`: first target rows, counted over the whole grid, ascending.

        With a stride the last possible cutoff is kept: the newest window is always scored. A
        window has every lagged value of its horizon, as it has every step of its context.
        """
        spaced = self.spaced(part, grid, shape, stride=stride)
        return spaced.numpy()

    def spaced(self, part: str, grid: Grid, shape: Shape, *, stride: int = 1) -> Spaced:
        """As `cutoffs`, without a number for each."""
        starts = {"train": 0 * self.train, "validation": self.train, "test": self.validation}
        ends = {"train": self.train, "validation": self.validation, "test": self.test}
        if part not in starts:
            raise ConfigError(f"part must be one of {', '.join(starts)}, got '{part}'.")
        first = np.maximum(starts[part], max(shape.context, *shape.lags, 0))
        last = ends[part] - shape.horizon
        counts = np.maximum(0, (last - first) // stride + 1)
        begins = grid.offsets[:-1] + last - (counts - 1) * stride
        return Spaced(begins, np.cumsum([0, *counts], dtype=np.int64), stride)


@dataclass(frozen=True, slots=True)
class Spaced:
    """Cutoffs at even steps in each group: from `begins` `[group]`, every `stride` rows.

    `ends` `[group + 1]` counts the windows up to each group. Used like the array that it stands
    for, whose eight bytes a window can be more than those of the values.
    """

    begins: Rows
    ends: Rows
    stride: int

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: Tensor | int) -> Tensor:
        """The cutoffs of the windows numbered `index`."""
        numbers = torch.as_tensor(index).numpy()
        group = np.searchsorted(self.ends, numbers, side="right") - 1
        return torch.as_tensor(self.begins[group] + self.stride * (numbers - self.ends[group]))

    @property
    def nbytes(self) -> int:
        """The memory that it needs."""
        return int(self.begins.nbytes + self.ends.nbytes)

    def numpy(self) -> Rows:
        """All of them, `[window]`."""
        counts = np.diff(self.ends)
        place = np.arange(len(self)) - np.repeat(self.ends[:-1], counts)
        found: Rows = np.repeat(self.begins, counts) + self.stride * place
        return found


class PanelWindows:
    """Windows of a grid at given cutoffs; satisfies `tsformer.batch.Windows`."""

    def __init__(self, grid: Grid, *, cutoffs: Rows | Spaced, shape: Shape) -> None:
        self.grid = grid
        self.cutoffs: Tensor | Spaced = (
            cutoffs if isinstance(cutoffs, Spaced) else torch.from_numpy(cutoffs)
        )
        self._shape = shape

    @property
    def shape(self) -> Shape:
        return self._shape

    def __len__(self) -> int:
        return len(self.cutoffs)

    def groups(self) -> Rows:
        """The group of each window `[window]`."""
        return self._groups_of(self.cutoffs.numpy())

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        """The windows numbered `index`; each variate of each lies in one piece in memory."""
        context, grid = self.shape.context, self.grid
        cutoffs = self.cutoffs[index]
        starts = cutoffs - context
        values = self._cut(grid.values, starts)  # [batch, time + horizon, variate]
        if grid.observed is None:
            observed = torch.ones((), dtype=torch.bool).expand(values.shape)
        else:
            observed = self._cut(grid.observed, starts)
        known = None if grid.known is None else self._cut(grid.known, starts)
        past = None if grid.covariates is None else self._cut(grid.covariates, starts)[:, :context]
        groups = self._groups_of(cutoffs.numpy())
        batch = Batch(
            past=values[:, :context],
            observed=observed[:, :context],
            known=known,
            covariates=past,
            static=None if grid.static is None else grid.static[groups],
            series=None if grid.series is None else grid.series[groups],
            lagged=self._lagged(starts, groups) if self.shape.lags else None,
        )
        return batch, Target(values[:, context:], observed[:, context:])

    def _cut(self, rows: Tensor, starts: Tensor) -> Tensor:
        length = self.shape.context + self.shape.horizon
        # unfold is a view [start, column, length]; only the chosen windows are copied, and of
        # columns in one piece index_select copies them in a quarter of the time of indexing
        return rows.unfold(0, length, 1).index_select(0, starts).mT

    def _lagged(self, starts: Tensor, groups: Rows) -> Tensor:
        """Earlier values `[batch, time + horizon, variate, lag]`; NaN before the group's start."""
        grid, lags = self.grid, self.shape.lags
        begin = (starts[:, None] - torch.tensor(lags)).flatten()  # [batch * lag]
        first = torch.from_numpy(grid.offsets[groups]).repeat_interleave(len(lags))
        values = self._cut_before(grid.values, begin)  # [batch * lag, time + horizon, variate]
        if grid.observed is not None:
            values.masked_fill_(~self._cut_before(grid.observed, begin), torch.nan)
        if bool((begin < first).any()):
            rows = begin[:, None] + torch.arange(values.shape[1])
            values.masked_fill_((rows < first[:, None])[..., None], torch.nan)
        return values.unflatten(0, (-1, len(lags))).permute(0, 2, 3, 1)

    def _cut_before(self, rows: Tensor, starts: Tensor) -> Tensor:
        """As `_cut`, where windows may start before the first row; what is there is arbitrary."""
        cut = self._cut(rows, starts.clamp(min=0))
        for row in (starts < 0).nonzero()[:, 0].tolist():
            cut[row] = cut[row].roll(int(-starts[row]), 0)
        return cut

    def _groups_of(self, cutoffs: Rows) -> Rows:
        return np.searchsorted(self.grid.offsets, cutoffs, side="right") - 1
