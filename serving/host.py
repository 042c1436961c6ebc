"""Where model versions run, and the batches that go there."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.course import follow
from pipelines.query import Floats, Query
from serving.batcher import Batcher, Err, Ok, OverloadedError, Piece, Run
from serving.deadly import Deadly
from serving.library import Loaded, Shelf, name_of
from serving.limits import Limits
from serving.metrics import Metrics
from serving.settings import Batching
from serving.threads import off_loop
from tsformer.errors import UnavailableError

LOG = logging.getLogger(__name__)
NOBODY = nullcontext()  # has to know what is at work
LOADED_S = 1.0  # how long a process may take to say what it has in memory
# A batch that met one of these would meet it again in halves.
WHOLE = (UnavailableError, OverloadedError, TimeoutError)


class DiedError(Exception):
    """The process of the model ended while it worked on a batch."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the model said: `values` `[window, horizon, variate, 1 + level]`, NaN where `failed`."""

    values: Floats
    failed: tuple[int, ...]
    queue_ms: float
    model_ms: float

    @staticmethod
    def joined(blocks: Sequence[Answered]) -> Answered:
        """The answers to blocks that follow each other, as one."""
        if len(blocks) == 1:
            return blocks[0]
        return Answered(
            follow([block.values for block in blocks]),
            tuple(sorted({row for block in blocks for row in block.failed})),
            sum(block.queue_ms for block in blocks),
            sum(block.model_ms for block in blocks),
        )

    def among(self, failed: NDArray[np.bool_]) -> Answered:
        """The same as the answer to all windows, those that `failed` unasked included."""
        values = np.full((len(failed), *self.values.shape[1:]), np.nan)
        values[~failed] = self.values
        rows = np.flatnonzero(failed).tolist() + np.flatnonzero(~failed)[[*self.failed]].tolist()
        return Answered(values, tuple(sorted(rows)), self.queue_ms, self.model_ms)


class Engine(Protocol):
    """Runs one batch of one model version at a time, wherever that is."""

    async def prepare(self, version: str) -> None:
        """Makes `name/version` ready to answer."""
        ...

    async def run(self, version: str, query: Query, levels: tuple[float, ...]) -> Floats:
        """The answer of `name/version`.

        MemoryError if the batch is too large, DiedError if its process ended at work on it.
        """
        ...

    async def loaded(self) -> list[tuple[str, ...]]:
        """The versions in memory, as `name/version`, of each process that answers."""
        ...


@dataclass(frozen=True, slots=True)
class Lane:
    """An engine, and how many batches are out to it at a time: more than one where they travel."""

    engine: Engine
    in_flight: int = 1


