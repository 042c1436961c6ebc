"""The Nixtla client with a changed address: its numbers are those of /v1/forecasts (law 16)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.covariates import Covariate, Inputs
from pipelines.forecaster import Forecaster
from pipelines.recipe import Recipe
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.nixtla_client import VERSIONS, Nixtla, nixtla
from tests.serving.running import (
    CONTEXT,
    HORIZON,
    Running,
    application,
    forecaster,
    listening,
    publish,
    series,
    stamps,
    table,
)
from tsformer.batch import Shape
from tsformer.conformal import LEVELS, Calibration
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.ridge import RidgeSpec

ROWS = 150
PREFIX = "/compat/nixtla"
CLOSE = {"rel": 0, "abs": 1e-5}  # the series deviate by about 1; the client sends float32


def reading(inputs: Inputs) -> Forecaster:
    """A linear model at random weights that reads `inputs`."""
    torch.manual_seed(7)
    spec = RidgeSpec()
    known = (0,) * (2 * len(inputs.features) + len(inputs.known))
    model = spec.build(Shape(context=CONTEXT, horizon=HORIZON, known=known))
    with torch.no_grad():
        for weight in (*model.parameters(), *model.buffers()):
            if weight.is_floating_point():
                weight.copy_(torch.randn_like(weight) / 30)
    residuals = torch.linspace(-1, 1, len(LEVELS), dtype=torch.float64).expand(HORIZON, -1)
    recipe = Recipe("h", 24, CONTEXT, 24, HORIZON, inputs)
    calibration = Calibration(LEVELS, residuals)
    return Forecaster(model, spec=spec, recipe=recipe, calibration=calibration, device="cpu")


def side_by_side() -> Forecaster:
    """A model that reads series side by side."""
    torch.manual_seed(8)
    spec = ITransformerSpec(width=16, heads=2, feedforward=16, depth=1)
    recipe = Recipe("h", 24, CONTEXT, 24, HORIZON, joint=True)
    model = spec.build(Shape(context=CONTEXT, horizon=HORIZON))
    return Forecaster(model, spec=spec, recipe=recipe, device="cpu")


@pytest.fixture(scope="module")
def shop(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The default model, one that reads a price, and one that reads the hour."""
    home = fresh_home(tmp_path_factory.mktemp("shop"), database)
    made = {
        "small": forecaster(seed=1),
        "priced": reading(Inputs(known=(Covariate("price", 3.0, 2.0),))),
        "clock": reading(Inputs(features=("hour",))),
        "together": side_by_side(),
    }
    for name, one in made.items():
        publish(home, name, one, tmp_path_factory.mktemp("artifact") / name)
    settings = {
        "models": {"default": "small"},
        "jobs": {"at_once": 0},
        "compat": {"nixtla": {"models": {"shop": "priced"}}},
    }
    yield from listening(application(home, Settings.read(settings)))


@pytest.fixture(scope="module", params=VERSIONS)
def client(request: pytest.FixtureRequest, shop: Running) -> Iterator[Nixtla]:
    with nixtla(request.param, f"{shop.client.base_url}{PREFIX}") as running:
        yield running


@pytest.fixture(scope="module")
def newest(shop: Running) -> Iterator[Nixtla]:
    with nixtla(VERSIONS[0], f"{shop.client.base_url}{PREFIX}") as running:
        yield running


def rows(count: int = 2, length: int = ROWS) -> dict[str, Any]:
    return table(*(series(length, seed=seed) for seed in range(count)))


def ours(service: Running, data: dict[str, Any], **body: Any) -> dict[str, Any]:
    """The forecast of our own route."""
    reply = service.post("/v1/forecasts", {"freq": "h", "data": data, **body})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()["forecast"]
    return found


def before(data: dict[str, Any], end: int, length: int = ROWS) -> dict[str, Any]:
    """The first `end` rows of each series of `length` rows."""
    kept = [i for i in range(len(data["y"])) if i % length < end]
    return {name: [cells[i] for i in kept] for name, cells in data.items()}


# --- forecasts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("h", [5, HORIZON, 2 * HORIZON + 3])
def test_forecasts_are_those_of_our_own_route(shop: Running, client: Nixtla, h: int) -> None:
    """Law 16; also beyond the horizon, and in the order of the client's ids and stamps."""
    data = rows(3)
    found = client.get("forecast", data, h=h, freq="h", level=[80, 95.5])
    wanted = ours(shop, data, h=h, quantiles=[0.0225, 0.1, 0.9, 0.9775])
    assert found["unique_id"] == wanted["unique_id"]
    assert [stamp.replace(" ", "T") for stamp in found["ds"]] == wanted["ds"]
    for theirs, name in (
        ("TimeGPT", "mean"), ("TimeGPT-lo-80", "q0.1"), ("TimeGPT-hi-80", "q0.9"),
        ("TimeGPT-lo-95.5", "q0.0225"), ("TimeGPT-hi-95.5", "q0.9775"),
    ):  # fmt: skip
        assert found[theirs] == pytest.approx(wanted[name], **CLOSE)


