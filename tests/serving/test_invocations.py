"""/invocations by MLflow's client and as SageMaker calls it: the numbers of /v1/forecasts (law 16)."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

from pipelines.covariates import Covariate, Inputs
from pipelines.features.categories import Vocabulary
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.recipe import Recipe
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.keyed import new_key
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
from tests.serving.streams import MEDIA, packed
from tsformer.batch import Shape
from tsformer.models.tft import TFTSpec

INPUTS = Inputs(
    known=(Covariate("price"), Covariate("promo")),
    past=(Covariate("rain"),),
    static=(Covariate("city", vocabulary=Vocabulary(("3", "7"))),),
)
RANDOM = np.random.default_rng(0)


def tft(inputs: Inputs) -> Forecaster:
    """A small forecaster that reads `inputs`."""
    torch.manual_seed(3)
    spec = TFTSpec(width=8, heads=2)
    shape = Shape(
        context=CONTEXT, horizon=HORIZON, known=inputs.known_sizes, past=(0,) * len(inputs.past),
        static=tuple(column.size for column in inputs.static),
    )  # fmt: skip
    recipe = Recipe("h", 24, CONTEXT, 24, HORIZON, inputs)
    return Forecaster(spec.build(shape), spec=spec, recipe=recipe, device="cpu")


@pytest.fixture(scope="module")
def shop(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a model for each form of a body."""
    home = fresh_home(tmp_path_factory.mktemp("shop"), database)
    made = {
        "plain": forecaster(seed=1),
        "whole": tft(INPUTS),
        "deep": tft(Inputs(known=INPUTS.known, static=INPUTS.static)),
        "named": tft(Inputs(known=INPUTS.known, past=INPUTS.past)),
    }
    for name, one in made.items():
        publish(home, name, one, tmp_path_factory.mktemp("artifact") / name)
    return home


def serving(home: Home, default: str, **more: Any) -> Iterator[Running]:
    yield from listening(application(home, Settings.read({"models": {"default": default}, **more})))


@pytest.fixture(scope="module")
def plain(shop: Home) -> Iterator[Running]:
    yield from serving(shop, "plain")


@pytest.fixture(scope="module")
def deep(shop: Home) -> Iterator[Running]:
    yield from serving(shop, "deep")


@pytest.fixture(scope="module")
def named(shop: Home) -> Iterator[Running]:
    yield from serving(shop, "named")


def client_of(service: Running, user: str = "") -> ScoringServerClient:
    url = service.client.base_url
    return ScoringServerClient(f"{user}{url.host}", url.port)


def expected(service: Running, **body: Any) -> pd.DataFrame:
    """What /v1/forecasts says."""
    reply = service.post("/v1/forecasts", {"freq": "h", **body})
    assert reply.status_code == 200, reply.text
    return pd.DataFrame(reply.json()["forecast"])


def invoke(service: Running, body: Any, status: int = 200, **headers: str) -> dict[str, Any]:
    """The answer to a body of JSON, in which a bare NaN may stand."""
    headers = {"content-type": "application/json", **headers}
    reply = service.client.post("/invocations", content=json.dumps(body), headers=headers)
    assert reply.status_code == status, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def columns_of(rows: int) -> dict[str, list[float]]:
    """Random covariates of so many rows."""
    return {name: RANDOM.normal(size=rows).round(3).tolist() for name in ("price", "promo", "rain")}


# --- data frames ----------------------------------------------------------------------------------


def test_a_data_frame_by_the_real_client(plain: Running) -> None:
    """Who serves with MLflow today changes an address and keeps the numbers."""
    client = client_of(plain)
    client.ping()
    assert client.get_version() == "3.17.2"
    data = table(series(), series(seed=1), ids=["a", "b"])
    frame = pd.DataFrame(data)
    frame["ds"] = pd.to_datetime(frame["ds"])
    frame.loc[[3, 100], "y"] = np.nan
    params = {"h": 5, "freq": "h", "quantiles": [0.1, 0.9]}
    answer = client.invoke(frame, params=params)
    missing = [None if row in (3, 100) else y for row, y in enumerate(data["y"])]
    wanted = expected(plain, data=data | {"y": missing}, h=5, quantiles=[0.1, 0.9])
    pd.testing.assert_frame_equal(answer.get_predictions(), wanted, rtol=1e-5)
    metadata = answer["metadata"]
    assert [entry["status"] for entry in metadata["series"]] == ["ok", "ok"]
    assert [(w["unique_id"], w["count"]) for w in metadata["warnings"]] == [("a", 1), ("b", 1)]
    with pytest.raises(Exception, match="/params/h"):
        client.invoke(frame, params={"h": 0})


