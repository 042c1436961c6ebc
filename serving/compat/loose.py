"""What the clients of other protocols write, and where in it faults are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from serving.problems import Item, Problem

LEVEL = re.compile(r"[0-9]{0,2}\.[0-9]{1,8}")


@contextmanager
def relocated(place: Callable[[str], str]) -> Iterator[None]:
    """Moves the pointers of problems from where /v1/forecasts has things to where they were sent."""
    try:
        yield
    except Problem as problem:
        problem.errors = [
            item if item.pointer is None else replace(item, pointer=place(item.pointer))
            for item in problem.errors
        ]
        raise


def levels_of(words: Sequence[str], pointer: str) -> list[float]:
    """The quantile levels in words such as `0.1` and `0.9`."""
    if not all(map(LEVEL.fullmatch, words)):
        item = Item("Give levels such as 0.1 and 0.9.", pointer)
        raise Problem("invalid-request", "The quantiles cannot be read.", [item])
    return [float(word) for word in words]


def words_of(text: str) -> list[str]:
    """The words of a text such as `0.1, 0.5, 0.9`."""
    return [word.strip() for word in text.split(",")] if text.strip() else []


def parts_of(pointer: str) -> list[str]:
    """The names and numbers of a JSON pointer."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