def test_quantiles_come_as_levels(shop: Running, client: Nixtla) -> None:
    """[0.1, 0.5, 0.9] arrives as the levels [80, 0, 80]."""
    data = rows()
    found = client.get("forecast", data, h=3, freq="h", quantiles=[0.1, 0.5, 0.9])
    wanted = ours(shop, data, h=3, quantiles=[0.1, 0.9])
    assert found["TimeGPT-q-10"] == pytest.approx(wanted["q0.1"], **CLOSE)
    assert found["TimeGPT-q-50"] == pytest.approx(wanted["mean"], **CLOSE)
    assert found["TimeGPT-q-90"] == pytest.approx(wanted["q0.9"], **CLOSE)


def test_covariates_reach_the_model(shop: Running, client: Nixtla) -> None:
    """They come without names, by their place: another order would be another forecast."""
    data = rows() | {"price": [float(i % 7) for i in range(ROWS)] * 2}
    ahead = {"unique_id": ["s0"] * 4 + ["s1"] * 4, "ds": stamps(ROWS + 4)[ROWS:] * 2}
    ahead |= {"price": [9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0]}
    found = client.get("forecast", data, frames={"X_df": ahead}, h=4, freq="h", model="shop")
    wanted = ours(shop, data, future=ahead, h=4, model="priced")
    assert found["TimeGPT"] == pytest.approx(wanted["mean"], **CLOSE)
    other = ours(shop, data, future=ahead | {"price": [0.0] * 8}, h=4, model="priced")
    assert found["TimeGPT"] != pytest.approx(other["mean"], abs=1e-2)


def test_a_wrong_number_of_covariates_is_refused(client: Nixtla) -> None:
    """A model that reads a price would otherwise forecast from something else."""
    found = client.ask("forecast", frames={"df": rows()}, h=4, freq="h", model="priced")
    assert (found["status"], found["problem"]["errors"][0]["pointer"]) == (422, "/series")
    assert "price" in found["problem"]["detail"]


def test_the_calendar_is_that_of_the_series(shop: Running, newest: Nixtla) -> None:
    """0.9.0 says where a series starts; the hour of its rows follows."""
    data = rows()
    wanted = ours(shop, data, h=6, model="clock")["mean"]
    found = newest.get("forecast", data, h=6, freq="h", model="clock")["TimeGPT"]
    assert found == pytest.approx(wanted, **CLOSE)
    late = data | {"ds": stamps(ROWS, start="2026-01-01T05:00:00") * 2}
    moved = newest.get("forecast", late, h=6, freq="h", model="clock")["TimeGPT"]
    assert moved == pytest.approx(ours(shop, late, h=6, model="clock")["mean"], **CLOSE)
    assert moved != pytest.approx(found, abs=1e-3)


def test_without_a_start_no_calendar_is_made_up(shop: Running, client: Nixtla) -> None:
    """Older clients say nothing of it: the hour is unknown, not midnight, wherever they start."""
    data = rows()
    late = data | {"ds": stamps(ROWS, start="2026-01-01T05:00:00") * 2}
    tz = "Europe/Berlin" if client.version == "0.9.0" else None  # whose offset changes
    first, second = (
        client.get("forecast", frame, h=6, freq="h", model="clock", tz=tz)["TimeGPT"]
        for frame in (data, late)
    )
    assert first == second
    assert first != pytest.approx(ours(shop, data, h=6, model="clock")["mean"], abs=1e-3)
    body = {"series": {"y": data["y"], "sizes": [ROWS] * 2}, "h": 6, "freq": "h", "model": "clock"}
    answer = shop.post(f"{PREFIX}/v2/forecast", body).json()
    assert answer["warnings"][0]["code"] == "calendar_unknown"
    assert answer["mean"] == pytest.approx(first, **CLOSE)


def test_history_is_forecast_from_what_came_before_it(shop: Running, client: Nixtla) -> None:
    """Fitted values that had seen their own actuals would look better than any forecast."""
    data = rows()
    found = client.get("forecast", data, h=2, freq="h", level=[80], add_history=True)
    of_first = [i for i, name in enumerate(found["unique_id"]) if name == "s0"]
    length = len(of_first) - 2
    assert length % HORIZON == 0
    start = ROWS - HORIZON
    wanted = ours(shop, before(data, start), h=HORIZON, quantiles=[0.1, 0.9])
    last = [of_first[length - HORIZON + step] for step in range(HORIZON)]
    for theirs, name in (("TimeGPT", "mean"), ("TimeGPT-lo-80", "q0.1")):
        assert [found[theirs][i] for i in last] == pytest.approx(wanted[name][:HORIZON], **CLOSE)


