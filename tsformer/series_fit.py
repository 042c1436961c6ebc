"""One series, one classical model: fitted, forecast and forgotten; and the process that does it.

ETS, Theta and SARIMAX as statsmodels fits them. The series comes standardised, `[time]` in
float64 with NaN where nothing was observed. Missing values at its two ends are cut, and the
forecast reaches over those at its end. Inside, SARIMAX's Kalman filter steps over them; ETS and
Theta get a straight line (FPP3, section 13.9), which makes their intervals a little too narrow.

This file is also a program (`tsformer.fit_pool` starts it), so it imports nothing of `tsformer`:
a process that fits takes a second to start and never loads torch.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from statistics import NormalDist
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHORTEST = 10  # steps of level: below them statsmodels' starting states of ETS are not defined
SEASONS = 2  # whole seasons below which no seasonal state can be told from noise
INSIST = 0.1  # seconds between the signals to a fit that swallows the first


class UnfitError(Exception):
    """Why a series has no fit, in words."""


class OutOfTime(BaseException):
    """The time limit passed; not an Exception, so that no library catches it on the way."""


# --- one series -----------------------------------------------------------------------------


def quantiles(
    kind: str,
    values: Floats,
    *,
    options: Mapping[str, Any],
    horizon: int,
    levels: tuple[float, ...] = (),
    exogenous: Floats | None = None,
) -> Floats:
    """The forecast of `values` `[time]`, `[horizon, level]`; the mean where there are no levels.

    `exogenous` is `[time + horizon, column]`; `options` are the fields of the specification.
    Quantiles are those of a normal distribution. Raises UnfitError with the reason.
    """
    seen = np.flatnonzero(~np.isnan(values))
    if not len(seen):  # zero, the level that it was standardised by
        return np.zeros((horizon, max(1, len(levels))))
    start, end = int(seen[0]), int(seen[-1]) + 1
    series = values[start:end]
    gap = len(values) - end  # steps missing at the end, forecast too and then cut
    if (series[seen - start] == series[0]).all():
        return np.full((horizon, max(1, len(levels))), series[0])
    if len(series) < (least := shortest(kind, options)):
        raise UnfitError(f"too short: {len(series)} steps where {least} are needed")
    columns = None if exogenous is None else exogenous[start:]
    mean, variance = FITS[kind](series, columns, gap + horizon, options)
    mean, deviation = mean[gap:], np.sqrt(variance[gap:])
    if not np.isfinite(mean).all() or not np.isfinite(deviation).all():
        raise UnfitError("did not converge")
    if not levels:
        return mean[:, None]
    normal = np.array([NormalDist().inv_cdf(level) for level in levels])
    return mean[:, None] + deviation[:, None] * normal


def shortest(kind: str, options: Mapping[str, Any]) -> int:
    """The fewest steps that the model can be fitted to."""
    if not is_seasonal(kind, options):
        return SHORTEST
    return max(SEASONS * options["season"], SHORTEST + options["season"])


def is_seasonal(kind: str, options: Mapping[str, Any]) -> bool:
    """Whether the model has a seasonal part whose length counts; a season of 1 step is none."""
    parts = {"ets": "seasonal", "theta": "season", "sarimax": "seasonal_order"}
    part = options[parts[kind]]
    return options["season"] > 1 and bool(any(part) if isinstance(part, list | tuple) else part)


def ets(
    series: Floats, _: Floats | None, steps: int, options: Mapping[str, Any]
) -> tuple[Floats, Floats]:
    """Exponential smoothing with additive errors, trend and season.

    Hyndman, Koehler, Ord & Snyder, "Forecasting with Exponential Smoothing" (2008): forecast
    variance by table 6.2, starting states by section 2.6.1 (not estimated: a season of 168 would
    be 168 more parameters).
    """
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    season = options["season"] if is_seasonal("ets", options) else 0
    fitted = ETSModel(
        interpolated(series),
        trend="add" if options["trend"] else None,
        damped_trend=options["trend"] and options["damped"],
        seasonal="add" if season else None,
        seasonal_periods=season or None,
        initialization_method="heuristic",
    ).fit(disp=False)
    found = dict(zip(fitted.model.param_names, fitted.params, strict=True))
    ahead = np.arange(1, steps)
    trend = found.get("smoothing_trend", 0.0) * np.cumsum(found.get("damping_trend", 1.0) ** ahead)
    weight = found["smoothing_level"] + trend
    if season:
        weight = weight + found["smoothing_seasonal"] * (ahead % season == 0)
    variance = fitted.mse * np.cumsum([1.0, *weight**2])
    return np.asarray(fitted.forecast(steps)), variance


def theta(
    series: Floats, _: Floats | None, steps: int, options: Mapping[str, Any]
) -> tuple[Floats, Floats]:
    """The Theta method as simple smoothing with half the trend as drift.

    Assimakopoulos & Nikolopoulos, International Journal of Forecasting 16, 2000; Hyndman & Billah,
    the same 19, 2003. The season is taken out where its autocorrelation is significant (10 %).
    The variance is that of the ARIMA(0,1,1) which it is: s^2 (1 + (h - 1) a^2), with s^2 the mean
    square of the one-step errors. statsmodels adds s^2 (1 + (1 - a)^2) a step instead of
    s^2 a^2, and takes s^2 with the season still in.
    """
    from statsmodels.tsa.forecasting.theta import ThetaModel

    season = options["season"] if is_seasonal("theta", options) else 0
    filled = interpolated(series)
    fitted = ThetaModel(
        filled, period=season or None, deseasonalize=bool(season), method="additive"
    ).fit()
    drift, alpha = fitted.params
    cycle = np.zeros(1)
    if season:
        ahead = np.asarray(fitted.forecast_components(season)["seasonal"])
        cycle = np.roll(ahead, len(filled) % season)  # by the place in the series
    adjusted = filled - np.resize(cycle, len(filled))
    error = one_step_errors(adjusted, alpha=alpha, drift=drift)
    variance = np.mean(error[1:] ** 2) * (1 + np.arange(steps) * alpha**2)
    return np.asarray(fitted.forecast(steps)), variance


def one_step_errors(series: Floats, *, alpha: float, drift: float) -> Floats:
    """What the Theta method would have been wrong by at each step, `[time]`."""
    levels = [series[0]]
    for value in series[:-1]:
        levels.append(levels[-1] + alpha * (value - levels[-1]))
    seen = np.arange(len(series))
    rise = (1 - (1 - alpha) ** seen) / alpha if alpha > 0 else seen
    return series - (np.array(levels) + drift / 2 * rise)


def sarimax(
    series: Floats, exogenous: Floats | None, steps: int, options: Mapping[str, Any]
) -> tuple[Floats, Floats]:
    """Seasonal ARIMA errors around a regression on `exogenous`, by maximum likelihood.

    Box & Jenkins; Durbin & Koopman, "Time Series Analysis by State Space Methods". A column that
    never changes within the series has no coefficient.
    """
    from statsmodels.tsa.statespace.sarimax import SARIMAX

    now = ahead = None
    if exogenous is not None:
        used = np.ptp(exogenous[: len(series)], axis=0) > 0
        if used.any():
            now, ahead = np.split(exogenous[:, used], [len(series)])
    seasonal = (*options["seasonal_order"], options["season"])
    model = SARIMAX(
        series,
        exog=now,
        order=tuple(options["order"]),
        seasonal_order=seasonal if is_seasonal("sarimax", options) else (0, 0, 0, 0),
        trend=options["trend"],
        concentrate_scale=True,
    )
    fitted = model.fit(disp=False) if model.k_params else model.smooth(np.empty(0))
    prediction = fitted.get_forecast(steps, exog=ahead)
    return np.asarray(prediction.predicted_mean), np.asarray(prediction.var_pred_mean)


Fitting = Callable[[Floats, Floats | None, int, Mapping[str, Any]], tuple[Floats, Floats]]
FITS: dict[str, Fitting] = {"ets": ets, "theta": theta, "sarimax": sarimax}


def interpolated(series: Floats) -> Floats:
    """`series` with straight lines over what is missing."""
    known = ~np.isnan(series)
    places = np.arange(len(series))
    return np.interp(places, places[known], series[known])


# --- the process ----------------------------------------------------------------------------


def serve(asked: BufferedReader, answered: IO[bytes]) -> None:
    """Answers jobs until nobody asks any more: a forecast each, or the reason why there is none."""
    send(answered, {"ready": True})
    while asked.peek():
        job, arrays = receive(asked)
        reason, forecast = attempt(job.pop("seconds"), job, arrays)
        send(answered, {"reason": reason}, forecast)


def attempt(seconds: float, job: dict[str, Any], arrays: Sequence[Floats]) -> tuple[str, Floats]:
    """The forecast that `quantiles` makes within `seconds`, or the reason why there is none."""
    nothing = np.empty((0, 0))
    values, exogenous = arrays[0], arrays[1] if len(arrays) > 1 else None
    job["levels"] = tuple(job["levels"])
    try:
        with time_limit(seconds), quiet():
            return "", quantiles(values=values, exogenous=exogenous, **job)
    except OutOfTime:
        return f"not fitted within {seconds:g} s", nothing
    except UnfitError as error:
        return str(error), nothing
    except Exception as error:  # whatever a solver makes of a strange series
        return f"failed with {type(error).__name__}", nothing


def send(stream: IO[bytes], head: Mapping[str, Any], *arrays: Floats) -> None:
    """A message: a line of JSON with the shapes of the arrays, and their numbers."""
    line = json.dumps({**head, "shapes": [array.shape for array in arrays]})
    stream.write(line.encode() + b"\n")
    for array in arrays:
        stream.write(np.ascontiguousarray(array, dtype=np.float64).tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], list[Floats]]:
    """The next message that `send` sent. Raises ValueError where the stream ends."""
    head = json.loads(stream.readline())
    return head, [_array(stream, shape) for shape in head.pop("shapes")]


def _array(stream: IO[bytes], shape: Sequence[int]) -> Floats:
    size = 8 * math.prod(shape)  # bytes of float64
    return np.frombuffer(bytearray(stream.read(size)), dtype=np.float64).reshape(shape)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises OutOfTime after `seconds` of this process's own time, so a busy machine is no fault."""
    signal.setitimer(signal.ITIMER_PROF, seconds, INSIST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings: what comes of them is in the forecast, and judged there."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def out_of_time(_number: int, _frame: object) -> None:
    raise OutOfTime


def end_with_asker() -> None:
    """Ends this process when nobody can ask it any more, in the midst of a fit too."""
    gone = select.poll()
    gone.register(0, 0)  # no event but that the other end was closed
    gone.poll()
    os._exit(0)


def main() -> None:
    """Takes jobs from standard input; whatever libraries print goes where errors go."""
    signal.signal(signal.SIGPROF, out_of_time)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asked decides when it ends
    threading.Thread(target=end_with_asker, daemon=True).start()
    with os.fdopen(os.dup(0), "rb") as asked, os.fdopen(os.dup(1), "wb") as answered:
        os.dup2(2, 1)
        load()
        serve(asked, answered)


def load() -> None:
    """Imports what every fit needs before the first clock runs."""
    import statsmodels.tsa.exponential_smoothing.ets
    import statsmodels.tsa.forecasting.theta
    import statsmodels.tsa.statespace.sarimax  # noqa: F401


if __name__ == "__main__":
    main()
