"""What stands before Ray Serve: no client speaks to the framework, and nobody watches twice."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
import uvloop
from ray.serve._private import http_util, replica
from ray.serve.config import HTTPOptions
from starlette.types import Message, Receive, Scope, Send

from serving import doors, ports
from serving.doors import ACCEPTED, Door, middlewares
from tests.serving.processes import free_ports

Result = TypeVar("Result")
Headers = list[tuple[bytes, bytes]]
LENGTHENED = [
    (b"x-request-timeout-seconds", b"3600"),
    (b"X-Request-Disconnect-Disabled", b"?1"),
    (b"serve_multiplexed_model_id", b"other/1"),
    (b"x-serve-anything", b"1"),
]


def seen_behind(door: type[Door], headers: Headers, **options: Any) -> Headers:
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
    assert seen_behind(Door, LENGTHENED, **made.kwargs) == []
    unwatched = [(b"x-request-timeout-seconds", b"0"), (b"x-request-disconnect-disabled", b"?1")]
    assert seen_behind(Door, LENGTHENED, leaving=asyncio.Event()) == unwatched


class Listening:
    """A server of Serve's, as our process listens: at a port of its own, and one that it may share."""

    def __init__(self) -> None:
        self.own = free_ports(2)
        self.shared = self.own + 1
        self.settled = asyncio.Event()

    async def start(self) -> None:
        async def settled() -> None:
            await self.settled.wait()

        async def fine(_scope: Scope, _receive: Receive, send: Send) -> None:
            length = (b"content-length", b"0")
            await send({"type": "http.response.start", "status": 204, "headers": [length]})
            await send({"type": "http.response.body", "body": b""})

        leaving = asyncio.Event()
        doors._listen_well(settled, leaving)
        options = HTTPOptions(host="127.0.0.1", port=self.own)
        self.serving, self.server = await replica.start_asgi_http_server(
            Door(fine, leaving=leaving),
            options,
            event_loop=asyncio.get_running_loop(),
            enable_so_reuseport=False,
        )
        while not self.server.started:
            await asyncio.sleep(0)

    async def end(self) -> None:
        self.server.should_exit = True
        await self.serving


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Listening:
    for module, name in (
        (http_util, "set_socket_reuse_port"),
        (replica, "start_asgi_http_server"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # to be as it was afterwards
    return Listening()


@pytest.fixture
def sharing(listening: Listening, monkeypatch: pytest.MonkeyPatch) -> Listening:
    """One of several ingresses."""
    monkeypatch.setenv(ports.SHARED, str(listening.shared))
    return listening


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def run(scenario: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(scenario, 30))


def test_a_crowds_connections_are_taken_together(listening: Listening) -> None:
    """uvloop takes one in a round: in a crowd they waited in the kernel, for 40 s and more."""

    async def scenario() -> int:
        await listening.start()
        asked = [
            socket.create_connection(("127.0.0.1", listening.own)) for _ in range(2 * ACCEPTED)
        ]
        rounds = 0
        while len(listening.server.server_state.connections) < len(asked):
            await asyncio.sleep(0)
            rounds += 1
        for each in asked:
            each.close()
        await listening.end()
        return rounds

    assert run(scenario()) < ACCEPTED


def test_the_shared_port_is_open_from_when_it_can_answer_until_it_ends(sharing: Listening) -> None:
    """Else the system would send callers to one that starts or ends, though another one is idle."""

    async def scenario() -> None:
        await sharing.start()
        assert (is_open(sharing.own), is_open(sharing.shared)) == (True, False)
        sharing.settled.set()
        while not is_open(sharing.shared):
            await asyncio.sleep(0.01)
        assert is_open(sharing.own)
        await sharing.end()
        assert (is_open(sharing.own), is_open(sharing.shared)) == (False, False)

    run(scenario())


def test_who_ends_before_it_can_answer_never_opens_the_shared_port(sharing: Listening) -> None:
    async def scenario() -> None:
        await sharing.start()
        await sharing.end()
        sharing.settled.set()
        await asyncio.sleep(0.1)
        assert not is_open(sharing.shared)

    run(scenario())


def test_a_request_on_its_way_as_the_service_ends_is_answered(listening: Listening) -> None:
    """uvicorn closes a connection on which nothing came yet, and loses what is about to."""

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[bytes]:
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        return (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")

    async def scenario() -> None:
        await listening.start()
        kept = await asyncio.open_connection("127.0.0.1", listening.own)
        assert b"connection: close" not in await ask(*kept)
        listening.server.should_exit = True
        while is_open(listening.own):
            await asyncio.sleep(0.01)
        last = await ask(*kept)
        assert last[0].startswith(b"http/1.1 204")
        assert b"connection: close" in last
        assert await kept[0].read() == b""
        await listening.serving

    run(scenario())
