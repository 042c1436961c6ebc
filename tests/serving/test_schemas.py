"""The models of requests, looked at as they are declared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, get_args, get_origin

import annotated_types
import pytest
from pydantic import FailFast

import serving.app  # noqa: F401 - knows all routes, and so all models
from serving.schemas.fields import Strict

BOUNDS = (FailFast, annotated_types.MaxLen)


def requests() -> list[type[Strict]]:
    found, waiting = list[type[Strict]](), [Strict]
    while waiting:
        made = waiting.pop().__subclasses__()
        found += made
        waiting += made
    return sorted(set(found), key=lambda model: model.__qualname__)


def endless(annotation: Any, marks: Sequence[Any] = ()) -> Iterator[Any]:
    """The lists within a type that go on behind an item which is wrong."""
    inside, *rest = get_args(annotation) or (None,)
    if get_origin(annotation) is Annotated:
        yield from endless(inside, rest)
        return
    if get_origin(annotation) is list:
        if inside is not Any and not any(isinstance(mark, BOUNDS) for mark in marks):
            yield annotation
        marks = ()
    for each in (inside, *rest):
        if each is not None:
            yield from endless(each, marks)


@pytest.mark.parametrize("model", requests(), ids=lambda model: model.__qualname__)
def test_a_list_ends_at_its_first_fault(model: type[Strict]) -> None:
    """Law 10: 2 million wrong items were 2 million errors, 27 s and 4 GiB, before one was told."""
    found = {
        name: [*endless(field.annotation, field.metadata)]
        for name, field in model.model_fields.items()
    }
    assert {name: lists for name, lists in found.items() if lists} == {}


@pytest.mark.parametrize("model", requests(), ids=lambda model: model.__qualname__)
def test_what_a_text_may_be_is_described(model: type[Strict]) -> None:
    """Else the pattern would be all that a refusal can say."""
    silent = [
        name
        for name, field in model.model_fields.items()
        if any(getattr(rule, "pattern", None) for rule in field.metadata) and not field.description
    ]
    assert silent == []
