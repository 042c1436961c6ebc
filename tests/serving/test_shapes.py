"""One table, however it is sent: columns, records, series and Arrow are the same request (law 2)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from pipelines.covariates import Covariate, Inputs
from pipelines.forecaster import Forecaster
from pipelines.recipe import Recipe
from serving.forms import parse
from serving.limits import Limits
from serving.problems import Problem
from serving.schemas.forecasts import ForecastRequest
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.running import (
    HORIZON,
    Running,
    application,
    listening,
    publish,
    series,
    stamps,
    table,
)
from tests.serving.streams import ask, packed, unpack
from tsformer.batch import Shape
from tsformer.models.ridge import RidgeSpec


def records(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """The rows of a table; an absent member is null."""
    rows = (dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True))
    return [{name: cell for name, cell in row.items() if cell is not None} for row in rows]


@pytest.fixture(scope="module")
def shop(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose model reads a price ahead."""
    torch.manual_seed(3)
    inputs = Inputs(known=(Covariate("price"),))
    shape = Shape(context=24, horizon=HORIZON, known=(0,))
    recipe = Recipe("D", 7, 24, 8, HORIZON, inputs)
    model = RidgeSpec().build(shape)
    for weight in model.parameters():
        weight.data.normal_(std=0.1)
    made = Forecaster(model, spec=RidgeSpec(), recipe=recipe, device="cpu")
    home = fresh_home(tmp_path_factory.mktemp("shop"), database)
    publish(home, "shop", made, tmp_path_factory.mktemp("artifact") / "shop")
    yield from listening(application(home, Settings.read({"models": {"default": "shop"}})))


def days(rows: int, *, start: str = "2026-03-01T00:00:00") -> list[str]:
    return stamps(rows, start=start, hours=24)


def in_columns() -> dict[str, Any]:
    """Two series of 30 days up to the clock change in Berlin, with prices ahead."""
    data = table(series(30), series(30, seed=1), ids=["b", "a"])
    data["ds"] = days(30) * 2
    data["y"][3] = None
    data["price"] = [1 + i % 5 for i in range(30)] + [0.5 * i for i in range(30)]
    ahead = days(HORIZON, start="2026-03-31T00:00:00")
    future = {
        "unique_id": ["b"] * HORIZON + ["a"] * HORIZON,
        "ds": ahead * 2,
        "price": [float(i) for i in range(2 * HORIZON)],
    }
    return {"freq": "D", "tz": "Europe/Berlin", "data": data, "future": future}


def in_series(*, begin: bool) -> dict[str, Any]:
    columns = in_columns()
    data, future = columns["data"], columns["future"]
    found = []
    for place, name in enumerate(("b", "a")):
        rows = slice(30 * place, 30 * place + 30)
        ahead = slice(HORIZON * place, HORIZON * (place + 1))
        own = {"start": data["ds"][0]} if begin else {"ds": data["ds"][rows]}
        found.append(
            {
                "unique_id": name,
                **own,
                "y": data["y"][rows],
                "covariates": {"price": data["price"][rows]},
                "future": {"price": future["price"][ahead]},
            }
        )
    return {"freq": "D", "tz": "Europe/Berlin", "series": found}


def in_records() -> dict[str, Any]:
    columns = in_columns()
    return columns | {name: records(columns[name]) for name in ("data", "future")}


