"""Bodies of /invocations that lie (law 10): a problem that names the place, never a 500."""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serving.running import Running, series, stamps

CANARY = "c4nary"
ROWS = 40
JUNK: list[Any] = [
    None, True, -1, 0, 2**63, 10**400, 0.5, 1e308, math.nan, math.inf, "", "NaN", CANARY, "2026-01-01",
    "\x00", "x" * 500, [], {}, [[]], [None], {"a": 1}, [1, "a", None], [{}],
]  # fmt: skip


def split() -> dict[str, Any]:
    rows = [["a", stamp, y] for stamp, y in zip(stamps(ROWS), series(ROWS), strict=True)]
    return {
        "dataframe_split": {"columns": ["unique_id", "ds", "y"], "data": rows, "index": [0]},
        "params": {"h": 2, "freq": "h", "quantiles": [0.1], "columns": {"id": "unique_id"}},
    }


def records() -> dict[str, Any]:
    rows = [{"ds": stamp, "y": y} for stamp, y in zip(stamps(ROWS), series(ROWS), strict=True)]
    for row in rows[-2:]:
        row["y"] = None
    static = {"unique_id": ["0"], "size": [1]}
    return {
        "dataframe_records": rows,
        "params": {"h": 2, "future": "trailing_null", "static": static},
    }


def instances() -> dict[str, Any]:
    one = {"start": "2026-01-01", "target": series(ROWS), "cat": [], "dynamic_feat": []}
    wanted = {"output_types": ["mean", "quantiles"], "quantiles": ["0.1"], "num_samples": 3}
    return {"instances": [one, copy.deepcopy(one)], "configuration": wanted}


def inputs() -> dict[str, Any]:
    one = {"target": series(ROWS), "start": "2026-01-01", "item_id": "a"}
    other = {**one, "target": series(ROWS, seed=1), "item_id": "b"}
    wanted = {"prediction_length": 2, "quantile_levels": [0.1], "freq": "h"}
    return {"inputs": [one, other], "parameters": wanted}


BODIES = (split, records, instances, inputs)