def test_the_last_rows_are_the_future(plain: Running) -> None:
    """One frame holds all: what happened, and what is known of the days ahead, in any order."""
    rows = CONTEXT + HORIZON
    whole = table(series(rows), series(rows, seed=1)) | columns_of(2 * rows)
    frame = pd.DataFrame(whole)
    ahead = frame.groupby("unique_id").cumcount() >= CONTEXT
    static = {"unique_id": ["s1", "s0"], "city": [7, 3]}
    data = frame[~ahead].to_dict(orient="list")
    future = frame[ahead].drop(columns=["y", "rain"]).to_dict(orient="list")
    body = {"model": "whole", "h": HORIZON, "static": static}
    wanted = expected(plain, **body, data=data, future=future)
    frame.loc[ahead, ["y", "rain"]] = np.nan
    shuffled = frame.sample(frac=1, random_state=0)
    own = body | {"future": "trailing_null", "freq": "h"}
    found = client_of(plain).invoke(shuffled, params=own).get_predictions()
    order = ["unique_id", "ds"]
    found, wanted = (one.sort_values(order, ignore_index=True) for one in (found, wanted))
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-5)
    records = [{"unique_id": "s1", "city": 7}, {"unique_id": "s0", "city": 3}]
    rows_of = json.loads(frame.to_json(orient="records"))
    again = invoke(plain, {"dataframe_records": rows_of, "params": own | {"static": records}})
    assert again["predictions"] == found.to_dict(orient="records")
    place = int(np.flatnonzero(ahead)[2])
    rows_of[place]["y"] = 1.0
    problem = invoke(plain, {"dataframe_records": rows_of, "params": own}, 422)
    assert problem["errors"][0]["pointer"] == f"/dataframe_records/{place}/y"


def test_a_fault_is_where_it_was_sent(plain: Running) -> None:
    """Rows that were set apart do not shift the place that is named."""
    rows = [{"ds": s, "y": y} for s, y in zip(stamps(50), [None] * 2 + series(48), strict=True)]
    rows[40]["ds"] = rows[39]["ds"]
    problem = invoke(plain, {"dataframe_records": rows[2:], "params": {"h": 2}}, 422)
    assert problem["errors"][0]["pointer"] == "/dataframe_records/38/ds"
    split = {"columns": ["y", "ds"], "data": [[row["y"], row["ds"]] for row in reversed(rows)]}
    params = {"h": 2, "future": "trailing_null", "freq": "h"}
    problem = invoke(plain, {"dataframe_split": split, "params": params}, 422)
    assert problem["errors"][0]["pointer"] == "/dataframe_split/data/0/0"
    del params["future"]
    problem = invoke(plain, {"dataframe_split": split, "params": params}, 422)
    assert problem["errors"][0]["pointer"] in [f"/dataframe_split/data/{row}/1" for row in (9, 10)]