class LocalEngine:
    """Model versions in this process; the model runs in one thread and the loop stays free."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    async def prepare(self, version: str) -> None:
        """See `Engine.prepare`."""
        await self._shelf.get(version)

    async def run(
        self,
        version: str,
        query: Query,
        levels: tuple[float, ...],
        *,
        at_work: AbstractContextManager[None] = NOBODY,
    ) -> Floats:
        """See `Engine.run`; the model works within `at_work`."""
        loaded = await self._shelf.get(version)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, _answer, loaded, query, levels, at_work)

    async def loaded(self) -> list[tuple[str, ...]]:
        """See `Engine.loaded`."""
        return [self._shelf.loaded]


def _answer(
    loaded: Loaded, query: Query, levels: tuple[float, ...], at_work: AbstractContextManager[None]
) -> Floats:
    try:
        with at_work:
            return loaded.forecaster.answer(query, levels)
    except torch.OutOfMemoryError as error:
        raise MemoryError from error


@dataclass(slots=True, eq=False)
class _Question:
    query: Query
    levels: tuple[float, ...]
    asked: float
    started: float | None = None
    model_s: float = 0.0


class _Place:
    """A lane with the requests that wait for it."""

    def __init__(
        self,
        lane: Lane,
        run: Run[_Question, Floats],
        *,
        batching: Batching,
        limits: Limits,
    ) -> None:
        self.engine = lane.engine
        self.loaded: list[tuple[str, ...]] = []  # as it was last told
        self.batcher: Batcher[_Question, Floats] = Batcher(
            run,
            max_windows=batching.max_windows,
            max_waiting=limits.queue_per_model,
            in_flight=lane.in_flight,
            whole=WHOLE,
            deaths=(DiedError,),
        )


class Host:
    """Answers queries by engines, in batches that many requests share.

    `shared` runs the models that have no lane of their `own`, by name.
    """

    def __init__(
        self,
        shared: Lane,
        *,
        batching: Batching,
        limits: Limits,
        metrics: Metrics,
        own: Mapping[str, Lane] = MappingProxyType({}),
    ) -> None:
        self._shared = _Place(shared, self._run, batching=batching, limits=limits)
        self._own = {
            name: _Place(lane, self._run, batching=batching, limits=limits)
            for name, lane in own.items()
        }
        self._deadly = Deadly()
        self._metrics = metrics
        self._longest_s = limits.deadline_ms / 1000
        self._open = dict[_Question, None]()  # in the order in which they came

    @property
    def oldest_s(self) -> float:
        """How long the oldest request that a model has not answered has waited; 0 where none does."""
        oldest = next(iter(self._open), None)
        return 0.0 if oldest is None else time.monotonic() - oldest.asked

    async def prepare(self, version: str) -> None:
        """Makes `name/version` ready to answer."""
        await self._place(version).engine.prepare(version)

    async def loaded(self) -> list[tuple[str, ...]]:
        """The versions in memory of each process; as last told where all are too busy to say it."""
        places = (self._shared, *self._own.values())
        asked = (asyncio.wait_for(place.engine.loaded(), LOADED_S) for place in places)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for place, answer in zip(places, answers, strict=True):
            if not isinstance(answer, BaseException):
                place.loaded = answer
        return [one for place in places for one in place.loaded]

    def _place(self, version: str) -> _Place:
        return self._own.get(name_of(version), self._shared)

    async def answer(
        self,
        version: str,
        query: Query,
        levels: tuple[float, ...],
        *,
        horizon: int,
        seconds: float,
    ) -> Answered:
        """The answer of `name/version` to `query`, or TimeoutError after `seconds`.

        A window on which the model fails is NaN; its neighbours are not concerned. One at which the
        model's process died is not asked again.
        """
        ask = partial(self._ask, version, levels=levels, horizon=horizon, seconds=seconds)
        if not self._deadly.any():
            return await ask(query)
        known = await off_loop(query.nbytes, self._deadly.among, version, query)
        return (await ask(query[~known])).among(known)

    async def _ask(
        self,
        version: str,
        query: Query,
        *,
        levels: tuple[float, ...],
        horizon: int,
        seconds: float,
    ) -> Answered:
        question = _Question(query, levels, time.monotonic())
        deadline = asyncio.get_running_loop().time() + seconds
        self._open[question] = None
        try:
            parts = await self._place(version).batcher.submit(
                question, key=f"{version} {query.variates}", windows=len(query), deadline=deadline
            )
        finally:
            del self._open[question]
        for part in parts:
            if isinstance(part, Err) and isinstance(part.error, DiedError):
                self._deadly.add(version, query[part.start : part.stop])
        shape = (len(query), horizon, query.variates, 1 + len(levels))
        values, failed = _joined(parts, shape=shape)
        started = question.started or question.asked
        self._metrics.waited(name_of(version), started - question.asked)
        return Answered(values, failed, 1000 * (started - question.asked), 1000 * question.model_s)

    async def _run(self, key: str, pieces: Sequence[Piece[_Question]]) -> list[Floats]:
        """The answers to pieces of one version, from one call of the model at all their levels."""
        start = time.monotonic()
        version, _, _ = key.partition(" ")
        query = Query.stack([piece.item.query[piece.start : piece.stop] for piece in pieces])
        levels = tuple(sorted({level for piece in pieces for level in piece.item.levels}))
        async with asyncio.timeout(self._longest_s):  # an engine that hangs must not hold a place
            values = await self._place(version).engine.run(version, query, levels)
        seconds = time.monotonic() - start
        self._metrics.batch(version, len(query))
        place = {level: column for column, level in enumerate(levels, start=1)}
        answers, row = [], 0
        for piece in pieces:
            question = piece.item
            columns = [0, *(place[level] for level in question.levels)]
            answers.append(values[row : row + len(piece)][..., columns])
            row += len(piece)
            question.started = question.started or start
            question.model_s += seconds
        return answers


def _joined(
    parts: Sequence[Ok[Floats] | Err], *, shape: tuple[int, ...]
) -> tuple[Floats, tuple[int, ...]]:
    """The answers to the parts of a query as one array, and the rows on which the model failed."""
    values, failed = np.full(shape, np.nan), list[int]()
    for part in parts:
        if isinstance(part, Ok):
            values[part.start : part.stop] = part.value
            continue
        if isinstance(part.error, (MemoryError, *WHOLE)):
            # A fresh one: requests that shared the batch must not share one exception's traceback.
            raise type(part.error)(*part.error.args) from part.error
        LOG.error("the model failed on a window", exc_info=part.error)
        failed.extend(range(part.start, part.stop))
    return values, tuple(failed)
