"""What stands before Ray Serve in every process that listens: RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.

Serve takes the words of some headers for its own, and puts a second request id on what is answered.
Where the ingress listens itself, the application hears of a client that leaves and keeps its own
deadlines, so Serve is told not to watch a second time, which takes three tasks a request.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from ray.serve import get_replica_context
from ray.serve.exceptions import RayServeException
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Server

from serving import ports
from serving.request_ids import request_id_of

SERVES = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
PREFIXES = (b"x-serve-", b"serve_", b"serve-")
# Connections that are taken in a round of the loop. Each costs a lone new connection 4 us: 64 of them a
# tenth of what a request costs, of clients who do not keep theirs.
ACCEPTED = 64
LEAVE_S = 0.5  # until a process that ends closes connections on which nothing came
SERVERS: list[Server] = []  # of this process, which is one
UNWATCHED = list(zip(SERVES, (b"0", b"?1"), strict=True))  # no time-out, no wait for a disconnect


def middlewares() -> list[Middleware]:
    """What Serve puts around its application; asked for before a process listens.

    That is the ingress itself, or a proxy of Serve's before it, which is no replica.
    """
    try:
        get_replica_context()
    except RayServeException:
        return [Middleware(Door)]
    leaving = asyncio.Event()
    _listen_well(_settled, leaving)
    return [Middleware(Door, leaving=leaving)]


async def _settled() -> None:
    """Waits until the ingress of this process can answer; who that is Serve tells after it listens."""
    while (ingress := get_replica_context().servable_object) is None:
        await asyncio.sleep(0.01)
    await ingress.settled()


def _listen_well(settled: Callable[[], Awaitable[None]], leaving: asyncio.Event) -> None:
    """Lets the ingress take the port of one that died at once, and a crowd's connections as they come.

    Of several ingresses each listens on the port that they share, too, after `settled`: whom the system
    sends to one that starts again must not wait for it. At its end it is `leaving`.

    While connections of a dead process end, for a minute or more, its port is free only to those who
    say SO_REUSEADDR. Ray 2.60 does not, and never again tries a port that it could not have.
    """
    from ray.serve._private import http_util, replica

    serve = http_util.start_asgi_http_server

    async def start(
        app: ASGIApp,
        options: Any,
        *,
        event_loop: asyncio.AbstractEventLoop,
        enable_so_reuseport: bool,  # noqa: ARG001 - Serve names it
    ) -> tuple[asyncio.Task[None], Server]:
        told = os.environ.get(ports.SHARED)
        shared = ports.shared(options.host, int(told)) if told else None
        serving, server = await serve(app, options, event_loop=event_loop, enable_so_reuseport=True)
        server.startup = partial(_startup, server)
        server.shutdown = partial(_shutdown, server, leaving)
        SERVERS.append(server)
        if shared is not None:
            joining = event_loop.create_task(_join(server, shared, settled))
            serving.add_done_callback(lambda _: joining.cancel())
        return serving, server

    http_util.set_socket_reuse_port = _reuse_address
    replica.start_asgi_http_server = start


async def _startup(server: Server, sockets: Sequence[socket.socket]) -> None:
    """Listens on each of `sockets` many times over.

    uvloop takes one connection of a listener in a round of the loop. In a crowd a round takes long,
    and whom nobody has taken, nobody refuses in time: they wait in the kernel and are counted nowhere.
    """
    listeners = [each.dup() for each in sockets for _ in range(ACCEPTED)]
    await Server.startup(server, listeners)


async def _join(
    server: Server, shared: socket.socket, settled: Callable[[], Awaitable[None]]
) -> None:
    """Listens on `shared` too, once it is `settled`, until the server ends."""
    with shared:  # what goes on is its copies, which end with the server
        await settled()
        while not server.started:
            await asyncio.sleep(0.01)
        if not server.should_exit:
            own = server.servers
            await _startup(server, [shared])
            server.servers += own


async def _shutdown(
    server: Server, leaving: asyncio.Event, sockets: Sequence[socket.socket]
) -> None:
    """Takes no more connections, has those that there are told to close, and ends.

    uvicorn closes those that are idle at once, and loses requests that are on their way.
    """
    for listener in server.servers:
        listener.close()
    for each in sockets:
        each.close()
    leaving.set()
    await asyncio.sleep(LEAVE_S)
    await Server.shutdown(server, list(sockets))


def leave() -> None:
    """Lets this process listen no more, answer what it has, and close its connections.

    Serve by itself lets a replica listen until nobody asks for a moment, and kills it at last.
    """
    for server in SERVERS:
        server.should_exit = True


def _reuse_address(listener: socket.socket) -> bool:
    """Without SO_REUSEPORT, by which two services could share a port and not know it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return True


class Door:
    """Lets no word of a client for the framework in, and one request id out.

    `leaving`: of a process that listens itself, and so watches its requests itself; set as it ends.
    """

    def __init__(self, app: ASGIApp, *, leaving: asyncio.Event | None = None) -> None:
        self._app = app
        self._own = UNWATCHED if leaving is not None else []
        self._leaving = leaving or asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["headers"] = self._own + [
            (name, value)
            for name, value in scope["headers"]
            if name.lower() not in SERVES and not name.lower().startswith(PREFIXES)
        ]
        headers = MutableHeaders(scope=scope)
        request_id = headers["x-request-id"] = request_id_of(headers)

        async def send_with_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = MutableHeaders(scope=message)
                said["X-Request-ID"] = request_id
                if self._leaving.is_set():
                    said["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_with_one_id)
