"""Covariates known over the horizon: all of them, for every step, or a problem that names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from pipelines.covariates import Covariate, Inputs
from pipelines.forecaster import Forecaster
from pipelines.panel import read_panel
from pipelines.recipe import Recipe
from pipelines.schema import Schema
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.running import Running, application, listening, publish, series, stamps, table
from tsformer.batch import Shape
from tsformer.models import spec_from_mapping

CONTEXT, HORIZON = 48, 4
PRICES = [float(i % 7) for i in range(CONTEXT + HORIZON)]


@pytest.fixture(scope="module")
def priced() -> Forecaster:
    """A model that reads prices."""
    torch.manual_seed(3)
    spec = spec_from_mapping({"kind": "ridge"})
    model = spec.build(Shape(context=CONTEXT, horizon=HORIZON, known=(0,)))
    with torch.no_grad():
        for weight in (*model.parameters(), *model.buffers()):
            if weight.is_floating_point():
                weight.copy_(torch.randn_like(weight) / 10)
    recipe = Recipe(
        frequency="h", season=24, context=CONTEXT, min_context=24, horizon=HORIZON,
        inputs=Inputs(known=(Covariate("price", 3.0, 2.0),)),
    )  # fmt: skip
    return Forecaster(model, spec=spec, recipe=recipe, device="cpu")


@pytest.fixture(scope="module")
def shop(
    priced: Forecaster, database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    home = fresh_home(tmp_path_factory.mktemp("shop"), database)
    publish(home, "priced", priced, tmp_path_factory.mktemp("artifact") / "priced")
    yield from listening(application(home, Settings.read({"models": {"default": "priced"}})))


def body(*, names: tuple[str, str, str] = ("unique_id", "ds", "y")) -> dict[str, Any]:
    """Two series under the client's own names, their prices, and those to come."""
    data = table(series(CONTEXT), series(CONTEXT, seed=1))
    steps = stamps(CONTEXT + HORIZON)[CONTEXT:]
    future = {names[0]: ["s0"] * HORIZON + ["s1"] * HORIZON, names[1]: steps * 2}
    return {
        "data": dict(zip(names, data.values(), strict=True)) | {"price": PRICES[:CONTEXT] * 2},
        "future": future | {"price": PRICES[CONTEXT:] * 2},
        "columns": dict(zip(("id", "time", "target"), names, strict=True)),
        "freq": "h",
    }


def test_the_numbers_are_those_of_the_library(shop: Running, priced: Forecaster) -> None:
    asked = body(names=("shop", "hour", "sold"))
    schema = Schema(id="shop", time="hour", targets=("sold",), known=("price",))
    panel, _ = read_panel(pl.DataFrame(asked["data"]), schema=schema, freq="h")
    expected = priced.predict(panel, future=pl.DataFrame(asked["future"])).table["mean"]
    reply = shop.post("/v1/forecasts", asked)
    assert reply.status_code == 200, reply.text
    assert reply.json()["forecast"]["mean"] == pytest.approx(expected.to_list(), rel=1e-6)
    dearer = asked | {"future": asked["future"] | {"price": [9.0] * HORIZON * 2}}
    other = shop.post("/v1/forecasts", dearer).json()["forecast"]["mean"]
    assert other != reply.json()["forecast"]["mean"]


def test_the_horizon_is_that_of_the_future(shop: Running) -> None:
    asked = body()
    keep = [i for i in range(2 * HORIZON) if i % HORIZON < 2]
    asked["future"] = {name: [cells[i] for i in keep] for name, cells in asked["future"].items()}
    assert shop.post("/v1/forecasts", asked).json()["h"] == 2


def cut(asked: dict[str, Any], row: int) -> dict[str, Any]:
    return {name: cells[:row] + cells[row + 1 :] for name, cells in asked["future"].items()}


