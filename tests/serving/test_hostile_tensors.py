"""Tensors that lie (law 10): a problem at once, never a 500, and never an allocation of what was claimed."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from tests.serving.running import Running, series

PATH = "/v2/models/small/infer"
HEADER = "Inference-Header-Content-Length"
Change = Callable[[dict[str, Any]], None]


def request(**more: Any) -> dict[str, Any]:
    y = {"name": "y", "shape": [2, 48], "datatype": "FP32", "data": series(48) + series(48, seed=1)}
    return {"inputs": [y], "parameters": {"h": 3}, **more}


def send(service: Running, body: Any, behind: bytes = b"", header: Any = None) -> httpx.Response:
    """The JSON `body`, with bytes `behind` it; `header` is what is said of its length."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {HEADER: str(len(text) if header is None else header)} if behind or header else {}
    return service.client.post(PATH, content=text + behind, headers=headers)


def refused(reply: httpx.Response, status: int) -> dict[str, Any]:
    """The problem of a refusal that is small and tells the client's user something."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert len(reply.content) < 16_384
    problem: dict[str, Any] = reply.json()
    assert problem["error"]
    return problem


def tensor(**fields: Any) -> Change:
    """Changes the first input; a field of None is taken away."""

    def change(body: dict[str, Any]) -> None:
        own = {**body["inputs"][0], **fields}
        body["inputs"][0] = {name: value for name, value in own.items() if value is not None}

    return change


def more(**fields: Any) -> Change:
    """Adds an input."""
    return lambda body: body["inputs"].append({"datatype": "BYTES", **fields})


LIES: dict[str, tuple[Change, int, str]] = {
    "a negative shape": (tensor(shape=[-1, 48]), 422, "/inputs/0/shape/0"),
    "two negative axes": (tensor(shape=[-2, -48]), 422, "/inputs/0/shape/0"),
    "a huge shape": (tensor(shape=[2**31, 2**31]), 413, ""),
    "a shape beyond all integers": (tensor(shape=[10**30, 10**30]), 413, ""),
    "a shape of nothing": (tensor(shape=[0, 48], data=[]), 422, "/inputs/0/shape"),
    "a huge shape of nothing": (tensor(shape=[0, 10**30], data=[]), 413, ""),
    "no axes": (tensor(shape=[]), 422, "/inputs/0/shape"),
    "one axis": (tensor(shape=[96]), 422, "/inputs/0/shape"),
    "five axes": (tensor(shape=[1] * 5), 422, "/inputs/0/shape"),
    "a half in the shape": (tensor(shape=[2, 48.5]), 422, "/inputs/0/shape/1"),
    "a shape of true": (tensor(shape=[True, 48]), 422, "/inputs/0/shape/0"),
    "too few elements": (tensor(data=[1.0]), 422, "/inputs/0/data"),
    "another nesting": (tensor(data=[[1.0] * 32] * 3), 422, "/inputs/0/data"),
    "ragged rows": (tensor(data=[[1.0] * 48, [1.0] * 47]), 422, "/inputs/0/data"),
    "nested too deep": (tensor(data=[[[1.0]] * 48] * 2), 422, "/inputs/0/data/0/0"),
    "data that are no array": (tensor(data="1.0"), 422, "/inputs/0/data"),
    "data of an object": (tensor(data={"a": 1}), 422, "/inputs/0/data"),
    "no data": (tensor(data=None), 422, "/inputs/0"),
    "text as a number": (tensor(data=["1"] * 96), 422, "/inputs/0/data/0"),
    "true as a number": (tensor(data=[1.0] * 95 + [True]), 422, "/inputs/0/data/95"),
    "an infinity": (tensor(data=[1.0] * 95 + [math.inf]), 422, "/inputs/0/data/95"),
    "too large for FP32": (tensor(data=[1.0] * 95 + [1e39]), 422, "/inputs/0/data/95"),
    "an integer of 400 digits": (tensor(data=[1.0] * 95 + [10**400]), 422, "/inputs/0/data/95"),
    "an unknown type": (tensor(datatype="FP16"), 422, "/inputs/0/datatype"),
    "numbers as text": (tensor(datatype="BYTES"), 422, "/inputs/0/datatype"),
    "an unknown tensor": (tensor(name="z"), 422, "/inputs/0/name"),
    "no y": (tensor(name="x_past"), 422, "/inputs"),
    "y twice": (lambda body: body["inputs"].append(body["inputs"][0]), 422, "/inputs"),
    "no inputs": (lambda body: body.update(inputs=[]), 422, "/inputs"),
    "columns that the model lacks": (
        more(name="x_past", shape=[2, 48, 1], datatype="FP32", data=[0.0] * 96), 422, "/inputs/1/shape",
    ),
    "too few ids": (more(name="unique_id", shape=[1], data=["a"]), 422, "/inputs/1/shape"),
    "NaN as an id": (more(name="unique_id", shape=[2], data=["a", math.nan]), 422, "/inputs/1/data/1"),
    "null as an id": (more(name="unique_id", shape=[2], data=["a", None]), 422, "/inputs/1/data/1"),
    "one id twice": (more(name="unique_id", shape=[2], data=["a", "a"]), 422, "/inputs/1/data/1"),
    "an empty id": (more(name="unique_id", shape=[2], data=["a", ""]), 422, "/inputs/1"),
    "a start that is none": (more(name="start", shape=[2], data=["2026-01-01", "x"]), 422,
                             "/inputs/1/data/1"),
    "starts of two kinds": (more(name="start", shape=[2], data=["2026-01-01", "2026-01-01T00:00Z"]),
                            422, "/inputs/1/data/0"),
    "the end of time": (more(name="start", shape=[2], data=["2200-12-31T20:00:00"] * 2), 422, None),
    "an unknown output": (lambda body: body.update(outputs=[{"name": "z"}]), 422, "/outputs/0/name"),
    "no value": (tensor(data=[None] * 96), 422, "/inputs/0"),
    "an output twice": (lambda body: body.update(outputs=[{"name": "mean"}] * 2), 422, "/outputs/1"),
    "quantiles of no level": (lambda body: body.update(outputs=[{"name": "quantiles"}]), 422,
                              "/outputs/0"),
    "a size without bytes": (tensor(parameters={"binary_data_size": 384}, data=None), 400,
                             "/inputs/0"),
    "a negative size": (tensor(parameters={"binary_data_size": -1}, data=None), 422,
                        "/inputs/0/parameters/binary_data_size"),
    "shared memory": (tensor(parameters={"shared_memory_region": "a"}, data=None), 422, None),
    "an unknown member": (lambda body: body.update(c4nary=1), 422, ""),
    "an id of a thousand": (lambda body: body.update(id="x" * 1_000), 422, "/id"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "status", "pointer"), LIES.values(), ids=LIES)
def test_what_does_not_fit_is_named(
    service: Running, change: Change, status: int, pointer: str | None
) -> None:
    """The pointer resolves in the request: the sender finds the place."""
    body = request()
    change(body)
    problem = refused(send(service, body), status)
    if pointer is not None and problem["errors"]:
        assert problem["errors"][0]["pointer"] == pointer
    assert "c4nary" not in json.dumps(problem)
    assert "options" not in problem["detail"]  # which the protocol does not have


def in_bytes(size: int, *, shape: tuple[int, ...] = (2, 48)) -> dict[str, Any]:
    y = {"name": "y", "shape": shape, "datatype": "FP32"}
    return {"inputs": [{**y, "parameters": {"binary_data_size": size}}], "parameters": {"h": 3}}


VALUES = np.array([series(48), series(48, seed=1)], "<f4").tobytes()


@pytest.mark.parametrize(
    ("body", "behind", "header", "status"),
    [
        (in_bytes(384), VALUES[:-1], None, 400),
        (in_bytes(384), VALUES + b"x", None, 400),
        (in_bytes(383), VALUES[:-1], None, 422),
        (in_bytes(384, shape=(2, 47)), VALUES, None, 422),
        (in_bytes(0), b"x", None, 422),
        (in_bytes(2**62), VALUES, None, 400),
        (in_bytes(384), VALUES, "-1", 400),
        (in_bytes(384), VALUES, "1e3", 400),
        (in_bytes(384), VALUES, "9" * 30, 400),
        (in_bytes(384), VALUES, "100000", 400),
        (in_bytes(384), VALUES, "20", 400),
        (in_bytes(384), VALUES, "0", 400),
        (in_bytes(384), np.full(96, np.inf, "<f4").tobytes(), None, 422),
        (b"\xff" * 30, b"", None, 400),
        (b"", b"", None, 400),
        (b"[" * 100_000, b"", None, 400),
        (b'{"inputs": [' + b"[]," * 1_500_000 + b"1]}", b"", None, 422),
        (b'{"id": "a", "id": "b", "inputs": []}', b"", None, 422),
        (b'{"id": "\\ud800", "inputs": []}', b"", None, 400),
        (b"[]", b"", None, 422),
        (b"NaN", b"", None, 422),
    ],
)
def test_bytes_that_lie(
    service: Running, body: Any, behind: bytes, header: str | None, status: int
) -> None:
    """Sizes are held against what came before anything is read of it."""
    refused(send(service, body, behind, header), status)


@pytest.mark.parametrize(
    "packed",
    [
        struct.pack("<I", 2**32 - 1) + b"a",
        struct.pack("<I", 1) + b"a",
        struct.pack("<I", 1) + b"a" + struct.pack("<I", 1),
        struct.pack("<I", 1) + b"a" + struct.pack("<I", 1) + b"\xff",
        struct.pack("<I", 0) * 3,
        b"\x01\x00",
    ],
)
def test_texts_in_bytes_that_lie(service: Running, packed: bytes) -> None:
    """A length of 4 GiB before one letter must not be believed."""
    body = request()
    ids = {"name": "unique_id", "shape": [2], "datatype": "BYTES"}
    body["inputs"].append({**ids, "parameters": {"binary_data_size": len(packed)}})
    refused(send(service, body, packed), 422)


def test_nulls_and_bare_nan_are_missing(service: Running) -> None:
    """Both stand for the same, flat or nested, as clients of several languages write them."""
    values = series(96)
    flat = request()
    flat["inputs"][0]["data"] = [math.nan, *values[1:]]
    nested = request()
    nested["inputs"][0]["data"] = [[None, *values[1:48]], values[48:]]
    outputs = [send(service, body).json()["outputs"] for body in (flat, nested)]
    assert outputs[0] == outputs[1]
    assert outputs[0][0]["shape"] == [2, 3]


def test_mutated_requests_are_never_a_defect(service: Running) -> None:
    """Any byte may be wrong, of the JSON as of the tensors behind it."""
    random = np.random.default_rng(0)
    text = json.dumps(in_bytes(384)).encode()
    whole = np.frombuffer(text + VALUES, np.uint8)
    seen: dict[int, int] = {}
    for _ in range(150):
        body = whole.copy()
        places = random.integers(0, len(body), random.integers(1, 6))
        body[places] = random.integers(0, 256, len(places))
        reply = service.client.post(PATH, content=body.tobytes(), headers={HEADER: str(len(text))})
        seen[reply.status_code] = seen.get(reply.status_code, 0) + 1
        assert reply.status_code in (200, 400, 413, 422), reply.text
    print(dict(sorted(seen.items())))


def test_the_deadline_is_that_of_all_routes(service: Running) -> None:
    """A user of the protocol waits no longer than any other, and is told so in its words."""
    y = {"name": "y", "shape": [2_000, 96], "datatype": "FP32", "data": series(96) * 2_000}
    headers = {"X-Request-Timeout-Ms": "1"}
    reply = service.client.post(PATH, json={"inputs": [y]}, headers=headers)
    assert refused(reply, 504)["type"] == "/problems/deadline-exceeded"


def test_other_types_and_methods(service: Running) -> None:
    body = json.dumps(request()).encode()
    for kind, status in (("application/json", 200), ("application/octet-stream", 200),
                         ("text/csv", 415), ("application/vnd.apache.arrow.stream", 415)):  # fmt: skip
        reply = service.client.post(PATH, content=body, headers={"content-type": kind})
        assert reply.status_code == status
    assert service.client.get(PATH).status_code == 405
    for path in (
        "/v2/models/a%2Fb/infer",
        "/v2/models/small/versions/x/infer",
        "/v2/models/_/infer",
    ):
        assert service.client.post(path, content=body).status_code in (404, 422)
    missing = service.client.post("/v2/models/nobody/infer", content=body)
    assert refused(missing, 404)["errors"][0]["pointer"] == ""
