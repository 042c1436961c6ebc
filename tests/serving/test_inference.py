"""The Open Inference Protocol by its real client, tritonclient: the numbers of /v1/forecasts (law 16)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from pipelines.covariates import Covariate, Inputs
from pipelines.forecaster import Forecaster
from pipelines.recipe import Recipe
from serving.settings import Settings
from tests.serving.conftest import fresh_home
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
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.tft import TFTSpec

INPUTS = Inputs(known=(Covariate("price"), Covariate("promo")), past=(Covariate("rain"),))
CALENDAR = Inputs(features=("hour",))


def of(spec: Any, inputs: Inputs = Inputs(), *, joint: bool = False) -> Forecaster:  # noqa: B008
    """A small forecaster at random weights."""
    torch.manual_seed(3)
    shape = Shape(
        context=CONTEXT, horizon=HORIZON, known=inputs.known_sizes, past=(0,) * len(inputs.past)
    )
    recipe = Recipe("h", 24, CONTEXT, 24, HORIZON, inputs, joint)
    return Forecaster(spec.build(shape), spec=spec, recipe=recipe, device="cpu")


@pytest.fixture(scope="module")
def served(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with a model of each kind that tensors can ask for."""
    home = fresh_home(tmp_path_factory.mktemp("inference"), database)
    small = TFTSpec(width=8, heads=2)
    made = {
        "plain": forecaster(seed=1),
        "weather": of(small, INPUTS),
        "clock": of(small, CALENDAR),
        "group": of(ITransformerSpec(width=16, heads=2, feedforward=16, depth=1), joint=True),
    }
    for name, one in made.items():
        publish(home, name, one, tmp_path_factory.mktemp("artifact") / name)
    yield from listening(application(home, Settings.read({"models": {"default": "plain"}})))


@pytest.fixture
def client(served: Running) -> Iterator[triton.InferenceServerClient]:
    url = served.client.base_url
    with triton.InferenceServerClient(f"{url.host}:{url.port}") as made:
        yield made


def tensor(name: str, values: Any, *, binary: bool = True) -> triton.InferInput:
    """An input of the client."""
    values = np.asarray(values)
    values = values.astype(object) if values.dtype.kind == "U" else values
    made = triton.InferInput(name, values.shape, np_to_triton_dtype(values.dtype))
    return made.set_data_from_numpy(values, binary_data=binary)


def history(count: int, rows: int = CONTEXT) -> np.ndarray:
    return np.array([series(rows, seed=seed) for seed in range(count)], np.float32)


def expected(served: Running, column: str = "mean", **body: Any) -> np.ndarray:
    """What /v1/forecasts says, in a row a series."""
    reply = served.post("/v1/forecasts", {"freq": "h", **body})
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    return np.array(answer["forecast"][column]).reshape(len(answer["series"]), -1)


def deviation(found: np.ndarray, wanted: np.ndarray, y: np.ndarray) -> float:
    """The largest difference in deviations of the history."""
    return float(np.abs(found - wanted).max() / np.nanstd(y))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_numbers_are_those_of_forecasts(
    served: Running, client: triton.InferenceServerClient, binary: bool, kind: type
) -> None:
    """Law 16: who changes the address must not change the forecasts; NaN is a missing value."""
    y = history(3).astype(kind)
    y[0, 5] = y[2, :40] = np.nan  # the last of them is a shorter series
    outputs = [triton.InferRequestedOutput(n, binary_data=binary) for n in ("mean", "quantiles")]
    answer = client.infer(
        "plain",
        [tensor("y", y, binary=binary)],
        outputs=None if binary else outputs,
        parameters={"h": HORIZON + 3, "quantiles": "0.9, 0.1"},
        request_id="mine",
    )
    rows = [[None if np.isnan(v) else float(v) for v in row] for row in y]
    body = {
        "data": table(rows[0], rows[1], rows[2][40:]),
        "h": HORIZON + 3,
        "quantiles": [0.1, 0.9],
    }
    assert deviation(answer.as_numpy("mean"), expected(served, **body), y) < 1e-5
    for place, column in enumerate(("q0.1", "q0.9")):
        wanted = expected(served, column, **body)
        assert deviation(answer.as_numpy("quantiles")[:, :, place], wanted, y) < 1e-5
    told = answer.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("mine", "plain", "1")
    assert answer.get_output("quantiles")["parameters"]["levels"] == "0.1,0.9"
    assert "rollout" in told["parameters"]["warnings"]


