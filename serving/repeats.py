"""Idempotency-Key: a request that creates something may be sent again and creates it once."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable

from fastapi import Request, Response

from pipelines.repeats import Kept, Slot, Turn, keep, release, take
from pipelines.store import Store
from serving.callers import caller_of
from serving.problems import Problem, problem_of
from serving.service import service_of

LOG = logging.getLogger(__name__)
HEADER = "idempotency-key"
KEY = re.compile(r'"([!#-~]{1,128})"|([!#-~]{1,128})')
KEPT_HEADERS = ("content-type", "location", "retry-after", "etag")
HOUR_MS = 3_600_000
GOING = set[asyncio.Task[Response]]()  # the loop itself holds no task


async def once(
    request: Request, sent: bytes, work: Callable[[str], Awaitable[Response]]
) -> Response:
    """The answer of `work`, or the one that it gave before under the same Idempotency-Key.

    `work` gets a token, the same for all requests under one key. A refusal is not kept. What the
    deadline or the client breaks off goes on to its end, and is what the next request is answered;
    where the process dies, its place is held until it is known to be over.
    """
    slot = slot_of(request)
    if slot is None:
        return await work(secrets.token_hex(10))
    task = asyncio.create_task(_turn(request, slot, sent, work))
    GOING.add(task)
    task.add_done_callback(_ended)
    return await asyncio.shield(task)


def _ended(task: asyncio.Task[Response]) -> None:
    """A refusal whose caller has left is told to nobody; a defect is told to the log."""
    GOING.discard(task)
    error = None if task.cancelled() else task.exception()
    if isinstance(error, Exception) and problem_of(error).kind.status == 500:
        LOG.error("what was asked under an Idempotency-Key failed", exc_info=error)


async def _turn(
    request: Request, slot: Slot, sent: bytes, work: Callable[[str], Awaitable[Response]]
) -> Response:
    service = service_of(request)
    store = service.library.shelf.registry.store
    kind = request.headers.get("content-type", "").encode()
    digest = hashlib.sha256(kind + b"\0" + sent).hexdigest()
    lives_ms = service.settings.limits.idempotency_hours * HOUR_MS
    turn = await asyncio.to_thread(take, store, slot, digest, lives_ms=lives_ms)
    if turn.state != "new":
        return _again(turn)
    return await _first(store, slot, work(turn.token))


async def _first(store: Store, slot: Slot, work: Awaitable[Response]) -> Response:
    try:
        response = await work
    except Exception:
        await asyncio.to_thread(release, store, slot)
        raise
    found = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
    kept = Kept(response.status_code, found, bytes(response.body))
    await asyncio.to_thread(keep, store, slot, kept)
    return response


def _again(turn: Turn) -> Response:
    if turn.state == "other":
        detail = "This Idempotency-Key came with another body before. Use a new key."
        raise Problem("idempotency-key-reused", detail)
    if turn.kept is None:
        detail = "The first request with this Idempotency-Key still runs. Repeat this one."
        raise Problem("idempotency-in-progress", detail)
    headers = {**turn.kept.headers, "Idempotency-Replayed": "true"}
    return Response(turn.kept.body, turn.kept.status, headers)


def slot_of(request: Request) -> Slot | None:
    """The place of the request's Idempotency-Key; None without one."""
    given = request.headers.get(HEADER)
    if given is None:
        return None
    form = KEY.fullmatch(given)
    if form is None:
        detail = "Idempotency-Key must have 1 to 128 visible ASCII characters."
        raise Problem("malformed-header", detail)
    return Slot(caller_of(request).prefix, request.url.path, form[1] or form[2])
