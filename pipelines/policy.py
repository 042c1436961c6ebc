"""The `gate` section of an experiment: what a candidate must show before users meet it."""

from __future__ import annotations

from dataclasses import dataclass

from tsformer.errors import nearest, unlike

# Columns of the leaderboard (pipelines.backtest) of which less is better.
METRICS = ("mse_scaled", "mae_scaled", "mae", "rmse", "mase", "rmsse", "wql")


@dataclass(frozen=True, slots=True)
class Policy:
    """What is asked of a candidate; docs/gate.md says why.

    `metric` is a column of the leaderboard, by default that of the backtest section. A candidate
    must be better than the champion by the share `margin` of its score, and more surely than
    `significance`. Its interval may cover `coverage_band` less and more than it says. On the
    `last_cutoffs`, the newest share of them, and on the `worst_series`, the share of series on
    which it compares worst, it may be worse than the champion by the share `slice_loss` at most; 0
    leaves a slice out.
    """

    metric: str = ""
    margin: float = 0.01
    significance: float = 0.05
    coverage_band: tuple[float, ...] = (0.1, 0.15)
    last_cutoffs: float = 0.25
    worst_series: float = 0.1
    slice_loss: float = 0.1

    def __post_init__(self) -> None:
        if self.metric:
            check_metric("gate", self.metric)
        if not 0 < self.significance <= 0.5:
            raise unlike(
                "gate: 'significance' must lie above 0 and be at most 0.5, such as 0.05",
                self.significance,
            )
        for key in ("margin", "last_cutoffs", "worst_series"):
            if not 0 <= getattr(self, key) < 1:
                raise unlike(f"gate: '{key}' must be a share from 0 to below 1", getattr(self, key))
        if not 0 <= self.slice_loss < float("inf"):
            raise unlike("gate: 'slice_loss' must be 0 or more", self.slice_loss)
        if len(self.coverage_band) != 2 or not all(0 <= part <= 1 for part in self.coverage_band):
            raise unlike(
                "gate: 'coverage_band' must say how much less and how much more than the interval "
                "says it may cover, such as [0.1, 0.15]",
                [*self.coverage_band],
            )


def check_metric(section: str, metric: str) -> None:
    """Models can be ordered by `metric`."""
    if metric not in METRICS:
        hint = nearest(metric, METRICS)
        raise unlike(f"{section}: 'metric' must be one of {', '.join(METRICS)}", repr(metric), hint)