def test_csv_and_arrow_say_the_same(plain: Running) -> None:
    """Law 2, for the other two kinds of body; ids stay text, whatever they look like."""
    data = table(series(60), series(60, seed=1), ids=["007", "NA"])
    data["y"][7] = None
    wanted = expected(plain, data=data, h=4, quantiles=[0.1])
    text = pd.DataFrame(data).to_csv(index=False).encode()
    query = "h=4&freq=h&quantiles=0.1&options=" + json.dumps({"fill": "mask"})
    for content in (text, b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")):
        headers = {"content-type": "text/csv; charset=utf-8"}
        reply = plain.client.post(f"/invocations?{query}", content=content, headers=headers)
        assert reply.status_code == 200, reply.text
        found = pd.DataFrame(reply.json()["predictions"])
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-12)
    body = packed({"data": data, "h": 4, "freq": "h", "quantiles": [0.1]})
    reply = plain.client.post("/invocations", content=body, headers={"content-type": MEDIA})
    assert reply.json()["predictions"] == wanted.to_dict(orient="records")
    sink = io.BytesIO()
    pl.DataFrame(data).write_parquet(sink)
    headers = {"content-type": "application/vnd.apache.parquet"}
    reply = plain.client.post("/invocations", content=sink.getvalue(), headers=headers)
    assert (reply.status_code, reply.json()["type"]) == (415, "/problems/unsupported-media-type")


def test_the_cell_of_a_csv_that_is_no_number_is_to_blame(plain: Running) -> None:
    """The first good one was, and one bad series refused all the others."""
    data = table(series(60), series(60, seed=1))
    cells = [*map(str, data["y"])]
    cells[70] = "oops"
    text = pd.DataFrame({**data, "y": cells}).to_csv(index=False)
    ask, headers = "/invocations?h=4&freq=h", {"content-type": "text/csv"}
    problem = plain.client.post(ask, content=text, headers=headers).json()
    assert [item["pointer"] for item in problem["errors"]] == ["/data/y/70"]
    ask += '&options={"on_invalid":"skip"}'
    reply = plain.client.post(ask, content=text, headers=headers)
    assert [one["status"] for one in reply.json()["metadata"]["series"]] == ["ok", "invalid"]


@pytest.mark.parametrize("quote", ["", '"'], ids=["plain", "quoted"])
def test_a_row_of_a_csv_with_too_few_cells_is_refused(plain: Running, quote: str) -> None:
    """A line cut off in transit was read as a missing value, and moved the end of the context."""
    rows = [f"{quote}{s}{quote},{y}" for s, y in zip(stamps(60), series(60), strict=True)]
    ask, headers = "/invocations?h=4&freq=h", {"content-type": "text/csv"}
    for sent, status in ((rows, 200), ([*rows[:-1], stamps(60)[-1]], 400)):
        reply = plain.client.post(ask, content="\n".join(["ds,y", *sent]), headers=headers)
        assert reply.status_code == status, reply.text
    assert reply.json()["type"] == "/problems/malformed-body"
    assert "Row 59" in reply.json()["detail"]


def test_parameters_in_the_query_of_json_are_refused(plain: Running) -> None:
    """Ignored, they would give another horizon than the one that was asked for."""
    body = {"dataframe_split": {"columns": ["y"], "data": [[1.0]] * 50}}
    reply = plain.client.post("/invocations?h=4", json=body)
    assert reply.status_code == 422
    assert "h in the query is for a CSV" in reply.json()["errors"][0]["message"]


def test_steps_without_a_calendar_in_csv(plain: Running) -> None:
    """Integers in a CSV are steps, unless the frequency says otherwise."""
    text = "ds,y\n" + "\n".join(f"{20 + step},{y}" for step, y in enumerate(series(30)))
    ask = "/invocations?model=seasonal_naive&h=2"
    for query, first in (("", 50), ("&freq=1", 50)):
        reply = plain.client.post(ask + query, content=text, headers={"content-type": "text/csv"})
        assert reply.json()["predictions"][0]["ds"] == first
    reply = plain.client.post(ask + "&freq=h", content=text, headers={"content-type": "text/csv"})
    assert reply.json()["errors"][0]["code"] == "timestamp_invalid"


# --- series one by one ----------------------------------------------------------------------------


