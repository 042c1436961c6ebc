"""Where work on the body of a request runs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from serving.limits import MIB

Result = TypeVar("Result")
Given = ParamSpec("Given")
ROUND_S = 0.05


async def off_loop(
    body_size: int, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> Result:
    """`function` of the arguments; in a thread if the body is so large that others would wait.

    Small ones are done here, for `ROUND_S` in a round of the loop: in a crowd it sees in between who else
    comes, who is to be refused, and what the model said. Those that come together stay together, so
    that they leave in one batch.
    """
    if body_size > MIB:
        return await asyncio.to_thread(function, *args, **kwargs)
    turns = TURNS.setdefault(asyncio.get_running_loop(), Turns())
    result: Result = await turns.take(partial(function, *args, **kwargs))
    return result


class Turns:
    """Calls that wait for their turn on a loop."""

    def __init__(self) -> None:
        self._calls = deque[tuple[asyncio.Future[Any], Callable[[], Any], Context]]()
        self._going = False

    def take(self, call: Callable[[], Any]) -> asyncio.Future[Any]:
        """What `call` gives, in its turn; whoever waits for it no more is passed over."""
        loop = asyncio.get_running_loop()
        if not self._going:
            self._going = True
            loop.call_soon(self._round, loop)
        future = loop.create_future()
        self._calls.append((future, call, copy_context()))
        return future

    def _round(self, loop: asyncio.AbstractEventLoop) -> None:
        until = loop.time() + ROUND_S
        while self._calls:
            _settle(*self._calls.popleft())
            if loop.time() >= until:
                break
        self._going = bool(self._calls)
        if self._going:
            loop.call_soon(self._round, loop)


def _settle(future: asyncio.Future[Any], call: Callable[[], Any], context: Context) -> None:
    """Whatever the call raises, be it a panic of a library, is for who waits for it alone."""
    try:
        if not future.cancelled():
            future.set_result(context.run(call))
    except StopIteration as error:
        future.set_exception(RuntimeError(f"a call ended by {error!r}"))
    except BaseException as error:
        future.set_exception(error)
    finally:
        del future, call, context  # which the error's traceback would keep, and the body with them


TURNS = WeakKeyDictionary[asyncio.AbstractEventLoop, Turns]()
