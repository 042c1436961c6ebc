"""Covariates that follow from the time stamps alone, so they are known as far ahead as needed.

    known_features(["hour", "weekday", "holidays:US"], times, frequency)   # [time, 5]

A feature is one function and one line in FEATURES. Each row depends on its own stamp and on
nothing else: no later value can leak into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.features.clock import hour, month, monthday, weekday, yearday
from pipelines.features.holidays import check_region, holiday
from pipelines.frequency import Frequency
from tsformer.errors import ConfigError, unknown_key, unlike

WHERE = "features"
DAY = 24.0  # hours
YEAR = 365.2425 * DAY

# The nominal length, in hours, of the units of `Frequency`.
HOURS = {
    "us": 1 / 3.6e9,
    "ms": 1 / 3.6e6,
    "s": 1 / 3600,
    "min": 1 / 60,
    "h": 1.0,
    "B": DAY,
    "D": DAY,
    "W": 7 * DAY,
    "MS": YEAR / 12,
    "ME": YEAR / 12,
    "QS": YEAR / 4,
    "QE": YEAR / 4,
    "YS": YEAR,
    "YE": YEAR,
}


@dataclass(frozen=True, slots=True)
class Feature:
    """How a feature is made.

    - `values`: from time stamps `[time]` to columns `[time, column]`; with an `argument`, the text
      after the colon is its second argument.
    - `columns`: the endings of the column names.
    - `coarsest`: the longest step, in hours, at which the feature says anything. A cycle shows
      only in steps of at most half of it (the sampling theorem).
    - `check`: refuses a bad argument; None where the feature takes none.
    """

    values: Callable[..., NDArray[np.float64]]
    columns: tuple[str, ...]
    coarsest: float
    check: Callable[[str], None] | None = None


CIRCLE = ("_cos", "_sin")
FEATURES: dict[str, Feature] = {
    "hour": Feature(hour, CIRCLE, DAY / 2),
    "weekday": Feature(weekday, CIRCLE, 7 * DAY / 2),
    "monthday": Feature(monthday, CIRCLE, YEAR / 24),
    "month": Feature(month, CIRCLE, YEAR / 2),
    "yearday": Feature(yearday, CIRCLE, YEAR / 2),
    "holidays": Feature(holiday, ("",), DAY, check=check_region),
}


def feature_names(names: Sequence[str]) -> tuple[str, ...]:
    """The columns that the features `names` make, in order: `hour` gives `hour_cos, hour_sin`.

    Raises ConfigError for an unknown feature (with the nearest one), a repeated one and for an
    argument that is missing, unknown or superfluous.
    """
    twice = {name for name in names if list(names).count(name) > 1}
    if twice:
        told = f"{WHERE}: none may be named more than once."
        raise ConfigError(f"{WHERE}: '{min(twice)}' is named more than once.", told=told)
    return tuple(name + ending for name in names for ending in _feature(name)[0].columns)


def known_features(
    names: Sequence[str], times: pl.Series, frequency: Frequency
) -> NDArray[np.float32]:
    """The features `names` of the time stamps `times` `[time, feature]`.

    Columns are in the order of `feature_names(names)`. `times` are dates or date-times, with or
    without a time zone; local time counts.

    Raises ConfigError as `feature_names` does, for a feature that says nothing at this frequency
    (`hour` of daily data), and for times that are plain step numbers.
    """
    feature_names(names)  # refuses what cannot be, whatever the times
    columns = [_values(name, times, frequency) for name in names]
    return np.concatenate([np.empty((len(times), 0)), *columns], axis=1).astype(np.float32)


def _values(name: str, times: pl.Series, frequency: Frequency) -> NDArray[np.float64]:
    feature, argument = _feature(name)
    if not times.dtype.is_temporal():
        raise ConfigError(
            f"{WHERE}: '{name}' needs dates, but the times are {times.dtype} step numbers. "
            "Leave the feature out, or give the series real time stamps."
        )
    if step_hours(frequency) > feature.coarsest:
        raise ConfigError(
            f"{WHERE}: '{name}' says nothing at frequency '{frequency}': its steps are too long. "
            f"Leave it out{_instead(frequency)}."
        )
    return feature.values(times, argument) if feature.check else feature.values(times)


def _feature(name: str) -> tuple[Feature, str]:
    """The feature called `name`, and its argument."""
    kind, colon, argument = name.partition(":")
    if kind not in FEATURES:
        raise unknown_key(kind, [*FEATURES], where=WHERE)
    feature = FEATURES[kind]
    if feature.check is None and colon:
        raise unlike(f"{WHERE}: '{kind}' takes no argument", repr(name))
    if feature.check is not None:
        feature.check(argument)
    return feature, argument


def _instead(frequency: Frequency) -> str:
    useful = [k for k, feature in FEATURES.items() if step_hours(frequency) <= feature.coarsest]
    return f"; useful here: {', '.join(useful)}" if useful else ""


def step_hours(frequency: Frequency) -> float:
    """The nominal length of a step in hours; a month is a twelfth of a year.

    Raises ConfigError for integer steps, which have no length.
    """
    if frequency.unit not in HOURS:
        raise ConfigError(
            f"{WHERE}: steps of '{frequency}' have no length in time. Leave the features out, or "
            "give the series real time stamps and a frequency such as h or D."
        )
    return frequency.count * HOURS[frequency.unit]
