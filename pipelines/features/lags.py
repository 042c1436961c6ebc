"""Earlier values of the target as inputs that are known ahead.

A lag of at least the horizon reaches from every forecast step back to the history, so it is known
over context and horizon alike. A shorter lag would need values that are yet to come.
"""

from __future__ import annotations

from collections.abc import Sequence

from tsformer.errors import ConfigError


def check_lags(lags: Sequence[int], *, horizon: int) -> None:
    """Raises ConfigError when a lag would look beyond the cutoff, or is named twice."""
    short = [lag for lag in lags if lag < horizon]
    if short:
        rule = (
            f"over a horizon of {horizon} steps every lag must be at least {horizon}. A model sees "
            "shorter lags in its context."
        )
        raise ConfigError(
            f"window: a lag of {min(short)} steps looks beyond the cutoff: {rule}",
            told=f"window: {rule}",
        )
    twice = {lag for lag in lags if list(lags).count(lag) > 1}
    if twice:
        told = "window: no lag may be named more than once."
        raise ConfigError(f"window: the lag {min(twice)} is named more than once.", told=told)
