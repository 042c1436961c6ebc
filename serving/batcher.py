"""Requests gathered into batches for one model, without ever waiting on purpose.

While the model is busy, requests accumulate; the moment it is free, everything that waits for
one model goes off together. An idle model therefore answers at once and a busy one works in full
batches, with no waiting time to tune. Deadlines use the event loop's clock, which is monotonic.
Nothing of the caller's runs in the queue itself.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")
PATIENCE_S = 3.0
DEATHS = 2  # of windows alone, after which an item is given up


class OverloadedError(Exception):
    """The queue of a model is full; repeat later."""


class AbandonedError(Exception):
    """Not asked: two other windows of the same item had done harm."""


@dataclass(frozen=True, slots=True)
class Piece(Generic[Item]):
    """The windows `start` to `stop` of an item."""

    item: Item
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Ok(Generic[Value]):
    """What the model said about the windows `start` to `stop` of an item."""

    start: int
    stop: int
    value: Value


@dataclass(frozen=True, slots=True)
class Err:
    """Why the model failed on the windows `start` to `stop` of an item."""

    start: int
    stop: int
    error: Exception


Run: TypeAlias = Callable[[str, Sequence[Piece[Item]]], Awaitable[Sequence[Value]]]


@dataclass(eq=False, slots=True)
class _Job(Generic[Item, Value]):
    item: Item
    windows: int
    done: asyncio.Future[list[Ok[Value] | Err]]
    taken: int = 0
    deaths: int = 0
    results: list[Ok[Value] | Err] = field(default_factory=list)

    def finish(self, result: Ok[Value] | Err) -> None:
        self.results.append(result)
        answered = sum(part.stop - part.start for part in self.results)
        if answered == self.windows and not self.done.done():
            self.done.set_result(sorted(self.results, key=lambda part: part.start))

    def abandon(self, error: Exception) -> None:
        """What is not answered yet has failed by `error`."""
        known = sorted(self.results, key=lambda part: part.start)
        edges = [0, *(edge for part in known for edge in (part.start, part.stop)), self.windows]
        for start, stop in zip(edges[::2], edges[1::2], strict=True):
            if start < stop:
                self.finish(Err(start, stop, error))


_Taken: TypeAlias = list[tuple[_Job[Item, Value], Piece[Item]]]


class Batcher(Generic[Item, Value]):
    """Awaits `run(key, pieces)`, which gives one value a piece, with batches of one key.

    - `max_windows` bounds a batch, counted in windows. `run` says with MemoryError that a batch
      was too large: it is halved, and the size that passed is remembered for that key.
    - `max_waiting` bounds the items that wait for one key.
    - `in_flight` is how many batches are out at a time: more than one where they travel. One that is
      out for longer than `patience_s` has no place there any more, as long as those are no more than
      the others: who works on it may hang.
    - `whole` are exceptions that concern a batch as a whole. Any other cuts the batch in two
      until the windows that cause it stand alone, so one bad window costs 2 log2(n) further calls
      and its neighbours nothing.
    - `deaths` are exceptions that are dear, and may be no window's fault. The windows of such a batch
      are asked again one by one: one that meets it alone has failed, and an item of which two did has
      failed as a whole. One bad window costs two deaths, and one death from outside costs nobody anything.
    """

    def __init__(
        self,
        run: Run[Item, Value],
        *,
        max_windows: int,
        max_waiting: int,
        in_flight: int = 1,
        patience_s: float = PATIENCE_S,
        whole: tuple[type[Exception], ...] = (),
        deaths: tuple[type[Exception], ...] = (),
    ) -> None:
        self._run = run
        self._max_windows = max_windows
        self._max_waiting = max_waiting
        self._in_flight = in_flight
        self._patience_s = patience_s
        self._whole = whole
        self._deaths = deaths
        self._waiting: dict[str, deque[_Job[Item, Value]]] = {}
        self._caps: dict[str, int] = {}
        self._working = 0
        self._late = 0  # of the batches that are out, those that have been so for long
        self._workers: set[asyncio.Task[None]] = set()
        # A batch is of many requests, so it runs in the context of none. Ray Serve tells calls apart by that
        # of a request: two at a time under one would be mixed up, and go with whoever asked first.
        self._context = copy_context()

    async def submit(
        self, item: Item, *, key: str, windows: int, deadline: float | None = None
    ) -> list[Ok[Value] | Err]:
        """What became of the item's windows, in order and without gaps.

        `deadline` is on the clock of `asyncio.get_running_loop().time()`. Raises TimeoutError when
        it passes and OverloadedError when too many wait. Work that waits is removed on time-out
        and on cancellation; work that runs is finished and dropped.
        """
        if windows == 0:
            return []
        loop = asyncio.get_running_loop()
        queue = self._waiting.setdefault(key, deque())
        if len(queue) >= self._max_waiting:
            raise OverloadedError(f"{len(queue)} requests wait for this model already.")
        job: _Job[Item, Value] = _Job(item, windows, loop.create_future())
        queue.append(job)
        self._start()
        try:
            async with asyncio.timeout_at(deadline):
                return await job.done
        finally:
            self._forget(key, job)

    def _forget(self, key: str, job: _Job[Item, Value]) -> None:
        queue = self._waiting.get(key)
        if queue is not None and job in queue:
            queue.remove(job)
            if not queue:
                del self._waiting[key]

    @property
    def _places(self) -> int:
        return self._in_flight + min(self._late, self._in_flight)

    def _start(self) -> None:
        if not self._waiting or self._working >= self._places:
            return
        self._working += 1
        loop = asyncio.get_running_loop()
        worker = loop.create_task(self._work(), context=self._context.copy())
        self._workers.add(worker)  # the loop itself keeps no task alive
        worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        try:
            while self._waiting and self._working <= self._places:
                key, batch = self._take()
                await self._answer(key, batch)
        finally:
            self._working -= 1  # in the same step in which nothing was found waiting

    def _take(self) -> tuple[str, _Taken[Item, Value]]:
        """The next batch: keys take turns, and so do the items of a key.

        An item gets a quarter of a batch in its turn, so a large one fills what the small ones
        leave free and never stands in their way for longer than one batch.
        """
        key = next(iter(self._waiting))
        queue = self._waiting.pop(key)
        room = self._caps.get(key, self._max_windows)
        share = max(1, room // 4)
        starts: dict[_Job[Item, Value], int] = {}
        while queue and room:
            job = queue.popleft()
            count = min(share, room, job.windows - job.taken)
            starts.setdefault(job, job.taken)
            job.taken += count
            room -= count
            if job.taken < job.windows:
                queue.append(job)
        if queue:
            self._waiting[key] = queue
        return key, [(job, Piece(job.item, start, job.taken)) for job, start in starts.items()]

    async def _answer(self, key: str, batch: _Taken[Item, Value]) -> None:
        batches = [(batch, False)]
        while batches:
            batch, alone = batches.pop()
            batch = [(job, piece) for job, piece in batch if not job.done.done()]
            if not batch:
                continue
            windows = sum(len(piece) for _, piece in batch)
            cap = self._caps.get(key, windows)
            if windows > cap:
                batches.extend((part, alone) for part in reversed(_cut(batch, cap)))
                continue
            try:
                values = await self._call(key, [piece for _, piece in batch])
            except Exception as error:
                died = isinstance(error, self._deaths)
                if most := self._most(key, windows, error, alone=alone):
                    batches.extend((part, died) for part in reversed(_cut(batch, most)))
                    continue
                for job, piece in batch:
                    job.finish(Err(piece.start, piece.stop, error))
                    job.deaths += died
                    if job.deaths == DEATHS:
                        job.abandon(AbandonedError())
            else:
                for (job, piece), value in zip(batch, values, strict=True):
                    job.finish(Ok(piece.start, piece.stop, value))

    def _most(self, key: str, windows: int, error: Exception, *, alone: bool) -> int:
        """How many windows of a batch that met `error` are asked at a time now; 0: they have failed."""
        if isinstance(error, self._deaths):
            return 0 if alone else 1
        if windows == 1 or isinstance(error, self._whole):
            return 0
        if isinstance(error, MemoryError):
            self._caps[key] = windows // 2
        return (windows + 1) // 2

    async def _call(self, key: str, pieces: list[Piece[Item]]) -> Sequence[Value]:
        with self._timed():
            values = await self._run(key, pieces)
        if len(values) != len(pieces):
            raise RuntimeError(f"The model gave {len(values)} values for {len(pieces)} pieces.")
        return values

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Lets another batch go, should what is done within it take too long."""
        late = False

        def give_place_away() -> None:
            nonlocal late
            late = True
            self._late += 1
            self._start()

        timer = asyncio.get_running_loop().call_later(self._patience_s, give_place_away)
        try:
            yield
        finally:
            timer.cancel()
            self._late -= late


def _cut(batch: _Taken[Item, Value], windows: int) -> list[_Taken[Item, Value]]:
    """The batch in parts of at most `windows` windows, in order."""
    parts: list[_Taken[Item, Value]] = [[]]
    room = windows
    for job, piece in batch:
        start = piece.start
        while start < piece.stop:
            if not room:
                parts.append([])
                room = windows
            stop = min(piece.stop, start + room)
            parts[-1].append((job, Piece(piece.item, start, stop)))
            room -= stop - start
            start = stop
    return parts