def test_instances_in_the_form_of_deepar(deep: Running) -> None:
    """Attributes and covariates have no names there: they are those of the card, in its order."""
    rows = CONTEXT + HORIZON
    frame = pd.DataFrame(table(series(rows), series(rows, seed=1)) | columns_of(2 * rows))
    ahead = frame.groupby("unique_id").cumcount() >= CONTEXT
    future = frame[ahead].drop(columns=["y", "rain"]).to_dict(orient="list")
    data = frame[~ahead].to_dict(orient="list")
    static = {"unique_id": ["s0", "s1"], "city": [3, 7]}
    levels = [0.1, 0.75]
    wanted = expected(deep, data=data, future=future, static=static, quantiles=[])
    instances = [
        {
            "start": "2026-01-01 00:00:00",
            "target": own["y"].to_list()[:CONTEXT],
            "cat": [city],
            "dynamic_feat": [own["price"].to_list(), own["promo"].to_list()],
        }
        for city, (_, own) in zip((3, 7), frame.groupby("unique_id"), strict=True)
    ]
    answer = invoke(deep, {"instances": instances})
    means = np.concatenate([one["mean"] for one in answer["predictions"]])
    np.testing.assert_allclose(means, wanted["mean"], rtol=1e-5)
    refusals = [
        ({"output_types": ["samples"]}, "/configuration/output_types/0"),
        ({"quantiles": [",".join(map(str, levels))]}, "/configuration/quantiles"),
        ({"quantiles": ["0.1"]}, "/configuration/quantiles"),  # this model has none
    ]
    for configuration, place in refusals:
        body = {"instances": instances, "configuration": configuration}
        assert invoke(deep, body, 422)["errors"][0]["pointer"] == place
    for change in ({"cat": []}, {"dynamic_feat": None}, {"dynamic_feat": [[1.0], [2.0]]}):
        problem = invoke(deep, {"instances": [instances[0], {**instances[1], **change}]}, 422)
        assert problem["errors"][0]["pointer"].startswith("/instances/1")


def test_quantiles_of_instances_have_the_names_that_were_asked(plain: Running) -> None:
    """Missing values are the text NaN there, and no samples are drawn."""
    values = series()
    instance = {"start": "2026-01-01", "target": ["NaN", *values[1:]]}
    asked = {"num_samples": 50, "output_types": ["quantiles"], "quantiles": ["0.9", "0.10"]}
    answer = invoke(plain, {"instances": [instance], "configuration": asked})
    data = table([None, *values[1:]])
    wanted = expected(plain, data=data, quantiles=[0.1, 0.9])
    (found,) = answer["predictions"]
    assert list(found["quantiles"]) == ["0.9", "0.10"]
    np.testing.assert_allclose(found["quantiles"]["0.10"], wanted["q0.1"], rtol=1e-5)
    np.testing.assert_allclose(found["quantiles"]["0.9"], wanted["q0.9"], rtol=1e-5)
    assert "mean" not in found


def test_inputs_with_covariates_by_name(named: Running) -> None:
    rows = CONTEXT + HORIZON
    frame = pd.DataFrame(table(series(rows), series(rows, seed=1)) | columns_of(2 * rows))
    ahead = frame.groupby("unique_id").cumcount() >= CONTEXT
    data = frame[~ahead].to_dict(orient="list")
    future = frame[ahead].drop(columns=["y", "rain"]).to_dict(orient="list")
    wanted = expected(named, data=data, future=future)
    inputs = []
    for name, own in frame.groupby("unique_id"):
        before, after = own[:CONTEXT], own[CONTEXT:]
        past = {column: before[column].to_list() for column in ("rain", "price", "promo")}
        known = {column: after[column].to_list() for column in ("promo", "price")}
        one = {"item_id": name, "target": before["y"].to_list(), "past_covariates": past}
        inputs.append({**one, "future_covariates": known})
    answer = invoke(named, {"inputs": inputs})
    means = np.concatenate([one["mean"] for one in answer["predictions"]])
    np.testing.assert_allclose(means, wanted["mean"], rtol=1e-5)
    assert [one["item_id"] for one in answer["predictions"]] == ["s0", "s1"]
    del inputs[1]["past_covariates"]["rain"]
    problem = invoke(named, {"inputs": inputs}, 422)
    assert problem["errors"][0]["pointer"] == "/inputs/1"


