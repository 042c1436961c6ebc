"""Where model versions run: a batcher in front of the forecasters, in this process.

`replica.py` puts the same thing behind Ray Serve.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pipelines.forecaster import Forecaster
from pipelines.query import Floats, Query
from serving.batcher import Batcher, Err, Ok, Piece
from serving.library import Shelf
from serving.settings import Batching

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """What the model said: `values` `[series, horizon, 1 + level]`, NaN in the rows `failed`."""

    values: Floats
    failed: tuple[int, ...]
    queue_ms: float
    model_ms: float


class Host(Protocol):
    """Runs model versions, wherever that is."""

    async def prepare(self, version: str) -> None:
        """Makes `name/version` ready to answer."""
        ...

    async def answer(
        self, version: str, query: Query, levels: tuple[float, ...], *, seconds: float
    ) -> Answered:
        """The answer of `name/version` to `query`, or TimeoutError after `seconds`."""
        ...


@dataclass(slots=True)
class _Question:
    forecaster: Forecaster
    query: Query
    levels: tuple[float, ...]
    asked: float
    started: float | None = None
    model_s: float = 0.0


class ModelHost:
    """Loads model versions and answers queries in batches; the model runs in one thread."""

    def __init__(self, shelf: Shelf, *, batching: Batching, max_waiting: int) -> None:
        self._shelf = shelf
        self._batcher: Batcher[_Question, Floats] = Batcher(
            self._run, max_windows=batching.max_windows, max_waiting=max_waiting
        )

    async def prepare(self, version: str) -> None:
        """Makes `name/version` ready to answer."""
        await self._shelf.get(version)

    async def answer(
        self, version: str, query: Query, levels: tuple[float, ...], *, seconds: float
    ) -> Answered:
        """The answer of `name/version` to `query`; a window on which the model fails is NaN."""
        loop = asyncio.get_running_loop()
        loaded = await self._shelf.get(version)
        question = _Question(loaded.forecaster, query, levels, time.monotonic())
        parts = await self._batcher.submit(
            question, key=version, windows=len(query), deadline=loop.time() + seconds
        )
        shape = (len(query), loaded.forecaster.recipe.horizon, 1 + len(levels))
        values, failed = _joined(parts, shape)
        started = question.started or question.asked
        return Answered(values, failed, 1000 * (started - question.asked), 1000 * question.model_s)

    def _run(self, _version: str, pieces: Sequence[Piece[_Question]]) -> list[Floats]:
        """The answers to pieces of one version, from one call of the model at all their levels."""
        start = time.monotonic()
        queries = [piece.item.query[piece.start : piece.stop] for piece in pieces]
        levels = tuple(sorted({level for piece in pieces for level in piece.item.levels}))
        try:
            values = pieces[0].item.forecaster.answer(Query.stack(queries), levels)
        except torch.OutOfMemoryError as error:
            raise MemoryError from error
        place = {level: column for column, level in enumerate(levels, start=1)}
        answers, row = [], 0
        for piece in pieces:
            columns = [0, *(place[level] for level in piece.item.levels)]
            answers.append(values[row : row + len(piece)][..., columns])
            row += len(piece)
        seconds = time.monotonic() - start
        for piece in pieces:
            piece.item.started = piece.item.started or start
            piece.item.model_s += seconds
        return answers


def _joined(
    parts: Sequence[Ok[Floats] | Err], shape: tuple[int, int, int]
) -> tuple[Floats, tuple[int, ...]]:
    values = np.full(shape, np.nan)
    failed: list[int] = []
    for part in parts:
        if isinstance(part, Ok):
            values[part.start : part.stop] = part.value
            continue
        if isinstance(part.error, MemoryError):
            raise part.error
        LOG.error("the model failed on a window", exc_info=part.error)
        failed.extend(range(part.start, part.stop))
    return values, tuple(failed)
