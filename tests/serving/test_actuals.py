"""POST /v1/actuals and GET /v1/monitors/{model}: what really happened is kept, and scores forecasts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest

from pipelines.forecaster import Forecaster
from serving.accept import ARROW
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.keyed import Tenants
from tests.serving.running import Running, application, listening, publish, series, stamps, table

HELD = 24


def later(name: str, values: list[float], *, after: int = 96) -> dict[str, list[Any]]:
    ds = stamps(after + len(values))[after:]
    return {"unique_id": [name] * len(values), "ds": ds, "y": values}


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, model: Forecaster, database: Path
) -> Iterator[Running]:
    """A service of which nobody else's forecasts are on record."""
    home = fresh_home(tmp_path_factory.mktemp("home"), database)
    publish(home, "small", model, tmp_path_factory.mktemp("artifact") / "small")
    settings = {"models": {"default": "small", "poll_s": 0.2}, "jobs": {"at_once": 0}}
    yield from listening(application(home, Settings.read(settings)))


def test_recorded_forecasts_are_scored_by_later_actuals(service: Running) -> None:
    """A team that sends what happened must learn how good the forecasts were that it was given."""
    body = {
        "data": table(series(), ids=["scored"]), "freq": "h", "h": HELD,
        "quantiles": [0.1, 0.9], "options": {"record": True},
    }  # fmt: skip
    forecast = service.post("/v1/forecasts", body).json()["forecast"]
    truth = series(HELD, seed=7)
    sent = {"data": later("scored", truth)}
    got = service.post("/v1/actuals", sent).json()
    assert got == {"received": 24, "inserted": 24, "replaced": 0, "unchanged": 0, "matched": 24}
    again = service.post("/v1/actuals", sent).json()
    assert again == {"received": 24, "inserted": 0, "replaced": 0, "unchanged": 24, "matched": 24}
    reply = service.client.get("/v1/monitors/small")
    (version,) = reply.json()["versions"]
    assert version["points"] == HELD
    errors = np.abs(np.array(forecast["mean"]) - np.array(truth))
    assert version["metrics"]["mae"] == pytest.approx(errors.mean())
    low, high = np.array(forecast["q0.1"]), np.array(forecast["q0.9"])
    inside = (low <= np.array(truth)) & (np.array(truth) <= high)
    assert version["coverage"]["0.8"] == pytest.approx(inside.mean())
    assert (version["drift"], version["judged_series"]) == ([], None)  # it has no profile


@pytest.mark.parametrize(
    ("tz", "wrong", "says"),
    [("Etc/GMT-2", None, "give tz"), (None, "Etc/GMT-2", "no tz")],
    ids=["naive", "zoned"],
)
def test_actuals_of_another_kind_of_stamp_are_refused(
    service: Running, tz: str | None, wrong: str | None, says: str
) -> None:
    """Taken for UTC they were matched two hours off, and the monitor scored the wrong hours."""
    name = f"zone {tz}"
    body = {"data": table(series(), ids=[name]), "freq": "h", "tz": tz, "options": {"record": True}}
    assert service.post("/v1/forecasts", body).status_code == 200
    known = {"unique_id": ["kept"], "ds": ["2026-01-01"], "y": [0.0]}  # no forecast speaks of it
    sent = {part: known[part] + cells for part, cells in later(name, series(3)).items()}
    reply = service.post("/v1/actuals", {"data": sent, "tz": wrong})
    problem = reply.json()
    assert (reply.status_code, problem["type"]) == (422, "/problems/invalid-data")
    (item,) = problem["errors"]
    assert (item["pointer"], item["code"]) == ("/data/ds/1", "timestamp_invalid")
    assert says in item["message"]
    assert "options" not in problem["detail"]  # which this route does not have
    got = service.post("/v1/actuals", {"data": later(name, series(3)), "tz": tz}).json()
    assert (got["inserted"], got["matched"]) == (3, 3)


def test_a_forecast_that_nobody_wants_recorded_is_forgotten(service: Running) -> None:
    """Only what was given out for use may be scored: tries and dashboards must not count."""
    service.post("/v1/forecasts", {"data": table(series(), ids=["unseen"]), "freq": "h"})
    got = service.post("/v1/actuals", {"data": later("unseen", series(3))}).json()
    assert (got["inserted"], got["matched"]) == (3, 0)


def test_a_later_value_takes_the_place_of_an_earlier_one(service: Running) -> None:
    """Late corrections of a meter must win, and missing values must not delete what is known."""
    service.post("/v1/actuals", {"data": later("meter", [1.0, 2.0, 3.0])})
    data = later("meter", [1.0, 5.0, 3.0, 4.0])
    data["y"][2] = None
    got = service.post("/v1/actuals", {"data": data}).json()
    assert got == {"received": 3, "inserted": 1, "replaced": 1, "unchanged": 1, "matched": 0}