FORMS = {
    "records": in_records,
    "records of data alone": lambda: in_columns() | {"data": records(in_columns()["data"])},
    "series": lambda: in_series(begin=False),
    "series from a start": lambda: in_series(begin=True),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_numbers_of_columns(shop: Running, form: Any) -> None:
    """A client that changes the form of its table must not get another forecast."""
    first = shop.post("/v1/forecasts", in_columns()).json()
    reply = shop.post("/v1/forecasts", form())
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    for member in ("forecast", "series", "freq", "tz", "h", "warnings"):
        assert answer[member] == first[member]
    _, tables = unpack(ask(shop, packed(in_columns())).content)
    assert tables["forecast"].column("mean").to_pylist() == answer["forecast"]["mean"]


@pytest.mark.parametrize("path", ["/v1/compare", "/v1/validations", "/v1/future-frames"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_other_routes_read_them_too(shop: Running, form: Any, path: str) -> None:
    """Who checks a request before it is sent sends what will be sent."""
    more = {"models": ["shop"]} if path == "/v1/compare" else {}
    first, other = shop.post(path, in_columns() | more), shop.post(path, form() | more)
    assert other.status_code == 200, other.text
    strip = {"leaderboard", "timing_ms"}
    assert {k: v for k, v in other.json().items() if k not in strip} == {
        k: v for k, v in first.json().items() if k not in strip
    }


def resolved(body: Any, pointer: str) -> Any:
    """What a JSON pointer points to; raises where there is nothing."""
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        body = body[int(part)] if isinstance(body, list) else body[part]
    return body


def lone(**changes: Any) -> dict[str, Any]:
    return {"y": series(30), "start": "2026-03-01", "future": {"price": [1.0] * HORIZON}, **changes}


FAULTS: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "a word in records": (
        {"data": [{"ds": "2026-03-01", "y": 1}, {"ds": "2026-03-02", "y": "c4nary"}]},
        "/data/1/y", "non_numeric",
    ),
    "a record without a stamp": (
        {"model": "seasonal_naive",
         "data": [{"ds": f"2026-03-0{i}", "y": i} for i in range(1, 8)] + [{"y": 1}]},
        "/data/7", "timestamp_invalid",
    ),
    "a list in a record": ({"data": [{"ds": "2026-03-01", "y": []}]}, "/data/0/y", None),
    "a number in place of a record": ({"data": [{"ds": "2026-03-01", "y": 1}, 5]}, "/data/1", None),
    "no column y": ({"data": [{"ds": "2026-03-01"}]}, "/data", "missing_column"),
    "no records": ({"data": []}, "/data", "insufficient_history"),
    "a number beyond float64": (
        b'{"freq": "D", "model": "seasonal_naive", "data": [{"ds": "2026-03-01", "y": 1e999}]}',
        "/data/0/y", "non_finite",
    ),
    "a series without an id": (
        {"model": "seasonal_naive", "series": [lone(unique_id="a"), lone()]},
        "/series/1", "id_invalid",
    ),
    "a stamp twice": (
        {"model": "seasonal_naive", "series": [{"ds": ["2026-03-01"] * 2, "y": [1, 2]}]},
        "/series/0/ds/1", "duplicate_timestamp",
    ),
    "an id twice": (
        {"series": [lone(unique_id=1), lone(unique_id=1)]}, "/series/1/unique_id", "id_invalid",
    ),
    "lengths": (
        {"series": [lone(covariates={"price": [1, 2]})]}, "/series/0/covariates/price",
        "length_mismatch",
    ),
    "a price that is a word": (
        {"series": [lone(unique_id="a", covariates={"price": [1.0] * 30}),
                    lone(unique_id="b", covariates={"price": [*([1.0] * 29), "c4nary"]})]},
        "/series/1/covariates/price/29", "non_numeric",
    ),
    "too few steps ahead": (
        {"h": 4, "series": [lone(covariates={"price": [1] * 30}, future={"price": [1, 1]})]},
        "/series", "future_missing",
    ),
    "too many steps ahead": (
        {"h": 2, "series": [lone(covariates={"price": [1] * 30}, future={"price": [1, 1, 1]})]},
        "/series/0/future", "future_extra",
    ),
    "a start that is none": (
        {"series": [lone(start="c4nary", covariates={"price": [1] * 30})]}, "/series/0/start",
        "timestamp_invalid",
    ),
    "neither start nor ds": ({"series": [{"y": [1, 2]}]}, "/series/0", None),
    "an unknown member": ({"series": [lone(c4nary=1)]}, "/series/0", None),
    "series and data": ({"series": [lone()], "data": {"ds": [], "y": []}}, "/data", None),
    "a start without freq": ({"freq": None, "series": [lone()]}, "", None),
    "no tables": ({"h": 1, "series": []}, "", None),
}  # fmt: skip


@pytest.mark.parametrize(("body", "pointer", "code"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named_where_they_were_sent(
    shop: Running, body: Any, pointer: str, code: str | None
) -> None:
    """Law 11: a pointer into a form that the client did not send leads nowhere."""
    if isinstance(body, dict):
        body = {"freq": "D", **body}
        body = {name: value for name, value in body.items() if value is not None}
        content = orjson.dumps(body)
    else:
        content, body = body, {"data": [{"ds": "2026-03-01", "y": 0}]}
    headers = {"content-type": "application/json"}
    reply = shop.client.post("/v1/forecasts", content=content, headers=headers)
    assert reply.status_code == 422, reply.text
    assert "c4nary" not in reply.text
    error = reply.json()["errors"][0]
    found = error.get("pointer", "")
    assert (found, error.get("code")) == (pointer, code)
    resolved(body, found)


def test_a_bad_series_is_skipped_alone_in_every_form(shop: Running) -> None:
    """Its error, too, stands where it was sent."""
    body = in_series(begin=True) | {"options": {"on_invalid": "skip"}}
    body["series"][0]["start"] = "2026-13-01"
    answer = shop.post("/v1/forecasts", body).json()
    assert [entry["status"] for entry in answer["series"]] == ["invalid", "ok"]
    assert answer["series"][0]["errors"][0]["pointer"] == "/series/0/start"


HOSTILE = {
    "empty records": b'{"data":[' + b"{}," * 2_700_000 + b"{}]}",
    "records of lists": b'{"data":[' + b'{"a":[]},' * 900_000 + b'{"a":1}]}',
    "short records": b'{"data":[' + b'{"a":1},' * 1_000_000 + b'{"a":1}]}',
    "a member of its own in each": b'{"data":[' + b",".join(b'{"%d":1}' % i for i in range(300_000)) + b"]}",
    "too many series": b'{"freq":1,"series":[' + b",".join(
        b'{"unique_id":%d,"start":1,"y":[1]}' % i for i in range(10_001)) + b"]}",
    "lists in place of series": b'{"series":[' + b"[]," * 2_700_000 + b"[]]}",
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_rows_are_refused_early(content: bytes) -> None:
    """Law 10: a table of 300,000 names and as many rows would hold 9 * 10^10 cells."""
    start = time.process_time()
    with pytest.raises(Problem) as caught:
        parse(ForecastRequest, content, Limits(), is_arrow=False)
    assert caught.value.type in ("invalid-request", "too-large")
    assert time.process_time() - start < 10


def test_a_member_twice_in_a_record_is_refused(shop: Running) -> None:
    """JSON leaves open which of two values counts."""
    content = b'{"freq": "D", "data": [{"ds": "2026-03-01", "y": 1, "y": 2}]}'
    headers = {"content-type": "application/json"}
    reply = shop.client.post("/v1/forecasts", content=content, headers=headers)
    assert (reply.status_code, reply.json()["type"]) == (422, "/problems/invalid-request")


def test_ids_come_back_as_they_were_sent(shop: Running) -> None:
    """Law 1, for look-alike ids of both kinds and a column of another name."""
    for ids in ([2, 1], ["1", "01"], ["\u00e9", "e\u0301"]):
        rows = [lone(unique_id=name, covariates={"price": [1] * 30}) for name in ids]
        body = {"freq": "D", "columns": {"id": "sku"}, "series": rows, "h": HORIZON}
        answer = shop.post("/v1/forecasts", body).json()
        assert [entry["unique_id"] for entry in answer["series"]] == ids
        assert answer["forecast"]["sku"] == [name for name in ids for _ in range(HORIZON)]


def test_each_series_goes_on_from_its_own_start(service: Running) -> None:
    """Grids are made for all series at once; one that took the days of another would be shifted."""
    given = {"a": ("2026-03-01", 30), "b": ("2026-02-10", 41), "c": ("2025-12-31", 60)}
    sent = [{"unique_id": k, "start": s, "y": series(n)} for k, (s, n) in given.items()]
    body = {"model": "seasonal_naive", "freq": "D", "h": 1, "series": sent}
    forecast = service.post("/v1/forecasts", body).json()["forecast"]
    assert [day[:10] for day in forecast["ds"]] == ["2026-03-31", "2026-03-23", "2026-03-01"]


def test_integer_starts_count_by_one(shop: Running) -> None:
    """Contract 6: without freq the step of integers is 1, in this form as in the others."""
    asked = {"model": "seasonal_naive", "h": 2, "series": [{"start": 5, "y": series(30)}]}
    answer = shop.post("/v1/forecasts", asked).json()
    assert answer["forecast"]["ds"] == [35, 36]
    refused = shop.post("/v1/forecasts", asked | {"series": [lone()]}).json()
    assert "With start the stamps follow from freq." in refused["detail"]


HOURS = stamps(30)
BERLIN = {"freq": "h", "tz": "Europe/Berlin", "model": "seasonal_naive"}


@pytest.mark.parametrize(
    ("start", "code"),
    [("2026-03-29T02:00:00", "nonexistent_time"), ("2026-10-25T02:00:00", "ambiguous_time")],
)
def test_a_start_that_the_clock_lacks_is_named_as_that_alone(
    shop: Running, start: str, code: str
) -> None:
    good = lone(unique_id="a", start="2026-01-01")
    asked = BERLIN | {"series": [good, lone(unique_id="b", start=start)]}
    (error,) = shop.post("/v1/forecasts", asked).json()["errors"]
    assert (error["code"], error["pointer"]) == (code, "/series/1/start")


LATER = [f"{stamp}+01:00" for stamp in stamps(26, start="2026-10-25T03:00:00")]
UNUSABLE = {
    "nonexistent_time": ("D", stamps(30, start="2026-03-20T02:30:00", hours=24)),
    "ambiguous_time": ("h", [*stamps(4, start="2026-10-24T23:00:00"), *LATER]),
    "timestamp_invalid": ("h", [*HOURS[:7], "nope", *HOURS[8:30]]),
}


@pytest.mark.parametrize("code", UNUSABLE)
def test_a_row_whose_stamp_is_wrong_is_no_gap_beside(shop: Running, code: str) -> None:
    """The row would be told of twice, once as one that is missing; what is missing still is told."""
    freq, ds = UNUSABLE[code]
    asked = BERLIN | {"freq": freq, "data": {"ds": ds, "y": series(30)}}
    errors = shop.post("/v1/forecasts", asked).json()["errors"]
    assert [error["code"] for error in errors] == [code]
    holed = asked | {"data": {"ds": [*ds[:18], *ds[21:]], "y": series(27)}}
    errors = shop.post("/v1/forecasts", holed).json()["errors"]
    assert [error["code"] for error in errors] == [code, "gap"]


def test_a_stamp_twice_is_told_without_a_row_that_was_not_sent(shop: Running) -> None:
    """Row 33 of the joined table is no row of a series of four."""
    twice = {"unique_id": "b", "ds": ["2026-03-01", "2026-03-02", "2026-03-02"], "y": [1, 2, 3]}
    good = lone(unique_id="a")
    asked = {"freq": "D", "model": "seasonal_naive", "series": [good, twice]}
    (error,) = shop.post("/v1/forecasts", asked).json()["errors"]
    assert error["pointer"] == "/series/1/ds/2"
    assert error["message"].startswith("Same time stamp as another row of this series.")
