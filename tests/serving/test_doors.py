"""What stands before Ray Serve: no client speaks to the framework, and nobody watches twice."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop
from ray.serve._private import http_util, replica
from ray.serve.config import HTTPOptions
from starlette.types import Message, Receive, Scope, Send

from serving import doors
from serving.doors import ACCEPTED, Door, middlewares
from tests.serving.processes import free_ports

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


def test_a_crowds_connections_are_taken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop takes one in a round: in a crowd they waited in the kernel, for 40 s and more."""
    for module, name in (
        (http_util, "set_socket_reuse_port"),
        (replica, "start_asgi_http_server"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # to be as it was afterwards
    doors._listen_well()

    async def nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise AssertionError

    async def scenario() -> int:
        loop = asyncio.get_running_loop()
        options = HTTPOptions(host="127.0.0.1", port=free_ports(1))
        serving, server = await replica.start_asgi_http_server(
            nothing, options, event_loop=loop, enable_so_reuseport=False
        )
        while not server.started:
            await asyncio.sleep(0)
        asked = [socket.create_connection(("127.0.0.1", options.port)) for _ in range(2 * ACCEPTED)]
        rounds = 0
        while len(server.server_state.connections) < len(asked):
            await asyncio.sleep(0)
            rounds += 1
        for each in asked:
            each.close()
        server.should_exit = True
        await serving
        return rounds

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(scenario(), 30)) < ACCEPTED
