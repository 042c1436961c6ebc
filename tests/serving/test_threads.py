"""Turns on the loop: whoever comes together is read together, and a crowd leaves time for others."""

from __future__ import annotations

import asyncio
import gc
import weakref
from contextlib import suppress
from contextvars import ContextVar
from itertools import pairwise

import pytest

from serving import threads
from serving.threads import off_loop

NAME: ContextVar[str] = ContextVar("name", default="")


def rounds_of(count: int) -> list[int]:
    """The round of the loop in which each of so many calls was done."""
    now, done, going = 0, list[int](), True

    def tick() -> None:
        nonlocal now
        now += 1
        if going:
            asyncio.get_running_loop().call_soon(tick)

    async def scenario() -> None:
        nonlocal going
        tick()
        await asyncio.gather(*(off_loop(1, lambda: done.append(now)) for _ in range(count)))
        going = False

    asyncio.run(scenario())
    return done


def test_who_comes_together_is_read_in_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in a round, they would leave in as many batches: 276 requests a second instead of 350."""
    monkeypatch.setattr(threads, "ROUND_S", 60.0)
    rounds = rounds_of(20)
    assert len(rounds) == 20
    assert len({*rounds}) == 1


def test_a_crowd_leaves_time_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is to be refused would hear so only after all others have been read."""
    monkeypatch.setattr(threads, "ROUND_S", 0.0)
    rounds = rounds_of(1_200)
    assert len(rounds) == 1_200
    assert min(later - earlier for earlier, later in pairwise(rounds)) >= 1


class PanicError(BaseException):
    """As libraries in Rust raise where they have a defect."""


@pytest.mark.parametrize("raised", [PanicError, StopIteration, ValueError])
def test_what_one_raises_harms_no_other(raised: type[BaseException]) -> None:
    """A queue that a body can end would be the end of the service."""

    def fail() -> None:
        raise raised

    async def scenario() -> int:
        for _ in range(2):
            with pytest.raises((raised, RuntimeError)):
                await off_loop(1, fail)
        return await off_loop(1, int)

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == 0


def test_what_is_refused_is_forgotten_at_once() -> None:
    """Garbage is collected rarely here; each refused body would be kept until then."""

    class Body:
        pass

    kept = list["weakref.ref[Body]"]()

    def refuse(_: Body) -> None:
        raise ValueError

    async def one() -> None:
        body = Body()
        kept.append(weakref.ref(body))
        with suppress(ValueError):
            await off_loop(1, refuse, body)

    async def scenario() -> None:
        for _ in range(5):
            await one()
        await off_loop(1, int)  # the last one is in the hands of the loop until the next
        assert [each() for each in kept] == [None] * 5

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


def test_what_nobody_waits_for_is_not_done() -> None:
    done = list[str]()

    async def scenario() -> None:
        asked = [asyncio.create_task(off_loop(1, done.append, name)) for name in "abc"]
        await asyncio.sleep(0)  # they wait for their turns
        asked[1].cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*asked)
        await asyncio.gather(asked[0], asked[2])

    asyncio.run(scenario())
    assert done == ["a", "c"]


@pytest.mark.parametrize("size", [1, 2**20 + 1], ids=["on the loop", "in a thread"])
def test_each_has_its_own_error_and_its_own_context(size: int) -> None:
    async def one(name: str) -> str:
        NAME.set(name)
        return await off_loop(size, told, name)

    def told(name: str) -> str:
        if name == "b":
            raise ValueError(NAME.get())
        return NAME.get()

    async def scenario() -> list[str | BaseException]:
        return await asyncio.gather(*map(one, "abc"), return_exceptions=True)

    a, b, c = asyncio.run(scenario())
    assert (a, str(b), c) == ("a", "b", "c")
    assert isinstance(b, ValueError)
