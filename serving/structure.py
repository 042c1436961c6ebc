"""What a JSON body is made of, before anything is made of it: brackets, members and strings.

It is told from the bytes alone, in chunks, so that no body costs more than its reading.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

CHUNK = 262_144
QUOTE = 34
DEEPER, MEMBER, HIGHER = 1, 2, 3
_KIND = np.zeros(256, np.int8)
_KIND[list(b"[{")] = DEEPER
_KIND[list(b":")] = MEMBER
_KIND[list(b"]}")] = HIGHER
_STEP = np.array([0, 1, 0, -1], np.int8)
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Kinds = np.ndarray[Any, np.dtype[np.int8]]


@dataclass(frozen=True, slots=True)
class Structure:
    """How deep a body nests, its arrays and objects, its members, and those of its widest object."""

    depth: int
    containers: int
    members: int
    widest: int


def structure_of(body: bytes, *, most_depth: int, most_containers: float = math.inf) -> Structure:
    """The structure of `body`, up to where it nests deeper, holds more, or closes what it did not open.

    What is no JSON has some structure too.
    """
    level, depth, containers, members = 0, 0, 0, 0
    within = np.zeros(most_depth + 2, np.int64)  # members so far of the open object of each level
    widest = 0
    for kinds in _marks(body):
        levels = level + np.cumsum(_STEP[kinds], dtype=np.int64)
        if not len(levels):
            continue
        depth = max(depth, int(levels.max()))
        if depth > most_depth or levels.min() < 0:
            break
        level = int(levels[-1])
        containers += int((kinds == DEEPER).sum())
        members += int((kinds == MEMBER).sum())
        widest = max(widest, _widest(kinds, levels, within))
        if containers > most_containers:
            break
    return Structure(depth, containers, members, widest)


def _widest(kinds: Kinds, levels: Any, within: Any) -> int:
    """The most members of an object of a chunk; `within` are those of open ones, and is changed."""
    widest = 0
    for level in np.unique(levels[kinds != HIGHER]).tolist():
        here = kinds[(levels == level) & (kinds != HIGHER)]  # what opens at the level, its members
        opens = np.cumsum(here == DEEPER)
        counts = np.bincount(opens, weights=here == MEMBER)
        counts[0] += within[level]
        within[level] = counts[-1]
        widest = max(widest, int(counts.max()))
    return widest


def outside_strings(body: bytes) -> bytes:
    """The bytes of a JSON body that are in no string."""
    return b"".join(bytes(chunk[outside]) for chunk, outside in _chunks(body))


def _marks(body: bytes) -> Iterator[Kinds]:
    """The kinds of the brackets and colons outside strings, chunk by chunk."""
    for chunk, outside in _chunks(body):
        kinds = _KIND[chunk]
        yield kinds[(kinds > 0) & outside]


def _chunks(body: bytes) -> Iterator[tuple[Bytes, Any]]:
    """Chunks of the body, and which of their bytes are in no string."""
    if b"\\" in body:  # pairs first: a quote behind an odd one is part of the string
        body = body.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    inside = False
    for start in range(0, len(body), CHUNK):
        chunk = np.frombuffer(body, np.uint8, min(CHUNK, len(body) - start), start)
        quotes = chunk == QUOTE
        strings = np.logical_xor.accumulate(quotes) ^ inside
        inside = bool(strings[-1])
        yield chunk, ~(strings | quotes)
