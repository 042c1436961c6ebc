"""POST /v1/validations and /v1/future-frames: what they say is what a forecast then does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.forecaster import Forecaster
from serving.limits import Limits
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.running import Running, application, listening, publish, series, stamps, table
from tests.serving.test_bad_input import BAD_DATA, changed, data
from tests.serving.test_future import body as priced_body
from tests.serving.test_future import cut, priced

__all__ = ["priced"]
DATA_PROBLEMS = ("invalid-data", "insufficient-history", "future-covariates-missing")
GOOD = {
    "one series": data(),
    "a hole": data(y=changed(series(60), 30, None)),
    "a filled gap": data(ds=stamps(61)[:30] + stamps(61)[31:]) | {"options": {"fill": "mask"}},
    "too short, with a fallback": {"data": table(series(5)), "freq": "h"},
    "seasonal naive": data() | {"model": "seasonal_naive"},
    "bad ones may be skipped": data() | {"options": {"on_invalid": "skip"}},
}
BAD = {name: body for name, (body, _, _) in BAD_DATA.items()} | {
    "too short, without a fallback": {
        "data": table(series(60), series(5)), "freq": "h", "options": {"fallback": "none"},
    },
    "a row without an id": data(unique_id=[None, *["a"] * 59]),
    "one of two": {"data": table(series(60), [None] * 60), "freq": "h"},
}  # fmt: skip


@pytest.mark.parametrize("asked", [*GOOD.values(), *BAD.values()], ids=[*GOOD, *BAD])
def test_valid_means_that_a_forecast_finds_no_fault(
    service: Running, asked: dict[str, Any]
) -> None:
    """Law 15: who trusts the dry run must not be refused afterwards, nor be sent away for nothing."""
    options = {**asked.get("options", {}), "on_invalid": "fail"}
    reply = service.post("/v1/forecasts", asked | {"options": options})
    kind = reply.json().get("type", "").removeprefix("/problems/")
    report = service.post("/v1/validations", asked)
    assert report.status_code == 200, report.text
    found = report.json()
    assert found["valid"] == (kind not in DATA_PROBLEMS)
    if not found["valid"]:
        named = found["errors"] + [e for entry in found["series"] for e in entry["errors"]]
        codes = {error.get("code") for error in reply.json()["errors"]}
        assert codes <= {error.get("code") for error in named}
    assert found["sync"] == {"allowed": True, "limit": None}


def test_every_series_is_looked_at(service: Running) -> None:
    """A forecast stops at the first kind of fault; whoever repairs wants to hear of all of them."""
    asked = {"data": table(series(60), [None] * 60, series(60)), "freq": "h"}
    asked["data"]["ds"][130] = asked["data"]["ds"][129]
    found = service.post("/v1/validations", asked).json()
    assert [entry["status"] for entry in found["series"]] == ["ok", "invalid", "invalid"]
    assert [entry["rows"] for entry in found["series"]] == [60, 60, 60]
    assert {e["code"] for entry in found["series"] for e in entry["errors"]} == {
        "all_missing", "duplicate_timestamp", "gap",
    }  # fmt: skip
    assert found["freq"] == "h"


@pytest.mark.parametrize("form", ["columns", "records"])
def test_text_among_numbers_hides_no_other_fault(service: Running, form: str) -> None:
    """It was told alone: whoever had mended it heard of the next fault."""
    columns = table(*(series(60, seed=i) for i in range(4)))
    columns["y"][5:7] = ["many", True]
    columns["ds"][70] = columns["ds"][69]
    for cells in columns.values():
        del cells[130]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    asked = {"data": columns if form == "columns" else rows, "freq": "h"}
    found = service.post("/v1/validations", asked).json()
    assert not found["valid"]
    told = [[error["code"] for error in entry["errors"]] for entry in found["series"]]
    assert told == [["non_numeric"], ["duplicate_timestamp", "gap"], ["gap"], []]
    place = "/data/y/5" if form == "columns" else "/data/5/y"
    assert found["series"][0]["errors"][0]["pointer"] == place


@pytest.mark.parametrize(
    ("asked", "status"),
    [(data() | {"model": "nobody"}, 404), (data() | {"h": "5"}, 422), (data() | {"h": 5000}, 422)],
)
def test_what_is_wrong_with_the_request_is_a_problem(
    service: Running, asked: dict[str, Any], status: int
) -> None:
    for path in ("/v1/validations", "/v1/future-frames"):
        assert service.post(path, asked).status_code == status


@pytest.fixture(scope="module")
def shop(
    priced: Forecaster, database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A service whose model reads prices, and that answers at most three series at once."""
    home = fresh_home(tmp_path_factory.mktemp("frames"), database)
    publish(home, "priced", priced, tmp_path_factory.mktemp("artifact") / "priced")
    settings = Settings(limits=Limits(series_per_request=3))
    yield from listening(application(home, settings))


@pytest.mark.parametrize("fault", ["none", "a row less", "no future", "no price"])
def test_covariates_are_looked_at(shop: Running, fault: str) -> None:
    asked = priced_body() | {"h": 4}
    if fault == "a row less":
        asked["future"] = cut(asked, 5)
    elif fault == "no future":
        del asked["future"]
    elif fault == "no price":
        del asked["data"]["price"]
    refused = shop.post("/v1/forecasts", asked).status_code == 422
    found = shop.post("/v1/validations", asked).json()
    assert found["valid"] == (fault == "none") != refused


def test_more_than_a_request_may_hold_is_checked_for_a_job(shop: Running) -> None:
    asked = {"data": table(*([1.0, 2.0] for _ in range(4))), "freq": "h", "model": "seasonal_naive"}
    found = shop.post("/v1/validations", asked).json()
    assert found["valid"]
    assert found["sync"] == {"allowed": False, "limit": "series_per_request"}


@pytest.mark.parametrize(
    "more", [{}, {"h": 2}, {"h": 7}, {"tz": "Europe/Berlin"}, {"columns": {"time": "hour"}}]
)
def test_a_filled_frame_is_accepted(shop: Running, more: dict[str, Any]) -> None:
    """Law 15: the rows that are missing are those that a client finds hardest to make."""
    asked = priced_body() | more
    asked["columns"] = {"id": "unique_id", "time": "ds", **more.get("columns", {})}
    asked["data"] = {asked["columns"].get(n, n): cells for n, cells in asked["data"].items()}
    if "columns" in more:
        asked["data"]["hour"] = asked["data"].pop("ds")
    del asked["future"]
    reply = shop.post("/v1/future-frames", asked)
    assert reply.status_code == 200, reply.text
    frame = reply.json()
    assert frame["h"] == more.get("h", 4)
    assert set(frame["future"]["price"]) == {None}
    filled = frame["future"] | {"price": [1.0] * len(frame["future"]["price"])}
    answer = shop.post("/v1/forecasts", asked | {"future": filled})
    assert answer.status_code == 200, answer.text
    own = asked["columns"]["time"]
    assert answer.json()["forecast"][own][: frame["h"]] == frame["future"][own][: frame["h"]]


def test_a_model_without_covariates_needs_rows_alone(service: Running) -> None:
    frame = service.post("/v1/future-frames", data() | {"h": 3}).json()
    assert list(frame["future"]) == ["ds"]
    answer = service.post("/v1/forecasts", data() | {"future": frame["future"]}).json()
    assert (answer["h"], answer["forecast"]["ds"]) == (3, frame["future"]["ds"])
