"""What a body is made of, told from its bytes: as a parser would find it, wherever chunks end."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from serving import structure
from serving.structure import outside_strings, structure_of

TEXTS = ["", '"', "\\", '\\"', "[{", ":", '":', "é", "\\\\", "a" * 20]


def made(rng: random.Random, depth: int) -> Any:
    """Some JSON of at most this depth."""
    kind = rng.choice(["text", "number", "list", "object"] if depth else ["text", "number"])
    if kind == "text":
        return rng.choice(TEXTS)
    if kind == "number":
        return rng.choice([None, True, -1.5e300, 7])
    inner = [made(rng, depth - 1) for _ in range(rng.randrange(5))]
    return inner if kind == "list" else {f"{rng.choice(TEXTS)}{n}": x for n, x in enumerate(inner)}


def expected(value: Any) -> tuple[int, int, int, int]:
    """Depth, containers, members, and those of the widest object."""
    if not isinstance(value, dict | list):
        return 0, 0, 0, 0
    inner = [expected(x) for x in (value.values() if isinstance(value, dict) else value)]
    own = len(value) if isinstance(value, dict) else 0
    depths, containers, members, widest = zip((0, 0, 0, 0), *inner, strict=True)
    return 1 + max(depths), 1 + sum(containers), own + sum(members), max(own, *widest)


@pytest.mark.parametrize("chunk", [1, 3, 64, structure.CHUNK])
def test_it_is_what_a_parser_finds(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bracket in a text that counts refuses an honest body; one that does not lets a bomb in."""
    monkeypatch.setattr(structure, "CHUNK", chunk)
    rng = random.Random(chunk)
    for _ in range(300):
        value = made(rng, 5)
        body = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode()
        found = structure_of(body, most_depth=32)
        assert (found.depth, found.containers, found.members, found.widest) == expected(value), body


def test_what_stands_in_no_string() -> None:
    """A text that says NaN must not make a body malformed, nor hide one that is."""
    assert outside_strings(rb'{"NaN": ["\"NaN\\", NaN, "\\\"["]}') == b"{: [, NaN, ]}"


def test_what_is_no_json_has_an_end() -> None:
    """Whatever is sent, an answer is found."""
    for body in (b"", b"]", b"]]][[", b'"', b'"\\', b":::", b"\xff\x00", b'{"a"'):
        assert structure_of(body, most_depth=32).depth <= 32
    assert structure_of(b"[" * 33, most_depth=32).depth == 33