def test_every_fault_of_the_future_is_named(shop: Running) -> None:
    asked = body()
    missing = shop.post("/v1/forecasts", asked | {"future": cut(asked, 5), "h": HORIZON})
    assert missing.status_code == 422
    problem = missing.json()
    assert problem["type"] == "/problems/future-covariates-missing"
    (error,) = problem["errors"]
    assert (error["code"], error["unique_id"]) == ("future_missing", "s1")
    assert asked["future"]["ds"][5] in error["message"]

    late = [*asked["future"]["ds"][:-1], "2027-01-01T00:00:00"]
    problem = shop.post("/v1/forecasts", asked | {"future": asked["future"] | {"ds": late}}).json()
    assert problem["type"] == "/problems/future-covariates-missing"
    assert {e["code"]: e["pointer"] for e in problem["errors"]} == {
        "future_missing": "/future", "future_extra": "/future/ds/7",
    }  # fmt: skip

    prices = [*asked["future"]["price"][:-1], None]
    problem = shop.post(
        "/v1/forecasts", asked | {"future": asked["future"] | {"price": prices}}
    ).json()
    assert problem["errors"][0]["code"] == "covariate_missing"
    assert problem["errors"][0]["pointer"] == "/future/price/7"


@pytest.mark.parametrize("absent", ["future", "price of data", "price of future"])
def test_what_is_not_there_at_all_is_named(shop: Running, absent: str) -> None:
    asked = body()
    if absent == "future":
        del asked["future"]
    else:
        del asked[absent.split()[-1]]["price"]
    reply = shop.post("/v1/forecasts", asked)
    assert (reply.status_code, reply.json()["type"]) == (422, "/problems/future-covariates-missing")
    assert "price" in reply.json()["errors"][0]["message"]


def test_a_series_without_its_future_is_skipped_alone(shop: Running) -> None:
    asked = body()
    whole = shop.post("/v1/forecasts", asked).json()["forecast"]["mean"]
    asked |= {"future": cut(asked, 5), "h": HORIZON, "options": {"on_invalid": "skip"}}
    answer = shop.post("/v1/forecasts", asked).json()
    assert [entry["status"] for entry in answer["series"]] == ["ok", "invalid"]
    assert answer["forecast"]["mean"] == pytest.approx(whole[:HORIZON])


@pytest.mark.parametrize("what", ["data", "future"])
def test_every_series_may_be_skipped(shop: Running, what: str) -> None:
    asked = body() | {"h": HORIZON, "options": {"on_invalid": "skip"}}
    for table_ in (asked["data"], asked["future"]):
        table_["unique_id"] = [int(name[1:]) for name in table_["unique_id"]]
    asked[what]["ds"] = [s.replace(":00:00", ":30:00") if s.endswith("3:00:00") else s
                         for s in asked[what]["ds"]]  # fmt: skip
    reply = shop.post("/v1/forecasts", asked)
    assert reply.status_code == 200, reply.text
    assert {entry["status"] for entry in reply.json()["series"]} == {"invalid"}


def test_a_bad_cell_of_the_future_is_named(shop: Running) -> None:
    asked = body()
    for cell, code in (("dear", "non_numeric"), ([], None), ({}, None)):
        asked["future"]["price"][3] = cell
        problem = shop.post("/v1/forecasts", asked).json()
        assert (problem["status"], problem["errors"][0]["pointer"]) == (422, "/future/price/3")
        assert problem["errors"][0].get("code") == code


def test_held_out_rows_keep_their_known_covariates(shop: Running) -> None:
    """They were known: without them a model of prices could not be scored on the past."""
    asked = body()
    del asked["future"]
    compared = asked | {"models": ["priced"], "h": HORIZON, "options": {"holdout": HORIZON}}
    reply = shop.post("/v1/compare", compared)
    assert reply.status_code == 200, reply.text
    rows = [i for i in range(2 * CONTEXT) if i % CONTEXT < CONTEXT - HORIZON]
    cells = asked["data"]
    past = {name: [cells[name][i] for i in rows] for name in cells}
    held = [i for i in range(2 * CONTEXT) if i not in set(rows)]
    future = {name: [cells[name][i] for i in held] for name in ("unique_id", "ds", "price")}
    alone = shop.post("/v1/forecasts", asked | {"data": past, "future": future}).json()
    assert reply.json()["forecasts"][0]["columns"]["mean"] == alone["forecast"]["mean"]


def test_columns_that_no_model_reads_are_said(shop: Running) -> None:
    asked = body()
    asked["data"]["c4nary"] = [0] * CONTEXT * 2
    answer = shop.post("/v1/forecasts", asked).json()
    assert [w["code"] for w in answer["warnings"]] == ["unused_column"]
    assert "Column 4 of data" in answer["warnings"][0]["message"]
    asked["model"] = "seasonal_naive"
    warned = shop.post("/v1/forecasts", asked).json()["warnings"]
    assert [w["code"] for w in warned] == ["unused_column"] * 3
