"""One bad series must cost its neighbours nothing: under skip it has a status of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipelines.forecast import Forecast, SeriesForecast
from serving import answers
from serving.problems import Problem
from serving.schemas.series import Options
from tests.serving.running import Running, series, stamps, table

LATE = stamps(48, start="2200-12-30T00:00:00")
SKIP = {"on_invalid": "skip"}


def with_late() -> dict[str, Any]:
    """A good series, and one that ends with the last hour of the contract's range."""
    data = table(series(48), series(48, seed=1), ids=["good", "late"])
    return {**data, "ds": [*data["ds"][:48], *reversed(LATE)]}


def check_skipped(service: Running, body: dict[str, Any], code: str, pointer: str) -> None:
    """The second series is left out with its fault, and the first answered as if it were alone."""
    answer = service.post("/v1/forecasts", body).json()
    assert [entry["status"] for entry in answer["series"]] == ["ok", "invalid"]
    (error,) = answer["series"][1]["errors"]
    assert (error["code"], error["pointer"]) == (code, pointer)
    alone = service.post("/v1/forecasts", body | {"data": table(series(48), ids=["good"])}).json()
    assert answer["forecast"] == alone["forecast"]


@pytest.mark.parametrize("name", ["small", "seasonal_naive"])
def test_a_series_at_the_end_of_time_is_skipped_alone(service: Running, name: str) -> None:
    body = {"data": with_late(), "freq": "h", "h": 3, "model": name, "options": SKIP}
    check_skipped(service, body, "timestamp_out_of_range", "/data/ds/48")


def test_a_series_at_the_end_of_time_is_named(service: Running) -> None:
    reply = service.post("/v1/forecasts", {"data": with_late(), "freq": "h", "h": 3})
    problem = reply.json()
    assert (reply.status_code, problem["type"]) == (422, "/problems/invalid-data")
    assert [(e["unique_id"], e["pointer"]) for e in problem["errors"]] == [("late", "/data/ds/48")]
    compared = {"data": with_late(), "freq": "h", "h": 3, "models": ["small"]}
    assert service.post("/v1/compare", compared).json()["errors"] == problem["errors"]


def test_a_series_with_text_among_its_numbers_is_skipped_alone(service: Running) -> None:
    data = table(series(48), ["many", *series(47)], ids=["good", "bad"])  # type: ignore[list-item]
    body = {"data": data, "freq": "h", "h": 3, "options": SKIP}
    check_skipped(service, body, "non_numeric", "/data/y/48")


@pytest.mark.parametrize("on_invalid", ["skip", "fail"])
def test_a_series_that_fell_silent_gets_a_labelled_answer(
    service: Running, on_invalid: str
) -> None:
    silent: list[float | None] = [7.0] * 24 + [None] * 5_000
    body = {
        "data": table(series(48), silent), "freq": "h", "h": 2, "model": "seasonal_naive",
        "options": {"on_invalid": on_invalid},
    }  # fmt: skip
    answer = service.post("/v1/forecasts", body).json()
    assert [e["status"] for e in answer["series"]] == ["ok", "insufficient_history"]
    assert answer["series"][1]["fallback"]["reason"] == "insufficient_history"
    assert answer["forecast"]["mean"][2:] == [7.0, 7.0]


HELD = 6
CUT = {
    "nothing before the cut": [None] * 42 + series(HELD),
    "no longer than the cut": series(HELD),
}


@pytest.mark.parametrize("fill", ["none", "mask", "ffill", "linear", "zero"])
@pytest.mark.parametrize("fallback", ["seasonal_naive", "none"])
@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_held_out_rows_can_be_all_that_there_is(
    service: Running, cut: list[float | None], fill: str, fallback: str
) -> None:
    options = {"holdout": HELD, "fill": fill, "fallback": fallback}
    body = {"data": table(series(96), cut), "freq": "h", "h": HELD, "models": ["small"]}
    reply = service.post("/v1/compare", body | {"options": options | SKIP})
    answer = reply.json()
    assert reply.status_code == 200, answer
    for forecast in answer["forecasts"]:
        assert [e["status"] for e in forecast["series"]] == ["ok", "insufficient_history"]
        assert "errors" not in forecast["series"][1]
    assert [row["failed_series"] for row in answer["leaderboard"]] == [1, 1, 1]
    problem = service.post("/v1/compare", body | {"options": options}).json()
    assert problem["type"] == "/problems/insufficient-history"
    assert [error["unique_id"] for error in problem["errors"]] == ["s1"]


def test_the_series_without_rows_is_found_wherever_it_stands() -> None:
    """The first failed series had a fallback, the second had none: that is a failure."""
    entries = (
        SeriesForecast("a", "model_failed", 3, "fallback"),
        SeriesForecast("b", "model_failed", 0, "none"),
    )
    forecast = Forecast(None, entries)  # type: ignore[arg-type]
    with pytest.raises(Problem) as raised:
        answers._refuse_failed(forecast, Options())
    assert raised.value.type == "model-output-invalid"
    assert [item.unique_id for item in raised.value.errors] == ["b"]
    answers._refuse_failed(forecast, Options(on_invalid="skip"))


def test_a_baseline_without_a_finite_answer_says_so(service: Running) -> None:
    """Quantiles of values at the edge of float64 leave it."""
    wild = np.where(np.arange(48) % 5 < 2, 1.7e308, -1.7e308).tolist()
    body = {
        "data": table(series(48), wild), "freq": "h", "h": 2, "model": "seasonal_naive",
        "quantiles": [0.1],
    }  # fmt: skip
    problem = service.post("/v1/forecasts", body).json()
    assert problem["type"] == "/problems/model-output-invalid"
    assert [error["unique_id"] for error in problem["errors"]] == ["s1"]
    answer = service.post("/v1/forecasts", body | {"options": SKIP}).json()
    assert [(e["status"], e["rows"]) for e in answer["series"]] == [("ok", 2), ("model_failed", 0)]


def test_an_unknown_model_is_named_with_what_there_is(service: Running) -> None:
    asked = {"data": table(series(48)), "freq": "h"}
    problem = service.post("/v1/forecasts", asked | {"model": "smal"}).json()
    assert problem["status"] == 404
    assert "'smal'" in problem["detail"]
    assert "small" in problem["detail"].replace("'smal'", "")
    problem = service.post("/v1/compare", asked | {"models": ["small", "nobody@x"]}).json()
    assert (problem["status"], problem["errors"][0]["pointer"]) == (404, "/models/1")


@pytest.mark.parametrize("accept", ["application/json", "application/vnd.apache.arrow.stream"])
@pytest.mark.parametrize("name", ["small", "seasonal_naive"])
def test_an_answer_without_any_series_is_an_answer(
    service: Running, name: str, accept: str
) -> None:
    """Who skips bad series gets their status, also where none is left to tell the step by."""
    body = {"data": table([1.0]), "h": 2, "model": name, "options": SKIP, "quantiles": [0.5]}
    reply = service.post("/v1/forecasts", body, Accept=accept)
    assert reply.status_code == 200, reply.text
    if accept == "application/json":
        answer = reply.json()
        assert (answer["freq"], answer["forecast"]["mean"]) == (None, [])
        assert [entry["status"] for entry in answer["series"]] == ["invalid"]
