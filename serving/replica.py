"""The model deployment, and the ingress's end of the wire to it.

Its own process: the one that parses requests and the one that multiplies matrices must not share
an interpreter lock. Batches are made before the wire, so that its cost is shared too.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import torch
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from pipelines.home import Home, configure
from pipelines.query import Floats, Query
from serving.batcher import OverloadedError
from serving.graphs import Graphs
from serving.heap import collect_rarely
from serving.host import LocalEngine
from serving.library import Shelf
from serving.logs import keep_log
from serving.runtimes import Runtimes
from serving.settings import Settings
from tsformer.errors import UnavailableError
from tsformer.memory import keep_some_freed_memory

LOG = logging.getLogger(__name__)
ATTEMPTS = 3
GONE = "No replica of the model answers; one is being started."


class Replica:
    """A LocalEngine as a Ray Serve deployment."""

    def __init__(self, home: Home, settings: Settings) -> None:
        configure(os.environ, role="serving")
        keep_some_freed_memory()
        keep_log(home, "model")
        from pipelines.registry import Registry  # imports MLflow, which reads the environment

        models = settings.models
        torch.set_num_threads(models.threads)
        runtimes = Runtimes(
            Graphs(home.graphs), models.runtime, models.precision, threads=models.threads
        )
        shelf = Shelf(
            Registry(home), capacity=models.in_memory, device=models.device, runtimes=runtimes
        )
        self._engine = LocalEngine(shelf)
        collect_rarely()

    async def prepare(self, version: str) -> None:
        """See `Engine.prepare`."""
        await self._engine.prepare(version)

    async def run(self, version: str, query: Query, levels: tuple[float, ...]) -> Floats:
        """See `Engine.run`. Where it failed is logged here; the caller hears what alone."""
        try:
            return await self._engine.run(version, query, levels)
        except Exception:
            LOG.exception("%s failed on %s windows", version, len(query))
            raise


class RemoteEngine:
    """The replicas behind a Ray Serve handle.

    A call whose replica died is made again; forecasts are pure, so that does no harm.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def prepare(self, version: str) -> None:
        """See `Engine.prepare`. All replicas do it; one that comes later, as it is first asked."""
        try:
            done = self._handle.broadcast("prepare", version)
            errors = await done.results_async(return_exceptions=True)
        except DeploymentUnavailableError as error:
            raise UnavailableError(GONE) from error
        refused = [
            e for e in errors if isinstance(e, Exception) and not isinstance(e, RayActorError)
        ]
        if refused:
            raise refused[0]
        if all(errors):
            raise UnavailableError(GONE)

    async def run(self, version: str, query: Query, levels: tuple[float, ...]) -> Floats:
        """See `Engine.run`."""
        values: Floats = await _call(self._handle.run, version, query, levels)
        return values


async def _call(method: DeploymentHandle, *arguments: object) -> Any:
    for _ in range(ATTEMPTS):
        response: DeploymentResponse = method.remote(*arguments)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()  # Serve does not do so by itself
            raise
        except BackPressureError as error:
            raise OverloadedError(str(error)) from error
        except RayActorError:
            continue
    raise UnavailableError(GONE)