def test_every_series_has_a_status(client: triton.InferenceServerClient) -> None:
    """Law 9: what a baseline said must not pass for the model's word."""
    y = history(2)
    y[1, :-3] = np.nan
    answer = client.infer("plain", [tensor("y", y)])
    assert answer.as_numpy("status").tolist() == [b"ok", b"insufficient_history"]
    assert answer.get_response()["parameters"]["fallback_series"] == 1
    with pytest.raises(InferenceServerException, match="too little history"):
        client.infer("plain", [tensor("y", y)], parameters={"fallback": "none"})


def test_covariates_are_read_in_the_order_of_the_card(
    served: Running, client: triton.InferenceServerClient
) -> None:
    """Columns have no names here; in another order the numbers would be wrong without a word."""
    card = client.get_model_metadata("weather@champion")
    assert {one["name"]: one["shape"] for one in card["inputs"]} == {
        "y": [-1, -1], "x_past": [-1, -1, 3], "x_future": [-1, -1, 2],
        "unique_id": [-1], "start": [-1],
    }  # fmt: skip
    random = np.random.default_rng(0)
    y, past = history(2), random.normal(size=(2, CONTEXT, 3)).astype(np.float32)
    future = random.normal(size=(2, HORIZON, 2)).astype(np.float32)
    answer = client.infer(
        "weather", [tensor("y", y), tensor("x_past", past), tensor("x_future", future)]
    )
    data = table(*y.tolist())
    columns = past.reshape(-1, 3).T.tolist()
    data |= dict(zip(("price", "promo", "rain"), columns, strict=True))
    ahead: dict[str, Any] = {
        "unique_id": [name for name in ("s0", "s1") for _ in range(HORIZON)],
        "ds": stamps(CONTEXT + HORIZON)[CONTEXT:] * 2,
    }
    ahead |= dict(zip(("price", "promo"), future.reshape(-1, 2).T.tolist(), strict=True))
    wanted = expected(served, model="weather", data=data, future=ahead)
    assert deviation(answer.as_numpy("mean"), wanted, y) < 1e-5


def test_stamps_follow_from_the_start(
    served: Running, client: triton.InferenceServerClient
) -> None:
    """A model that reads the hour must get the true one, also across a change of the clock.

    The start is that of the first column, also where that is padding.
    """
    y = history(2)
    y[1, :10] = np.nan
    starts, zone = ["2026-03-26T00:00:00+01:00", "2026-10-22T05:00:00+02:00"], "Europe/Berlin"
    given = [tensor("y", y), tensor("start", starts)]
    answer = client.infer("clock", given, parameters={"tz": zone})
    data = table(y[0].tolist(), y[1, 10:].tolist())
    data["ds"] = [
        (datetime.fromisoformat(start) + timedelta(hours=row)).isoformat()
        for start, first in zip(starts, (0, 10), strict=True)
        for row in range(first, CONTEXT)
    ]
    wanted = expected(served, model="clock", data=data, tz=zone)
    assert deviation(answer.as_numpy("mean"), wanted, y) < 1e-5
    told = client.infer("clock", [tensor("y", y)]).get_response()
    assert "calendar_unknown" in told["parameters"]["warnings"].split(",")


def test_groups_are_read_side_by_side(
    served: Running, client: triton.InferenceServerClient
) -> None:
    """[g, V, L]: the variates of a group together, and no other ones."""
    y = history(6).reshape(2, 3, CONTEXT)
    answer = client.infer("group", [tensor("y", y)], parameters={"h": 5})
    for place in range(2):
        body = {"model": "group", "data": table(*y[place].tolist()), "h": 5}
        wanted = expected(served, **body, options={"group": "all"})
        assert deviation(answer.as_numpy("mean")[place], wanted, y) < 1e-5
    assert answer.as_numpy("status").shape == (2, 3)
    plain = client.infer("plain", [tensor("y", y)], parameters={"h": 5}).as_numpy("mean")
    assert plain.shape == (2, 3, 5)


