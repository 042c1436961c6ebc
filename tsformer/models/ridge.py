"""The linear map in closed form: ridge regression of all series at once, the penalty validated.

"An Analysis of Linear Time Series Forecasting Models", Toner & Darlow, arXiv 2403.14587 (ICML
2024): Linear, NLinear, DLinear and RLinear are one class of maps, and least squares finds its
best member where gradient descent stops short of it.

Every window of every variate is one row. With location l and scale s of the window, the model is

    y_h = l + s (w_h . (x - l)/s + b_h + v_h . k_h)

where k_h are the inputs of step h: covariates known ahead as deviations from their mean over the
observed context (categories as indicators), and lagged values, normalised with the window. A
lagged value that is missing counts as l. Multiplied out, y_h - l is linear in (x - l, s) and s k_h, so the squared error in the
unit of the data is a least-squares problem whose rows are never kept: its moments are added up
window by window, in float64, and one eigendecomposition serves all penalties and steps.

A missing context value counts as l. Missing targets are left out of the error of their step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import torch
from torch import Tensor, nn

from tsformer.batch import Batch, Shape, Target, Windows
from tsformer.columns import indicator_width, indicators
from tsformer.errors import DataError, ShapeError, unlike
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.scale import Center, Scaling, check_choice, scaling, through_center

# Numbers of the least-squares problem that are laid out at a time: 16 MiB.
NUMBERS_AT_A_TIME = 2**21

# Rounds of filling missing targets. Each shrinks the error by the share that is missing.
ROUNDS = 10
ENOUGH = 1e-4  # relative gain on validation below which no further round is made


@dataclass(frozen=True, slots=True)
class RidgeSpec(ModelSpec):
    """The shared linear map in closed form, on windows anchored at their `center`.

    `center` is "mean" or "last". `penalties` are tried on validation; 1 is the mean square of a
    context column summed over the training rows, so they mean the same for any data.
    """

    kind: ClassVar[str] = "ridge"
    capabilities: ClassVar[Capabilities] = Capabilities(known=True, lags=True)

    center: Center = "mean"
    penalties: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)

    def __post_init__(self) -> None:
        check_choice(self.center, ("mean", "last"), name="center")
        if not self.penalties or any(not penalty > 0 for penalty in self.penalties):
            raise unlike("penalties must be positive numbers", self.penalties)

    def build(self, shape: Shape) -> Model:
        return Ridge(self, shape)


class Ridge(Model):
    """A linear map under instance scaling whose weights are solved for, not descended to.

    `weight` `[horizon, time]`, `bias` `[horizon]` and `known` `[horizon, feature]`, of the inputs
    of each step, act on normalised windows; any number of variates is taken.
    """

    def __init__(self, spec: RidgeSpec, shape: Shape) -> None:
        super().__init__(shape)
        if shape.levels:
            raise ShapeError(
                f"ridge emits a point forecast, got the levels {shape.levels}. Build it without "
                "levels and calibrate it (tsformer.conformal)."
            )
        self.spec = spec
        self.weight = solved(shape.horizon, shape.context)
        self.bias = solved(shape.horizon)
        self.known = solved(shape.horizon, step_width(shape))

    def forward(self, batch: Batch) -> Tensor:
        unit = scaling(batch.past, batch.observed, center=self.spec.center, scale="std")
        past = unit.apply(batch.past, batch.observed).to(self.weight.dtype)
        forecast = past.mT @ self.weight.T + self.bias  # [batch, variate, horizon]
        if step_width(self.shape):
            steps = step_inputs(batch, unit=unit, shape=self.shape).to(forecast)
            forecast = forecast + torch.einsum("bvhf,hf->bvh", steps, self.known)
        return unit.undo(forecast.mT.unsqueeze(-1))  # [batch, horizon, variate, level]

    def lag_weights(self) -> Tensor:
        """What each step of the context, then each lagged value, adds: `[horizon, time + lag]`.

        Of the values as they are, the level put back. Left out is the bias, which grows with the
        deviation of the window: no single step makes it.
        """
        lagged = self.known[:, indicator_width(self.shape.known) :]
        weights = torch.cat((self.weight, lagged), 1)
        return through_center(weights, context=self.shape.context, center=self.spec.center)

    @torch.no_grad()
    def solve(self, train: Windows, validation: Windows) -> None:
        """Sets the weights to `solution`."""
        self.take(self.solution(train, validation))

    @torch.no_grad()
    def solution(self, train: Windows, validation: Windows) -> Weights:
        """The exact solution on `train` for the penalty best on `validation`.

        The penalty is the one with the least squared error. Missing targets are filled with
        the forecast of the round before (Yates, Empire Journal of Experimental Agriculture 1,
        1933): the fixed point is the solution without them, at the cost of the shared Gram
        matrix. Raises DataError when there is nothing to fit or to validate.
        """
        center = self.spec.center
        moments = moments_of(train, center=center)
        best, error = self._best(moments, validation)
        for _ in range(ROUNDS if moments.missing else 0):
            before = error
            filled = moments.filled(train, weights=best, center=center)
            best, error = self._best(filled, validation)
            if error > before * (1 - ENOUGH):
                break
        return best

    @torch.no_grad()
    def take(self, solution: Weights) -> None:
        """Sets the weights, on whatever device they are."""
        self.weight.copy_(solution.context[:-1].T)
        self.bias.copy_(solution.context[-1])
        self.known.copy_(solution.known)

    def _best(self, moments: Moments, validation: Windows) -> tuple[Weights, float]:
        """The weights of the penalty with the least error on `validation`, and that error."""
        candidates = moments.solve(self.spec.penalties)
        if len(candidates) == 1:
            return candidates[0], 0.0
        errors = squared_errors(candidates, validation, center=self.spec.center)
        best = int(errors.argmin())
        return candidates[best], float(errors[best])


def solved(*size: int) -> nn.Parameter:
    """A weight that no optimiser touches."""
    return nn.Parameter(torch.zeros(size), requires_grad=False)


@dataclass(frozen=True, slots=True)
class Weights:
    """A solution: `context` `[time + 1, horizon]`, the bias last, and `known` `[horizon, feature]`."""

    context: Tensor
    known: Tensor

    def forecast(self, rows: Rows) -> Tensor:
        """The forecast of `rows` above their location, `[row, horizon]`."""
        return rows.context @ self.context + torch.einsum("rhf,hf->rh", rows.known, self.known)


@dataclass(frozen=True, slots=True)
class Rows:
    """Windows as rows of the least-squares problem, in float64 and the unit of the data.

    - `context` `[row, time + 1]`: deviations from the location, and the scale.
    - `known` `[row, horizon, feature]`: inputs of each step, times the scale.
    - `target` `[row, horizon]`: deviations from the location, 0 where missing.
    - `observed` `[row, horizon]` bool.
    - `series` `[row]`: the number of its series, 0 where it has none.
    """

    context: Tensor
    known: Tensor
    target: Tensor
    observed: Tensor
    series: Tensor


def rows_of(windows: Windows, *, center: Center) -> Iterator[Rows]:
    """All windows in order, as many at a time as fit `NUMBERS_AT_A_TIME`."""
    shape = windows.shape
    row = shape.context + shape.horizon * (1 + step_width(shape))
    at_a_time = max(1, NUMBERS_AT_A_TIME // (row * shape.variates))
    for index in torch.arange(len(windows)).split(at_a_time):
        yield _rows(*windows.batch(index), shape=shape, center=center)


def _rows(batch: Batch, target: Target, *, shape: Shape, center: Center) -> Rows:
    past = batch.past.double()
    unit = scaling(past, batch.observed, center=center, scale="std")
    location, scale = unit.location, unit.scale
    # A flat window forecasts its level whatever the weights, so it has nothing to teach.
    deviation = torch.where(batch.observed & (scale > 0), past - location, 0)
    seen = target.observed & (scale > 0)
    ahead = torch.where(seen, target.values.double() - location, 0)
    known = step_inputs(batch, unit=unit, shape=shape).double() * scale.mT.unsqueeze(-1)
    used = seen.any(1, keepdim=True)  # [batch, 1, variate]
    return Rows(
        context=(torch.cat((deviation, scale), 1) * used).mT.flatten(0, 1),
        known=(known * used.mT.unsqueeze(-1)).flatten(0, 1),
        target=ahead.mT.flatten(0, 1),
        observed=seen.mT.flatten(0, 1),
        series=used.new_zeros(used[:, 0].numel(), dtype=torch.long)
        if batch.series is None
        else batch.series.flatten(),
    )


def step_width(shape: Shape) -> int:
    """How many inputs each step of the horizon has."""
    return indicator_width(shape.known) + len(shape.lags)


def step_inputs(batch: Batch, *, unit: Scaling, shape: Shape) -> Tensor:
    """The inputs of each step of the horizon, `[batch, variate, horizon, feature]`.

    Known covariates are deviations from their mean over the observed context; variates differ,
    since each was observed at its own steps. A window without any observed step compares with 0.
    Raises ShapeError where `batch` lacks what `shape` has.
    """
    size, time, variates = batch.past.shape
    parts = [batch.past.new_zeros((size, variates, shape.horizon, 0))]
    if shape.known:
        known = batch.given("known", columns=len(shape.known))
        columns = indicators(known, sizes=shape.known).to(parts[0])
        seen = batch.observed.to(columns)
        count = seen.sum(1).clamp(min=1)  # [batch, variate]
        mean = (seen.mT @ columns[:, :time]) / count.unsqueeze(-1)  # [batch, variate, feature]
        parts.append(columns[:, None, time:] - mean.unsqueeze(2))
    if shape.lags:
        lagged = batch.given("lagged", columns=len(shape.lags))
        parts.append(unit.apply_lagged(lagged[:, time:]).transpose(1, 2))
    return torch.cat(parts, -1)


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over the rows: all that least squares needs, whatever the number of windows.

    - `gram` `[time + 1, time + 1]`: context by context, the same for every step.
    - `mixed` `[time + 1, horizon, feature]`: context by inputs of the steps.
    - `known` `[horizon, feature, feature]`: input by input of the same step.
    - `context_target` `[time + 1, horizon]`, `known_target` `[horizon, feature]`.
    - `missing`: missing targets among rows that have some.
    """

    gram: Tensor
    mixed: Tensor
    known: Tensor
    context_target: Tensor
    known_target: Tensor
    missing: int

    def filled(self, windows: Windows, *, weights: Weights, center: Center) -> Moments:
        """The moments with the forecast of `weights` in the place of missing targets."""
        context_target, known_target = self.context_target.clone(), self.known_target.clone()
        for rows in rows_of(windows, center=center):
            fill = torch.where(rows.observed, 0, weights.forecast(rows))
            context_target += rows.context.T @ fill
            known_target += torch.einsum("rhf,rh->hf", rows.known, fill)
        return Moments(self.gram, self.mixed, self.known, context_target, known_target, missing=0)

    def solve(self, penalties: tuple[float, ...]) -> list[Weights]:
        """The ridge solution for each penalty, from one eigendecomposition.

        The inputs of a step are eliminated by their Schur complement, so the shared Gram matrix
        is decomposed once however many steps and inputs there are.
        """
        values, basis = torch.linalg.eigh(self.gram)
        values = values.clamp(min=0)
        unit = float(values.mean()) or 1.0
        target = basis.T @ self.context_target  # [eigenvector, horizon]
        mixed = torch.einsum("te,thf->ehf", basis, self.mixed)  # [eigenvector, horizon, feature]
        return [
            self._solve(penalty * unit, values=values, basis=basis, target=target, mixed=mixed)
            for penalty in penalties
        ]

    def _solve(
        self, penalty: float, *, values: Tensor, basis: Tensor, target: Tensor, mixed: Tensor
    ) -> Weights:
        inverse = 1 / (values + penalty)  # [eigenvector]
        ridge = penalty * torch.eye(self.known.shape[-1], dtype=self.known.dtype)
        weighted = mixed * inverse[:, None, None]
        schur = self.known + ridge - torch.einsum("ehf,ehg->hfg", weighted, mixed)
        remainder = self.known_target - torch.einsum("ehf,eh->hf", weighted, target)
        known = torch.linalg.solve(schur, remainder[..., None])[..., 0]  # [horizon, feature]
        context = target - torch.einsum("ehf,hf->eh", mixed, known)
        return Weights(basis @ (inverse[:, None] * context), known)


