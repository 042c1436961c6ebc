"""Categories, past columns and attributes of series over HTTP: read as in the library, or named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from pipelines.covariates import Covariate, Inputs, sizes
from pipelines.features.categories import Vocabulary
from pipelines.forecaster import Forecaster
from pipelines.panel import read_panel
from pipelines.recipe import Recipe
from pipelines.schema import Schema
from serving import attributes
from serving.cells import column_of
from serving.schemas.forecasts import ForecastRequest
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.running import Running, application, listening, publish, series, stamps, table
from tsformer.batch import Shape
from tsformer.models.ridge import RidgeSpec
from tsformer.models.tft import TFTSpec

CONTEXT, HORIZON = 48, 4
INPUTS = Inputs(
    known=(Covariate("promo", vocabulary=Vocabulary(("coupon", "none"))),),
    past=(Covariate("rain", 1.0, 2.0),),
    static=(Covariate("city", vocabulary=Vocabulary(("Bern", "Oslo"))), Covariate("area", 5.0)),
)
CITIES = {"unique_id": ["s1", "s0"], "city": ["Bern", "Oslo"], "area": [3, 7.5]}


@pytest.fixture(scope="module")
def tft() -> Forecaster:
    """A model that reads columns of every kind."""
    torch.manual_seed(5)
    spec = TFTSpec(width=8, heads=2)
    shape = Shape(
        context=CONTEXT, horizon=HORIZON, known=INPUTS.known_sizes,
        past=sizes(INPUTS.past), static=sizes(INPUTS.static),
    )  # fmt: skip
    recipe = Recipe("h", 24, CONTEXT, 24, HORIZON, INPUTS)
    return Forecaster(spec.build(shape), spec=spec, recipe=recipe, device="cpu")


@pytest.fixture(scope="module")
def shop(
    tft: Forecaster, database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    home = fresh_home(tmp_path_factory.mktemp("shop"), database)
    publish(home, "shops", tft, tmp_path_factory.mktemp("artifact") / "shops")
    torch.manual_seed(5)
    inputs = Inputs(known=(Covariate("rain"),))
    ridge = RidgeSpec().build(Shape(context=CONTEXT, horizon=HORIZON, known=(0,)))
    recipe = Recipe("h", 24, CONTEXT, 24, HORIZON, inputs)
    rainy = Forecaster(ridge, spec=RidgeSpec(), recipe=recipe, device="cpu")
    publish(home, "rainy", rainy, tmp_path_factory.mktemp("artifact") / "rainy")
    yield from listening(application(home, Settings.read({"models": {"default": "shops"}})))


def body() -> dict[str, Any]:
    rows = range(CONTEXT)
    promo = ["coupon" if row % 5 == 0 else "none" for row in rows]
    return {
        "data": table(series(CONTEXT), series(CONTEXT, seed=1))
        | {"promo": promo * 2, "rain": [row % 3 for row in rows] * 2},
        "future": {
            "unique_id": ["s0"] * HORIZON + ["s1"] * HORIZON,
            "ds": stamps(CONTEXT + HORIZON)[CONTEXT:] * 2,
            "promo": ["none"] * (2 * HORIZON),
        },
        "static": CITIES,
        "freq": "h",
    }


def mean(reply: Any) -> list[float]:
    assert reply.status_code == 200, reply.text
    return list(reply.json()["forecast"]["mean"])


def test_the_numbers_are_those_of_the_library(shop: Running, tft: Forecaster) -> None:
    """The same table through either door."""
    asked = body()
    frame = pl.DataFrame(asked["data"]).join(pl.DataFrame(CITIES, strict=False), on="unique_id")
    schema = Schema(id="unique_id", time="ds", targets=("y",), **INPUTS.names)
    panel, _ = read_panel(frame, schema=schema, freq="h")
    expected = tft.predict(panel, future=pl.DataFrame(asked["future"])).table["mean"]
    assert mean(shop.post("/v1/forecasts", asked)) == pytest.approx(expected.to_list(), rel=1e-6)


@pytest.mark.parametrize(
    ("where", "column", "cells"),
    [
        ("future", "promo", ["coupon"] * (2 * HORIZON)),
        ("data", "rain", [9.0] * (2 * CONTEXT)),
        ("static", "city", ["Oslo", "Oslo"]),
        ("static", "area", [30.0, 75.0]),
    ],
)
def test_every_column_counts(shop: Running, where: str, column: str, cells: list[Any]) -> None:
    """A column that is asked for and then ignored deceives."""
    asked = body()
    before = mean(shop.post("/v1/forecasts", asked))
    asked[where] = asked[where] | {column: cells}
    assert mean(shop.post("/v1/forecasts", asked)) != before


def test_an_unseen_category_is_unknown_and_said(shop: Running) -> None:
    asked = body()
    asked["static"] = CITIES | {"city": ["Bern", "Rome"]}
    reply = shop.post("/v1/forecasts", asked)
    assert reply.status_code == 200
    (warning,) = reply.json()["warnings"]
    assert warning["code"] == "unknown_category"
    assert warning["message"].startswith("city: 1 value did not occur in training;")
    assert "Rome" not in reply.text


@pytest.mark.parametrize(("where", "name"), [("data", "rain"), ("static", "area")])
def test_a_series_without_a_value_of_a_column_is_named(
    shop: Running, where: str, name: str
) -> None:
    """It is forecast as if the column had its training mean; that is never silent."""
    asked = body()
    cells = asked[where][name]
    own = [row for row, series_id in enumerate(asked[where]["unique_id"]) if series_id == "s1"]
    asked[where] = asked[where] | {
        name: [None if row in own else cell for row, cell in enumerate(cells)]
    }
    reply = shop.post("/v1/forecasts", asked)
    assert reply.status_code == 200, reply.text
    (warning,) = reply.json()["warnings"]
    assert (warning["code"], warning["unique_id"]) == ("values_missing", "s1")
    assert warning["count"] == len(own)
    assert f"{len(own)} of {name}." in warning["message"]


@pytest.mark.parametrize(
    ("static", "pointer", "code"),
    [
        ({}, "", "covariate_missing"),
        ({**CITIES, "unique_id": ["s0", None]}, "/static/unique_id/1", "id_invalid"),
        ({**CITIES, "unique_id": [0, 1]}, "/static/unique_id", "id_invalid"),
        ({"unique_id": [], "city": [], "area": []}, "/static", "covariate_missing"),
        ({"unique_id": ["s0", "s1"], "city": ["Bern", "Oslo"]}, "/static", "covariate_missing"),
        ({"unique_id": ["s0"], "city": ["Bern"], "area": [1]}, "/static", "covariate_missing"),
        (
            {"unique_id": ["s0", "s1", "s1"], "city": ["Bern"] * 3, "area": [1, 1, 2]},
            "/static",
            "static_conflict",
        ),
        ({**CITIES, "area": ["big", "small"]}, "/static/area/0", "non_numeric"),
        ({**CITIES, "area": [1]}, "/static/area", "length_mismatch"),
        ({"city": ["Bern"], "area": [1]}, "/static", "covariate_missing"),
    ],
)
def test_attributes_that_are_not_there_are_named(
    shop: Running, static: dict[str, Any], pointer: str, code: str
) -> None:
    reply = shop.post("/v1/forecasts", body() | {"static": static})
    assert reply.status_code == 422, reply.text
    assert (pointer, code) in [(e["pointer"], e.get("code")) for e in reply.json()["errors"]]


def test_the_pointer_of_an_absent_table_resolves(shop: Running) -> None:
    """A client that follows it would otherwise look for a member that it never sent."""
    asked = body()
    del asked["static"]
    (error,) = shop.post("/v1/forecasts", asked).json()["errors"]
    assert error.get("pointer") == ""


@pytest.mark.parametrize(
    ("rows", "code"), [([1], "covariate_missing"), ([0, 1, 0], "static_conflict")]
)
def test_a_series_without_its_one_row_is_skipped_alone(
    shop: Running, rows: list[int], code: str
) -> None:
    """One forgotten row would otherwise cost ten thousand series their forecast."""
    asked = body()
    whole = mean(shop.post("/v1/forecasts", asked))
    asked["static"] = {name: [cells[row] for row in rows] for name, cells in CITIES.items()}
    asked["options"] = {"on_invalid": "skip"}
    reply = shop.post("/v1/forecasts", asked)
    assert mean(reply) == pytest.approx(whole[:HORIZON], rel=1e-6)
    assert [entry["status"] for entry in reply.json()["series"]] == ["ok", "invalid"]
    (error,) = reply.json()["series"][1]["errors"]
    assert (error["code"], error["pointer"]) == (code, "/static")


@pytest.mark.parametrize("form", ["columns", "records"])
@pytest.mark.parametrize(
    ("model", "where", "name", "row", "cell", "code"),
    [
        ("shops", "data", "rain", CONTEXT + 3, "wet", "non_numeric"),
        ("shops", "data", "rain", CONTEXT + 3, 10**400, "non_finite"),
        ("shops", "data", "y", CONTEXT + 3, 10**400, "non_finite"),
        ("shops", "static", "area", 0, "big", "non_numeric"),
        ("rainy", "future", "rain", HORIZON + 1, "wet", "non_numeric"),
        ("rainy", "future", "ds", HORIZON + 1, "nope", "timestamp_invalid"),
        ("shops", "future", "ds", HORIZON + 1, None, "timestamp_invalid"),
    ],
    ids=lambda part: str(part)[:9],
)
def test_a_cell_that_cannot_be_read_costs_its_own_series_alone(
    shop: Running, form: str, model: str, where: str, name: str, row: int, cell: Any, code: str
) -> None:
    """One word among the numbers would otherwise cost ten thousand series their forecast."""
    asked = body() | {"model": model}
    asked["future"]["rain"] = [1.5] * (2 * HORIZON)
    whole = mean(shop.post("/v1/forecasts", asked))
    cells = asked[where][name]
    asked[where] = asked[where] | {name: [*cells[:row], cell, *cells[row + 1 :]]}
    pointer = f"/{where}/{name}/{row}"
    if form == "records":
        pointer = f"/{where}/{row}/{name}"
        rows = zip(*asked[where].values(), strict=True)
        asked[where] = [dict(zip(asked[where], cells, strict=True)) for cells in rows]
    refused = shop.post("/v1/forecasts", asked).json()
    assert (refused["status"], refused["type"]) == (422, "/problems/invalid-data")
    assert (refused["errors"][0]["code"], refused["errors"][0]["pointer"]) == (code, pointer)
    reply = shop.post("/v1/forecasts", asked | {"options": {"on_invalid": "skip"}})
    assert mean(reply) == pytest.approx(whole[:HORIZON], rel=1e-6)
    assert [entry["status"] for entry in reply.json()["series"]] == ["ok", "invalid"]
    (error,) = reply.json()["series"][1]["errors"]
    assert (error["code"], error["pointer"]) == (code, pointer)


def test_the_second_row_of_one_series_costs_its_groups_others_nothing(shop: Running) -> None:
    asked = {name: body()[name] for name in ("data", "freq")} | {"model": "linear", "h": 2}
    asked["static"] = {"unique_id": ["s1", "s0", "s1"], "group_id": ["a", "b", "c"]}
    (error,) = shop.post("/v1/forecasts", asked).json()["errors"]
    assert (error["code"], error["pointer"]) == ("static_conflict", "/static/unique_id/2")
    reply = shop.post("/v1/forecasts", asked | {"options": {"on_invalid": "skip"}})
    assert reply.status_code == 200, reply.text
    assert [entry["status"] for entry in reply.json()["series"]] == ["ok", "invalid"]
    (error,) = reply.json()["series"][1]["errors"]
    assert error["code"] == "static_conflict"


def test_ids_keep_their_type_in_a_fault(shop: Running) -> None:
    asked = body()
    for table_ in (asked["data"], asked["future"]):
        table_["unique_id"] = [int(name[1:]) for name in table_["unique_id"]]
    asked["static"] = {"unique_id": [0], "city": ["Bern"], "area": [1]}
    (error,) = shop.post("/v1/forecasts", asked).json()["errors"]
    assert error["unique_id"] == 1


def test_a_row_without_an_id_is_named_as_that(shop: Running) -> None:
    """Not as a series called None that lacks its attributes; left out, it is said."""
    asked = body()
    asked["data"]["unique_id"] = [None, *asked["data"]["unique_id"][1:]]
    (error,) = shop.post("/v1/forecasts", asked).json()["errors"]
    assert (error["code"], error["pointer"]) == ("id_invalid", "/data/unique_id/0")
    asked["options"] = {"on_invalid": "skip"}
    reply = shop.post("/v1/forecasts", asked)
    assert reply.status_code == 200, reply.text
    assert "id_invalid" in [warning["code"] for warning in reply.json()["warnings"]]


def test_many_attributes_are_read_in_time() -> None:
    """Looked up row by row, 1,000 series of 100 rows would hold the service for seconds."""
    ids = [f"s{number}" for number in range(1_000)]
    rows = [name for name in ids for _ in range(100)]
    static: Any = {"unique_id": ids * 2, "city": ["Bern"] * 2_000, "area": [1] * 2_000}
    data: Any = {"unique_id": rows, "ds": ["2026"] * len(rows), "y": [1.0] * len(rows)}
    asked = ForecastRequest.model_construct(data=data, static=static)
    started = time.process_time()
    columns, faults = attributes.read(asked, INPUTS)
    assert time.process_time() - started < 1
    assert len(columns["city"]) == len(rows)
    assert len(faults) == len(ids)


def test_a_mixed_category_has_the_words_of_its_values() -> None:
    """The carrier 7 that shares a column with "AA" is still the carrier "7"."""
    assert column_of("carrier", [7, "AA", 7.0, None, 2.5]).to_list() == [
        "7",
        "AA",
        "7",
        None,
        "2.5",
    ]


def test_a_past_column_that_is_not_there_is_named(shop: Running) -> None:
    asked = body()
    del asked["data"]["rain"]
    reply = shop.post("/v1/forecasts", asked)
    assert reply.status_code == 422
    assert "rain in data" in reply.json()["errors"][0]["message"]


def test_a_comparison_reads_them_too(shop: Running) -> None:
    asked = body() | {"models": ["shops"], "h": HORIZON, "options": {"holdout": HORIZON}}
    del asked["future"]
    reply = shop.post("/v1/compare", asked)
    assert reply.status_code == 200, reply.text
    assert reply.json()["leaderboard"][0]["failed_series"] == 0


@pytest.mark.parametrize("history", [[1, 7], ["1", "7"], [True, False], [1.0, 7.0]])
@pytest.mark.parametrize("coming", [1, "1", 1.0, True, 2.5])
def test_a_comparison_takes_the_names_of_a_category_in_any_form(
    shop: Running, history: list[Any], coming: Any
) -> None:
    """Carrier 7 of the history and carrier "7" of the steps to come are one table."""
    asked = body() | {"models": ["shops"], "h": HORIZON, "options": {"holdout": 2}}
    asked["data"]["promo"] = history * CONTEXT
    keep = [0, 1, HORIZON, HORIZON + 1]
    asked["future"] = {name: [cells[i] for i in keep] for name, cells in asked["future"].items()}
    asked["future"]["promo"] = [coming] * len(keep)
    reply = shop.post("/v1/compare", asked)
    assert reply.status_code == 200, reply.text


def test_a_column_in_two_roles_is_named(shop: Running) -> None:
    """Rain known ahead for one model and to the cutoff for another is no one table."""
    asked = body() | {"models": ["shops", "rainy"], "h": HORIZON}
    problem = shop.post("/v1/compare", asked).json()
    assert (problem["status"], problem["type"]) == (422, "/problems/model-incompatible")
    assert problem["errors"][0]["pointer"] == "/models"
    assert "reads rain as known, another as past" in problem["detail"]


@pytest.mark.parametrize("role", ["id", "time", "target"])
@pytest.mark.parametrize("name", ["city", "rain", "promo"])
def test_a_column_of_the_model_is_not_one_of_the_clients_own(
    shop: Running, role: str, name: str
) -> None:
    """A target that is called as an attribute has two meanings; neither is guessed."""
    problem = shop.post("/v1/forecasts", body() | {"columns": {role: name}}).json()
    assert (problem["status"], problem["type"]) == (422, "/problems/invalid-request")
    (error,) = problem["errors"]
    assert error["pointer"] == f"/columns/{role}"
    assert f"the column {name} " in error["message"]


def test_the_card_says_what_is_needed(shop: Running) -> None:
    card = shop.client.get("/v1/models/shops/versions/1").json()
    assert card["covariates"] == {"known": ["promo"], "past": ["rain"], "static": ["city", "area"]}