def test_a_fault_names_the_series_as_its_sender_does(
    served: Running, client: triton.InferenceServerClient
) -> None:
    """Of a thousand series the user must find the one that is wrong, also in the client's one text."""
    ids = ["Ω", "a b"]
    client.infer("plain", [tensor("y", history(2)), tensor("unique_id", ids)], model_version="1")
    empty = np.array([series(), [np.nan] * CONTEXT], np.float32)
    with pytest.raises(InferenceServerException, match="/inputs/0: ") as caught:
        client.infer("plain", [tensor("y", empty), tensor("unique_id", ids)])
    assert caught.value.status() == "422"
    inputs = [
        {"name": "y", "shape": [1, 3], "datatype": "FP64", "data": [[None] * 3]},
        {"name": "unique_id", "shape": [1], "datatype": "BYTES", "data": ["a b"]},
    ]
    problem = served.post("/v2/models/plain/infer", {"inputs": inputs}).json()
    first = problem["errors"][0]
    assert (first["unique_id"], first["pointer"], first["code"]) == (
        "a b",
        "/inputs/0",
        "all_missing",
    )
    assert problem["error"].startswith(problem["detail"])


def test_the_server_tells_what_it_is(client: triton.InferenceServerClient) -> None:
    """Clients and platforms ask before they send anything."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.is_model_ready("plain")
    assert client.is_model_ready("plain@champion")
    assert client.is_model_ready("plain", "1")
    assert client.is_model_ready("seasonal_naive")
    assert not client.is_model_ready("nobody")
    assert client.get_model_metadata("plain", "1")["versions"] == ["1"]
    assert client.get_model_metadata("seasonal_naive")["versions"] == []
    for ask in (client.get_model_repository_index, client.get_inference_statistics,
                client.get_trace_settings, client.get_system_shared_memory_status):  # fmt: skip
        with pytest.raises(InferenceServerException) as caught:
            ask()
        assert caught.value.status() == "404"


@pytest.mark.parametrize(
    ("parameters", "where"),
    [
        ({"h": 0}, "/parameters/h"),
        ({"h": "3"}, "/parameters/h"),
        ({"h": 4097}, "/parameters/h"),
        ({"freq": "?"}, "/parameters/freq"),
        ({"tz": "Nowhere"}, "/parameters/tz"),
        ({"quantiles": "0.1;0.2"}, "/parameters/quantiles"),
        ({"quantiles": "0.1,0.1"}, "/parameters/quantiles"),
        ({"quantiles": "nan"}, "/parameters/quantiles"),
        ({"fallback": "best"}, "/parameters/fallback"),
        ({"steps": 3}, "/parameters:"),
    ],
)
def test_a_user_reads_which_parameter_is_wrong(
    client: triton.InferenceServerClient, parameters: dict[str, Any], where: str
) -> None:
    """The client shows the member `error` alone."""
    with pytest.raises(InferenceServerException, match=where) as caught:
        client.infer("plain", [tensor("y", history(1))], parameters=parameters)
    assert caught.value.status() == "422"


def test_many_series_at_once(client: triton.InferenceServerClient) -> None:
    """A body beyond a MiB is read in a thread, and says the same."""
    y = history(1_000, 300)
    found = client.infer("plain", [tensor("y", y)], parameters={"h": 2}).as_numpy("mean")
    few = client.infer(
        "plain", [tensor("y", y[:3])], parameters={"h": 2}, request_compression_algorithm="gzip"
    ).as_numpy("mean")
    assert deviation(found[:3], few, y) < 1e-5


def test_it_wants_a_key_as_any_route(served: Running) -> None:
    """From elsewhere: status for all, forecasts for none without a key."""

    async def asked() -> list[int]:
        transport = httpx.ASGITransport(served.app, client=("192.0.2.7", 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as there:
            replies = [
                await there.get(path) for path in ("/v2/health/live", "/v2/health/ready", "/v2")
            ]
            replies.append(await there.post("/v2/models/plain/infer", json={}))
            return [reply.status_code for reply in replies]

    assert asyncio.run(asked()) == [200, 200, 401, 401]
