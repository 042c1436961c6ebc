"""The body of a request: its media type, and its bytes, counted while they are read."""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache

from starlette.requests import Request

from serving.accept import ARROW, JSON, TEXTS, bodies_of
from serving.encodings import PLAIN, decode, encoding_of, room_for
from serving.limits import MIB, Limits
from serving.problems import Problem, too_large
from serving.service import service_of

GRACE_S = 10.0  # of a body, after which it must have come at a rate
SLOWEST = 1_024  # bytes a second
NOTHING = re.compile(r"/v1/schedules/[^/]+/trigger")  # is to be said here, whatever it is called


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
                hold(request, len(chunk))
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
    hold(request, room)  # before it is taken
    body = await asyncio.to_thread(decode, packed, encoding, room=room, limit=limit, mib=mib)
    hold(request, len(body) - room)
    return body


def hold(request: Request, size: int) -> None:
    """Counts `size` bytes among those that the service holds, until the request is answered."""
    service_of(request).bodies.take(size)
    request.state.held = held_by(request) + size


def held_by(request: Request) -> int:
    """The bytes that are held for a request."""
    held: int = getattr(request.state, "held", 0)
    return held


def is_arrow(request: Request) -> bool:
    """Whether the body is Arrow; `unsupported-media-type` where the route does not read it."""
    return media_of(request) == ARROW


def media_of(request: Request) -> str:
    """The media type of the body; `unsupported-media-type` where the route does not read it."""
    if NOTHING.fullmatch(request.url.path):
        return JSON
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


def pointer_to(*place: int | str) -> str:
    """The JSON pointer (RFC 6901) of a place in the body."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in place)
