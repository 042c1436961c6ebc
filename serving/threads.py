"""Where work on the body of a request runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from serving.limits import MIB

Result = TypeVar("Result")
Given = ParamSpec("Given")
TURNS = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]()


async def off_loop(
    body_size: int, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> Result:
    """`function` of the arguments; in a thread if the body is so large that others would wait.

    A small one is done here, one in a round of the loop: in a crowd it sees after each of them who
    else comes, who is to be refused, and what the model said.
    """
    if body_size > MIB:
        return await asyncio.to_thread(function, *args, **kwargs)
    loop = asyncio.get_running_loop()
    turn = TURNS.setdefault(loop, asyncio.Lock())
    await turn.acquire()
    loop.call_soon(turn.release)  # in the next round
    return function(*args, **kwargs)
