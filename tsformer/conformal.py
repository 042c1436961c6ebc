"""Calibrated intervals for every model, from how wrong it was on held-out windows.

Around a point: split conformal prediction (Vovk, Gammerman & Shafer, "Algorithmic Learning in a
Random World", 2005; Lei et al., arXiv 1604.04173). The score is the signed error over the scale of
the window (the standard deviation of its observed context).

Of a model's own quantiles: conformalised quantile regression, Romano, Patterson & Candes, arXiv
1905.03222, with one score a level (their theorem 2): the signed error of that quantile over the
same scale, whose conformal quantile at that level is added to it. So an interval becomes wider or
narrower, each side by itself. Deviations: the median stays as it is, so that the point forecast
that chose the model is the one it serves; and a level that would cross its neighbour towards the
median takes its place, which only widens an interval and so keeps what is promised.

Either way there is one distribution per horizon step, pooled over windows and series. If a new
error is exchangeable with the held-out ones, the actual lies at or below the upper level q with
probability at least q, and at or above the lower level q with at least 1 - q. Windows of a series
overlap and drift, so coverage must still be measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsformer.errors import ArtifactError, DataError, IncompatibleError

LEVELS = (0.005, *(percent / 100 for percent in range(1, 100)), 0.995)  # up to intervals of 99 %
MEDIAN = 0.5

# (n + 1) q is a whole number more often than its floating-point value is: 0.1 * 3 > 0.3.
RANK_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Calibration:
    """Quantiles of the scaled error of a point forecast, per horizon step.

    `levels` ascend; `residuals` `[horizon, level]` holds quantiles of (actual - point) / scale,
    in float64, ascending along the levels.
    """

    levels: tuple[float, ...]
    residuals: Tensor

    def apply(self, point: Tensor, *, scale: Tensor, levels: Sequence[float]) -> Tensor:
        """Quantiles `[batch, horizon, variate, level]` around `point` `[batch, horizon, variate]`.

        `scale` `[batch, 1, variate]` is that of each window; a flat window (scale 0) gets no
        width. Between the fitted levels quantiles are linear in the level, so they never cross.
        Raises IncompatibleError beyond the fitted levels or horizon.
        """
        _check_reach(self.residuals, point)
        residuals = self._at(levels)[: point.shape[1]]  # [horizon, level]
        spread = scale.unsqueeze(-1) * residuals.to(point)[:, None]
        return point.unsqueeze(-1) + spread  # [batch, horizon, variate, level]

    def tensors(self) -> dict[str, Tensor]:
        """The calibration as named tensors, ready for safetensors."""
        return {
            "levels": torch.tensor(self.levels, dtype=torch.float64),
            "residuals": self.residuals.contiguous(),
        }

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> Calibration:
        """The calibration that `tensors()` described; raises ArtifactError for anything else."""
        levels, residuals = _checked(tensors, "residuals")
        if not bool((residuals.diff(dim=1) >= 0).all()):
            raise ArtifactError("The residuals of a calibration must ascend along its levels.")
        return Calibration(levels, residuals)

    def _at(self, levels: Sequence[float]) -> Tensor:
        """The residual quantiles at `levels`, `[horizon, level]`."""
        outside = [level for level in levels if not self.levels[0] <= level <= self.levels[-1]]
        if outside:
            raise IncompatibleError(
                f"Quantile levels must lie between {self.levels[0]} and {self.levels[-1]}, "
                f"got {outside[0]}."
            )
        grid = torch.tensor(self.levels, dtype=torch.float64)
        wanted = torch.tensor(levels, dtype=torch.float64)
        right = torch.searchsorted(grid, wanted)
        left = (right - 1).clamp(min=0)
        weight = (wanted - grid[left]) / (grid[right] - grid[left]).clamp(min=RANK_ROUNDING)
        return torch.lerp(self.residuals[:, left], self.residuals[:, right], weight)


@dataclass(frozen=True, slots=True)
class QuantileCalibration:
    """What is added to each quantile of a model, per horizon step and in scales of the window.

    `levels` ascend and are those of the model; `shifts` `[horizon, level]` is 0 at the median.
    """

    levels: tuple[float, ...]
    shifts: Tensor

    def apply(self, quantiles: Tensor, *, scale: Tensor) -> Tensor:
        """The calibrated `quantiles` `[batch, horizon, variate, level]`, which never cross.

        `scale` `[batch, 1, variate]` is that of each window; a flat window (scale 0) keeps its
        quantiles. Raises IncompatibleError beyond the fitted levels or horizon.
        """
        _check_reach(self.shifts, quantiles)
        if quantiles.shape[-1] != len(self.levels):
            raise IncompatibleError(
                f"The calibration is for {len(self.levels)} levels, the forecast has "
                f"{quantiles.shape[-1]}. Calibrate this model anew."
            )
        shifts = self.shifts[: quantiles.shape[1]].to(quantiles)[:, None]
        moved = quantiles + scale.unsqueeze(-1) * shifts
        median = self.levels.index(MEDIAN)
        below = moved[..., : median + 1].flip(-1).cummin(-1).values.flip(-1)
        above = moved[..., median:].cummax(-1).values
        return torch.cat((below, above[..., 1:]), -1)

    def tensors(self) -> dict[str, Tensor]:
        """The calibration as named tensors, ready for safetensors."""
        return {
            "levels": torch.tensor(self.levels, dtype=torch.float64),
            "shifts": self.shifts.contiguous(),
        }

    @staticmethod
    def of_tensors(tensors: Mapping[str, Tensor]) -> QuantileCalibration:
        """The calibration that `tensors()` described; raises ArtifactError for anything else."""
        levels, shifts = _checked(tensors, "shifts")
        if MEDIAN not in levels:
            raise ArtifactError(f"A calibration of quantiles has the level {MEDIAN}, got {levels}.")
        return QuantileCalibration(levels, shifts)


def calibration_of(tensors: Mapping[str, Tensor]) -> Calibration | QuantileCalibration:
    """The calibration, of either kind, that `tensors` describe; ArtifactError if of neither."""
    kind = QuantileCalibration if "shifts" in tensors else Calibration
    return kind.of_tensors(tensors)


def calibrate(
    point: Tensor,
    *,
    target: Tensor,
    observed: Tensor,
    scale: Tensor,
    levels: Sequence[float] = LEVELS,
) -> Calibration:
    """The calibration of forecasts that were held out from fitting.

    `point`, `target` and `observed` (bool) are `[window, horizon, variate]`, `scale` is
    `[window, 1, variate]`. Flat windows (scale 0) and missing targets are left out. Raises
    DataError when a horizon step has nothing left.
    """
    errors = Errors(target, observed, scale)
    ordered, count = errors.ordered(point)
    residuals = [quantile(level, ordered, count) for level in levels]
    return Calibration(tuple(levels), torch.stack(residuals, dim=1))


def calibrate_quantiles(
    quantiles: Tensor, *, target: Tensor, observed: Tensor, scale: Tensor, levels: Sequence[float]
) -> QuantileCalibration:
    """The calibration of held-out `quantiles` `[window, horizon, variate, level]` at `levels`.

    The rest is as in `calibrate`; `levels` must hold the median.
    """
    errors = Errors(target, observed, scale)
    still = torch.zeros(target.shape[1], dtype=torch.float64)
    shifts = [
        still if level == MEDIAN else quantile(level, *errors.ordered(own))
        for level, own in zip(levels, quantiles.unbind(-1), strict=True)
    ]
    return QuantileCalibration(tuple(levels), torch.stack(shifts, dim=1))


@dataclass(frozen=True, slots=True)
class Errors:
    """What held-out forecasts are compared with; see `calibrate`."""

    target: Tensor
    observed: Tensor
    scale: Tensor

    def ordered(self, forecast: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled errors of each step, ascending, `[horizon, residual]`, and how many there are.

        What is left out comes last and as NaN: flat windows, missing targets, and forecasts that
        are not finite, which are served by another model. Raises DataError when a step has
        nothing left.
        """
        kept = self.observed & (self.scale > 0) & forecast.isfinite()
        scale = torch.where(self.scale > 0, self.scale, 1).double()
        error = (self.target.double() - forecast.double()) / scale
        pooled = torch.where(kept, error, torch.nan).transpose(0, 1).flatten(1)
        count = kept.transpose(0, 1).flatten(1).sum(1)  # [horizon]
        if not bool((count > 0).all()):
            step = int((count == 0).nonzero()[0]) + 1
            raise DataError(
                f"No held-out window has an actual value at step {step}, so its intervals cannot "
                "be calibrated. Give the validation part more rows."
            )
        return pooled.sort(dim=1).values, count  # NaN sorts last


