"""POST /v1/explanations: shares that add up, of the very windows that were forecast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
import torch

from pipelines.covariates import Covariate, Inputs
from pipelines.features.categories import Vocabulary
from pipelines.forecaster import Forecaster
from pipelines.recipe import Recipe
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.running import Running, application, listening, publish, series, stamps, table
from tests.serving.streams import ask, packed
from tsformer.batch import Shape
from tsformer.explain import selection, variate_attention
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.ridge import RidgeSpec
from tsformer.models.samformer import SAMformerSpec
from tsformer.models.tft import TFTSpec

CONTEXT, HORIZON = 48, 6
PATH = "/v1/explanations"


def made(spec: Any, inputs: Inputs, *, joint: bool) -> Forecaster:
    torch.manual_seed(5)
    shape = Shape(
        context=CONTEXT, horizon=HORIZON, known=(0,) * len(inputs.known),
        past=(0,) * len(inputs.past), static=tuple(column.size for column in inputs.static),
    )  # fmt: skip
    recipe = Recipe("h", 24, CONTEXT, 24, HORIZON, inputs, joint)
    return Forecaster(spec.build(shape).eval(), spec=spec, recipe=recipe, device="cpu")


SHOP = Inputs(
    known=(Covariate("price"),),
    past=(Covariate("rain"),),
    static=(Covariate("city", vocabulary=Vocabulary(("Berlin", "Rome"))),),
)
MODELS = {
    "tft": made(TFTSpec(width=8, heads=2), SHOP, joint=False),
    "itransformer": made(
        ITransformerSpec(width=16, heads=2, feedforward=16, depth=2),
        Inputs(past=(Covariate("rain"),)),
        joint=True,
    ),
    "samformer": made(SAMformerSpec(), Inputs(), joint=True),
    "ridge": made(RidgeSpec(), Inputs(), joint=False),
}


@pytest.fixture(scope="module")
def telling(database: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = fresh_home(tmp_path_factory.mktemp("telling"), database)
    for name, one in MODELS.items():
        publish(home, name, one, tmp_path_factory.mktemp("artifact") / name)
    yield from listening(application(home, Settings.read({"models": {"default": "tft"}})))


def shop(*ids: str, rows: int = CONTEXT) -> dict[str, Any]:
    data = table(*(series(rows, seed=n) for n in range(len(ids))), ids=[*ids])
    data["price"] = [1.0 + n % 3 for n in range(len(data["y"]))]
    data["rain"] = [0.1 * (n % 7) for n in range(rows)] * len(ids)
    ahead = stamps(HORIZON, start=f"2026-01-0{1 + rows // 24}T00:00:00")
    future = {
        "unique_id": [name for name in ids for _ in range(HORIZON)],
        "ds": ahead * len(ids),
        "price": [2.0] * (HORIZON * len(ids)),
    }
    static = {"unique_id": [*ids], "city": ["Berlin"] * len(ids)}
    return {"data": data, "future": future, "static": static, "freq": "h"}


def asked(telling: Running, body: dict[str, Any]) -> dict[str, Any]:
    reply = telling.post(PATH, body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def adds_up(columns: dict[str, list[Any]], *whole: str, value: str) -> bool:
    frame = pl.DataFrame(columns, strict=False)
    assert (frame[value] >= 0).all()
    sums = frame.group_by(whole).agg(pl.col(value).sum())[value].to_numpy()
    return bool(np.abs(sums - 1).max() < 1e-9)


def test_an_explained_forecast_is_recorded_where_that_is_asked(telling: Running) -> None:
    """It was accepted and forgotten: later actuals would have met nothing."""
    body = shop("recorded")
    asked(telling, {**body, "options": {"record": True}})
    later = {"unique_id": ["recorded"], "ds": body["future"]["ds"][:1], "y": [10.0]}
    reply = telling.post("/v1/actuals", {"data": later})
    assert reply.status_code == 200, reply.text
    assert reply.json()["matched"] == 1


def test_variables_and_steps_of_each_series(telling: Running) -> None:
    """A planner asks why: which of the columns, and how far back."""
    body = shop("b", "a")
    answer = asked(telling, body)
    for member in ("forecast", "series", "model", "h", "warnings"):
        other = telling.post("/v1/forecasts", body).json()[member]
        assert answer[member] == other
    variables, attention = answer["variables"], answer["attention"]
    assert dict.fromkeys(variables["unique_id"]) == {"b": None, "a": None}
    pairs = set(zip(variables["role"], variables["variable"], strict=True))
    assert {
        ("static", "city"),
        ("encoder", "y"),
        ("encoder", "rain"),
        ("decoder", "price"),
    } <= pairs
    assert adds_up(variables, "unique_id", "role", value="importance")
    assert adds_up(attention, "unique_id", "step", value="weight")
    assert (set(attention["step"]), min(attention["lag"])) == ({*range(1, HORIZON + 1)}, 0)
    assert max(attention["lag"]) == CONTEXT + HORIZON - 1


def test_the_numbers_are_those_of_the_model(telling: Running) -> None:
    """What is told must be what the forecast was made with, not a picture beside it."""
    body = shop("a")
    answer = asked(telling, body)
    tft = MODELS["tft"]
    panel_body = body["data"]
    batch = _batch(tft, panel_body, body)
    found = selection(tft.model, batch)
    weights = found.attention[0, 0, 2].double().numpy()  # step 3
    rows = [
        (lag, weight)
        for step, lag, weight in zip(*(answer["attention"][n] for n in ("step", "lag", "weight")), strict=True)
        if step == 3
    ]  # fmt: skip
    expected = weights[: len(rows)]
    np.testing.assert_allclose([w for _, w in rows], expected / expected.sum(), rtol=1e-5)


def _batch(tft: Forecaster, data: dict[str, Any], body: dict[str, Any]) -> Any:
    from pipelines.panel import read_panel
    from pipelines.schema import Schema

    frame = pl.DataFrame(data).with_columns(city=pl.lit("Berlin"))
    schema = Schema("ds", ("y",), "unique_id", ("price",), ("rain",), ("city",))
    panel, _ = read_panel(frame, schema=schema, freq="h")
    plan = tft.plan(panel, future=pl.DataFrame(body["future"]))
    return plan.course.question().batch()


def test_tables_in_arrow_are_explained_too(telling: Running) -> None:
    """A job about a stored dataset sends them."""
    body = shop("b", "a")
    reply = ask(telling, packed(body), path=PATH, accept="application/json")
    assert reply.status_code == 200, reply.text
    assert reply.json()["variables"] == asked(telling, body)["variables"]


def test_of_all_series_together(telling: Running) -> None:
    body = shop("b", "a")
    each, whole = asked(telling, body), asked(telling, body | {"explain": {"aggregate": "request"}})
    assert set(whole["variables"]["unique_id"]) == {None}
    assert len(each["variables"]["role"]) == 2 * len(whole["variables"]["role"])
    mean = np.array(each["attention"]["weight"]).reshape(2, -1).mean(0)
    np.testing.assert_allclose(whole["attention"]["weight"], mean, rtol=1e-6)
    assert adds_up(whole["variables"], "role", value="importance")


@pytest.mark.parametrize("name", ["itransformer", "samformer"])
def test_variates_of_each_group(telling: Running, name: str) -> None:
    """Who is forecast from whom, within a group and never across."""
    body = shop("a", "b", "c", "d")
    static = {"unique_id": ["a", "b", "d"], "group_id": ["x", "y", "x"]}
    answer = asked(telling, body | {"static": static, "model": name})
    told = answer["variate_attention"]
    rows = [*zip(told["group_id"], told["from"], told["to"], strict=True)]
    own = {("x", "a"), ("x", "d"), ("y", "b"), (None, "c")}
    columns = {"rain"} if name == "itransformer" else set()
    assert {(group, reader) for group, reader, _ in rows} == own
    for group, reader in own:
        among = {member for label, member in own if label == group}
        assert {to for g, r, to in rows if (g, r) == (group, reader)} == among | columns
    assert adds_up(told, "from", value="weight")
    if name == "samformer":
        alone = shop("a", "d")["data"]
        past = np.array(body["data"]["y"]).reshape(4, -1)[[0, 3]].T
        assert len(alone["y"]) == past.size
        batch = _plain(past)
        expected = variate_attention(MODELS[name].model, batch).weights.mean(1)[0, 0, 1]
        found = told["weight"][rows.index(("x", "a", "d"))]
        assert found == pytest.approx(float(expected), rel=1e-5)


def _plain(past: np.ndarray) -> Any:
    from pipelines.query import Query

    return Query(past[None]).batch()


@pytest.mark.parametrize("name", ["ridge", "linear"])
def test_a_model_that_says_nothing_is_named(telling: Running, name: str) -> None:
    reply = telling.post(PATH, {**shop("a"), "model": name})
    assert (reply.status_code, reply.json()["type"]) == (422, "/problems/model-incompatible")
    assert "tft" in reply.json()["errors"][0]["message"]


def test_a_series_that_was_not_forecast_by_the_model_is_not_explained(telling: Running) -> None:
    body = shop("a")
    short = table(series(5), ids=["s"])
    for name, cells in short.items():
        body["data"][name] += cells
    for name in ("price", "rain"):
        body["data"][name] += [1.0] * 5
    body["future"] = {
        name: [*body["future"][name], *more]
        for name, more in (
            ("unique_id", ["s"] * HORIZON),
            ("ds", stamps(HORIZON, start="2026-01-01T05:00:00")),
            ("price", [2.0] * HORIZON),
        )
    }
    body["static"] = {"unique_id": ["a", "s"], "city": ["Berlin", "Rome"]}
    answer = asked(telling, body)
    assert [entry["status"] for entry in answer["series"]] == ["ok", "insufficient_history"]
    assert set(answer["variables"]["unique_id"]) == {"a"}


def test_an_explanation_has_a_largest_size(telling: Running) -> None:
    own = telling.app.state.service
    limits = replace(own.settings.limits, explanation_values=100)
    small = replace(own, settings=replace(own.settings, limits=limits))
    with patch.object(telling.app.state, "service", small):  # monkeypatch would end by deleting it
        problem = telling.post(PATH, shop("a")).json()
    assert telling.post(PATH, shop("a")).status_code == 200
    assert (problem["status"], problem["limit"]) == (413, "explanation_values")
