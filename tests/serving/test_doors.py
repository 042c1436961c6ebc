"""What stands before Ray Serve: no client speaks to the framework, and nobody watches twice."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

from serving.doors import Door, middlewares

Headers = list[tuple[bytes, bytes]]
LENGTHENED = [
    (b"x-request-timeout-seconds", b"3600"),
    (b"X-Request-Disconnect-Disabled", b"?1"),
    (b"serve_multiplexed_model_id", b"other/1"),
    (b"x-serve-anything", b"1"),
]


def seen_behind(door: type[Door], headers: Headers, **options: bool) -> Headers:
    """The headers that arrive at what stands behind the door."""
    seen: Headers = []

    async def behind(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.extend(scope["headers"])

    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    async def nowhere(_: Message) -> None:
        return None

    scope = {"type": "http", "headers": headers}
    asyncio.run(door(behind, **options)(scope, nothing, nowhere))
    return [(name, value) for name, value in seen if name != b"x-request-id"]


def test_no_word_of_a_client_reaches_the_framework() -> None:
    """Finding 2: with these a client would lengthen its deadline, or hold a place for ever."""
    own = (b"accept", b"application/json")
    assert seen_behind(Door, [*LENGTHENED, own]) == [own]


def test_serve_watches_where_the_application_cannot() -> None:
    """Behind Serve's proxy nobody else would notice that a client left."""
    (made,) = middlewares()  # as in a proxy: this process is no replica
    assert seen_behind(Door, LENGTHENED, **made.kwargs) == []  # type: ignore[arg-type]
    unwatched = [(b"x-request-timeout-seconds", b"0"), (b"x-request-disconnect-disabled", b"?1")]
    assert seen_behind(Door, LENGTHENED, watches_itself=True) == unwatched
