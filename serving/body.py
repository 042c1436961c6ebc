"""The body of a request: counted while it is read, parsed once and strictly from its bytes.

No coercion, no repeated member, no number that is not finite; parsing stops at the first fault,
so a hostile body costs no more than an honest one.
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json
from starlette.requests import Request

from serving.accept import ARROW, TEXTS, bodies_of
from serving.encodings import PLAIN, decode, encoding_of, room_for
from serving.limits import MIB, Limits
from serving.problems import Item, Problem, too_large
from serving.service import service_of
from serving.structure import outside_strings, structure_of

Model = TypeVar("Model", bound=BaseModel)
_BARE = re.compile(rb"NaN|Infinity")
TABLES = (("data",), ("future",), ("static",))  # where a body has columns of cells
FORMS = ("dict[str,union[", "list[dict[")  # how pydantic calls the two that a table may have
SERIES = ("series",)
SIDE_TABLES = (("covariates",), ("future",), ("static",))  # of a series, with names of their own
Location = tuple[int | str, ...]
_WHITESPACE = b" \t\r\n"
MOST_DEPTH = 1_000  # of what has been read, which nests less
HOLDING = {dict, list}
SHORT = 100  # cells that are looked at one by one sooner than all at once
FIXED_CONTAINERS = 16  # arrays and objects of a body besides the columns of its table
GRACE_S = 10.0  # of a body, after which it must have come at a rate
SLOWEST = 1_024  # bytes a second
ROW_BYTES = 12  # of the shortest rows and series, for each array and object in them
CELL = "A cell must be a number, text, true, false or null."


async def read(request: Request, limits: Limits) -> bytes:
    """The bytes of a body, refused as soon as they are known to be too many or too late.

    They count among those that the service holds until the request is answered.
    """
    limit = "body_arrow_mib" if is_arrow(request) else "body_json_mib"
    mib: int = getattr(limits, limit)
    encoding = encoding_of(request)
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit():
        raise Problem("malformed-header", "Content-Length must be a whole number.")
    if int(declared[:20]) > mib * MIB:
        raise too_large(limit, maximum=mib)
    chunks, size = [], 0
    try:
        async with asyncio.timeout(min(limits.body_seconds, GRACE_S)) as patience:
            began = asyncio.get_running_loop().time()
            async for chunk in request.stream():
                size += len(chunk)
                longest = min(limits.body_seconds, GRACE_S + size / SLOWEST)
                patience.reschedule(began + longest)
                if size > mib * MIB:
                    raise too_large(limit, maximum=mib)
                _hold(request, len(chunk))
                chunks.append(chunk)
    except TimeoutError as error:
        detail = (
            f"The body must arrive within {limits.body_seconds} s and, after {GRACE_S:g} s, bring "
            f"{SLOWEST} bytes a second."
        )
        raise Problem("body-too-slow", detail) from error
    packed = b"".join(chunks)
    if encoding == PLAIN:
        return packed
    room = await asyncio.to_thread(room_for, packed, encoding, most=mib * MIB)
    _hold(request, room)  # before it is taken
    body = await asyncio.to_thread(decode, packed, encoding, limit=limit, mib=mib)
    _hold(request, len(body) - room)
    return body


def _hold(request: Request, size: int) -> None:
    service_of(request).bodies.take(size)
    request.state.held = held_by(request) + size


def held_by(request: Request) -> int:
    """The bytes that are held for a request."""
    held: int = getattr(request.state, "held", 0)
    return held


def parse(model: type[Model], body: bytes, limits: Limits, *, in_rows: bool = False) -> Model:
    """`body` as `model`; `in_rows` where it may hold as many objects as rows or series.

    Raises the problem `malformed-body` or `invalid-request` with a pointer to the first fault.
    """
    containers = len(TABLES) * limits.columns + FIXED_CONTAINERS
    check_structure(body, limits, containers=None if in_rows else containers)
    try:
        parsed = model.model_validate_json(body)
    except ValidationError as error:
        raise _problem(error, model, body) from None
    if _members(parsed) != _most_members(body):
        refuse_repeated(body, members=members_of(from_json(body, cache_strings="keys")))
    return parsed


def is_arrow(request: Request) -> bool:
    """Whether the body is Arrow; `unsupported-media-type` where the route does not read it."""
    return media_of(request) == ARROW


def media_of(request: Request) -> str:
    """The media type of the body; `unsupported-media-type` where the route does not read it."""
    said = request.headers.get("content-type", "").lower()
    return _media_of(said, request.url.path, encoding_of(request) != PLAIN)


@lru_cache(maxsize=32)  # clients of one kind say the same; headers may be long
def _media_of(said: str, path: str, packed: bool) -> str:
    kind, _, parameters = said.partition(";")
    kind, taken = kind.strip(), bodies_of(path)
    charset = parameters.strip().removeprefix("charset=").strip('"')
    if kind not in taken or (kind in TEXTS and charset not in ("", "utf-8")):
        known = ", ".join(f"{name} in UTF-8" if name in TEXTS else name for name in taken if name)
        raise Problem("unsupported-media-type", f"Send one of these as Content-Type: {known}.")
    if kind == ARROW and packed:
        raise Problem("unsupported-media-type", "Send Arrow without Content-Encoding.")
    return kind


def check_structure(body: bytes, limits: Limits, *, containers: int | None) -> None:
    """Refuses nesting and numbers of arrays and members that no request has, before they are made.

    Without a number of `containers` there may be one for each member, and one in `ROW_BYTES`: a row
    has more. Pydantic keeps the input of an error as Python objects: 8 MiB of `[],` would become
    600 MiB; and it has an error for each unknown member.
    """
    widest = limits.columns + FIXED_CONTAINERS
    few = body.count(b"[") + body.count(b"{") <= limits.json_depth
    if few and _most_members(body) <= widest:
        return
    found = structure_of(body, most_depth=limits.json_depth)
    if found.depth > limits.json_depth:
        raise Problem("malformed-body", f"JSON may nest {limits.json_depth} levels deep.")
    if containers is None:
        containers = min(found.members, len(body) // ROW_BYTES) + FIXED_CONTAINERS
    if found.containers > containers:
        detail = (
            f"A body holds at most {containers:,} arrays and objects, {limits.columns} columns."
        )
        raise Problem("invalid-request", detail)
    if found.widest > widest:
        raise Problem("invalid-request", f"An object has at most {widest} members.")


def _most_members(body: bytes) -> int:
    """How many members a body has at most: quotes and colons in its strings may look like some."""
    return body.translate(None, _WHITESPACE).count(b'":')


def _problem(error: ValidationError, model: type[BaseModel], body: bytes) -> Problem:
    found = _first(error)
    if found["type"] == "json_invalid":
        return Problem("malformed-body", "The body is not JSON in UTF-8.")
    place = _place(found["loc"])
    if found["type"] == "finite_number":
        if _BARE.search(outside_strings(body)):
            return Problem("malformed-body", "NaN and Infinity are not JSON; null is missing.")
        if place[:1] in TABLES:
            item = Item("The number is too large for a float64.", pointer_to(*place), "non_finite")
            return Problem("invalid-data", "A value is not finite.", [item])
    in_table = place[:1] in TABLES and len(place) == 3
    message = CELL if in_table or (place[:1] == SERIES and len(place) > 3) else found["msg"]
    if found["type"] == "missing":
        message, place = f"'{place[-1]}' is required.", place[:-1]
    if found["type"] == "extra_forbidden":  # its name is the client's own and is not repeated
        place = place[:-1]
        message = f"A member here is not known. Known: {', '.join(_known(model, place))}."
    item = Item(message, pointer_to(*place))
    return Problem("invalid-request", "A field is not as specified.", [item])


def _first(error: ValidationError) -> ErrorDetails:
    """The first fault; of a column, what is wrong with the first cell that fits no form."""
    every = error.errors(include_url=False, include_input=False, include_context=False)
    errors = [found for found in every if not _is_form(found["loc"][1:])] or every
    if errors[0]["loc"][:1] not in (*TABLES, SERIES):
        return errors[0]
    place = _place(errors[-1]["loc"])
    cell = [found for found in errors if _place(found["loc"]) == place]
    return next((found for found in cell if found["type"] == "finite_number"), cell[0])


def _place(location: Location) -> Location:
    """Where an error is; a cell stands behind the name of the form that was tried."""
    if location[:1] == SERIES:
        length = 4 if location[2:3] in SIDE_TABLES else 3
        return (*location[:length], *_numbers(location[length:]))
    if location[:1] not in TABLES:
        return location
    rest = location[2:] if _is_form(location[1:2]) else location[1:]
    if rest and isinstance(rest[0], int):  # a record, and its member
        return (*location[:1], *rest[:2])
    return (*location[:1], *rest[:1], *_numbers(rest[1:]))


def _numbers(location: Location) -> Location:
    return tuple(part for part in location if isinstance(part, int))


def _is_form(location: Location) -> bool:
    """Whether this is all that is said: that the other form of a table was expected."""
    return len(location) == 1 and str(location[0]).startswith(FORMS)


def _known(model: type[BaseModel], place: Location) -> list[str]:
    """The members of the object at `place`."""
    for name in place:
        inner = None if isinstance(name, int) else model.model_fields[name].annotation
        for each in (inner, *get_args(inner)):
            if isinstance(each, type) and issubclass(each, BaseModel):
                model = each
    return sorted(model.model_fields)


def pointer_to(*place: int | str) -> str:
    """The JSON pointer (RFC 6901) of a place in the body."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place)