def test_large_bodies_are_compressed_or_split(shop: Running, client: Nixtla) -> None:
    """More than 1 MiB comes as zstd; num_partitions sends it in parts."""
    data = rows(45, 4_000)
    wanted = ours(shop, {name: cells[: 2 * 4_000] for name, cells in data.items()}, h=3)["mean"]
    args: dict[str, Any] = {
        "0.9.0": {"kind": "polars", "freq": "1h"},
        "0.8.0": {"freq": "h", "add_history": True},
        "0.7.3": {"freq": "h", "add_history": True, "num_partitions": 7},
    }[client.version]
    found = client.get("forecast", data, h=3, **args)
    mine = [m for m, name in zip(found["TimeGPT"], found["unique_id"], strict=True) if name == "s1"]
    assert mine[-3:] == pytest.approx(wanted[3:], **CLOSE)


def test_multivariate_makes_one_group(shop: Running, client: Nixtla) -> None:
    """A model that reads series side by side sees all of them, or each by itself."""
    data, args = rows(3), {"h": 4, "freq": "h", "model": "together"}
    apart = client.get("forecast", data, **args)["TimeGPT"]
    joined = client.get("forecast", data, multivariate=True, **args)["TimeGPT"]
    for found, group in ((apart, "by_id"), (joined, "all")):
        wanted = ours(shop, data, h=4, model="together", options={"group": group})["mean"]
        assert found == pytest.approx(wanted, **CLOSE)
    assert apart != pytest.approx(joined, abs=1e-3)
    again = client.get("cross_validation", data, multivariate=True, n_windows=2, **args)
    start = ROWS - 4
    wanted = ours(shop, before(data, start), h=4, model="together", options={"group": "all"})
    assert again["TimeGPT"][4:8] == pytest.approx(wanted["mean"][:4], **CLOSE)


def test_integers_as_stamps(client: Nixtla) -> None:
    """They come as months without a start; the built-in baseline takes any step."""
    data = {"unique_id": ["a"] * 40, "ds": list(range(40)), "y": [float(i % 12) for i in range(40)]}
    found = client.get("forecast", data, kind="integers", h=3, freq=1, model="seasonal_naive")
    assert (found["ds"], found["TimeGPT"]) == ([40, 41, 42], [4.0, 5.0, 6.0])


def test_missing_values_are_missing(shop: Running, newest: Nixtla) -> None:
    """A null must not become a zero on the way; older clients refuse it by themselves."""
    data = rows()
    data["y"][20:23] = [None] * 3
    wanted = ours(shop, data, h=4)["mean"]
    assert newest.get("forecast", data, h=4, freq="h")["TimeGPT"] == pytest.approx(wanted, **CLOSE)


# --- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("h", "step"), [(4, None), (4, 1), (3, 5)])
def test_cross_validation_forecasts_each_window_from_before_it(
    shop: Running, client: Nixtla, h: int, step: int | None
) -> None:
    data, windows = rows(), 3
    found = client.get(
        "cross_validation", data, h=h, step_size=step, n_windows=windows, freq="h", level=[80]
    )
    assert len(found["ds"]) == 2 * windows * h
    times = stamps(ROWS)
    for window in range(windows):
        start = ROWS - h - (step or h) * (windows - 1 - window)
        wanted = ours(shop, before(data, start), h=h, quantiles=[0.1, 0.9])
        for one in range(2):
            at = slice((one * windows + window) * h, (one * windows + window + 1) * h)
            mine = slice(one * h, (one + 1) * h)
            assert [s.replace(" ", "T") for s in found["ds"][at]] == times[start : start + h]
            assert {s.replace(" ", "T") for s in found["cutoff"][at]} == {times[start - 1]}
            assert found["y"][at] == data["y"][one * ROWS + start :][:h]
            assert found["TimeGPT"][at] == pytest.approx(wanted["mean"][mine], **CLOSE)
            assert found["TimeGPT-hi-80"][at] == pytest.approx(wanted["q0.9"][mine], **CLOSE)


def test_cross_validation_reads_the_covariates_of_its_windows(
    shop: Running, client: Nixtla
) -> None:
    """What is known ahead of a window lies in the history that was sent."""
    data = rows() | {"price": [float(i % 7) for i in range(ROWS)] * 2}
    found = client.get(
        "cross_validation", data, h=4, n_windows=2, step_size=2, freq="h", model="shop"
    )
    start = ROWS - 4
    ahead = {"unique_id": ["s0"] * 4 + ["s1"] * 4, "ds": stamps(ROWS)[start:] * 2}
    ahead |= {"price": [float(i % 7) for i in range(start, ROWS)] * 2}
    wanted = ours(shop, before(data, start), future=ahead, h=4, model="priced")["mean"]
    assert found["TimeGPT"][4:8] == pytest.approx(wanted[:4], **CLOSE)


