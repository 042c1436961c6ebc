"""POST /v1/anomalies: each point against a forecast that did not see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from pipelines.covariates import Covariate, Inputs
from pipelines.forecaster import Forecaster
from pipelines.recipe import Recipe
from serving import rolling
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.running import Running, application, listening, publish, series, stamps, table
from tests.serving.streams import ask, packed, unpack
from tsformer.batch import Shape
from tsformer.conformal import LEVELS, Calibration
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.ridge import RidgeSpec

PATH = "/v1/anomalies"
CONTEXT, HORIZON, LAST = 48, 4, 6
PRICES = [float(i % 7) for i in range(60)]


def forecaster(spec: Any, *, known: tuple[Covariate, ...] = (), joint: bool = False) -> Forecaster:
    """A model at random weights, with intervals."""
    torch.manual_seed(5)
    model = spec.build(Shape(context=CONTEXT, horizon=HORIZON, known=(0,) * len(known)))
    with torch.no_grad():
        for weight in (*model.parameters(), *model.buffers()):
            if weight.is_floating_point():
                weight.copy_(torch.randn_like(weight) / 10)
    residuals = torch.linspace(-1, 1, len(LEVELS), dtype=torch.float64).expand(HORIZON, -1)
    recipe = Recipe("h", 24, CONTEXT, 24, HORIZON, Inputs(known=known), joint)
    calibration = Calibration(LEVELS, residuals)
    return Forecaster(model, spec=spec, recipe=recipe, calibration=calibration, device="cpu")


@pytest.fixture(scope="module")
def plant(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Models that read prices known ahead, series side by side, and neither."""
    home = fresh_home(tmp_path_factory.mktemp("plant"), database)
    transformer = ITransformerSpec(width=16, heads=2, feedforward=16, depth=1)
    made = {
        "plain": forecaster(RidgeSpec()),
        "priced": forecaster(RidgeSpec(), known=(Covariate("price", 3.0, 2.0),)),
        "joint": forecaster(transformer, joint=True),
    }
    for name, one in made.items():
        publish(home, name, one, tmp_path_factory.mktemp("artifact") / name)
    yield from listening(application(home, Settings.read({"models": {"default": "plain"}})))


def detect(service: Running, data: dict[str, Any], **body: Any) -> dict[str, Any]:
    wanted = {"level": 80, "last": LAST, "h": 1, **body.pop("detect", {})}
    reply = service.post(PATH, {"freq": "h", "data": data, "detect": wanted, **body})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def before(data: dict[str, Any], rows: int, *, length: int) -> dict[str, Any]:
    """The first `rows` rows of each series of `length` rows."""
    kept = [i for i in range(len(data["y"])) if i % length < rows]
    return {name: [cells[i] for i in kept] for name, cells in data.items()}


@pytest.mark.parametrize("h", [1, 3, 4, 5, 6, 9])
@pytest.mark.parametrize("model", ["plain", "priced", "joint", "joint all", "seasonal_naive"])
def test_each_point_is_forecast_from_earlier_points_alone(
    plant: Running, model: str, h: int
) -> None:
    """Law 6: they are the numbers of a forecast that was asked before the points were there."""
    length = len(PRICES)
    model, _, group = model.partition(" ")
    options = {"group": group or "by_id"}
    data = table(series(length), series(length, seed=1)) | {"price": PRICES * 2}
    found = detect(plant, data, model=model, options=options, detect={"h": h})["forecast"]
    for start in range(length - LAST, length, h):
        steps = min(h, length - start)
        body = {"data": before(data, start, length=length), "freq": "h", "h": steps, "model": model}
        body |= {"options": options}
        ahead = {"unique_id": ["s0"] * steps + ["s1"] * steps}
        ahead |= {"ds": stamps(length)[start : start + steps] * 2}
        body |= {"future": ahead | {"price": PRICES[start : start + steps] * 2}}
        alone = plant.post("/v1/forecasts", body | {"quantiles": [0.1, 0.9]}).json()["forecast"]
        for s in range(2):
            at = s * LAST + start - (length - LAST)
            for name, column in (("mean", "mean"), ("lo", "q0.1"), ("hi", "q0.9")):
                wanted = alone[column][s * steps :][:steps]
                assert found[name][at : at + steps] == pytest.approx(wanted, rel=1e-9, abs=1e-9)
            assert found["ds"][at : at + steps] == alone["ds"][s * steps :][:steps]


