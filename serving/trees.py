"""A JSON body as a tree, and the tree as a request: strictly, with the place of the first fault.

No coercion, no repeated or unknown member, no number that is not finite. What a body is made of is
looked at before anything is made of it, so a hostile one costs no more than an honest one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import Any, Literal, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, from_json

from serving.body import pointer_to
from serving.limits import Limits
from serving.problems import Item, Problem, in_words
from serving.schemas.tables import ARRAY, OBJECT, TABLES, InfiniteError, MisfitError
from serving.structure import outside_strings, structure_of

Model = TypeVar("Model", bound=BaseModel)
Place = tuple[int | str, ...]
BARE = (b"NaN", b"Infinity")
TOO_LARGE = "number out of range"  # the reader's words of an integer of thousands of digits
AT = re.compile(r"line ([0-9]+) column ([0-9]+)")
MANY_BYTES = 262_144  # from which on ids and stamps come again and again: made once
HOLDING = {dict, list}
SHORT = 100  # cells that are looked at one by one sooner than all at once
FIXED_CONTAINERS = 16  # arrays and objects of a body besides the columns of its table
LOOSE_ROWS = 1_000_000  # which have no members
ROW_BYTES = 12  # of the shortest rows and series, for each array and object in them
MESSAGES = {"model_type": OBJECT, "dict_type": OBJECT, "list_type": ARRAY}
WANTED = "Input should be "
CAME = {
    str: "a string", bool: "a boolean", int: "a whole number", float: "a decimal number",
    list: "an array", dict: "an object", type(None): "null",
}  # fmt: skip
_WHITESPACE = b" \t\r\n"


def parse(model: type[Model], body: bytes, limits: Limits, *, kept: bool = False) -> Model:
    """`body` as `model`; see `tree_of` and `validated`."""
    return validated(model, tree_of(body, limits, kept=kept))


def tree_of(body: bytes, limits: Limits, *, kept: bool = False, loose: bool = False) -> Any:
    """What `body` holds; the problem `malformed-body` for what is not JSON.

    `kept` where it will be written again: there is no number then that JSON has no word for, and
    integers beyond 64 bits are numbers as in columns. `loose` as the clients of other protocols write
    it: rows may be arrays, and a bare NaN and Infinity are numbers.
    """
    most_members = _most_members(body)
    check_structure(body, limits, most_members, loose=loose)
    strings: Literal["keys", "all"] = "all" if len(body) > MANY_BYTES else "keys"
    try:
        tree = (
            orjson.loads(body)
            if kept
            else from_json(body, allow_inf_nan=loose, cache_strings=strings)
        )
    except ValueError as error:
        if TOO_LARGE in str(error):
            raise problem_of(InfiniteError(), ()) from None
        raise Problem("malformed-body", _malformed(body, str(error))) from None
    members = _members(tree, most_objects=body.count(b"{"))
    if members < most_members:
        refuse_repeated(body, members, most_depth=limits.json_depth)
    return tree


def _malformed(body: bytes, why: str) -> str:
    """What is told of a body that is no JSON; `why` are words of the reader, who knows the place."""
    if not body.strip():
        return "The body is empty. Send a JSON object."
    outside = outside_strings(body)
    if any(word in outside for word in BARE):
        return "NaN and Infinity are not JSON; null is missing."
    place = AT.search(why)
    told = f" (line {place[1]}, column {place[2]})" if place else ""
    return f"The body is not JSON in UTF-8{told}. Text and names stand in double quotes."


def validated(model: type[Model], tree: object) -> Model:
    """`tree` as `model`; the problem `invalid-request` points to the first fault."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    found = faults[0]
    _, remedy = _schema_at(model, found["loc"])
    if misfit := _misfit_of(found):
        raise problem_of(misfit, (*found["loc"], *misfit.at), remedy=remedy)
    place, message = _within(tree, found["loc"]), in_words(found, remedy)
    if found["type"] == "missing":
        message = f"'{found['loc'][-1]}' is required"
    if found["type"] == "extra_forbidden":  # its name is the client's own and is not repeated
        place = place[:-1]
        owner, _ = _schema_at(model, place)
        message, remedy = (
            "A member here is not known",
            f"Known: {', '.join(sorted(owner.model_fields))}.",
        )
    if found["type"].endswith("_type"):
        there = [each for each in faults if _within(tree, each["loc"]) == place]
        message = _expected(there, found["input"])
    message = message.removeprefix("Value error, ").rstrip(".")
    item = Item(f"{message}. {remedy}".rstrip(), pointer_to(*place))
    raise Problem("invalid-request", "A field is not as specified.", [item])


