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
from tsformer.errors import ConfigError
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.models.ridge import Ridge, RidgeSpec, Rows, Weights, rows_of, solved
from tsformer.scale import Center, check_choice, scaling

# Moments of all series that are kept at once: 1.2 GiB.
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
            raise ConfigError(f"corrections must be positive numbers, got {self.corrections}.")

    def build(self, shape: Shape) -> Model:
        return PooledRidge(self, shape)


class PooledRidge(Model):
    """`shared`, the map of all series, and `correction` `[series, time + 1, horizon]`, bias last."""

    def __init__(self, spec: PooledRidgeSpec, shape: Shape) -> None:
        super().__init__(shape)
        numbers = shape.series * (shape.context + 1) ** 2
        if numbers > NUMBERS_AT_MOST:
            raise ConfigError(
                f"pooled_ridge keeps {numbers:,} moments of {shape.series - 1:,} series at a context "
                f"of {shape.context}, at most {NUMBERS_AT_MOST:,}. Shorten the context, or take "
                "ridge."
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
        self.shared.solve(train, validation)
        if not self.shape.series:
            return
        shared = self.shared.weights()
        candidates = torch.stack(
            [*self._candidates(train, shared), torch.zeros_like(self.correction).double()]
        )  # [penalty, series, time + 1, horizon]
        errors = self._errors(candidates, validation, shared)  # [penalty, series]
        errors[:-1, errors[-1] == 0] = torch.inf  # nothing validates it: no correction
        best = errors.argmin(0)
        self.correction.copy_(candidates[best, torch.arange(self.shape.series)])

    def _candidates(self, windows: Windows, shared: Weights) -> Iterator[Tensor]:
        """The corrections `[series, time + 1, horizon]` at each penalty."""
        size = self.shape.context + 1
        gram = torch.zeros(self.shape.series, size, size, dtype=torch.float64)
        left = torch.zeros(self.shape.series, size, self.shape.horizon, dtype=torch.float64)
        for rows in rows_of(windows, center=self.spec.center):
            remainder = residual(rows, shared)
            for number in rows.series.unique().tolist():
                own = rows.series == number
                gram[number] += rows.context[own].T @ rows.context[own]
                left[number] += rows.context[own].T @ remainder[own]
        gram[0], left[0] = 0, 0  # the unknown series keeps the shared map
        values, basis = torch.linalg.eigh(gram)
        values = values.clamp(min=0)  # [series, eigenvector]
        unit = values.mean(1, keepdim=True)
        unit = torch.where(unit > 0, unit, 1)
        target = basis.mT @ left  # [series, eigenvector, horizon]
        for penalty in self.spec.corrections:
            yield basis @ (target / (values + penalty * unit).unsqueeze(-1))

    def _errors(self, candidates: Tensor, windows: Windows, shared: Weights) -> Tensor:
        """The squared error of each candidate for each series, `[penalty, series]`."""
        errors = torch.zeros(candidates.shape[:2], dtype=torch.float64)
        for rows in rows_of(windows, center=self.spec.center):
            remainder = residual(rows, shared)
            for place, correction in enumerate(candidates):
                away = corrected(rows.context, rows.series, correction)
                error = torch.where(rows.observed, away - remainder, 0).square().sum(1)
                errors[place].index_add_(0, rows.series, error)
        return errors


def residual(rows: Rows, shared: Weights) -> Tensor:
    """What the shared map leaves of the targets of `rows`, `[row, horizon]`; 0 where missing."""
    return torch.where(rows.observed, rows.target - shared.forecast(rows), 0)


def corrected(rows: Tensor, series: Tensor, correction: Tensor) -> Tensor:
    """`rows` `[row, time + 1]` through the correction of their `series` `[row]`: `[row, horizon]`."""
    away = rows.new_zeros(len(rows), correction.shape[2])
    for number in series.unique().tolist():
        own = series == number
        away[own] = rows[own] @ correction[number]
    return away
