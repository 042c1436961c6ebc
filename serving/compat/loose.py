"""JSON as the clients of other protocols write it: a bare NaN is a missing number.

Everything else is as strict as on our own routes: no coercion, no repeated or unknown member.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from serving.body import check_structure, members_of, pointer_to, refuse_repeated
from serving.limits import Limits
from serving.problems import Item, Problem

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[int | str, ...]
LEVEL = re.compile(r"[0-9]{0,2}\.[0-9]{1,8}")
CONTAINERS = 1_000_000  # arrays and objects of a body; one a row is usual


def tree_of(body: bytes, limits: Limits) -> Any:
    """What `body` holds; the problem `malformed-body` where it is not JSON."""
    check_structure(body, limits, containers=CONTAINERS)
    try:
        tree = from_json(body, allow_inf_nan=True, cache_strings="keys")
    except ValueError:
        detail = "The body is not JSON in UTF-8."
        raise Problem("malformed-body", detail) from None
    refuse_repeated(body, members=members_of(tree))
    return tree


def validated(model: type[Model], tree: object) -> Model:
    """`tree` as `model`; the problem `invalid-request` points to the first fault."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place, message = _within(tree, found["loc"]), found["msg"]
    if found["type"] == "missing":
        message = f"'{found['loc'][-1]}' is required."
    if found["type"] == "extra_forbidden":  # its name is the client's own and is not repeated
        place = place[:-1]
        known = ", ".join(sorted(_model_at(model, place).model_fields))
        message = f"A member here is not known. Known: {known}."
    message = message.removeprefix("Value error, ").rstrip(".")
    item = Item(f"{message}.", pointer_to(*place))
    raise Problem("invalid-request", "A field is not as specified.", [item])


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


def _within(tree: object, location: Place) -> Place:
    """The part of `location` that leads somewhere; pydantic adds the names of alternatives."""
    place: list[int | str] = []
    for part in location:
        try:
            tree = tree[part]  # type: ignore[index]
        except (TypeError, LookupError):
            break
        place.append(part)
    return tuple(place)


def _model_at(model: type[BaseModel], place: Place) -> type[BaseModel]:
    """The model of the object at `place`."""
    for part in place:
        if isinstance(part, str):
            model = next(_models(model.model_fields[part].annotation), model)
    return model


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
