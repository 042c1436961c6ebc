"""ETS, Theta and SARIMAX against closed forms, and the processes they are fitted in."""

from __future__ import annotations

import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import torch
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel

from tests.tsformer.windows import ArrayWindows, LinearMap
from tsformer import fit_pool, series_fit
from tsformer.batch import Batch, Shape, Target
from tsformer.errors import ConfigError, DataError, ShapeError, UnavailableError
from tsformer.fit_pool import Job, answers
from tsformer.model import ModelSpec
from tsformer.models.classical import ETSSpec, SARIMAXSpec, ThetaSpec
from tsformer.series_fit import Floats, OutOfTime, UnfitError
from tsformer.train import Training, evaluate, fit

SHAPE = Shape(context=32, horizon=6)
SMOOTHING = {"trend": False, "damped": False, "seasonal": False, "season": 4}
AR1 = {"order": [1, 0, 0], "seasonal_order": [0, 0, 0], "trend": "n", "season": 4}


def noise(count: int, *, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=count)


def autoregression(count: int, *, phi: float, seed: int = 0) -> Floats:
    """A stationary AR(1) with unit innovations, started in its own distribution."""
    shocks = noise(count, seed=seed)
    series = [shocks[0] / np.sqrt(1 - phi**2)]
    for shock in shocks[1:]:
        series.append(phi * series[-1] + shock)
    return np.array(series)


def batch_of(past: Floats, **others: torch.Tensor) -> Batch:
    """`past` `[batch, time, variate]`; NaN is missing."""
    tensor = torch.from_numpy(past)
    return Batch(tensor, ~tensor.isnan(), **others)


def test_sarimax_forecasts_an_autoregression_in_closed_form() -> None:
    """x_h = phi^h x_0, variance s^2 (1 - phi^2h) / (1 - phi^2): if not, it is another model."""
    series = autoregression(400, phi=0.8)
    found = series_fit.quantiles("sarimax", series, options=AR1, horizon=5, levels=(0.1, 0.5, 0.9))
    ratio = found[1:, 1] / found[:-1, 1]
    phi = ratio[0]
    assert phi == pytest.approx(0.8, abs=0.06)
    np.testing.assert_allclose(found[:, 1], series[-1] * phi ** np.arange(1, 6), rtol=1e-6)
    variance = ((found[:, 2] - found[:, 1]) / NormalDist().inv_cdf(0.9)) ** 2
    by_hand = variance[0] * (1 - phi ** (2 * np.arange(1, 6))) / (1 - phi**2)
    np.testing.assert_allclose(variance, by_hand, rtol=1e-6)
    assert variance[0] == pytest.approx(1.0, abs=0.15)


def test_ets_without_trend_and_season_is_simple_smoothing() -> None:
    """ETS(A,N,N) is l + a (y - l), flat ahead: worked by hand from the fitted weight."""
    series = noise(60).cumsum()
    fitted = ETSModel(series, initialization_method="heuristic").fit(disp=False)
    alpha, level = float(fitted.smoothing_level), float(fitted.initial_level)
    errors = []
    for value in series:
        errors.append(value - level)
        level += alpha * errors[-1]
    found = series_fit.quantiles("ets", series, options=SMOOTHING, horizon=4, levels=(0.5, 0.9))
    np.testing.assert_allclose(found[:, 0], level, rtol=1e-9)
    variance = np.mean(np.square(errors)) * (1 + np.arange(4) * alpha**2)
    by_hand = level + NormalDist().inv_cdf(0.9) * np.sqrt(variance)
    np.testing.assert_allclose(found[:, 1], by_hand, rtol=1e-9)