def test_arrow_says_the_same_as_json(service: Running) -> None:
    """Warehouses send Arrow; a stamp in a zone must meet the same instant that JSON named."""
    ds = [1_774_731_600_000_000, 1_774_735_200_000_000]
    stamp = pa.timestamp("us", tz="Europe/Berlin")
    data = pa.table({"unique_id": ["zoned"] * 2, "ds": pa.array(ds, stamp), "y": [31.0, 29.0]})
    about = {"forecast.table": "data", "forecast.request": json.dumps({})}
    sink = io.BytesIO()
    with ipc.new_stream(sink, data.schema.with_metadata(about)) as writer:
        writer.write_table(data)
    reply = service.client.post(
        "/v1/actuals", content=sink.getvalue(), headers={"Content-Type": ARROW}
    )
    assert reply.json()["inserted"] == 2
    text = ["2026-03-28T22:00:00+01:00", "2026-03-28T23:00:00+01:00"]
    got = service.post(
        "/v1/actuals", {"data": {"unique_id": ["zoned"] * 2, "ds": text, "y": [31.0, 29.0]}}
    ).json()
    assert got["unchanged"] == 2


@pytest.mark.parametrize(
    ("change", "type", "pointer"),
    [
        ({"tz": "Mars/Base"}, "invalid-request", "/tz"),
        ({"data": {"ds": ["2026-01-01"], "y": ["a"]}}, "invalid-data", "/data/y/0"),
        ({"data": {"ds": ["2026-01-01"]}}, "invalid-data", "/data"),
        ({"data": {"ds": ["soon"], "y": [1.0]}}, "invalid-data", "/data/ds/0"),
        ({"data": {"ds": ["2026-01-01"] * 2, "y": [1.0, 2.0]}}, "invalid-data", "/data/ds/1"),
        ({"data": {"ds": ["2026-01-01"], "y": [1.0], "price": [2.0]}}, "invalid-request", "/data"),
        ({"model": "small"}, "invalid-request", ""),
        ({"data": [{"ds": "2026-01-01", "y": 1.0}, {"ds": "soon"}]}, "invalid-data", "/data/1/ds"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_named(
    service: Running, change: dict[str, Any], type: str, pointer: str
) -> None:
    """A feed that is wrong must be refused whole, with the place: half a day kept is a trap."""
    problem = service.post("/v1/actuals", {"data": later("bad", [1.0]), **change}).json()
    assert problem["type"] == f"/problems/{type}"
    assert problem["errors"][0]["pointer"] == pointer


def test_a_model_without_actuals_has_no_scores(tenants: Tenants) -> None:
    """Nothing known must look like nothing known, and an unknown model like none."""
    found = tenants.ask("GET", "/v1/monitors/small", tenant="shop").json()
    assert found == {"model": "small", "after": None, "until": None, "versions": []}
    assert tenants.ask("GET", "/v1/monitors/none").status_code == 404
    assert tenants.ask("GET", "/v1/monitors/small?window=soon").status_code == 422


def test_tenants_do_not_score_each_other(tenants: Tenants) -> None:
    """Two teams with a series of the same name: one's truth must not judge the other's forecasts."""
    body = {"data": table(series(), ids=["a"]), "freq": "h", "options": {"record": True}}
    assert tenants.ask("POST", "/v1/forecasts", json=body, role="forecaster").status_code == 200
    truth = {"data": later("a", series(HELD))}
    assert tenants.ask("POST", "/v1/actuals", json=truth, tenant="shop").json()["matched"] == 0
    assert tenants.ask("GET", "/v1/monitors/small").json()["versions"] == []
    assert tenants.ask("POST", "/v1/actuals", json=truth).json()["matched"] == HELD
    (mine,) = tenants.ask("GET", "/v1/monitors/small?window=1d").json()["versions"]
    assert mine["points"] == HELD
    assert tenants.ask("GET", "/v1/monitors/small", tenant="shop").json()["versions"] == []
    assert tenants.ask("POST", "/v1/actuals", json=truth, role="reader").status_code == 403


def test_a_baseline_is_not_recorded(service: Running) -> None:
    """It has no version that a monitor could show: saying yes would promise scores."""
    body = {"data": table(series()), "freq": "h", "model": "seasonal_naive"}
    problem = service.post("/v1/forecasts", {**body, "options": {"record": True}}).json()
    assert problem["errors"][0]["pointer"] == "/options/record"