def test_a_list_of_series_by_the_real_client(plain: Running) -> None:
    """Series of any lengths; what has no start is told no stamps."""
    values = [series(), series(50, seed=1)]
    inputs = [
        {"target": values[0], "start": "2026-01-01T00:00:00", "item_id": 5},
        {"target": [math.nan, *values[1]], "item_id": 6},
    ]
    params = {"prediction_length": 3, "quantile_levels": [0.1]}
    answer = client_of(plain).invoke(inputs, params=params)
    wanted = expected(plain, data=table(*values), h=3, quantiles=[0.1])
    first, second = answer["predictions"]
    np.testing.assert_allclose(first["mean"] + second["mean"], wanted["mean"], rtol=1e-5)
    np.testing.assert_allclose(first["0.1"] + second["0.1"], wanted["q0.1"], rtol=1e-5)
    assert (first["start"], first["item_id"], second["item_id"]) == ("2026-01-05T00:00:00", 5, 6)
    assert "start" not in second
    assert [one["context_end"] for one in answer["metadata"]["series"]][1] is None


# --- who may ask ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(shop: Home, plain: Running, deep: Running, named: Running) -> dict[str, str]:
    """The first keys of the shop, whose open services have been asked by then."""
    assert all((plain, deep, named))
    return {role: new_key(shop, role) for role in ("reader", "forecaster")}


def test_the_key_is_the_password_in_the_address(shop: Home, keys: dict[str, str]) -> None:
    """MLflow's client can send no header; the key in its address must do, there and nowhere else."""
    for service in serving(shop, "plain"):
        client = client_of(service, f"anyone:{keys['forecaster']}@")
        client.ping()
        assert client.get_version()
        frame = pd.DataFrame(table(series(), ids=["a"]))
        assert len(client.invoke(frame, params={"h": 2}).get_predictions()) == 2
        with pytest.raises(Exception, match="403"):
            client_of(service, f"key:{keys['reader']}@").invoke(frame)
        with pytest.raises(Exception, match="401"):
            client_of(service).invoke(frame)
        for text in ("Basic =", "Basic a2V5", "Basic /////w==", "Basic " + "a" * 500):
            reply = service.client.get("/version", headers={"Authorization": text})
            assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
        everywhere = service.client.get("/v1/models", auth=("key", keys["reader"]))
        assert everywhere.status_code == 401


def test_a_container_of_sagemaker(shop: Home, keys: dict[str, str]) -> None:
    """The platform strips Authorization: with the setting its calls pass, and only those."""
    assert keys
    body = json.dumps({"inputs": [{"target": series()}], "parameters": {"prediction_length": 2}})
    for service in serving(shop, "plain", auth={"anonymous_invocations": True}):
        url = service.client.base_url
        plain_http = http.client.HTTPConnection(str(url.host), url.port)
        answers = {}
        for method, path in (("GET", "/ping"), ("POST", "/invocations"), ("GET", "/version"),
                             ("POST", "/v1/forecasts"), ("GET", "/v1/models")):  # fmt: skip
            plain_http.putrequest(method, path, skip_accept_encoding=True)
            content = body.encode() if method == "POST" else b""
            if content:
                plain_http.putheader("Content-Type", "application/json")
            plain_http.putheader("Content-Length", str(len(content)))
            plain_http.endheaders(content)
            reply = plain_http.getresponse()
            answers[path] = (reply.status, json.loads(reply.read()))
        plain_http.close()
        assert answers["/ping"] == (200, {})
        assert answers["/invocations"][0] == 200
        assert {answers[path][0] for path in ("/version", "/v1/forecasts", "/v1/models")} == {401}
        wrong = {"Authorization": "Bearer tsf_wrong"}
        assert service.client.post("/invocations", headers=wrong).status_code == 401


def test_ping_says_when_it_is_not_ready(empty: Home) -> None:
    """A platform that is told 200 too early sends its users into errors."""
    app = application(empty, Settings())
    transport = httpx.ASGITransport(app)

    async def asked() -> list[int]:
        async with httpx.AsyncClient(transport=transport, base_url="http://probe") as client:
            paths = ("/ping", "/v2/health/ready", "/v2/health/live")
            return [(await client.get(path)).status_code for path in paths]

    assert asyncio.run(asked()) == [503, 503, 200]