@pytest.mark.parametrize(("trend", "damped"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("seasonal", [False, True])
def test_intervals_of_ets_are_those_of_statsmodels(
    trend: bool, damped: bool, seasonal: bool
) -> None:
    """The forecast variance is written out here: six formulas, each a chance to err."""
    series = np.sin(np.arange(80) * np.pi / 2) + noise(80).cumsum() / 3
    options = {"trend": trend, "damped": damped, "seasonal": seasonal, "season": 4}
    found = series_fit.quantiles("ets", series, options=options, horizon=9, levels=(0.1, 0.9))
    model = ETSModel(
        pd.Series(series),
        trend="add" if trend else None,
        damped_trend=damped,
        seasonal="add" if seasonal else None,
        seasonal_periods=4 if seasonal else None,
        initialization_method="heuristic",
    )
    prediction = model.fit(disp=False).get_prediction(start=80, end=88)
    np.testing.assert_allclose(found, prediction.pred_int(alpha=0.2).to_numpy(), rtol=1e-9)


def test_theta_is_smoothing_with_half_the_trend_as_drift() -> None:
    """Hyndman & Billah 2003: SES + b/2 (h - 1 + (1 - (1 - a)^n) / a)."""
    series = 0.3 * np.arange(50) + noise(50).cumsum()
    b, alpha = ThetaModel(series, deseasonalize=False).fit().params
    level = series[0]
    for value in series:
        level += alpha * (value - level)
    slope = np.polyfit(np.arange(50), series, 1)[0]
    assert b == pytest.approx(slope)
    ahead = np.arange(1, 8)
    by_hand = level + slope / 2 * (ahead - 1 + (1 - (1 - alpha) ** 50) / alpha)
    found = series_fit.quantiles("theta", series, options={"season": 1}, horizon=7)
    np.testing.assert_allclose(found[:, 0], by_hand, rtol=1e-6)


def test_intervals_of_theta_cover_a_wandering_level() -> None:
    """90 % at the tenth step of a level under noise; statsmodels' own covered all of these."""
    inside = []
    for seed in range(120):
        random = np.random.default_rng(seed)
        series = (0.2 * random.normal(size=70)).cumsum() + random.normal(size=70)
        found = series_fit.quantiles(
            "theta", series[:60], options={"season": 1}, horizon=10, levels=(0.05, 0.95)
        )
        inside.append(found[9, 0] <= series[69] <= found[9, 1])
    assert 0.84 <= np.mean(inside) <= 0.96  # two standard errors are 5.5 %


@pytest.mark.parametrize(
    "spec",
    [
        ETSSpec(season=12),
        ThetaSpec(season=12),
        SARIMAXSpec(season=12, order=(0, 0, 0), seasonal_order=(0, 1, 0), trend="n"),
    ],
)
def test_a_season_comes_back(spec: ModelSpec) -> None:
    """Christmas again next December, at any level and in any unit."""
    wave = np.sin(2 * np.pi * np.arange(132) / 12) + 0.01 * noise(132)
    model = spec.build(Shape(context=120, horizon=12, levels=(0.1, 0.5, 0.9)))
    forecast = model(batch_of(1e4 + 50 * wave[None, :120, None]))[0, :, 0]
    error = forecast[:, 1].numpy() - (1e4 + 50 * wave[120:])
    assert np.abs(error).max() < 50 * 0.05
    assert (forecast[:, 2] - forecast[:, 0] < 50 * 0.1).all()


def test_intervals_cover_what_they_say() -> None:
    """80 % of the futures of an AR(1) with known order, over 150 series."""
    series = np.stack([autoregression(66, phi=0.7, seed=seed) for seed in range(150)])
    spec = SARIMAXSpec(season=4, order=(1, 0, 0), seasonal_order=(0, 0, 0), trend="n")
    model = spec.build(Shape(context=60, horizon=6, levels=(0.1, 0.5, 0.9)))
    forecast = model(batch_of(series[:, :60, None]))[:, :, 0].numpy()
    ahead = series[:, 60:]
    inside = (forecast[..., 0] <= ahead) & (ahead <= forecast[..., 2])
    assert 0.74 <= inside.mean() <= 0.84


def test_a_covariate_known_ahead_is_followed() -> None:
    """Sales double with the price cut that is planned: the forecast must know it."""
    random = np.random.default_rng(0)
    cut = (random.random(46) < 0.3).astype(float)
    sales = 5 + 3 * cut + 0.1 * random.normal(size=46)
    known = torch.from_numpy(np.stack((cut, np.ones(46)), -1))[
        None
    ]  # and a column that is constant
    spec = SARIMAXSpec(season=4, order=(1, 0, 0), seasonal_order=(0, 0, 0))
    model = spec.build(Shape(context=40, horizon=6, known=(0, 0)))
    batch = batch_of(sales[None, :40, None], known=known)
    error = model(batch)[0, :, 0, 0].numpy() - sales[40:]
    assert np.abs(error).max() < 0.4
    with pytest.raises(ShapeError, match="known ahead"):
        model(batch_of(sales[None, :40, None]))


def test_covariates_of_a_series_that_starts_late_stay_beside_it() -> None:
    """A shop that opened in March: the price cuts of January are not those of its first days."""
    random = np.random.default_rng(0)
    cut = (random.random(46) < 0.3).astype(float)
    sales = 5 + 3 * cut + 0.1 * random.normal(size=46)
    found = {
        late: series_fit.quantiles(
            "sarimax",
            np.concatenate((np.full(late, np.nan), sales[:40])),
            options=AR1 | {"trend": "c"},
            horizon=6,
            exogenous=np.concatenate((random.random(late), cut))[:, None],
        )
        for late in (0, 7)
    }
    assert np.abs(found[7][:, 0] - sales[40:]).max() < 0.4
    np.testing.assert_array_equal(found[7], found[0])


@pytest.mark.parametrize(("kind", "options"), [("ets", SMOOTHING), ("sarimax", AR1)])
def test_a_gap_at_the_end_is_forecast_over(kind: str, options: dict[str, object]) -> None:
    """A sensor that fell silent two steps ago: step 1 is the third after its last value."""
    series = autoregression(60, phi=0.8)
    silent = np.concatenate((series, [np.nan, np.nan]))
    whole = series_fit.quantiles(kind, series, options=options, horizon=6, levels=(0.1, 0.9))
    late = series_fit.quantiles(kind, silent, options=options, horizon=4, levels=(0.1, 0.9))
    np.testing.assert_array_equal(late, whole[2:])


def test_one_process_and_two_give_the_same_bits() -> None:
    """A forecast that depends on how busy the machine was cannot be repeated."""
    specs = (ETSSpec(season=4), ThetaSpec(season=4), SARIMAXSpec(season=4))
    jobs = [
        Job(spec.kind, noise(32, seed=seed).cumsum(), spec.to_mapping(), 6, (0.1, 0.5), 60.0)
        for spec in specs
        for seed in range(3)
    ]
    here = [
        series_fit.quantiles(j.kind, j.values, options=j.options, horizon=6, levels=j.levels)
        for j in jobs
    ]
    for at_once in (1, 2):
        for mine, theirs in zip(here, answers(jobs, at_once=at_once), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_a_fit_stops_at_its_time_limit(caplog: pytest.LogCaptureFixture) -> None:
    """One series of ten thousand that does not converge must not hold the others."""
    past = batch_of(noise(400).cumsum().reshape(2, 100, 2))
    spec = SARIMAXSpec(
        season=24, order=(2, 0, 2), seasonal_order=(1, 1, 1), trend="n", seconds=0.05
    )
    model = spec.build(Shape(context=100, horizon=6))
    model(batch_of(np.ones((1, 100, 1))))  # starts the process
    with caplog.at_level(logging.WARNING):
        started = time.perf_counter()
        forecast = model(past)
        assert time.perf_counter() - started < 20  # alone, each fit takes seconds
    assert forecast.isnan().all()
    assert "4 of 4 series have no fit: 4 not fitted within 0.05 s" in caplog.text


def test_a_fit_that_swallows_its_time_limit_is_told_again() -> None:
    """A bare `except:` in a library hides the first signal, and the fit would never end."""
    swallowed = []

    def fit() -> None:
        try:
            burn(2)
        except OutOfTime:
            swallowed.append(True)
        burn(2)

    earlier = signal.signal(signal.SIGPROF, series_fit.out_of_time)
    try:
        with pytest.raises(OutOfTime), series_fit.time_limit(0.02):
            fit()
    finally:
        signal.signal(signal.SIGPROF, earlier)
    assert swallowed == [True]


def burn(seconds: float) -> None:
    """Processor time, as a fit takes it."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_a_process_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code hears no signal: the process goes, and the next series gets a new one."""
    monkeypatch.setattr(fit_pool, "PATIENCE_SECONDS", 0.2)
    job = Job("ets", noise(32), ETSSpec(season=4).to_mapping(), 6, (), 0.1)
    fitter = fit_pool.Fitter()
    os.kill(fitter.process.pid, signal.SIGSTOP)
    assert "was ended" in str(fitter.answer(job))
    assert fitter.ended
    killed = fit_pool.Fitter()
    os.kill(killed.process.pid, signal.SIGSTOP)  # so it has the job, and does not answer
    threading.Timer(0.1, lambda: os.kill(killed.process.pid, signal.SIGKILL)).start()
    assert killed.answer(job) == "its process died"
    assert killed.ended


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[fit_pool.Pool]:
    """The pool of this process, without any that other tests started."""
    found = fit_pool.Pool()
    monkeypatch.setitem(fit_pool.POOLS, os.getpid(), found)
    yield found
    for fitter in found.idle:
        fitter.end()


@pytest.mark.parametrize("known", [True, False])
def test_a_process_that_died_while_idle_costs_no_fit(
    pool: fit_pool.Pool, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """The kernel takes an idle process when memory is short; the next series has done nothing."""
    job = Job("ets", noise(32), ETSSpec(season=4).to_mapping(), 6, (), 60.0)
    pool.idle += [fit_pool.Fitter() for _ in range(2 if known else 1)]
    for dead in (started := [fitter.process for fitter in pool.idle]):
        os.kill(dead.pid, signal.SIGKILL)
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    if not known:  # as if it died between the question whether it lives and the job
        monkeypatch.setattr(dead, "poll", lambda: dead.returncode)
    (found,) = answers([job], at_once=1)
    assert isinstance(found, np.ndarray)
    assert all(process.returncode is not None for process in started)
    assert len(pool.idle) == 1


def test_a_caller_can_be_halted_while_a_process_starts(
    pool: fit_pool.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting one takes seconds: the next caller gets it, and none is started for nobody."""
    job = Job("ets", noise(32), ETSSpec(season=4).to_mapping(), 6, (), 60.0)
    halt, started = fit_pool.Halt(), list[fit_pool.Fitter]()

    class Awaited(fit_pool.Fitter):
        def __init__(self) -> None:
            super().__init__()
            started.append(self)
            halt()

    monkeypatch.setattr(fit_pool, "Fitter", Awaited)
    with halt.heeded():
        assert answers([job, job], at_once=1) == [fit_pool.HALTED] * 2
    assert pool.idle == started
    (found,) = answers([job], at_once=1)
    assert isinstance(found, np.ndarray)
    assert len(started) == 1


def test_callers_at_once_share_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen requests at a time would otherwise leave a process for each, for ever."""
    lock, working, most, started = threading.Lock(), [0], [0], [0]

    class Slow:
        ended = False

        def __init__(self) -> None:
            started[0] += 1

        def answer(self, job: Job) -> Floats:
            with lock:
                working[0] += 1
                most[0] = max(most[0], working[0])
            time.sleep(0.02)
            with lock:
                working[0] -= 1
            return job.values

    monkeypatch.setattr(fit_pool, "Fitter", Slow)
    monkeypatch.setattr(fit_pool, "AT_MOST", 2)
    pool = fit_pool.Pool()
    monkeypatch.setitem(fit_pool.POOLS, os.getpid(), pool)
    jobs = [Job("ets", np.full(1, number), {}, 1, (), 1.0) for number in range(4)]
    with ThreadPoolExecutor(4) as callers:
        for found in callers.map(lambda _: answers(jobs, at_once=4), range(4)):
            assert [float(np.asarray(answer)[0]) for answer in found] == [0, 1, 2, 3]
    assert most == started == [2]
    assert len(pool.idle) == 2


def test_a_service_with_many_open_files_can_fit() -> None:
    """Each client is an open file, and `select` refuses those above 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("too few files may be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened: list[int] = []
    fitter = None
    try:
        while not opened or opened[-1] < 1100:
            opened.append(os.open(os.devnull, os.O_RDONLY))
        fitter = fit_pool.Fitter()
        assert fitter.answered.fileno() > 1024
        job = Job("ets", noise(32), ETSSpec(season=4).to_mapping(), 6, (), 60.0)
        assert isinstance(fitter.answer(job), np.ndarray)
    finally:
        for file in opened:
            os.close(file)
        if fitter is not None:
            fitter.end()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "Did not start within 120 s" sends the reader looking for a slow disk."""
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/nowhere/python")
        with pytest.raises(UnavailableError, match=r"cannot be started: .*No such file"):
            fit_pool.Fitter()
    monkeypatch.setattr(series_fit, "__file__", "/nowhere/series_fit.py")
    with pytest.raises(UnavailableError, match="ended as it started"):
        fit_pool.Fitter()


BEGIN_A_LONG_FIT = (
    "import numpy as np\n"
    "from tsformer import series_fit\n"
    "options = {'order': [2, 1, 2], 'seasonal_order': [2, 1, 2], 'season': 48, 'trend': 'n'}\n"
    "job = {'kind': 'sarimax', 'options': options, 'horizon': 1, 'levels': [], 'seconds': 1e6}\n"
    "series_fit.send(fitter.asked, job, np.random.default_rng(0).normal(size=2_000))\n"
    "time.sleep(0.5)\n"
)


@pytest.mark.parametrize("work", ["", BEGIN_A_LONG_FIT], ids=["idle", "fitting"])
def test_processes_end_with_the_one_that_started_them(work: str) -> None:
    """A killed service must not leave processes behind that hold memory, or a core, for ever."""
    script = (
        "import os, signal, time\n"
        "from tsformer.fit_pool import Fitter\n"
        "fitter = Fitter()\n"
        "print(fitter.process.pid, flush=True)\n"
        f"{work}"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    pid = int(run.stdout)
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":  # ended; nobody has asked how
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the process outlived the one that started it")


def test_what_cannot_be_fitted_says_why() -> None:
    with pytest.raises(UnfitError, match="too short: 9 steps where 10 are needed"):
        series_fit.quantiles("ets", noise(9), options=SMOOTHING, horizon=3)
    seasonal = {**SMOOTHING, "seasonal": True, "season": 12}
    with pytest.raises(UnfitError, match="too short: 20 steps where 24 are needed"):
        series_fit.quantiles("ets", noise(20), options=seasonal, horizon=3)
    for season in range(2, 12):  # what is long enough is fitted
        least = series_fit.shortest("ets", {**seasonal, "season": season})
        options = {**seasonal, "season": season}
        assert len(series_fit.quantiles("ets", noise(least), options=options, horizon=3)) == 3


def test_a_series_without_a_fit_is_nan_and_its_neighbour_is_not() -> None:
    """The caller puts a labelled fallback in its place: a made-up number would be none."""
    past = noise(64).reshape(1, 32, 2)
    past[0, :25, 0] = np.nan
    forecast = ETSSpec(season=4).build(SHAPE)(batch_of(past))
    assert forecast[:, :, 0].isnan().all()
    assert forecast[:, :, 1].isfinite().all()


def test_a_series_without_a_fit_is_left_out_of_the_score(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One short series of a thousand, and the score of the model would be NaN without a word."""
    past = torch.from_numpy(noise(96).reshape(3, 32, 1))
    past[1, :25] = torch.nan
    windows = Gappy(past, torch.randn(3, 6, 1, dtype=torch.float64))
    spec = ETSSpec(season=4)
    with caplog.at_level(logging.WARNING, logger="tsformer.evaluate"):
        found = fit(spec.build(SHAPE), train=windows, validation=windows, training=Training())
    assert "1 of 3 series have no forecast" in caplog.text
    forecast = spec.build(SHAPE)(windows.batch(torch.arange(3))[0])[..., 0]
    error = (forecast - windows.future)[[0, 2]]
    assert found.validation_loss == pytest.approx(float(error.square().mean()))
    past[:, :25] = torch.nan
    with pytest.raises(DataError, match=r"no forecast of any of 3 series.*longer contexts"):
        evaluate(spec.build(SHAPE), windows=windows, training=Training())


class Gappy(ArrayWindows):
    """Windows of which a past that is NaN was not observed."""

    def batch(self, index: torch.Tensor) -> tuple[Batch, Target]:
        batch, target = super().batch(index)
        return replace(batch, observed=~batch.past.isnan()), target


def test_a_network_that_forecasts_nan_still_fails() -> None:
    """Left out of its own score, it would be chosen for the windows that it can forecast."""
    windows = ArrayWindows(torch.randn(3, 32, 1), torch.randn(3, 6, 1))
    windows.past[1] = torch.nan
    model = LinearMap(SHAPE)
    assert np.isnan(evaluate(model, windows=windows, training=Training()))


@pytest.mark.parametrize("spec", [ETSSpec(), ThetaSpec(), SARIMAXSpec()])
def test_a_season_that_nobody_named_is_asked_for(spec: ModelSpec) -> None:
    with pytest.raises(ConfigError, match="season in steps"):
        spec.build(SHAPE)


def test_a_context_below_two_seasons_is_refused_before_anything_runs() -> None:
    """Otherwise every forecast would be the fallback, after an hour of scoring it."""
    with pytest.raises(ConfigError, match="needs 48 steps of context for a season of 24, got 32"):
        ETSSpec(season=24).build(SHAPE)
    ETSSpec(season=24, seasonal=False).build(SHAPE)
    SARIMAXSpec(season=24, seasonal_order=(0, 0, 0)).build(SHAPE)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (ETSSpec, {"trend": False}),
        (ETSSpec, {"seconds": 0.0}),
        (ThetaSpec, {"season": -1}),
        (SARIMAXSpec, {"order": (1, 0)}),
        (SARIMAXSpec, {"seasonal_order": (1, -1, 0)}),
        (SARIMAXSpec, {"trend": "linear"}),
    ],
)
def test_settings_without_meaning_are_refused(
    kind: type[ModelSpec], keys: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        kind.from_mapping(keys)
