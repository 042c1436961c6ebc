"""The edge of the service: who may ask, under which request id, and how long an answer may take.

Without keys the service is open, but only on a loopback address and only to this machine: a
page of another site (DNS rebinding, forged forms) or a front proxy is refused.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Coroutine
from ipaddress import ip_address
from typing import TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.accept import check_accept
from serving.limits import Limits
from serving.problems import Problem, problem_of, respond

LOG = logging.getLogger(__name__)
Value = TypeVar("Value")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
STATUS_ROUTES = "/health/"  # asked by probes that know the address alone
TIMEOUT = re.compile(r"[1-9][0-9]{0,8}")


class Edge:
    """Puts a request id on every response, refuses foreign callers, answers every exception."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        request.state.request_id = _request_id(request.headers)
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request.state.request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            check_caller(request)
            check_accept(request)
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            problem = problem_of(error)
            if problem.kind.status == 500:
                LOG.exception("request %s failed", request.state.request_id)
            await respond(problem, request)(scope, receive, send_with_id)


def check_caller(request: Request) -> None:
    """Raises `host-not-allowed` for anyone but this machine asking for this machine."""
    headers = request.headers
    host = headers.get("host", "")
    if not request.url.path.startswith(STATUS_ROUTES) and not is_loopback(host):
        raise Problem("host-not-allowed", "Host must be a loopback address or localhost.")
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise Problem("host-not-allowed", "Origin must be the service itself.")
    if any(name in headers for name in FORWARDED):
        raise Problem("host-not-allowed", "Forwarded requests need a service with keys.")


def is_loopback(host: str) -> bool:
    """Whether `host` (with or without a port) names this machine by its loopback address."""
    name = host.rpartition(":")[0] if re.search(r":\d*$", host) else host
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


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


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(10)
