"""The baselines that need no training: always there, the same for everybody, never mixed up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.home import Home
from serving.baselines import BUILT_IN
from serving.settings import Settings
from tests.serving.running import CONTEXT, Running, application, listening, series, table
from tsformer.errors import ConfigError

LEVELS = [0.1, 0.5, 0.9]


def ask(service: Running, y: list[Any], **body: Any) -> dict[str, Any]:
    request = {"data": table(y), "freq": "h", "model": "linear", "h": 24, "quantiles": LEVELS}
    reply = service.post("/v1/forecasts", request | body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def numbers(answer: dict[str, Any]) -> np.ndarray:
    names = ("mean", "q0.1", "q0.5", "q0.9")
    return np.array([answer["forecast"][name] for name in names])


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_baseline_answers_under_its_name(service: Running, name: str) -> None:
    """Who asks for the simplest forecast must not get another one silently."""
    answer = ask(service, series(), model=name)
    assert answer["model"] == {"name": name, "version": None, "alias": None, "run_id": None}
    assert numbers(answer).shape == (4, 24)
    assert (np.diff(numbers(answer)[1:], axis=0) >= 0).all()


def test_the_last_value_is_the_last_value(service: Running) -> None:
    y = series()
    assert ask(service, y, model="last_value")["forecast"]["mean"] == [y[-1]] * 24


def test_a_line_continues_what_is_linear(service: Running) -> None:
    """Closed form: a noiseless wave is an autoregression, so it goes on."""
    steps = np.arange(1_000 + 24)
    wave = 10 + np.sin(2 * np.pi * steps / 24) + 0.5 * np.cos(2 * np.pi * steps / 8)
    answer = ask(service, wave[:1_000].tolist())
    assert np.abs(np.array(answer["forecast"]["mean"]) - wave[1_000:]).max() < 0.02


def test_linear_is_an_autoregression_by_ridge(service: Running) -> None:
    """The first step by hand, from numpy: the fit is that of the documentation."""
    y = np.array(series(300))
    z = (y - y.mean()) / y.std()
    lags = [*range(1, 26), 48]
    read = np.array([[z[t - k] if t >= k else 0.0 for k in lags] + [1.0] for t in range(300)])
    there = np.array([np.mean([t >= k for k in lags]) for t in range(300)])
    gram = (read * there[:, None]).T @ read + 4.0 * np.eye(len(lags) + 1)
    weights = np.linalg.solve(gram, (read * there[:, None]).T @ z)
    following = weights @ [*(z[300 - k] for k in lags), 1.0]
    expected = y.mean() + y.std() * following
    assert ask(service, y.tolist(), h=1)["forecast"]["mean"][0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("unit", [1e-6, -3.0, 1e6])
@pytest.mark.parametrize("deviations", [0.0, 1e6])
def test_the_unit_does_not_change_the_forecast(
    service: Running, unit: float, deviations: float
) -> None:
    """Law 4, in sign too: a loss is a gain upside down, its quantiles swapped."""
    y = np.array(series(200))
    level = unit * deviations * y.std()
    plain = numbers(ask(service, y.tolist()))
    other = numbers(ask(service, (unit * y + level).tolist()))
    expected = unit * plain + level
    if unit < 0:
        expected[[1, 3]] = expected[[3, 1]]
    assert np.abs(other - expected).max() < 1e-4 * abs(unit) * y.std()


def test_a_shorter_horizon_is_the_beginning_of_a_longer_one(service: Running) -> None:
    """Law 5."""
    short, long = ask(service, series(), h=5), ask(service, series(), h=60)
    assert np.abs(numbers(short) - numbers(long)[:, :5]).max() < 1e-9


def test_only_the_rows_that_are_named_are_read(service: Running) -> None:
    """Law 6: an old value must not change a forecast that does not say that it read it."""
    y = series(1_500)
    answer = ask(service, y)
    assert answer["series"][0]["rows_used"] == 1_024
    other = [1e6] * (1_500 - 1_024) + y[-1_024:]
    assert (numbers(ask(service, other)) == numbers(answer)).all()
    padded = ask(service, [None] * 30 + y[-60:])
    assert np.abs(numbers(padded) - numbers(ask(service, y[-60:]))).max() < 1e-9


@pytest.mark.parametrize(
    "y",
    [
        [5.0], [5.0, 7.0], [3.0] * 40, [1e308, -1e308] * 30, [5e-324, 0.0] * 30,
        [None, 2.0, None, 3.0, None], [float(2**i) for i in range(200)],
        [None, *range(50), *[None] * 60],
    ],
    ids=["one", "two", "constant", "huge", "denormal", "gaps", "explosive", "silent"],
)  # fmt: skip
def test_every_answer_is_finite(service: Running, y: list[Any]) -> None:
    """Law 7: an unstable fit must not end in infinities, nor far beyond all that was seen."""
    found = numbers(ask(service, y, h=500))
    assert np.isfinite(found).all()
    assert (np.diff(found[1:], axis=0) >= 0).all()


def test_a_line_stands_in_for_a_short_series(service: Running) -> None:
    """Labelled as what it is, and as wide as asked for."""
    y = series(CONTEXT)[:10]
    options = {"fallback": "linear"}
    answer = ask(service, y, model="small", options=options)
    assert answer["fallback"] == {"mode": "linear", "series": 1}
    entry = answer["series"][0]
    assert entry["fallback"] == {"model": "linear", "reason": "insufficient_history"}
    assert (entry["method"], entry["rows_used"]) == ("fallback", 10)
    assert (numbers(answer) == numbers(ask(service, y))).all()


def test_a_thousand_series_are_a_matter_of_a_second(service: Running) -> None:
    """A fit of each series by itself still fits into a request; alone or beside others it is one."""
    rng = np.random.default_rng(4)
    columns = [rng.normal(size=96).tolist() for _ in range(300)]
    request = {"data": table(*columns), "freq": "h", "model": "linear", "h": 24}
    answer = service.post("/v1/forecasts", request).json()
    alone = ask(service, columns[7], quantiles=[])
    assert answer["forecast"]["mean"][7 * 24 : 8 * 24] == pytest.approx(
        alone["forecast"]["mean"], abs=1e-9
    )


def test_the_fallback_of_the_service(home: Home) -> None:
    """An operator decides what stands in for a model; a request may still say otherwise."""
    settings = Settings.read({"models": {"default": "small"}, "defaults": {"fallback": "none"}})
    body = {"data": table(series()[:10]), "freq": "h"}
    for running in listening(application(home, settings)):
        assert (
            running.post("/v1/forecasts", body).json()["type"] == "/problems/insufficient-history"
        )
        skipped = running.post("/v1/forecasts", body | {"options": {"on_invalid": "skip"}}).json()
        assert skipped["fallback"] == {"mode": "none", "series": 0}
        said = running.post("/v1/forecasts", body | {"options": {"fallback": "linear"}}).json()
        assert said["fallback"] == {"mode": "linear", "series": 1}
    with pytest.raises(ConfigError, match="seasonal_naive, linear, none"):
        Settings.read({"defaults": {"fallback": "luck"}})
