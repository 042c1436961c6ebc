"""ETS, Theta and SARIMAX over HTTP: real fits in real processes, which hold up nobody."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from statsmodels.tsa.exponential_smoothing.ets import ETSModel

from pipelines.home import Home
from serving import baselines
from serving.baselines import BUILT_IN, FITTED
from serving.settings import Settings
from tests.serving.running import Running, application, listening, series, table
from tsformer import fit_pool, series_fit
from tsformer.errors import ConfigError

LEVELS = [0.025, 0.1, 0.5, 0.9, 0.999]
NAMES = ("mean", *(f"q{level:g}" for level in LEVELS))
PATIENCE_S = 60.0


def ask(service: Running, *columns: list[Any], **body: Any) -> dict[str, Any]:
    request = {"data": table(*columns), "freq": "h", "model": "ets", "h": 24, "quantiles": LEVELS}
    reply = service.post("/v1/forecasts", request | body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


ONE_AT_ONCE = {"models": {"default": "small"}, "fits": {"at_once": 1}, "jobs": {"at_once": 0}}


def numbers(answer: dict[str, Any]) -> np.ndarray:
    return np.array([answer["forecast"][name] for name in NAMES])


@pytest.fixture(scope="module")
def narrow(home: Home) -> Iterator[Running]:
    """A service that fits a series at a time, three in a request, for one that waits."""
    settings = Settings.read(
        {
            "models": {"default": "small"},
            "limits": {"fits_per_request": 3, "sarimax_per_request": 3, "queue_per_model": 1},
            "fits": {"at_once": 1},
            "jobs": {"at_once": 0},
        }
    )
    yield from listening(application(home, settings))


def test_the_numbers_are_those_of_statsmodels(service: Running) -> None:
    """Who compares with a notebook must find the same model here."""
    y = series(240)
    fitted = ETSModel(
        np.array(y), trend="add", damped_trend=True, seasonal="add", seasonal_periods=24,
        initialization_method="heuristic",
    ).fit(disp=False)  # fmt: skip
    answer = ask(service, y)
    assert answer["series"][0]["method"] == "direct"
    away = np.array(answer["forecast"]["mean"]) - fitted.forecast(24)
    assert np.abs(away).max() < 0.02 * np.std(y)


@pytest.mark.parametrize("name", FITTED)
def test_a_series_alone_and_beside_others_is_forecast_alike(service: Running, name: str) -> None:
    """Laws 3, 5 and 6 to the last bit: an optimiser makes a deviation of any rounding."""
    y = series(150, seed=3)
    alone = numbers(ask(service, y, model=name))
    beside = ask(service, series(400), [None] * 7 + y, [7.0] * 60, model=name)
    assert (numbers(beside)[:, 24:48] == alone).all()
    assert (numbers(ask(service, y, model=name, h=5)) == alone[:, :5]).all()
    assert (np.diff(alone[1:], axis=0) > 0).all()  # quantiles
    assert beside["forecast"]["mean"][48:] == [7.0] * 24


def test_what_is_not_said_to_be_read_is_not_read(service: Running) -> None:
    """Law 6 at both ends of what a fit reads."""
    y = series(1_100)
    answer = ask(service, y, model="theta", h=3)
    assert answer["series"][0]["rows_used"] == 1_024
    other = ask(service, [1e6] * 76 + y[-1_024:], model="theta", h=3)
    assert (numbers(other) == numbers(answer)).all()


@pytest.mark.parametrize("name", FITTED)
def test_strange_series_are_answered_with_numbers(service: Running, name: str) -> None:
    """Law 7: all in one request, and each of them labelled as what it got."""
    strange: dict[str, list[Any]] = {
        "huge": [1e308, -1e308] * 30,
        "denormal": [5e-324, 0.0] * 30,
        "explosive": [float(2**i) for i in range(200)],
        "silent": [*series(60), *[None] * 60],
        "gaps": [None, *series(60), None, None, *series(60)],
    }
    data = table(*strange.values(), ids=[*strange])
    answer = ask(service, data=data, model=name, h=50)
    found = numbers(answer)
    assert np.isfinite(found).all()
    assert (np.diff(found[1:], axis=0) >= 0).all()
    for entry in answer["series"]:
        assert (entry["status"] == "ok") == (entry["fallback"] is None), entry
    nothing = {"data": table([None] * 60), "freq": "h", "model": name}
    refused = service.post("/v1/forecasts", nothing)
    assert refused.status_code == 422, refused.text


def test_a_short_series_gets_the_fallback(service: Running) -> None:
    """Two seasons are needed to tell a season; the label says who answered instead."""
    answer = ask(service, series(47), series(48))
    short, enough = answer["series"]
    assert short["fallback"] == {"model": "seasonal_naive", "reason": "insufficient_history"}
    assert (enough["status"], enough["fallback"]) == ("ok", None)
    body = {"data": table(series(47)), "freq": "h", "model": "ets", "options": {"fallback": "none"}}
    assert service.post("/v1/forecasts", body).json()["type"] == "/problems/insufficient-history"


def test_a_fit_that_runs_out_of_time_gets_the_fallback(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a number under a name that did not make it."""
    monkeypatch.setattr(baselines, "FIT_SECONDS", 0.001)
    answer = ask(service, series(400), model="sarimax", options={"fallback": "linear"})
    (entry,) = answer["series"]
    assert entry["status"] == "model_failed"
    assert entry["fallback"] == {"model": "linear", "reason": "model_error"}
    linear = ask(service, series(400), model="linear")
    assert (numbers(answer) == numbers(linear)).all()
    body = {"data": table(series(400)), "freq": "h", "model": "sarimax"}
    refused = service.post("/v1/forecasts", body | {"options": {"fallback": "none"}})
    assert refused.json()["type"] == "/problems/model-output-invalid"


