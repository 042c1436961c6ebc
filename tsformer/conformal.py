"""Intervals for any point forecast, from how wrong it was on held-out windows.

Split conformal prediction: Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World"
(2005); Lei et al., arXiv 1604.04173. The score is the signed error over the scale of the window
(the standard deviation of its observed context), one distribution per horizon step, pooled over
windows and series. If a new error is exchangeable with the held-out ones, it lies at or below
the upper level q with probability at least q, and at or above the lower level q with at least
1 - q. Windows of a series overlap and drift, so coverage must still be measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tsformer.errors import ArtifactError, DataError, IncompatibleError

LEVELS = tuple(percent / 100 for percent in range(1, 100))

# (n + 1) q is a whole number more often than its floating-point value is: 0.1 * 3 > 0.3.
RANK_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Calibration:
    """Quantiles of the scaled error per horizon step.

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
        if point.shape[1] > len(self.residuals):
            raise IncompatibleError(
                f"The calibration reaches {len(self.residuals)} steps, the forecast has "
                f"{point.shape[1]}. Ask for a shorter horizon, or calibrate a longer one."
            )
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
        if set(tensors) != {"levels", "residuals"}:
            raise ArtifactError(
                f"A calibration holds 'levels' and 'residuals', got {', '.join(sorted(tensors))}."
            )
        levels, residuals = tensors["levels"], tensors["residuals"]
        if levels.ndim != 1 or residuals.ndim != 2 or residuals.shape[1] != len(levels):
            raise ArtifactError(
                "A calibration has residuals [horizon, level] for its levels, got "
                f"{tuple(residuals.shape)} for {tuple(levels.shape)}."
            )
        ascending = bool((levels.diff() > 0).all() and (residuals.diff(dim=1) >= 0).all())
        if not ascending or not bool(residuals.isfinite().all()):
            raise ArtifactError("A calibration's levels and residuals must be finite and ascend.")
        return Calibration(tuple(levels.tolist()), residuals.double())

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
    kept = observed & (scale > 0)
    error = (target.double() - point.double()) / torch.where(scale > 0, scale, 1).double()
    pooled = torch.where(kept, error, torch.nan).transpose(0, 1).flatten(1)  # [horizon, residual]
    count = kept.transpose(0, 1).flatten(1).sum(1)  # [horizon]
    if not bool((count > 0).all()):
        step = int((count == 0).nonzero()[0]) + 1
        raise DataError(
            f"No held-out window has an actual value at step {step}, so its intervals cannot be "
            "calibrated. Give the validation part more rows."
        )
    ordered = pooled.sort(dim=1).values  # NaN sorts last
    ranks = torch.stack([rank(level, count) for level in levels], dim=1)  # [horizon, level]
    lower, upper = ranks.floor().long(), ranks.ceil().long()
    quantiles = (ordered.gather(1, lower) + ordered.gather(1, upper)) / 2
    return Calibration(tuple(levels), quantiles)


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
