"""The shared ridge map with a correction for each series, as large as validation supports.

One map for all series is what unseen series can be forecast with, and what most data sets want;
on some (Weather: arXiv 2205.13504, table 2 against its individual maps) each series wants its own.
Partial pooling lies between: series c has the map W + D_c, where D_c is the ridge solution for
what W leaves of its training windows,

    min |X_c D_c - (Y_c - X_c W)|^2 + penalty |D_c|^2,

so a large penalty is the shared map and a small one a map of the series' own. The penalty is
chosen for each series on validation; no correction is among the choices. A series without a number
(`tsformer.batch.Batch.series`) gets the shared map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tsformer.batch import Batch, Shape, Windows
from tsformer.errors import ConfigError, unlike
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.models.ridge import Ridge, RidgeSpec, Rows, Weights, rows_of, solved
from tsformer.scale import Center, check_choice, scaling

# Numbers of float64 that all series keep at once while they are solved: 1.1 GiB.
NUMBERS_AT_MOST = 150_000_000


@dataclass(frozen=True, slots=True)
class PooledRidgeSpec(ModelSpec):
    """Ridge with a correction for each series.

    `center` is that of `ridge`. Of `corrections`, penalties in mean squares of a context column
    summed over the training rows of the series, each series takes the best on validation.
    """

    kind: ClassVar[str] = "pooled_ridge"
    capabilities: ClassVar[Capabilities] = Capabilities(known=True, lags=True, series=True)

    center: Center = "mean"
    corrections: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)

    def __post_init__(self) -> None:
        check_choice(self.center, ("mean", "last"), name="center")
        if not self.corrections or any(not penalty > 0 for penalty in self.corrections):
            raise unlike("corrections must be positive numbers", self.corrections)

    def build(self, shape: Shape) -> Model:
        return PooledRidge(self, shape)


class PooledRidge(Model):
    """`shared`, the map of all series, and `correction` `[series, time + 1, horizon]`, bias last."""

    def __init__(self, spec: PooledRidgeSpec, shape: Shape) -> None:
        super().__init__(shape)
        numbers = numbers_kept(shape)
        if numbers > NUMBERS_AT_MOST:
            raise ConfigError(
                f"pooled_ridge keeps {numbers:,} numbers of {shape.series - 1:,} series at a context "
                f"of {shape.context} and a horizon of {shape.horizon}, at most "
                f"{NUMBERS_AT_MOST:,}. Shorten the context or the horizon, or take ridge."
            )
        self.spec = spec
        self.shared = Ridge(RidgeSpec(center=spec.center), shape)
        self.correction = solved(shape.series, shape.context + 1, shape.horizon)

    def forward(self, batch: Batch) -> Tensor:
        forecast: Tensor = self.shared(batch)  # [batch, horizon, variate, level]
        if batch.series is None or not self.shape.series:
            return forecast
        unit = scaling(batch.past, batch.observed, center=self.spec.center, scale="std")
        past = unit.apply(batch.past, batch.observed).to(self.correction.dtype)
        rows = torch.cat((past, torch.ones_like(past[:, :1])), 1).mT  # [batch, variate, time + 1]
        away = corrected(rows.flatten(0, 1), batch.series.flatten(), self.correction)
        away = away.unflatten(0, (-1, past.shape[2])).mT  # [batch, horizon, variate]
        return forecast + (away.to(unit.scale.dtype) * unit.scale).unsqueeze(-1)

    @torch.no_grad()
    def solve(self, train: Windows, validation: Windows) -> None:
        """Solves the shared map, and then what it leaves, series by series.

        Raises DataError when there is nothing to fit or to validate. A target that is missing
        counts as what the shared map forecasts.
        """
        shared = self.shared.solution(train, validation)
        self.shared.take(shared)
        if not self.shape.series:
            return
        remainder = self._remainder(train, shared)
        best = torch.full((self.shape.series,), torch.inf, dtype=torch.float64)
        least = self._errors(remainder.corrections(best), validation, shared)
        for number in self.spec.corrections:
            penalty = torch.full_like(best, number)
            error = self._errors(remainder.corrections(penalty), validation, shared)
            best, least = torch.where(error < least, penalty, best), error.minimum(least)
        self.correction.copy_(remainder.corrections(best))

    def _remainder(self, windows: Windows, shared: Weights) -> Remainder:
        """What the shared map leaves of each series; nothing of the unknown, which keeps it."""
        size = self.shape.context + 1
        gram = torch.zeros(self.shape.series, size, size, dtype=torch.float64)
        left = torch.zeros(self.shape.series, size, self.shape.horizon, dtype=torch.float64)
        for rows in rows_of(windows, center=self.spec.center):
            away = residual(rows, shared)
            for number, own in by_series(rows.series):
                if number:
                    context = rows.context[own]
                    gram[number] += context.T @ context
                    left[number] += context.T @ away[own]
        return Remainder.decomposed(gram, left)

    def _errors(self, correction: Tensor, windows: Windows, shared: Weights) -> Tensor:
        """The squared error of each series with its `correction`, `[series]`."""
        errors = torch.zeros(self.shape.series, dtype=torch.float64)
        for rows in rows_of(windows, center=self.spec.center):
            away = corrected(rows.context, rows.series, correction)
            error = torch.where(rows.observed, away - residual(rows, shared), 0)
            errors.index_add_(0, rows.series, error.square().sum(1))
        return errors


@dataclass(frozen=True, slots=True)
class Remainder:
    """The least-squares problem of each series, in the eigenvectors of its Gram matrix.

    `values` `[series, eigenvector]`, `basis` `[series, time + 1, eigenvector]` and `target`
    `[series, eigenvector, horizon]`.
    """

    values: Tensor
    basis: Tensor
    target: Tensor

    @classmethod
    def decomposed(cls, gram: Tensor, left: Tensor) -> Remainder:
        """Of `gram` `[series, time + 1, time + 1]` and `left` `[series, time + 1, horizon]`.

        Both are written over: a second copy of them would be half of all memory.
        """
        values = gram.new_zeros(gram.shape[:2])
        for own, basis, target in zip(values, gram, left, strict=True):
            found, vectors = torch.linalg.eigh(basis)
            own.copy_(found.clamp(min=0))
            basis.copy_(vectors)
            target.copy_(vectors.T @ target)
        return cls(values, gram, left)

    def corrections(self, penalty: Tensor) -> Tensor:
        """`[series, time + 1, horizon]` at the `penalty` `[series]` of each; inf is none."""
        unit = self.values.mean(1)  # [series]
        ridge = penalty * torch.where(unit > 0, unit, 1)
        inverse = 1 / (self.values + ridge.unsqueeze(1))  # [series, eigenvector]
        found = torch.empty_like(self.target)
        for number, own in enumerate(found):
            torch.mm(self.basis[number] * inverse[number], self.target[number], out=own)
        return found


def numbers_kept(shape: Shape) -> int:
    """What is kept while solving: the moments of all series, and a correction twice.

    Of a correction one is tried, and one, half as wide, is the weight of the model.
    """
    size = shape.context + 1
    return shape.series * (size * (size + 2 * shape.horizon) + size * shape.horizon // 2)


def residual(rows: Rows, shared: Weights) -> Tensor:
    """What the shared map leaves of the targets of `rows`, `[row, horizon]`; 0 where missing."""
    return torch.where(rows.observed, rows.target - shared.forecast(rows), 0)


def by_series(series: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each number in `series` `[row]` and the rows that have it; one sort, however many there are."""
    ranked, order = series.sort(stable=True)
    numbers, counts = ranked.unique_consecutive(return_counts=True)
    return zip(numbers.tolist(), order.split(counts.tolist()), strict=True)


def corrected(rows: Tensor, series: Tensor, correction: Tensor) -> Tensor:
    """`rows` `[row, time + 1]` through the correction of their `series` `[row]`: `[row, horizon]`."""
    away = rows.new_zeros(len(rows), correction.shape[2])
    for number, own in by_series(series):
        away[own] = (rows[own] @ correction[number]).to(away.dtype)  # autocast has one of its own
    return away