def test_a_season_out_of_reach_is_refused_at_once(service: Running) -> None:
    """A season of 96 steps would take a minute and a gigabyte for each series."""
    body = {"series": [{"start": "2026-01-01T00:00:00", "y": series(400)}], "freq": "15min"}
    reply = service.post("/v1/forecasts", body | {"model": "sarimax"})
    assert reply.json()["type"] == "/problems/model-incompatible", reply.text
    assert service.post("/v1/forecasts", body | {"model": "ets", "h": 2}).status_code == 200


def test_yearly_series_have_no_season(service: Running) -> None:
    """Steps of which none is a cycle are the plainest case of all."""
    walk = np.random.default_rng(1).normal(size=40).cumsum().tolist()
    body = {"series": [{"start": "1950-01-01", "y": walk}], "freq": "YS", "h": 5}
    for name in FITTED:
        answer = service.post("/v1/forecasts", body | {"model": name}).json()
        assert answer["series"][0]["status"] == "ok", answer


# --- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FITTED)
def test_a_request_may_ask_for_so_many_fits(narrow: Running, name: str) -> None:
    """Law 12: what cannot be answered in time is told at once, and where to go instead."""
    limit = "sarimax_per_request" if name == "sarimax" else "fits_per_request"
    three = {"data": table(*[series(60)] * 3), "freq": "h", "model": name, "h": 2}
    four = three | {"data": table(*[series(60)] * 4)}
    assert narrow.post("/v1/forecasts", three).status_code == 200
    reply = narrow.post("/v1/forecasts", four)
    problem = reply.json()
    assert (reply.status_code, problem["type"]) == (413, "/problems/too-large")
    told = {key: problem[key] for key in ("limit", "maximum", "actual", "jobs")}
    assert told == {"limit": limit, "maximum": 3, "actual": 4, "jobs": "/v1/jobs"}
    assert narrow.post("/v1/validations", four).json()["sync"] == {"allowed": False, "limit": limit}


def test_every_judged_point_and_compared_model_is_a_fit(narrow: Running) -> None:
    """A thousand points of one series are a thousand fits."""
    one = {"data": table(series(80)), "freq": "h", "model": "theta"}
    judged = narrow.post("/v1/anomalies", one | {"detect": {"level": 90, "last": 3}})
    assert judged.status_code == 200, judged.text
    assert all(isinstance(value, float) for value in judged.json()["forecast"]["lo"])
    beyond = narrow.post("/v1/anomalies", one | {"detect": {"level": 90, "last": 4}})
    assert beyond.json()["limit"] == "fits_per_request"
    blocks = narrow.post("/v1/anomalies", one | {"detect": {"level": 90, "last": 6, "h": 2}})
    assert blocks.status_code == 200
    many = {"data": table(*[series(60)] * 4), "freq": "h", "models": ["seasonal_naive", "sarimax"]}
    assert narrow.post("/v1/compare", many).json()["limit"] == "sarimax_per_request"


def test_all_baselines_stand_side_by_side(service: Running) -> None:
    body = {
        "data": table(series(200), series(200, seed=1)), "freq": "h", "h": 12,
        "models": [*BUILT_IN, "small"], "options": {"holdout": 12}, "quantiles": [0.1, 0.9],
    }  # fmt: skip
    answer = service.post("/v1/compare", body).json()
    board = {row["model"]["name"]: row for row in answer["leaderboard"]}
    assert set(board) == {*BUILT_IN, "small"}
    assert all(row["fallback_series"] == 0 and row["metrics"]["mase"] for row in board.values())


