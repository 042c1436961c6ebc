"""The model deployments: processes of their own.

The one that parses requests and the one that multiplies matrices must not share an interpreter lock.
Whoever starts the service imports this, so what models need is imported in their process.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from ray import serve

from pipelines.home import Home, configure
from serving.heap import collect_rarely
from serving.logs import keep_log
from serving.settings import Models, Scale
from serving.slate import Slate
from tsformer.memory import keep_some_freed_memory

if TYPE_CHECKING:
    from pipelines.query import Floats, Query

LOG = logging.getLogger(__name__)
IN_FLIGHT = 2  # of each replica: one batch runs while the next one travels


def log_name(deployment: str) -> str:
    """The log of this replica: no two write one, and one that replaces another goes on with its own."""
    rank = serve.get_replica_context().rank.rank
    return f"{deployment}-{rank}" if rank else deployment


class Replica:
    """A LocalEngine as a Ray Serve deployment."""

    def __init__(self, home: Home, models: Models, scale: Scale, deployment: str) -> None:
        configure(os.environ, role="serving")
        keep_some_freed_memory()
        keep_log(home, log_name(deployment))
        import torch

        from pipelines.registry import Registry  # imports MLflow, which reads the environment
        from serving.graphs import Graphs
        from serving.host import LocalEngine
        from serving.library import Shelf
        from serving.runtimes import Runtimes

        torch.set_num_threads(models.threads)
        runtimes = Runtimes(
            Graphs(home.graphs), models.runtime, models.precision, threads=models.threads
        )
        self._shelf = Shelf(
            Registry(home), capacity=models.in_memory, device=scale.device, runtimes=runtimes
        )
        self._engine = LocalEngine(self._shelf)
        self._slate = Slate(home.at_work)
        collect_rarely()

    async def prepare(self, version: str) -> None:
        """See `Engine.prepare`."""
        await self._engine.prepare(version)

    async def follow(self, version: str) -> None:
        """Prepares a version where another one of its model is in memory."""
        if self._shelf.knows(version):
            await self._engine.prepare(version)

    async def loaded(self) -> list[tuple[str, ...]]:
        """See `Engine.loaded`."""
        return await self._engine.loaded()

    async def run(
        self, version: str, query: Query, levels: tuple[float, ...], ticket: bytes
    ) -> Floats:
        """See `Engine.run`. Where it failed is logged here; the caller hears what alone."""
        with self._slate.taken(ticket):
            at_work = self._slate.at_work(ticket)
            try:
                return await self._engine.run(version, query, levels, at_work=at_work)
            except Exception:
                LOG.exception("%s failed on %s windows", version, len(query))
                raise
