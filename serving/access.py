"""The edge of the service: under which request id it answers, and how long an answer may take."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import TypeVar

from opentelemetry.trace import Span
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.accept import check_accept
from serving.body import held_by
from serving.hosts import check_host
from serving.limits import Limits
from serving.logs import FIELDS, REQUEST_ID
from serving.metrics import known_method
from serving.problems import Problem, problem_of, respond
from serving.request_ids import request_id_of
from serving.service import service_of
from serving.traces import finish

LOG = logging.getLogger(__name__)
Value = TypeVar("Value")

TIMEOUT = re.compile(r"[1-9][0-9]{0,31}")  # a longer one than the deadline shortens nothing
HEADERS = 64  # of a request; how many there are nginx does not count


class Edge:
    """Puts a request id on every response, refuses foreign callers, answers every exception, counts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        request.state.request_id = request_id_of(request.headers)
        request.state.until_answered = ExitStack()
        REQUEST_ID.set(request.state.request_id)
        traces, own_id = service_of(request).traces, request.state.request_id
        with traces.request(request.headers, request_id=own_id) as span:
            await self._answer(request, send, span)

    async def _answer(self, request: Request, send: Send, span: Span) -> None:
        scope, receive = request.scope, request.receive
        began, status = time.monotonic(), None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request.state.request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            check_headers(request)
            if request.method != "GET":
                request.state.until_answered.enter_context(service_of(request).rate.place())
            await self._in_time(request, send_with_id)
        except ClientDisconnect:
            return
        except Exception as error:
            if status is not None:
                raise
            problem = problem_of(error)
            if problem.kind.status == 500:
                LOG.exception("request %s failed", request.state.request_id)
            most = service_of(request).settings.limits.errors_listed
            await respond(problem, request, most=most)(scope, receive, send_with_id)
        finally:
            request.state.until_answered.close()
            service_of(request).bodies.give(held_by(request))
            route = getattr(scope.get("route"), "path", None)
            seconds = time.monotonic() - began
            service_of(request).metrics.answered(request.method, route, status, seconds)
            finish(span, method=known_method(request.method), route=route, status=status)
            LOG.info("answered", extra={FIELDS: _fields(request, route, status, seconds)})

    async def _in_time(self, request: Request, send: Send) -> None:
        """Asks the application, whose answer must begin in time; a stream may then go on."""
        limits = service_of(request).settings.limits
        async with asyncio.timeout(longest_seconds(request, limits)) as patience:

            async def send_at_leisure(message: Message) -> None:
                patience.reschedule(None)
                await send(message)

            await self._app(request.scope, request.receive, send_at_leisure)


def check_headers(request: Request) -> None:
    """Raises the problem of a header that is refused whoever asks."""
    if len(request.headers.raw) > HEADERS:
        raise Problem("malformed-header", f"A request has at most {HEADERS} headers.")
    service = service_of(request)
    is_open = service.keys.known and service.keys.empty
    check_host(request, allowed=service.settings.server.allowed_hosts, is_open=is_open)
    check_accept(request)
    deadline_seconds(request, service.settings.limits)


async def within(request: Request, seconds: float, work: Coroutine[None, None, Value]) -> Value:
    """The result of `work`, which is dropped after `seconds` and when the client leaves."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientDisconnect
        raise TimeoutError
    finally:
        task.cancel()
        gone.cancel()


def deadline_seconds(request: Request, limits: Limits) -> float:
    """How long this request may take from the end of its body; no header can lengthen it."""
    asked = request.headers.get("x-request-timeout-ms")
    if asked is None:
        return limits.deadline_ms / 1000
    if not TIMEOUT.fullmatch(asked):
        raise Problem("malformed-header", "X-Request-Timeout-Ms must be a whole number from 1.")
    return min(int(asked), limits.deadline_ms) / 1000


def longest_seconds(request: Request, limits: Limits) -> float:
    """How long any answer may take to begin, that of a route without a deadline of its own too."""
    body = 0 if request.method == "GET" else limits.body_seconds_arrow
    return body + deadline_seconds(request, limits)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _fields(
    request: Request, route: str | None, status: int | None, seconds: float
) -> dict[str, object]:
    """What is logged of a request: none of a client's own words but its request id."""
    caller = getattr(request.state, "caller", None)
    return {
        "method": known_method(request.method),
        "route": route,
        "status": status,
        "seconds": round(seconds, 4),
        "key": caller.prefix if caller else None,
        "tenant": caller.tenant if caller else None,
    }
