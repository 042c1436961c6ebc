"""Arrow in and out: the numbers of JSON, and a gate that no stream brings down."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc
import pytest
from starlette.requests import Request

from pipelines.covariates import Covariate, Inputs
from pipelines.features.categories import Vocabulary
from serving import ahead, arrow, forms, tables
from serving.body import held_by, read
from serving.limits import Limits
from serving.problems import Problem
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.series import Options
from tests.figures import Told
from tests.serving.mutations import mutated
from tests.serving.running import CONTEXT, Running, series, stamps, table
from tests.serving.streams import MEDIA, ask, pack, packed, unpack

ROOT = Path(__file__).parents[2]
JSON = "application/json"
HOUR = 3_600_000_000
LEVELS = [0.1, 0.5, 0.9]


def body(**more: Any) -> dict[str, Any]:
    """Three series, one with holes and one too short for the model."""
    holes = [None if row % 11 == 3 else value for row, value in enumerate(series(seed=1))]
    data = table(series(), holes)
    data["unique_id"] += ["short"] * 12
    data["ds"] += stamps(12)
    data["y"] += series(12, seed=2)
    return {"data": data, "h": 5, "freq": "h", "quantiles": LEVELS, **more}


def columns(found: pa.Table) -> dict[str, list[Any]]:
    """A table as the columns of JSON."""
    return {
        name: cells.to_pylist() if name != "ds" else [s.isoformat() for s in cells.to_pylist()]
        for name, cells in zip(found.column_names, found.columns, strict=True)
    }


@pytest.mark.parametrize("more", [{}, {"tz": "Europe/Berlin"}, {"tz": "America/New_York", "h": 30}])
def test_the_numbers_are_those_of_json(service: Running, more: dict[str, Any]) -> None:
    """Whoever changes the form for speed must get the forecast that was tested."""
    asked = body(**more)
    plain = service.post("/v1/forecasts", asked).json()
    envelope, found = unpack(ask(service, packed(asked)).content)
    assert columns(found["forecast"]) == plain["forecast"]
    entries = found["series"].to_pylist()
    for entry, expected in zip(entries, plain["series"], strict=True):
        assert {name: entry[name] for name in expected if name != "fallback"} == {
            name: value for name, value in expected.items() if name != "fallback"
        }
        fallback = expected["fallback"] or {"model": None, "reason": None}
        assert (entry["fallback_model"], entry["fallback_reason"]) == (*fallback.values(),)
    assert envelope.keys() == plain.keys() - {"forecast", "series"}
    for name in ("model", "h", "freq", "tz", "warnings", "fallback"):
        assert envelope[name] == plain[name]


@pytest.mark.parametrize(
    "stamp",
    [pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns")]
    + [pa.timestamp(unit, "Europe/Berlin") for unit in ("s", "ns")],
    ids=str,
)
def test_stamps_of_every_unit_are_one_axis(service: Running, stamp: pa.DataType) -> None:
    asked = body()
    expected = ask(service, packed(asked)).content
    zone = {"tz": stamp.tz} if stamp.tz else {}
    given = pa.table(asked["data"])
    walls = pl.Series(asked["data"]["ds"]).str.to_datetime(time_unit="us", time_zone=stamp.tz)
    instants = walls.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(stamp)
    given = given.set_column(1, "ds", instants)
    request = {name: value for name, value in asked.items() if name != "data"}
    reply = ask(service, pack(request, data=given))
    assert reply.status_code == 200, reply.text
    envelope, found = unpack(reply.content)
    assert envelope["tz"] == zone.get("tz")
    assert found["forecast"]["mean"].equals(unpack(expected)[1]["forecast"]["mean"])


def test_a_fixed_offset_comes_back(service: Running) -> None:
    data = table(series())
    asked = {"data": data | {"ds": [f"{s}+05:30" for s in data["ds"]]}, "h": 2, "freq": "h"}
    plain = service.post("/v1/forecasts", asked).json()
    walls = pl.Series(data["ds"]).str.to_datetime(time_unit="us").to_physical().to_numpy()
    instants = pa.array(walls - 11 * HOUR // 2, pa.timestamp("us", "+05:30"))
    given = pa.table(data).set_column(1, "ds", instants)
    envelope, found = unpack(ask(service, pack({"h": 2, "freq": "h"}, data=given)).content)
    assert envelope["tz"] == plain["tz"] == "+05:30"
    assert columns(found["forecast"]) == plain["forecast"]


@pytest.mark.parametrize("kind", [pa.int16(), pa.uint64(), pa.int64()], ids=str)
def test_integers_stay_integers(service: Running, kind: pa.DataType) -> None:
    data = {"unique_id": [7] * 60, "ds": [*range(60)], "y": series(60)}
    expected = service.post("/v1/forecasts", {"data": data, "model": "seasonal_naive", "h": 2})
    given = pa.table(data)
    for place in (0, 1):
        name = given.column_names[place]
        given = given.set_column(place, name, given[name].cast(kind))
    _, found = unpack(ask(service, pack({"model": "seasonal_naive", "h": 2}, data=given)).content)
    assert {n: c.to_pylist() for n, c in zip(found["forecast"].column_names, found["forecast"],
            strict=True)} == expected.json()["forecast"]  # fmt: skip


def test_a_comparison_is_that_of_json(service: Running) -> None:
    asked = body(models=["small", "small/1"]) | {"options": {"holdout": 3, "on_invalid": "skip"}}
    plain = service.post("/v1/compare", asked).json()
    reply = ask(service, packed(asked), path="/v1/compare")
    assert reply.status_code == 200, reply.text
    envelope, found = unpack(reply.content)
    forecast = pl.from_arrow(found["forecast"])
    assert isinstance(forecast, pl.DataFrame)
    for one in plain["forecasts"]:
        mine = forecast.filter(pl.col("model") == one["reference"])
        assert {name: mine[name].to_list() for name in one["columns"]} == one["columns"]
        assert mine["unique_id"].to_list() == plain["index"]["unique_id"]
        assert mine["actual"].to_list() == plain["actuals"]
    for left, right in zip(envelope["leaderboard"], plain["leaderboard"], strict=True):
        assert left["metrics"] == right["metrics"]
    assert found["series"].num_rows == 3 * len(plain["forecasts"])
    assert envelope["warnings"] == plain["warnings"]


def test_a_column_of_the_comparison_is_not_the_clients(service: Running) -> None:
    """Two columns of one name could not be told apart."""
    asked = body(models=["small"], columns={"id": "model"})
    asked["data"]["model"] = asked["data"].pop("unique_id")
    problem = ask(service, packed(asked), path="/v1/compare").json()
    assert (problem["status"], problem["errors"][0]["pointer"]) == (422, "/columns/id")
    assert ask(service, packed(asked), path="/v1/compare", accept=JSON).status_code == 200


@pytest.mark.parametrize("fault", ["none", "a gap", "a fault of future", "an attribute twice"])
def test_all_three_tables_mean_what_they_mean_in_json(fault: str) -> None:
    inputs = Inputs(
        known=(Covariate("price"),), past=(Covariate("rain", vocabulary=Vocabulary(("no",))),),
        static=(Covariate("area"),),
    )  # fmt: skip
    steps = stamps(34)
    asked: dict[str, Any] = {
        "data": table(series(30), series(30, seed=1))
        | {"price": [float(i) for i in range(60)], "rain": ["no", None] * 30},
        "future": {"unique_id": ["s0"] * 4 + ["s1"] * 4, "ds": steps[30:] * 2,
                   "price": [*range(8)]},
        "static": {"unique_id": ["s1", "s0"], "area": [2.5, 1]},
        "freq": "h",
    }  # fmt: skip
    if fault == "a gap":
        asked["data"] = {name: [*cells[:9], *cells[10:]] for name, cells in asked["data"].items()}
    elif fault == "a fault of future":
        asked["future"]["price"][6] = None
    elif fault == "an attribute twice":
        asked["static"] = {"unique_id": ["s1", "s0", "s0"], "area": [2.5, 1, 2]}
    found = []
    for sent, is_arrow in ((json.dumps(asked).encode(), False), (packed(asked), True)):
        read = forms.parse(ForecastRequest, sent, Limits(), is_arrow=is_arrow)
        options = Options(on_invalid="skip")
        data = tables.read(read, options, Limits(), inputs=inputs)
        found.append(ahead.prepared(read, data, options, steps=4, reach=4, known=inputs.known))
    plain, streamed = found
    assert streamed.data.panel.table.equals(plain.data.panel.table)
    assert streamed.data.panel.static is not None
    assert plain.data.panel.static is not None
    assert streamed.data.panel.static.equals(plain.data.panel.static)
    assert streamed.data.report == plain.data.report
    assert streamed.future is not None
    assert plain.future is not None
    assert streamed.future.equals(plain.future.cast(dict(streamed.future.schema)))
    assert len(plain.data.panel.ids) == (2 if fault == "none" else 1)


BAD = {
    "text as value": {"y": ["5"] * 60},
    "true as value": {"y": [True] * 60},
    "a day as value": {"y": pa.array([20_000] * 60, pa.int32()).cast(pa.date32())},
    "a number as stamp": {"ds": [0.5] * 60},
    "true as id": {"unique_id": [True] * 60},
    "a null as id": {"unique_id": [None, *["a"] * 59]},
    "beyond the range": {"ds": pa.array([2**62 + row for row in range(60)], pa.timestamp("s"))},
    "an infinity": {"y": [*series(59), float("inf")]},
    "all missing": {"y": [float("nan")] * 60},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_data_are_named_as_in_json(service: Running, bad: dict[str, Any]) -> None:
    data = {"unique_id": ["a"] * 60, "ds": stamps(60), "y": series(60), **bad}
    reply = ask(service, pack({"freq": "h", "model": "small"}, data=pa.table(data)))
    assert reply.status_code == 422, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    pointer = reply.json()["errors"][0]["pointer"]
    assert pointer.startswith(f"/data/{next(iter(bad))}")


@pytest.mark.parametrize("name", ["future", "static"])
def test_an_infinite_covariate_is_named(name: str) -> None:
    """In JSON there is none; read on, it would count as missing without a word."""
    other = pa.table({"unique_id": ["a", "b"], "x": [1.0, float("-inf")]})
    data = pa.table({"ds": [1], "y": [1.0]})
    with pytest.raises(Problem) as caught:
        arrow.decode(pack({}, data=data, **{name: other}), Limits())
    assert caught.value.errors[0].members()["pointer"] == f"/{name}/x/1"


# --- forms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (MEDIA, MEDIA),
        (f"{MEDIA}, */*", MEDIA),
        (f"{MEDIA};q=0.5, {JSON};q=0.9", JSON),
        (f"{MEDIA}, {JSON}", MEDIA),
        (f"*/*, {MEDIA};q=0", JSON),
        ("text/csv", None),
    ],
)
@pytest.mark.parametrize("content", [JSON, MEDIA])
def test_either_form_comes_and_goes(
    service: Running, content: str, accept: str, form: str | None
) -> None:
    asked = {"data": table(series()), "freq": "h", "h": 1}
    sent = packed(asked) if content == MEDIA else json.dumps(asked).encode()
    headers = {"content-type": content, "accept": accept}
    reply = service.client.post("/v1/forecasts", content=sent, headers=headers)
    assert reply.headers["content-type"] == (form or "application/problem+json")
    assert reply.status_code == (200 if form else 406)


@pytest.mark.parametrize(
    "headers",
    [{"content-encoding": "zstd"}, {"content-type": "application/vnd.apache.parquet"}],
)
def test_what_is_not_read_is_refused_by_its_headers(
    service: Running, headers: dict[str, str]
) -> None:
    reply = service.client.post(
        "/v1/forecasts", content=b"x", headers={"content-type": MEDIA, **headers}
    )
    assert reply.status_code == 415


@pytest.mark.parametrize("declared", [{}, {"content-length": "1048577"}], ids=["chunked", "said"])
def test_a_body_over_its_limit_is_refused(service: Running, declared: dict[str, str]) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(65_536), "more_body": True}

    headers = {"content-type": MEDIA, **declared}.items()
    raw = [(name.encode(), value.encode()) for name, value in headers]
    scope = {
        "type": "http",
        "path": "/v1/forecasts",
        "headers": raw,
        "app": service.app,
        "state": {},
    }
    request = Request(scope, receive)
    with pytest.raises(Problem) as caught:
        asyncio.run(read(request, Limits(body_arrow_mib=1)))
    assert caught.value.members["limit"] == "body_arrow_mib"
    service.app.state.service.bodies.give(held_by(request))


# --- the gate -----------------------------------------------------------------------------------

SMALL = {"ds": pa.array([1, 2]), "y": pa.array([1.0, 2.0])}
REFUSED = {
    "list": pa.array([[1], [2]]),
    "struct": pa.array([{"a": 1}, {"a": 2}]),
    "binary": pa.array([b"a", b"b"]),
    "decimal": pa.array([1, 2]).cast(pa.decimal128(20)),
    "duration": pa.array([1, 2], pa.duration("s")),
    "view": pa.array(["a", "b"], pa.string_view()),
    "half": pa.array(np.array([1, 2], np.float16)),
    "date64": pa.array([1, 2], pa.date64()),
    "dictionary of integers": pa.array([1, 2]).dictionary_encode(),
    "dictionary of lists": pa.DictionaryArray.from_arrays([0, 1], pa.array([[1], [2]])),
    "no such zone": pa.array([1, 2], pa.timestamp("us", "../../etc/passwd")),
}


def refused(content: bytes, limits: Limits | None = None) -> Problem:
    start = time.monotonic()
    with pytest.raises(Problem) as caught:
        arrow.decode(content, limits or Limits())
    assert time.monotonic() - start < 10  # 1 s is promised; an idle machine takes milliseconds
    return caught.value


@pytest.mark.parametrize("column", REFUSED.values(), ids=REFUSED)
def test_types_off_the_list_are_refused_by_the_schema(column: pa.Array) -> None:
    problem = refused(pack({}, data=pa.table(SMALL | {"x": column})))
    assert (problem.type, problem.errors[0].pointer) == ("invalid-request", "/data/x")


class Opened(pa.ExtensionType):  # type: ignore[misc]
    """A type that says so when it is made from what a client sent."""

    made = 0

    def __init__(self) -> None:
        super().__init__(pa.int64(), "tests.opened")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, _storage: pa.DataType, _given: bytes) -> Opened:
        cls.made += 1
        return cls()


def test_no_extension_type_is_ever_made() -> None:
    """S9: a registered one may run what the client sent; ray.train registers one that does."""
    column = pa.ExtensionArray.from_storage(Opened(), pa.array([1, 2]))
    content = pack({}, data=pa.table(SMALL | {"x": column}))
    pa.register_extension_type(Opened())
    try:
        assert refused(content).type == "invalid-request"
    finally:
        pa.unregister_extension_type("tests.opened")
    assert Opened.made == 0
    assert refused(content).type == "invalid-request"


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("where", ["batch", "dictionary"])
def test_compressed_buffers_are_refused(codec: str, where: str) -> None:
    """6 kB of zstd became 200 MB."""
    words = pa.array(["long enough to be worth it"] * 2).dictionary_encode()
    more = {"x": words} if where == "dictionary" else {}
    options = ipc.IpcWriteOptions(compression=codec)
    problem = refused(pack({}, options=options, data=pa.table(SMALL | more)))
    assert problem.kind.status == 415


def stream(table_: pa.Table, **metadata: str) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table_.replace_schema_metadata(metadata).schema) as writer:
        writer.write_table(table_)
    return sink.getvalue().to_pybytes()


WHOLE = pack({}, data=pa.table(SMALL))
DATA = {"forecast.table": "data", "forecast.request": "{}"}
BROKEN = {
    "nothing": (b"", 422),
    "JSON": (b'{"data": {}}', 400),
    "Parquet": (b"PAR1" + bytes(60), 400),
    "cut off": (WHOLE[:-40], 400),
    "something behind": (WHOLE + b"x", 400),
    "four streams": (WHOLE * 4, 400),
    "a table twice": (WHOLE * 2, 422),
    "no name": (stream(pa.table(SMALL)), 422),
    "another name": (stream(pa.table(SMALL), **{"forecast.table": "c4nary"}), 422),
    "no request": (stream(pa.table(SMALL), **{"forecast.table": "data"}), 422),
    "no data": (pack({}, static=pa.table(SMALL)), 422),
    "a column twice": (stream(pa.table([[1], [2]], names=["y", "y"]), **DATA), 422),
    "a name of 129": (stream(pa.table({"x" * 129: [1]}), **DATA), 422),
    "600 columns": (stream(pa.table({str(i): [1] for i in range(600)}), **DATA), 422),
    "50,000 columns": (stream(pa.table({str(i): [1] for i in range(50_000)}), **DATA), 422),
    "a large schema": (stream(pa.table(SMALL), **DATA, more="x" * 2**21), 422),
}


@pytest.mark.parametrize(("content", "status"), BROKEN.values(), ids=BROKEN)
def test_what_is_no_request_is_refused(content: bytes, status: int) -> None:
    problem = refused(content)
    assert problem.kind.status == status
    assert "c4nary" not in str([problem.detail, problem.errors])


def test_the_request_is_parsed_as_strictly_as_a_body(service: Running) -> None:
    for request, pointer in (({"h": "5"}, "/h"), ({"data": {"y": [1]}}, ""), ({"c4nary": 1}, "")):
        problem = ask(service, pack(request, data=pa.table(SMALL))).json()
        assert (problem["status"], problem["errors"][0]["pointer"]) == (422, pointer)
        assert "c4nary" not in str(problem)


def batches(schema: pa.Schema, *given: pa.RecordBatch, times: int = 1) -> bytes:
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, schema.with_metadata(DATA)) as writer:
        for _ in range(times):
            for batch in given:
                writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def test_few_bytes_do_not_become_many() -> None:
    """Rows of nulls take no bytes, and one long word stands for a million rows."""
    column = pa.Array.from_buffers(pa.null(), 2**31 - 1, [None])
    nulls = pa.RecordBatch.from_arrays([column], names=["y"])
    assert refused(batches(nulls.schema, nulls)).type == "too-large"
    indices = pa.array(np.zeros(1_000_000, np.int8))
    words = pa.DictionaryArray.from_arrays(indices, pa.array(["x" * 2**20]))
    batch = pa.RecordBatch.from_arrays([words], names=["y"])
    assert refused(batches(batch.schema, batch)).type == "too-large"
    tiny = pa.RecordBatch.from_arrays([pa.array([1])], names=["y"])
    assert refused(batches(tiny.schema, tiny, times=20_001)).type == "malformed-body"


def test_a_forged_count_of_rows_is_refused() -> None:
    """Read as it stands, a column would reach into the memory behind the body."""
    count = (2).to_bytes(8, "little")
    *places, _cell = (i for i in range(len(WHOLE)) if WHOLE.startswith(count, i))
    assert len(places) == 3  # of the batch and of its two columns; the last 2 is a stamp
    for place in places:
        for forged in (3, 2**31, 2**62, 2**63):
            content = WHOLE[:place] + forged.to_bytes(8, "little") + WHOLE[place + 8 :]
            assert refused(content).type == "malformed-body"


def test_no_mutation_gets_through_the_gate_unnamed() -> None:
    """Law 10: an uncaught exception is a 500, a fault in native code the end of the process."""
    found = mutated(2_000, seed=1)
    assert found["read"] > 200
    assert found["malformed-body"] > 200
    assert not found["defect"]


@pytest.mark.faults
def test_no_mutation_ends_a_process_of_little_memory(record_property: Told) -> None:
    """B8: in a process of its own, as the decoder is native code."""
    command = [sys.executable, "-m", "tests.serving.mutations", "5000", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2_000:]
    told = json.loads(done.stdout)
    record_property(
        "B8",
        f"5,000 mutations and no death: {told['mutated']}; compressed, 200,000 columns, views, "
        f"extensions, Parquet: {told['refused']}; {told['mib']} MiB and {told['seconds']} s",
    )
    assert sum(told["mutated"].values()) == 5_000
    assert not {"read", "defect"} & {*told["refused"]}
    assert "defect" not in told["mutated"]


def test_a_thousand_series_cost_no_python_a_row() -> None:
    """512,000 rows row by row would hold the service for a second."""
    count = 1_000
    data = pa.table(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(count)], 512),
            "ds": pa.array(np.tile(np.arange(512) * HOUR, count), pa.timestamp("us")),
            "y": np.random.default_rng(0).random(count * 512),
        }
    )
    content = pack({"freq": "h"}, data=data)
    start = time.process_time()
    asked = forms.parse(ForecastRequest, content, Limits(), is_arrow=True)
    read = tables.read(asked, Options(), Limits().of_forms(arrow_in=True, arrow_out=True))
    assert time.process_time() - start < 2  # 0.15 s here
    assert len(read.panel.ids) == count


def test_a_model_sees_what_json_gives_it(service: Running) -> None:
    """The sample of the contract: several series of one request, permuted, in Arrow."""
    asked = {"data": table(*(series(CONTEXT, seed=i) for i in range(5))), "freq": "h", "h": 24}
    order = np.random.default_rng(3).permutation(5 * CONTEXT)
    shuffled = asked | {
        "data": {name: [cells[i] for i in order] for name, cells in asked["data"].items()}
    }
    _, plain = unpack(ask(service, packed(asked)).content)
    _, mixed = unpack(ask(service, packed(shuffled)).content)
    one, other = (pl.DataFrame(t["forecast"]).sort("unique_id", "ds") for t in (plain, mixed))
    assert one.equals(other)


@pytest.mark.parametrize("holdout", [0, 2])
def test_a_comparison_of_nothing_that_is_left_is_empty(service: Running, holdout: int) -> None:
    """It was a 500, where JSON answers with empty columns."""
    data = {"ds": [stamps(1)[0]] * 2, "y": [1.0, 2.0]}
    body = {"models": ["linear"], "h": 2, "freq": "h", "data": data}
    body["options"] = {"on_invalid": "skip", "holdout": holdout}
    headers = {"accept": MEDIA}
    reply = service.client.post("/v1/compare", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    assert service.client.post("/v1/compare", json=body).json()["index"]["ds"] == []
    _, answered = unpack(reply.content)
    assert len(answered["forecast"]) == 0
    assert {*answered["series"]["status"].to_pylist()} == {"invalid"}
