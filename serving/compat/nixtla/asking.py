"""From the bytes of a request of the Nixtla client to the bytes of its answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import orjson
from fastapi import Request, Response

from serving import body, trees
from serving.accept import JSON
from serving.access import deadline_seconds, within
from serving.compat.nixtla import schemas
from serving.limits import NUMBER_BYTES
from serving.problems import Problem, without_options
from serving.service import Service, service_of
from serving.threads import off_loop

Sent = TypeVar("Sent", bound=schemas.Asked)
Work = Callable[[Service, Sent, float, int], Coroutine[Any, Any, dict[str, Any]]]


async def answer(request: Request, model: type[Sent], work: Work[Sent]) -> Response:
    """The answer of `work` to the body of `request`, read as `model`."""
    with partitions_named():
        content = await body.read(request, service_of(request).settings.limits)
        return await answered(request, content, model, work)


async def answered(
    request: Request, content: bytes, model: type[Sent], work: Work[Sent]
) -> Response:
    """The answer of `work` to `content`, within the deadline of `request`."""
    service, size = service_of(request), len(content)
    limits = service.settings.limits
    seconds = deadline_seconds(request, limits)

    async def done() -> bytes:
        sent = await off_loop(size, trees.parse, model, content, limits)
        members = await work(service, sent, seconds, size)
        weight = max(size, NUMBER_BYTES * len(members["mean"]))
        numpy = orjson.OPT_SERIALIZE_NUMPY
        return await off_loop(weight, orjson.dumps, members, None, numpy)

    with without_options():
        return Response(await within(request, seconds, done()), media_type=JSON)


@contextmanager
def partitions_named() -> Iterator[None]:
    """Says of what is too large how the client splits it by itself."""
    try:
        yield
    except Problem as problem:
        if problem.type == "too-large":
            problem.detail += " The client splits it with num_partitions."
        raise
