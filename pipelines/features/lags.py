"""Earlier values of the target as covariates that are known ahead.

A lag of at least the horizon reaches from every forecast step back to the history, so the column
is known over context and horizon alike. A shorter lag would need values that are yet to come.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tsformer.errors import ConfigError

Floats = NDArray[np.float64]


def lagged(target: Floats, *, lags: Sequence[int], horizon: int, ahead: int = 0) -> Floats:
    """The target of one series `[time]`, `lags` steps earlier `[time + ahead, lag]`.

    NaN where the lagged value is missing or before the first. With `ahead = horizon` the rows go
    on over the forecast; they equal what training saw in the same rows.

    Raises ConfigError for a lag shorter than `horizon` and for `ahead` beyond it.
    """
    check_lags(lags, horizon=horizon)
    if not 0 <= ahead <= horizon:
        raise ConfigError(f"ahead must be 0 to the horizon ({horizon}), got {ahead}.")
    rows = np.arange(len(target) + ahead)[:, None] - np.asarray(lags, dtype=np.int64)
    values = np.append(target, np.nan)  # the last place stands for "before the first"
    return values[np.where(rows >= 0, rows, len(target))]


def check_lags(lags: Sequence[int], *, horizon: int) -> None:
    """Raises ConfigError when a lag would look beyond the cutoff, or is named twice."""
    short = [lag for lag in lags if lag < horizon]
    if short:
        raise ConfigError(
            f"window: a lag of {min(short)} steps looks beyond the cutoff: over a horizon of "
            f"{horizon} steps every lag must be at least {horizon}. A model sees shorter lags in "
            "its context."
        )
    twice = {lag for lag in lags if list(lags).count(lag) > 1}
    if twice:
        raise ConfigError(f"window: the lag {min(twice)} is named more than once.")