def test_other_protocols_reach_them(service: Running) -> None:
    """A client of another server finds the same names."""
    assert {*FITTED} <= {one["name"] for one in service.client.get("/v1/models").json()["items"]}
    y = series(60)
    mean = ask(service, y, model="theta", h=3)["forecast"]["mean"]
    body = {
        "series": {"y": y, "sizes": [60], "X": None, "X_future": None,
                   "start_datetime": ["2026-01-01T00:00:00"]},
        "model": "theta", "h": 3, "freq": "h", "level": [80],
    }  # fmt: skip
    answer = service.post("/compat/nixtla/v2/forecast", body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["mean"] == pytest.approx(mean)
    tensor = {"name": "y", "datatype": "FP64", "shape": [1, 60], "data": y}
    infered = service.post(
        "/v2/models/theta/infer",
        {"inputs": [tensor], "parameters": {"h": 3, "freq": "h"}},
    )
    assert infered.status_code == 200, infered.text
    assert infered.json()["outputs"][0]["data"] == pytest.approx(mean, rel=1e-5)


# --- others, and those who leave --------------------------------------------------------------


def slow(count: int = 1) -> dict[str, Any]:
    """Fits of half a second each."""
    data = table(*(series(512, seed=seed) for seed in range(count)))
    return {"data": data, "freq": "h", "model": "sarimax", "h": 4}


def warm(service: Running) -> psutil.Process:
    """The process that will fit next, which waits for something to do."""
    ask(service, series(60))
    return psutil.Process(fit_pool.POOLS[os.getpid()].idle[-1].process.pid)


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def busy(process: psutil.Process) -> Callable[[], bool]:
    """Whether `process` has begun something since now."""
    before = process.cpu_times().user
    return lambda: process.cpu_times().user > before + 0.05


@pytest.mark.parametrize("leaves", [True, False])
def test_what_nobody_waits_for_is_ended(service: Running, leaves: bool) -> None:
    """Ten clients that give up must not leave ten fits that hold up the eleventh."""
    warm(service)
    fitters = psutil.Process().children()  # of whom any may be next: others come back meanwhile
    if leaves:
        with pytest.raises(httpx.ReadTimeout):
            service.client.post("/v1/forecasts", json=slow(20), timeout=1.5)
    else:
        reply = service.post("/v1/forecasts", slow(20), **{"X-Request-Timeout-Ms": "1500"})
        assert reply.json()["type"] == "/problems/deadline-exceeded"
    wait(lambda: not all(each.is_running() for each in fitters))
    assert ask(service, series(60))["series"][0]["status"] == "ok"


def test_a_fit_holds_up_nobody_else(narrow: Running) -> None:
    """While one client waits for seconds of fitting, the others are served; one more is refused."""
    process = warm(narrow)
    assert process.nice() > psutil.Process().nice()
    with ThreadPoolExecutor(1) as threads:
        begun = busy(process)
        waiting = threads.submit(narrow.post, "/v1/forecasts", slow(2))
        wait(begun)
        body = {"data": table(series()), "freq": "h", "model": "small"}
        assert narrow.post("/v1/forecasts", body).status_code == 200
        refused = narrow.post("/v1/forecasts", body | {"model": "ets"})
        assert (refused.status_code, refused.json()["type"]) == (503, "/problems/overloaded")
        assert not waiting.done()
        assert waiting.result().status_code == 200


def test_requests_take_turns(home: Home) -> None:
    """One of many series must not hold one of a single series for as long as it takes."""
    settings = Settings.read(ONE_AT_ONCE)
    for service in listening(application(home, settings)):
        process = warm(service)
        with ThreadPoolExecutor(1) as threads:
            begun = busy(process)
            large = threads.submit(service.post, "/v1/forecasts", slow(3))
            wait(begun)
            assert ask(service, series(60))["series"][0]["status"] == "ok"
            assert not large.done()
            assert large.result().status_code == 200


def test_a_service_that_ends_leaves_no_fit(home: Home) -> None:
    """Ctrl-C in the midst of a fit: what was asked last must not work on for nobody."""
    settings = Settings.read(ONE_AT_ONCE)
    running = listening(application(home, settings))
    service = next(running)
    process = warm(service)
    fits = service.app.state.service.fits
    with ThreadPoolExecutor(1) as threads:
        begun = busy(process)
        asked = threads.submit(service.post, "/v1/forecasts", slow(2))
        wait(begun)
        fits.end()
        wait(lambda: not process.is_running())
        (entry,) = {one["status"] for one in asked.result().json()["series"]}
        assert entry == "model_failed"
    assert service.post("/v1/forecasts", slow()).status_code == 503
    assert not list(running)


def test_more_fits_at_once_than_cores_are_refused() -> None:
    with pytest.raises(ConfigError, match="'at_once' must be 0 to"):
        Settings.read({"fits": {"at_once": fit_pool.AT_MOST + 1}})
    assert series_fit.SEASONS == 2  # as the documentation says of short series