def _expected(faults: Sequence[ErrorDetails], came: object) -> str:
    """What could stand where `came` stands: each alternative that was tried is one of `faults`."""
    kinds = [each for each in faults if each["type"].endswith("_type")]
    wanted = (MESSAGES.get(each["type"], each["msg"]) for each in kinds)
    known = dict.fromkeys(each.removeprefix(WANTED).rstrip(".") for each in wanted)
    return f"{WANTED}{' or '.join(known)}, not {CAME.get(type(came), 'this')}"


def _misfit_of(found: ErrorDetails) -> MisfitError | None:
    error = found.get("ctx", {}).get("error")
    return error if isinstance(error, MisfitError) else None


def problem_of(misfit: MisfitError, place: Place, *, remedy: str = "") -> Problem:
    """The problem of what a table cannot hold, where it was sent, and what could be."""
    pointer = pointer_to(*place)
    if isinstance(misfit, InfiniteError):
        item = Item("The number is too large for a float64.", pointer, "non_finite")
        return Problem("invalid-data", "A value is not finite.", [item])
    item = Item(f"{misfit} {remedy}".rstrip(), pointer)
    return Problem("invalid-request", "A field is not as specified.", [item])


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


def _schema_at(model: type[BaseModel], place: Place) -> tuple[type[BaseModel], str]:
    """The model of the object at `place`, and how its field is described: what should stand there."""
    described = ""
    for part in place:
        if isinstance(part, str) and part in model.model_fields:  # no name of the client's own
            field = model.model_fields[part]
            described = field.description or next(_descriptions(field.annotation), "")
            model = next(_models(field.annotation), model)
    return model, described


def _descriptions(annotation: object) -> Iterator[str]:
    """What is said of the type of a field, or of what it holds."""
    if isinstance(annotation, FieldInfo) and annotation.description:
        yield annotation.description
    for inner in get_args(annotation):
        yield from _descriptions(inner)


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


# --- what a body is made of -----------------------------------------------------------------------


def check_structure(body: bytes, limits: Limits, most_members: int, *, loose: bool) -> None:
    """Refuses nesting and numbers of arrays and members that no request has, before they are made.

    There may be an array or object for each column; or one for each member and `ROW_BYTES`, of
    which a row has more: 8 MiB of rows become some 130 MiB. 8 MiB of `[],` would become 600 MiB.
    """
    widest = limits.columns + FIXED_CONTAINERS
    if most_members <= widest and body.count(b"[") + body.count(b"{") <= limits.json_depth:
        return
    most = _most_containers(body, most_members, limits, loose=loose)
    found = structure_of(body, most_depth=limits.json_depth, most_containers=most)
    if found.depth > limits.json_depth:
        raise Problem("malformed-body", f"JSON may nest {limits.json_depth} levels deep.")
    containers = most
    if found.containers <= most:  # it was read to its end
        containers = _most_containers(body, found.members, limits, loose=loose)
    if found.containers > containers:
        detail = (
            f"A body holds at most {containers:,} arrays and objects, {limits.columns} columns."
        )
        raise Problem("invalid-request", detail)
    if found.widest > widest:
        raise Problem("invalid-request", f"An object has at most {widest} members.")


def _most_containers(body: bytes, members: int, limits: Limits, *, loose: bool) -> int:
    rows = LOOSE_ROWS if loose else min(members, len(body) // ROW_BYTES)
    return max(len(TABLES) * limits.columns, rows) + FIXED_CONTAINERS


def refuse_repeated(body: bytes, members: int, *, most_depth: int) -> None:
    """Raises if an object has a member twice; JSON itself leaves open which one counts.

    `members` is how many there are in what was read of `body`.
    """
    if members < structure_of(body, most_depth=most_depth).members:
        item = Item("An object has the same member twice.", "")
        raise Problem("invalid-request", "Every member must be given once.", [item])


def _most_members(body: bytes) -> int:
    """How many members a body has at most: quotes and colons in its strings may look like some."""
    return body.translate(None, _WHITESPACE).count(b'":')


def _members(tree: object, *, most_objects: int) -> int:
    """How many members all objects in a JSON value have; where all were found no cell is looked at."""
    found, members, level = 0, 0, [tree] if type(tree) in HOLDING else []
    while level and found < most_objects:
        objects = [value for value in level if type(value) is dict]
        found += len(objects)
        members += sum(map(len, objects))
        lists = [value for value in level if type(value) is list]
        level = []
        if found < most_objects:
            values = chain(
                chain.from_iterable(map(dict.values, objects)),
                chain.from_iterable(cells for cells in lists if _may_hold(cells)),
            )
            level = [value for value in values if type(value) in HOLDING]
    return members


def _may_hold(cells: Collection[Any]) -> bool:
    return len(cells) < SHORT or not HOLDING.isdisjoint(map(type, cells))
