"""Baselines that are fitted anew to each series of a request: off the loop, and only so many at once.

A fit runs in a process of its own (`tsformer.fit_pool`), which stops it at its time limit. Requests
take turns, a series at a time, so that one of hundreds does not hold one of a single series. What
nobody waits for any more, since the client left or the deadline passed, is ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pipelines.forecaster import Forecaster
from pipelines.query import Floats, Query
from serving.batcher import OverloadedError
from serving.host import Answered
from serving.metrics import Metrics
from tsformer.errors import UnavailableError
from tsformer.fit_pool import Halt, own_pool

LOG = logging.getLogger(__name__)
# Of the processes: who forecasts by a model that is there must not wait for those who fit one.
NICENESS = 10


class Fits:
    """The places where `at_once` series are fitted; 0 stands for half of the cores.

    Beyond `waiting` requests the next is refused.
    """

    def __init__(self, *, at_once: int, waiting: int, metrics: Metrics) -> None:
        self._metrics = metrics
        self._at_once = at_once or max(1, len(os.sched_getaffinity(0)) // 2)
        self._most = waiting
        self._threads = ThreadPoolExecutor(self._at_once, thread_name_prefix="fit")
        self._asked = set[Halt]()
        own_pool().niceness = NICENESS

    async def answer(
        self, forecaster: Forecaster, query: Query, levels: tuple[float, ...]
    ) -> Answered:
        """The answer to `query`; a window without a fit is NaN and among those that failed."""
        if len(self._asked) >= self._most:
            raise OverloadedError(f"{len(self._asked)} requests wait for fits already.")
        values = np.full((len(query), forecaster.recipe.horizon, 1, 1 + len(levels)), np.nan)
        asked, begun, halt = time.monotonic(), list[float](), Halt()
        rows, shape = iter(range(len(query))), forecaster.model.shape
        columns = [shape.point, *(shape.levels.index(level) for level in levels)]

        def fit(row: int) -> None:
            begun.append(time.monotonic())
            with halt.heeded():
                output = forecaster.runtime.predict(_observed(query.past[row]).batch())
            values[row] = output[0][..., columns].numpy()

        async def take() -> None:
            for row in rows:
                await asyncio.get_running_loop().run_in_executor(self._threads, fit, row)

        taking = [asyncio.ensure_future(take()) for _ in range(min(self._at_once, len(query)))]
        self._asked.add(halt)
        try:
            await asyncio.gather(*taking)
        except UnavailableError as error:
            LOG.warning("a series could not be fitted: %s", error)
            raise OverloadedError("No process for a fit can be started now.") from error
        finally:
            self._asked.discard(halt)
            for each in taking:
                each.cancel()
            halt()
        failed = np.flatnonzero(np.isnan(values).all(axis=(1, 2, 3)))
        queued = min(begun, default=asked) - asked
        self._metrics.waited(forecaster.spec.kind, queued)
        spent = time.monotonic() - asked - queued
        return Answered(values, tuple(failed.tolist()), 1000 * queued, 1000 * spent)

    def end(self) -> None:
        """Ends what is under way and refuses what comes."""
        self._most = 0
        for halt in [*self._asked]:
            halt()


def _observed(past: Floats) -> Query:
    """A window `[time, variate]` from its first value on: what stands beside it changes no bit."""
    seen = np.flatnonzero(~np.isnan(past).all(axis=1))
    return Query(past[None, seen[0] :])