def test_a_spike_is_found_and_a_missing_value_is_not_judged(plant: Running) -> None:
    """What it is for; an unknown value is neither normal nor an anomaly."""
    y = series(60)
    y[-3], y[-1] = 1e3, None
    found = detect(plant, table(y), model="seasonal_naive", detect={"level": 99})["forecast"]
    assert found["y"] == y[-LAST:]
    assert found["anomaly"][3:] == [True, found["anomaly"][4], None]
    assert (found["score"][3] > 1, found["score"][5]) == (True, None)
    for i in (0, 1, 2, 3, 4):
        half = (found["hi"][i] - found["lo"][i]) / 2
        assert found["score"][i] == pytest.approx((y[i - LAST] - found["mean"][i]) / half)
        assert found["anomaly"][i] == (not found["lo"][i] <= y[i - LAST] <= found["hi"][i])


def test_the_last_value_changes_no_forecast_before_it(plant: Running) -> None:
    """Law 6: a leak would hide the very anomaly that is looked for."""
    y = series(60)
    first = detect(plant, table(y))["forecast"]
    second = detect(plant, table([*y[:-1], 1e6]))["forecast"]
    for name in ("mean", "lo", "hi"):
        assert first[name] == second[name]
    assert second["anomaly"][-1]


@pytest.mark.parametrize("model", ["plain", "joint"])
def test_one_call_or_many_give_the_same(
    plant: Running, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many series are asked for in parts: where they are cut must not show."""
    data = table(*(series(60, seed=seed) for seed in range(4)))
    whole = detect(plant, data, model=model)
    monkeypatch.setattr(rolling, "ROWS_AT_ONCE", 100)
    assert detect(plant, data, model=model)["forecast"] == whole["forecast"]


def test_columns_have_the_names_and_levels_of_the_request(plant: Running) -> None:
    data = dict(zip(("shop", "hour", "sold"), table(series(60)).values(), strict=True))
    columns = {"id": "shop", "time": "hour", "target": "sold"}
    found = detect(plant, data, columns=columns, quantiles=[0.25])
    names = ["shop", "hour", "sold", "mean", "lo", "hi", "q0.25", "anomaly", "score"]
    assert list(found["forecast"]) == names
    assert found["detect"] == {"level": 80, "last": LAST, "h": 1}


def test_arrow_says_what_json_says(plant: Running) -> None:
    """Law 2."""
    request = {"freq": "h", "detect": {"level": 80, "last": LAST}}
    data = table(series(60), series(60, seed=1))
    answer = plant.post(PATH, {**request, "data": data}).json()
    reply = ask(plant, packed({**request, "data": data}), path=PATH)
    envelope, tables = unpack(reply.content)
    assert envelope["model"] == answer["model"]
    found = pl.from_arrow(tables["forecast"])
    assert isinstance(found, pl.DataFrame)
    for name in ("unique_id", "y", "mean", "lo", "hi", "anomaly", "score"):
        assert found[name].to_list() == answer["forecast"][name]
    assert tables["forecast"].schema.field("anomaly").type == pa.bool_()
    assert len(tables["series"]) == 2


def test_a_series_without_a_row_before_is_named(plant: Running) -> None:
    """It is refused, or left out and said to be so: there is nothing to forecast from."""
    data = table(series(60), series(LAST, seed=1))
    body = {"freq": "h", "data": data, "detect": {"last": LAST}}
    problem = plant.post(PATH, body).json()
    assert problem["type"] == "/problems/insufficient-history"
    assert [item["unique_id"] for item in problem["errors"]] == ["s1"]
    found = detect(plant, data, options={"on_invalid": "skip"})
    assert [entry["rows"] for entry in found["series"]] == [LAST, 0]
    assert found["series"][1]["status"] == "insufficient_history"
    assert set(found["forecast"]["unique_id"]) == {"s0"}


@pytest.mark.parametrize("model", ["plain", "joint", "seasonal_naive"])
@pytest.mark.parametrize("last", [60, 2**30])
def test_nothing_to_judge_is_an_empty_answer(plant: Running, model: str, last: int) -> None:
    """Under skip nothing fails, and no array is made for points that nobody has."""
    found = detect(plant, table(series(60)), model=model, detect={"last": last, "h": 5},
                   options={"on_invalid": "skip"})  # fmt: skip
    assert found["forecast"]["unique_id"] == found["forecast"]["mean"] == []
    assert [entry["status"] for entry in found["series"]] == ["insufficient_history"]
    bad = table([None] * 60)
    found = detect(plant, bad, model=model, options={"on_invalid": "skip"})
    assert found["forecast"]["y"] == []


def test_a_fallback_is_labelled(plant: Running) -> None:
    """Law 9: a point judged by the last season alone is judged less surely."""
    found = detect(plant, table(series(60), series(LAST + 10, seed=1)))
    reasons = [entry["fallback"] and entry["fallback"]["reason"] for entry in found["series"]]
    assert reasons == [None, "insufficient_history"]
    assert found["fallback"] == {"mode": "seasonal_naive", "series": 1}


def test_a_constant_series_has_no_score(plant: Running) -> None:
    """Law 7: its interval has no width; dividing by that must not give an infinity."""
    y = [5.0] * 60
    still = detect(plant, table(y), model="seasonal_naive")["forecast"]
    assert (set(still["anomaly"]), set(still["score"])) == ({False}, {0.0})
    moved = detect(plant, table([*y[:-1], 6.0]), model="seasonal_naive")["forecast"]
    assert (moved["anomaly"][-1], moved["score"][-1]) == (True, None)


@pytest.mark.parametrize("fill", ["ffill", "linear"])
def test_a_gap_is_filled_by_what_came_before_the_point(plant: Running, fill: str) -> None:
    """A line drawn across the cut would know what follows it."""
    y = series(60)
    y[-LAST - 2 : -LAST + 1] = [None] * 3
    first = detect(plant, table(y), detect={"h": LAST}, options={"fill": fill})["forecast"]
    other = [*y[: -LAST + 1], *(1e3 * i for i in range(LAST - 1))]
    second = detect(plant, table(other), detect={"h": LAST}, options={"fill": fill})["forecast"]
    assert first["mean"] == second["mean"]
    assert first["anomaly"][0] is None


@pytest.mark.parametrize(
    ("body", "type", "pointer"),
    [
        ({"detect": {"last": 0}}, "invalid-request", "/detect/last"),
        ({"detect": {"last": 2**40}}, "invalid-request", "/detect/last"),
        ({"detect": {"last": 2**30}}, "insufficient-history", "/data"),
        ({"detect": {"level": 99}}, "invalid-request", "/detect"),
        ({"detect": {"last": 1, "level": 100}}, "invalid-request", "/detect/level"),
        ({"detect": {"last": 1, "h": 5_000}}, "invalid-request", "/detect/h"),
        ({"detect": {"last": 1, "level": 99.9}}, "model-incompatible", "/detect/level"),
        ({"detect": {"last": 1, "c4nary": 1}}, "invalid-request", "/detect"),
        ({"columns": {"target": "lo"}, "detect": {"last": 1}}, "invalid-request", "/columns/target"),
        ({"options": {"record": True}, "detect": {"last": 1}}, "invalid-request", "/options/record"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused_says_where(
    plant: Running, body: dict[str, Any], type: str, pointer: str
) -> None:
    problem = plant.post(PATH, {"freq": "h", "data": table(series(60)), **body}).json()
    assert problem["type"] == f"/problems/{type}"
    assert [item["pointer"] for item in problem["errors"]] == [pointer]
    assert "c4nary" not in str(problem)


def test_many_points_are_judged_in_few_batches(plant: Running) -> None:
    """48 points of 20 series are 960 forecasts: one by one they would take seconds."""
    data = table(*(series(200, seed=seed) for seed in range(20)))
    found = detect(plant, data, detect={"last": 48})
    assert len(found["forecast"]["y"]) == 960
    assert np.isfinite(found["forecast"]["mean"]).all()
    assert found["timing_ms"]["total"] < 10_000
