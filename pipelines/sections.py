"""The sections of an experiment: data, window, backtest."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.agreement import check_levels, three_days
from pipelines.features import feature_names
from pipelines.features.lags import check_lags
from pipelines.policy import check_metric
from tsformer.errors import ConfigError, unlike

MEDIAN = 0.5


@dataclass(frozen=True, slots=True)
class Data:
    """Where the table comes from and what its columns mean.

    `source` is a catalogue name or a path (relative to the file that says it). With several
    `targets` (or none named) the table is wide and each column becomes a series; `group: all`
    forecasts them as the variates of one window. `categories` are covariates whose numbers are
    names; text is a category anyway. A whole number as `freq` counts rows, whatever
    the stamps say. Parts are fractions (`split`) or rows (`split_rows`) of each
    series, or end at days (`split_dates`): train, validation, test.
    """

    name: str = ""
    source: str = ""
    id: str = ""
    time: str = "ds"
    targets: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    freq: str = ""
    tz: str = ""
    fill: str = "none"
    season: int = 0
    group: str = "none"
    split: tuple[float, ...] = (0.7, 0.1, 0.2)
    split_rows: tuple[int, ...] = ()
    split_dates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        strangers = {*self.categories} - {*self.known, *self.past, *self.static}
        if strangers:
            raise ConfigError(
                f"data: 'categories' names {min(strangers)}, which is no covariate. Name it in "
                "'known', 'past' or 'static' too.",
                told="data: 'categories' names what is no covariate. Name it in 'known', 'past' or "
                "'static' too.",
            )
        if self.fill not in ("none", "mask", "zero"):
            hint = " Other fillings make up values, which would then be scored as if they had happened."
            raise unlike("data: 'fill' must be none, mask or zero", repr(self.fill), hint)
        if self.group not in ("none", "all"):
            raise unlike("data: 'group' must be none or all", repr(self.group))
        if self.season < 0:
            raise unlike("data: 'season' must be steps, 0 for that of the frequency", self.season)
        sums = len(self.split) == 3 and abs(sum(self.split) - 1) <= 1e-9
        if not (sums and min(self.split) > 0):
            raise unlike(
                "data: 'split' must be three positive fractions that sum to 1", [*self.split]
            )
        if self.split_dates and not three_days(self.split_dates):
            raise unlike(
                "data: 'split_dates' must be three days like 2013-10-01, one after the other, the "
                "ends of train, validation and test",
                [*self.split_dates],
            )
        if self.split_rows and (len(self.split_rows) != 3 or min(self.split_rows) < 1):
            raise unlike("data: 'split_rows' must be three positive row counts", [*self.split_rows])


@dataclass(frozen=True, slots=True)
class Window:
    """How far a model looks back and ahead, in steps; `levels` make its head a quantile head.

    Point forecasts always get calibrated quantiles; `conformal` calibrates a model's own too.

    `features` follow from the stamps. `lags` are steps back from each step of the horizon, beyond
    the context: 8760 is the same hour a year ago.
    """

    context: int = 336
    horizon: int = 96
    levels: tuple[float, ...] = ()
    conformal: bool = False
    features: tuple[str, ...] = ()
    lags: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for key in ("context", "horizon"):
            if getattr(self, key) < 1:
                raise unlike(f"window: '{key}' must be at least 1 step", getattr(self, key))
        check_levels("window", self.levels)
        if self.levels and MEDIAN not in self.levels:
            raise unlike(
                f"window: 'levels' must have {MEDIAN}, the point forecast, among them",
                [*self.levels],
            )
        if self.conformal and not self.levels:
            told = (
                "window: 'conformal' calibrates the quantiles that a model emits; name them in "
                "'levels'. Without levels all models give points, which are calibrated anyway."
            )
            raise ConfigError(told, told=told)
        feature_names(self.features)
        check_lags(self.lags, horizon=self.horizon)


@dataclass(frozen=True, slots=True)
class Backtest:
    """Rolling origins over the test part: a cutoff every `stride` steps, `levels` for WQL."""

    stride: int = 1
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    coverage: float = 0.8
    metric: str = "wql"

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise unlike("backtest: 'stride' must be at least 1 step", self.stride)
        if not self.levels:
            told = "backtest: 'levels' is empty. Name one at least, such as 0.5."
            raise ConfigError(told, told=told)
        check_levels("backtest", self.levels)
        if not 0 < self.coverage < 1:
            raise unlike("backtest: 'coverage' must lie between 0 and 1", self.coverage)
        check_metric("backtest", self.metric)

    @property
    def asked(self) -> tuple[float, ...]:
        """The levels that every forecaster is asked for: those of WQL and of the interval."""
        tail = (1 - self.coverage) / 2
        return tuple(sorted({*self.levels, round(tail, 6), round(1 - tail, 6)}))
