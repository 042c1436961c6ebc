"""The batcher under load, poison, memory pressure, deadlines and a stepping wall clock.

The model functions here are stubs on purpose: the scenarios L1, L4, F6, F7, F8 and F18 of the
reliability plan are about who waits for whom, not about forecasts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import numpy as np
import pytest

from serving.batcher import AbandonedError, Batcher, Err, Ok, OverloadedError, Piece
from tests.figures import Told

Values = list[float]
Stub = Callable[[str, Sequence[Piece[Values]]], list[Values]]


class Model:
    """Doubles each window; sleeps, raises on a poison value, runs out of memory above a size.

    Its process ends at a deadly value, and once at its first batch if it is `killed`.
    """

    def __init__(
        self,
        *,
        seconds: float = 0.0,
        poison: float = np.nan,
        fits: int = 10**9,
        deadly: Sequence[float] = (),
        killed: bool = False,
    ) -> None:
        self.seconds, self.poison, self.fits = seconds, poison, fits
        self.deadly, self.killed = {*deadly}, killed
        self.batches: list[int] = []
        self.asked: list[float] = []
        self.seen: list[float] = []
        self.deaths = 0

    def __call__(self, _key: str, pieces: Sequence[Piece[Values]]) -> list[Values]:
        windows = sum(len(piece) for piece in pieces)
        self.batches.append(windows)
        time.sleep(self.seconds)
        cut = [piece.item[piece.start : piece.stop] for piece in pieces]
        if windows > self.fits:
            raise MemoryError
        if any(self.poison in values for values in cut):
            raise ValueError("poison")
        self.asked += [value for values in cut for value in values]
        if self.killed or not self.deadly.isdisjoint(value for values in cut for value in values):
            self.killed = False
            self.deaths += 1
            raise EOFError
        self.seen += [value for values in cut for value in values]
        return [[2 * value for value in values] for values in cut]


def batcher(model: Stub, *, windows: int = 64, waiting: int = 1000) -> Batcher[Values, Values]:
    thread = ThreadPoolExecutor(1)

    async def run(key: str, pieces: Sequence[Piece[Values]]) -> list[Values]:
        return await asyncio.get_running_loop().run_in_executor(thread, model, key, pieces)

    return Batcher(
        run,
        max_windows=windows,
        max_waiting=waiting,
        whole=(ConnectionError,),
        deaths=(EOFError,),
    )


def joined(parts: list[Ok[Values] | Err]) -> Values:
    assert all(isinstance(part, Ok) for part in parts), parts
    return [value for part in parts if isinstance(part, Ok) for value in part.value]


async def one(queue: Batcher[Values, Values], value: float, *, deadline: float | None = None):
    return await queue.submit([value], key="m", windows=1, deadline=deadline)


def test_batches_fill_while_the_model_is_busy(record_property: Told) -> None:
    """L1: fixed waiting times made 100 batches and a p99 of 8.7 s out of this load."""
    model = Model(seconds=0.1)

    async def load() -> list[float]:
        queue, loop, waited = batcher(model), asyncio.get_running_loop(), []

        async def request(at: float) -> None:
            await asyncio.sleep(at - loop.time())
            await one(queue, 1.0)
            waited.append(loop.time() - at)

        start = loop.time()
        await asyncio.gather(*(request(start + i / 400) for i in range(400)))
        return waited

    waited = asyncio.run(load())
    p99 = float(np.quantile(waited, 0.99))
    record_property("L1", f"{len(model.batches)} batches of 400 requests, p99 {p99 * 1000:.0f} ms")
    assert len(model.batches) <= 20
    assert p99 <= 4  # a busy machine is slow, fixed waiting times are slower


def test_an_idle_model_answers_at_once() -> None:
    """Batching must cost a lonely client nothing."""

    async def ask() -> float:
        queue, loop = batcher(Model()), asyncio.get_running_loop()
        await one(queue, 1.0)
        start = loop.time()
        for value in range(50):
            await one(queue, float(value))
        return (loop.time() - start) / 50

    assert asyncio.run(ask()) < 0.05


def test_a_batch_runs_in_the_context_of_no_request() -> None:
    """Ray Serve took two batches for calls of one request, and lost one of them again and again."""
    asker: ContextVar[str] = ContextVar("asker", default="nobody")
    seen = list[str]()

    async def run(_key: str, pieces: Sequence[Piece[Values]]) -> list[Values]:
        seen.append(asker.get())
        return [piece.item for piece in pieces]

    async def ask(queue: Batcher[Values, Values], name: str) -> None:
        asker.set(name)
        await one(queue, 1.0)

    async def scenario() -> None:
        queue = Batcher(run, max_windows=1, max_waiting=9)
        await asyncio.gather(*(ask(queue, name) for name in ("ann", "bob", "eve")))

    asyncio.run(scenario())
    assert seen == ["nobody"] * 3


def test_one_poison_window_fails_alone(record_property: Told) -> None:
    """F6: neighbours of a bad request get the very numbers they get without it."""

    async def ask(model: Model) -> list[list[Ok[Values] | Err]]:
        queue = batcher(model)
        return await asyncio.gather(*(one(queue, float(value)) for value in range(64)))

    model = Model(poison=37.0)
    answers, clean = asyncio.run(ask(model)), asyncio.run(ask(Model()))
    failed = [i for i, parts in enumerate(answers) if isinstance(parts[0], Err)]
    assert failed == [37]
    assert [joined(a) for i, a in enumerate(answers) if i != 37] == [
        joined(a) for i, a in enumerate(clean) if i != 37
    ]
    record_property("F6", f"{len(model.batches)} model calls, 63 of 64 answers unchanged")
    assert len(model.batches) <= 13


def test_a_poison_series_leaves_the_rest_of_its_own_request() -> None:
    async def ask() -> list[Ok[Values] | Err]:
        values = [float(value) for value in range(10)]
        return await batcher(Model(poison=6.0)).submit(values, key="m", windows=10)

    parts = asyncio.run(ask())
    assert [(p.start, p.stop) for p in parts if isinstance(p, Err)] == [(6, 7)]
    assert joined([p for p in parts if isinstance(p, Ok)]) == [0, 2, 4, 6, 8, 10, 14, 16, 18]


@pytest.mark.parametrize("killed", [False, True])
def test_the_neighbours_of_a_window_that_kills_are_answered(killed: bool) -> None:
    """F7, F1: who was in the batch of a process that died must not pay for it, whoever killed it."""
    model = Model(killed=killed, deadly=() if killed else (37.0,))

    async def ask() -> list[list[Ok[Values] | Err]]:
        queue = batcher(model)
        return await asyncio.gather(*(one(queue, float(value)) for value in range(64)))

    answers = asyncio.run(ask())
    failed = [i for i, parts in enumerate(answers) if isinstance(parts[0], Err)]
    assert failed == ([] if killed else [37])
    assert all(joined(parts) == [2.0 * i] for i, parts in enumerate(answers) if i not in failed)
    assert model.deaths == (1 if killed else 2)
    assert max(model.asked.count(value) for value in model.asked) == 2


def test_an_item_of_many_windows_that_kill_is_given_up() -> None:
    """Else one request would kill the replicas again and again until its deadline."""
    model = Model(deadly=range(100, 200))

    async def ask() -> tuple[list[Ok[Values] | Err], list[Ok[Values] | Err]]:
        queue = batcher(model)
        large = queue.submit([float(i) for i in range(300)], key="m", windows=300)
        bad, good = await asyncio.gather(large, one(queue, 1.0))
        return bad, good

    bad, good = asyncio.run(ask())
    assert joined(good) == [2.0]
    assert model.deaths == 3  # a batch, and two of its windows alone
    errors = [(part.start, type(part.error)) for part in bad if isinstance(part, Err)]
    assert [start for start, kind in errors if kind is EOFError] == [100, 101]
    assert {kind for _, kind in errors} == {EOFError, AbandonedError}
    assert [part.stop for part in bad] == [*(part.start for part in bad[1:]), 300]


def test_out_of_memory_halves_and_is_remembered(record_property: Told) -> None:
    """F8: the size that fits is learnt once, not with every batch."""
    model = Model(fits=16)

    async def ask() -> None:
        queue = batcher(model)
        for _ in range(2):
            answers = await asyncio.gather(*(one(queue, float(v)) for v in range(64)))
            assert [joined(parts) for parts in answers] == [[2.0 * v] for v in range(64)]
            model.batches.append(0)  # marks the end of a round

    asyncio.run(ask())
    first, second = (
        model.batches[: model.batches.index(0)],
        model.batches[model.batches.index(0) + 1 : -1],
    )
    record_property("F8", f"{len(first)} model calls, then {len(second)}")
    assert len(first) <= 7
    assert second == [16, 16, 16, 16]


def test_a_window_too_large_for_the_memory_says_so() -> None:
    parts = asyncio.run(one(batcher(Model(fits=0)), 1.0))
    assert isinstance(parts[0], Err)
    assert isinstance(parts[0].error, MemoryError)


def test_deadline_and_disconnect_remove_queued_work(record_property: Told) -> None:
    """L4: nobody computes what nobody waits for."""
    model = Model(seconds=2.0)

    async def ask() -> None:
        queue, loop = batcher(model), asyncio.get_running_loop()
        first = asyncio.create_task(one(queue, 0.0))
        await asyncio.sleep(0.05)
        start = loop.time()
        late = [asyncio.create_task(one(queue, 1.0, deadline=start + 0.3)) for _ in range(25)]
        gone = [asyncio.create_task(one(queue, 2.0)) for _ in range(25)]
        await asyncio.sleep(0.3)
        for task in gone:
            task.cancel()
        outcomes = await asyncio.gather(*late, *gone, return_exceptions=True)
        assert not first.done(), "nobody waits for the batch at work"
        assert [type(o) for o in outcomes] == [TimeoutError] * 25 + [asyncio.CancelledError] * 25
        await first

    asyncio.run(ask())
    record_property("L4", f"{len(model.seen) - 1} of 50 windows computed that nobody waits for")
    assert model.seen == [0.0]


def test_a_full_queue_refuses_at_once() -> None:
    async def ask() -> list[object]:
        queue = batcher(Model(seconds=0.05), windows=1, waiting=8)
        return await asyncio.gather(*(one(queue, 1.0) for _ in range(20)), return_exceptions=True)

    outcomes = asyncio.run(ask())
    assert sum(isinstance(o, OverloadedError) for o in outcomes) == 12
    assert sum(isinstance(o, list) for o in outcomes) == 8


def test_small_requests_pass_a_large_one_and_do_not_starve_it() -> None:
    """A thousand series in one request must not stop a neighbour who asks for one."""
    model = Model(seconds=0.01)

    async def ask() -> tuple[float, float]:
        queue, loop = batcher(model), asyncio.get_running_loop()
        start = loop.time()
        large = asyncio.create_task(queue.submit([1.0] * 1024, key="m", windows=1024))
        await asyncio.sleep(0.02)
        asked = loop.time()
        await asyncio.gather(*(one(queue, float(v)) for v in range(8)))
        small = loop.time() - asked
        assert joined(await large) == [2.0] * 1024
        return small, loop.time() - start

    small, large = asyncio.run(ask())
    assert max(model.batches) <= 64
    assert small < large / 3


def test_keys_are_never_mixed_and_take_turns() -> None:
    seen: list[tuple[str, float]] = []

    def model(key: str, pieces: Sequence[Piece[Values]]) -> list[Values]:
        time.sleep(0.005)
        seen.extend((key, value) for p in pieces for value in p.item[p.start : p.stop])
        return [p.item[p.start : p.stop] for p in pieces]

    async def ask() -> None:
        queue = batcher(model, windows=4)
        await asyncio.gather(
            *(queue.submit([0.0] * 16, key="a", windows=16) for _ in range(2)),
            queue.submit([1.0], key="b", windows=1),
        )

    asyncio.run(ask())
    assert {key for key, value in seen if value == 0.0} == {"a"}
    assert seen.index(("b", 1.0)) <= 4


def test_a_step_of_the_wall_clock_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, record_property: Told
) -> None:
    """F18: an hour back on the wall clock left a request of @serve.batch waiting for ever."""
    clock = time.time

    async def ask() -> float:
        queue, loop = batcher(Model(seconds=0.05)), asyncio.get_running_loop()
        first = asyncio.create_task(one(queue, 0.0))
        await asyncio.sleep(0.01)
        monkeypatch.setattr(time, "time", lambda: clock() - 3600)
        start = loop.time()
        await one(queue, 1.0)
        await first
        return loop.time() - start

    waited = asyncio.run(ask())
    record_property("F18", f"answered after {waited:.2f} s")
    assert waited < 1.0


def test_a_batch_that_hangs_does_not_hold_its_place() -> None:
    """F5: of two replicas one that is stopped must not stop an ingress, nor take over both places."""
    out = list[float]()

    async def ask() -> None:
        never = asyncio.Event()

        async def run(_key: str, pieces: Sequence[Piece[Values]]) -> list[Values]:
            out.append(pieces[0].item[0])
            if pieces[0].item[0] < 0:
                await never.wait()
            return [piece.item for piece in pieces]

        queue = Batcher(run, max_windows=1, max_waiting=9, in_flight=2, patience_s=0.05)
        hanging = [asyncio.create_task(one(queue, -1.0 - i)) for i in range(5)]
        await asyncio.sleep(0)
        answered = asyncio.create_task(one(queue, 1.0))
        await asyncio.sleep(0.5)
        assert out == [-1.0, -2.0, -3.0, -4.0]  # as many again, and no more
        never.set()
        for each in (*hanging, answered):
            await each
        assert (await one(queue, 2.0)) == [Ok(0, 1, [2.0])]

    asyncio.run(ask())
    assert out == [-1.0, -2.0, -3.0, -4.0, -5.0, 1.0, 2.0]


def test_a_model_that_miscounts_is_an_error_not_a_hang() -> None:
    def model(_key: str, _pieces: Sequence[Piece[Values]]) -> list[Values]:
        return []

    assert isinstance(asyncio.run(one(batcher(model), 1.0))[0], Err)


def test_what_concerns_a_batch_as_a_whole_is_not_searched_for() -> None:
    """A lost connection would else be met 2 n times, once for each half of each half."""
    calls = 0

    def model(_key: str, _pieces: Sequence[Piece[Values]]) -> list[Values]:
        nonlocal calls
        calls += 1
        raise ConnectionError

    async def ask() -> list[list[Ok[Values] | Err]]:
        queue = batcher(model)
        return await asyncio.gather(*(one(queue, float(v)) for v in range(64)))

    answers = asyncio.run(ask())
    assert all(isinstance(parts[0], Err) for parts in answers)
    assert calls == 1