def _members(parsed: BaseModel) -> int:
    """How many members the objects of a parsed body have."""
    count = len(parsed.model_fields_set)
    for name in parsed.model_fields_set:
        value = getattr(parsed, name)
        for each in value if isinstance(value, list) else (value,):
            if isinstance(each, dict):
                count += len(each)
            elif isinstance(each, BaseModel):
                count += _members(each)
    return count


def members_of(tree: object) -> int:
    """How many members all objects in a JSON value have."""
    count, level = 0, [tree] if isinstance(tree, dict | list) else []
    while level:
        inner: list[Any] = []
        for value in level:
            count += len(value) if isinstance(value, dict) else 0
            cells = value.values() if isinstance(value, dict) else value
            if len(cells) < SHORT or not HOLDING.isdisjoint(map(type, cells)):
                inner += [cell for cell in cells if type(cell) in HOLDING]
        level = inner
    return count


def refuse_repeated(body: bytes, *, members: int) -> None:
    """Raises if an object has a member twice; JSON itself leaves open which one counts.

    `members` is how many there are in what was read.
    """
    if members == _most_members(body):
        return
    if members < structure_of(body, most_depth=MOST_DEPTH).members:
        item = Item("An object has the same member twice.", "")
        raise Problem("invalid-request", "Every member must be given once.", [item])