def send(service: Running, body: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    started = time.monotonic()
    reply = service.client.post("/invocations", content=content, headers=headers)
    assert time.monotonic() - started < 10
    assert reply.status_code in (200, 400, 413, 422), reply.text
    if reply.status_code != 200:
        assert len(reply.content) < 16_384
        assert CANARY not in reply.text.replace(f'"unique_id":"{CANARY}"', "")
    return reply


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every part of a body, of rows only the first and the last."""
    yield at
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from places(inner, (*at, name))
    elif isinstance(tree, list) and tree:
        for place in {0, len(tree) - 1}:
            yield from places(tree[place], (*at, place))


def changed(tree: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    tree = copy.deepcopy(tree)
    inner = tree
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    return tree


def resolves(pointer: str, tree: Any) -> bool:
    """Whether a JSON pointer leads somewhere in `tree`."""
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        try:
            tree = tree[int(name)] if isinstance(tree, list) else tree[name]
        except (LookupError, ValueError, TypeError):
            return False
    return True


@pytest.mark.parametrize("made", BODIES)
def test_every_part_may_be_wrong(service: Running, made: Any) -> None:
    """And what is said of it points to a place in the body that was sent."""
    body, draw = made(), random.Random(0)
    assert send(service, body).status_code == 200
    for place in places(body):
        for value in draw.sample(JUNK, 6):
            broken = changed(body, place, value)
            reply = send(service, broken)
            if reply.status_code != 200:
                for item in reply.json()["errors"]:
                    assert resolves(item.get("pointer", ""), broken), (place, value, item)


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({}, 422, ""),
        ([], 422, ""),
        (split() | inputs(), 422, ""),
        ({"inputs": []}, 422, "/inputs"),
        (inputs() | {"params": {}}, 422, ""),
        (inputs() | {CANARY: 1}, 422, ""),
        ({"dataframe_records": [{f"c{row}-{i}": 1 for i in range(20)} for row in range(30)]}, 422,
         "/dataframe_records"),
        ({"dataframe_records": []}, 422, "/dataframe_records"),
        ({"dataframe_split": {"columns": ["y", "y"], "data": []}}, 422, "/dataframe_split/columns"),
        ({"dataframe_split": {"columns": ["y"], "data": [[1], []]}}, 422, "/dataframe_split/data/1"),
        ({"inputs": [{"target": [1.0]}] * 10_001}, 413, None),
        (b'{"inputs": [{"target": [1], "target": [2]}]}', 422, ""),
        (b'{"inputs": ' + b"[" * 200 + b"]" * 200 + b"}", 400, None),
        (b'{"inputs": [' + b"{}," * 1_100_000 + b"{}]}", 422, None),
        (b'{"inputs": [{"target": [1, Infinity]}]}', 422, "/inputs/0/target/1"),
        (b'{"inputs": [{"target": [1, -Infinity]}]}', 422, "/inputs/0/target/1"),
        (b"\xff", 400, None),
        (changed(records(), ("params", "h"), 10**400), 422, None),
        (changed(split(), ("dataframe_split", "data", 0, 0), 10**400), 422,
         "/dataframe_split/data/0/0"),
    ],
)  # fmt: skip
def test_whole_bodies_that_are_wrong(
    service: Running, body: Any, status: int, pointer: str | None
) -> None:
    reply = send(service, body)
    assert reply.status_code == status, reply.text
    if pointer is not None:
        assert reply.json()["errors"][0]["pointer"] == pointer


def test_who_has_no_options_is_told_of_none(service: Running) -> None:
    """The remedy was a member that the body does not know."""
    empty = [None] * ROWS
    for body, known in (
        (changed(inputs(), ("inputs", 0, "target"), empty), False),
        (changed(instances(), ("instances", 0, "target"), empty), False),
        (changed(records(), ("dataframe_records", 0, "ds"), "soon"), True),
    ):
        problem = send(service, body).json()
        assert problem["type"] == "/problems/invalid-data"
        assert ("options" in problem["detail"]) == known


def test_csv_that_is_none(service: Running) -> None:
    """The reader is native code; no bytes may end the process or come back."""
    good = (
        "ds,y\n" + "\n".join(f"{s},{y}" for s, y in zip(stamps(30), series(30), strict=True))
    ).encode()
    draw, headers = random.Random(0), {"content-type": "text/csv"}
    bodies = [b"", b"\n", b",", b"ds,y", b"ds,ds\n1,2\n", b'"', b'ds,y\n"a', b"\x00" * 100, b"\xff\xfe" * 50,
              b"ds,y\n1\n", b"ds,y\n1,2,3\n", b"y" * 100_000, b"," * 100_000, b"ds,y\r1,2\r3,4"]  # fmt: skip
    for _ in range(60):
        broken = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            broken[draw.randrange(len(broken))] = draw.choice(b'\x00\xff",\n\r;-1a')
        bodies.append(bytes(broken))
    for body in bodies:
        reply = service.client.post("/invocations?freq=h&h=2", content=body, headers=headers)
        assert reply.status_code in (200, 400, 422), reply.text


@pytest.mark.parametrize(
    "query",
    ["h=0", "h=-1", "h=x", "h=1&h=2", "h=٣", "h=" + "9" * 30, "quantiles=a", "options={", "static=5",
     "columns=" + "[" * 5_000, "options=" + json.dumps({"fill": CANARY}), f"{CANARY}=1", "future=x",
     "model=../x", "tz=x", "freq=?"],
)  # fmt: skip
def test_a_query_that_is_wrong(service: Running, query: str) -> None:
    headers = {"content-type": "text/csv"}
    text = "ds,y\n" + "\n".join(f"{s},{y}" for s, y in zip(stamps(30), series(30), strict=True))
    reply = service.client.post(f"/invocations?{query}", content=text, headers=headers)
    assert reply.status_code == 422, reply.text
    assert CANARY not in reply.text