def moments_of(windows: Windows, *, center: Center) -> Moments:
    """The moments of all `windows`, missing targets as if they stood at the location."""
    if not len(windows):
        raise DataError(
            "There is no training window. Shorten the context or the horizon, or add rows."
        )
    return reduce(_sum, (_moments(rows) for rows in rows_of(windows, center=center)))


def _moments(rows: Rows) -> Moments:
    flat = rows.known.flatten(1)  # [row, horizon * feature]
    used = rows.observed.any(1, keepdim=True)
    return Moments(
        gram=rows.context.T @ rows.context,
        mixed=(rows.context.T @ flat).unflatten(1, rows.known.shape[1:]),
        known=torch.einsum("rhf,rhg->hfg", rows.known, rows.known),
        context_target=rows.context.T @ rows.target,
        known_target=torch.einsum("rhf,rh->hf", rows.known, rows.target),
        missing=int((used & ~rows.observed).sum()),
    )


def _sum(left: Moments, right: Moments) -> Moments:
    return Moments(
        left.gram + right.gram,
        left.mixed + right.mixed,
        left.known + right.known,
        left.context_target + right.context_target,
        left.known_target + right.known_target,
        left.missing + right.missing,
    )


def squared_errors(candidates: list[Weights], windows: Windows, *, center: Center) -> Tensor:
    """The mean squared error of each candidate over the observed targets, `[candidate]`."""
    total = torch.zeros(len(candidates), dtype=torch.float64)
    count = 0
    for rows in rows_of(windows, center=center):
        for place, weights in enumerate(candidates):
            error = torch.where(rows.observed, weights.forecast(rows) - rows.target, 0)
            total[place] += error.square().sum()
        count += int(rows.observed.sum())
    if not count:
        raise DataError(
            "No validation window varies and has an observed target, so no penalty can be chosen. "
            "Give the validation part more rows, or the model a single penalty."
        )
    return total / count