def quantile(level: float, ordered: Tensor, count: Tensor) -> Tensor:
    """The conformal quantile of each row of `ordered` `[horizon, residual]`, `[horizon]`."""
    place = rank(level, count)[:, None]
    lower, upper = place.floor().long(), place.ceil().long()
    return ((ordered.gather(1, lower) + ordered.gather(1, upper)) / 2)[:, 0]


def rank(level: float, count: Tensor) -> Tensor:
    """The place from 0 of the quantile `level` among `count` sorted residuals, finite-sample exact.

    Above the median the ceil((n + 1) q)-th smallest, below it the mirror image, the
    floor((n + 1) q)-th; the median itself may lie between two places. Where (n + 1) q passes
    the last place the guarantee would need an infinite interval: the extreme residual is taken.
    """
    exact = (count.double() + 1) * level
    if level > 0.5:
        exact = (exact - RANK_ROUNDING).ceil()
    elif level < 0.5:
        exact = (exact + RANK_ROUNDING).floor()
    return torch.minimum(exact.clamp(min=1), count.double()) - 1


def _check_reach(fitted: Tensor, forecast: Tensor) -> None:
    if forecast.shape[1] > len(fitted):
        raise IncompatibleError(
            f"The calibration reaches {len(fitted)} steps, the forecast has "
            f"{forecast.shape[1]}. Ask for a shorter horizon, or calibrate a longer one."
        )


def _checked(tensors: Mapping[str, Tensor], name: str) -> tuple[tuple[float, ...], Tensor]:
    """Levels and the tensor `name` `[horizon, level]`, finite and as long as each other."""
    if set(tensors) != {"levels", name}:
        raise ArtifactError(
            f"A calibration holds 'levels' and '{name}', got {', '.join(sorted(tensors))}."
        )
    levels, numbers = tensors["levels"], tensors[name]
    if levels.ndim != 1 or numbers.ndim != 2 or numbers.shape[1] != len(levels):
        raise ArtifactError(
            f"A calibration has {name} [horizon, level] for its levels, got "
            f"{tuple(numbers.shape)} for {tuple(levels.shape)}."
        )
    if not bool((levels.diff() > 0).all()) or not bool(numbers.isfinite().all()):
        raise ArtifactError(f"The levels of a calibration must ascend, its {name} be finite.")
    return tuple(levels.tolist()), numbers.double()