def test_anomalies_in_the_whole_history(shop: Running, client: Nixtla) -> None:
    """Its default level is 99; every block is forecast from the rows before it."""
    data = rows()
    data["y"][ROWS - 5] = 1e3
    found = client.get("detect_anomalies", data, freq="h")
    first = [i for i, name in enumerate(found["unique_id"]) if name == "s0"]
    assert len(first) % HORIZON == 0
    assert found["anomaly"][first[-5]]
    wanted = ours(shop, before(data, ROWS - HORIZON), h=HORIZON, quantiles=[0.005, 0.995])
    newest = first[-HORIZON:]
    for theirs, name in (("TimeGPT", "mean"), ("TimeGPT-hi-99", "q0.995")):
        assert [found[theirs][i] for i in newest] == pytest.approx(wanted[name][:HORIZON], **CLOSE)


@pytest.mark.parametrize("method", ["univariate", "multivariate"])
def test_anomalies_among_the_newest_points(shop: Running, newest: Nixtla, method: str) -> None:
    """The numbers are those of /v1/anomalies; together, one series far off speaks for all."""
    data = rows(3)
    data["y"][ROWS - 4] = 1e3
    found = newest.get(
        "detect_anomalies_online", data, h=3, detection_size=9, level=90, freq="h",
        threshold_method=method,
    )  # fmt: skip
    detect = {"level": 90, "last": 9, "h": 3}
    reply = shop.post("/v1/anomalies", {"freq": "h", "data": data, "detect": detect})
    wanted = reply.json()["forecast"]
    assert found["y"] == wanted["y"]
    for theirs, name in (("TimeGPT", "mean"), ("TimeGPT-lo-90", "lo"), ("anomaly_score", "score")):
        assert found[theirs] == pytest.approx(wanted[name], rel=1e-4, abs=1e-5)
    if method == "univariate":
        assert found["anomaly"] == wanted["anomaly"]
    else:
        assert [found["anomaly"][i] for i in (5, 14, 23)] == [True] * 3
        rms = np.sqrt(np.square(np.reshape(found["anomaly_score"], (3, 9))).mean(axis=0))
        assert found["accumulated_anomaly_score"][:9] == pytest.approx(rms)


# --- about the service ----------------------------------------------------------------------------


def test_the_client_finds_its_way_about(shop: Running, newest: Nixtla) -> None:
    """A script that looks at its key, its usage and the models first must not stop there."""
    assert newest.get("validate_api_key") is True
    usage = newest.get("usage")
    assert usage["minute"]["limit"] == 600
    assert usage["month"]["limit"] == 0
    names = newest.get("list_models")
    assert {"small", "small@champion", "priced", "seasonal_naive"} <= {*names}
    asked = shop.client.get(f"{PREFIX}/model_params", params={"model": "timegpt-1", "freq": "h"})
    assert asked.json() == {"detail": {"input_size": CONTEXT, "horizon": HORIZON}}
    for model, rows in (("ets", 1_024), ("linear", 1_024), ("sarimax", 512), ("last_value", 4_096)):
        asked = shop.client.get(f"{PREFIX}/model_params", params={"model": model, "freq": "h"})
        assert asked.json() == {"detail": {"input_size": rows, "horizon": 24}}
    asked = shop.client.get(f"{PREFIX}/model_params", params={"model": "sarimax", "freq": "min"})
    assert asked.json()["type"] == "/problems/model-incompatible"


@pytest.mark.parametrize(
    ("args", "status", "pointer"),
    [
        ({"model": "nobody"}, 404, "/model"),
        ({"finetune_steps": 3}, 422, "/finetune_steps"),
        ({"level": [99.9]}, 422, "/level"),
        ({"freq": "D"}, 422, None),
        ({"h": 5_000}, 422, "/h"),
    ],
    ids=str,
)  # fmt: skip
def test_what_will_never_work_is_not_tried_again(
    newest: Nixtla, args: dict[str, Any], status: int, pointer: str | None
) -> None:
    """The client repeats 408, 409, 429 and 5xx six times, ten seconds apart."""
    data = rows()
    if "freq" in args:
        data["ds"] = [f"2024-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(75)] * 4
        data = {name: cells[:28] for name, cells in data.items()}
    found = newest.ask("forecast", frames={"df": data}, **{"h": 2, "freq": "h", **args})
    assert found["status"] == status
    assert found["problem"]["status"] == status
    if pointer is not None and found["problem"]["errors"]:
        assert found["problem"]["errors"][0]["pointer"] == pointer
