"""From a request to its answer: the body is read, and within the deadline from then on answered."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response

from serving import body
from serving.accept import ARROW, form_of
from serving.access import deadline_seconds, within
from serving.forms import parse, service_for
from serving.limits import Limits
from serving.repeats import once
from serving.schemas.fields import Strict
from serving.service import Service
from serving.threads import off_loop

Asked = TypeVar("Asked", bound=Strict)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Call:
    """A request whose body has been read."""

    request: Request
    service: Service  # with the limits of the forms of the request and its answer
    sent: bytes
    seconds: float  # that the answer may take from now on
    started: float  # when the request came, by time.perf_counter

    @property
    def limits(self) -> Limits:
        """Those of the forms of the request and its answer."""
        return self.service.settings.limits

    @property
    def size(self) -> int:
        """The bytes of the body."""
        return len(self.sent)

    @property
    def in_arrow(self) -> bool:
        """Whether the answer is Arrow."""
        return form_of(self.request) == ARROW

    def read_as(self, model: type[Asked]) -> Asked:
        """What the body asks for."""
        return parse(model, self.sent, self.limits, is_arrow=body.is_arrow(self.request))


async def answered(request: Request, work: Callable[[Call], Coroutine[Any, Any, Value]]) -> Value:
    """What `work` gives, which is dropped after the deadline and when the client leaves."""
    started = time.perf_counter()
    service = service_for(request)
    limits = service.settings.limits
    seconds = deadline_seconds(request, limits)
    sent = await body.read(request, limits)
    return await within(request, seconds, work(Call(request, service, sent, seconds, started)))


async def answer(
    request: Request,
    model: type[Asked],
    work: Callable[[Call, Asked], Coroutine[Any, Any, bytes]],
) -> Response:
    """The answer of `work` to the body of `request`, read as `model`."""

    async def done(call: Call) -> bytes:
        return await work(call, await off_loop(call.size, call.read_as, model))

    return Response(await answered(request, done), media_type=form_of(request))


async def created(request: Request, work: Callable[[Call, str], Awaitable[Response]]) -> Response:
    """The answer of `work`, which gets a token; once under one Idempotency-Key."""
    return await answered(request, lambda call: once(request, call.sent, partial(work, call)))
