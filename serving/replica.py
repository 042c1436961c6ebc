"""The model deployments, and the ingress's end of the wire to one of them.

Their own processes: the one that parses requests and the one that multiplies matrices must not share
an interpreter lock. Batches are made before the wire, so that its cost is shared too.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import torch
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from pipelines.home import Home, configure
from pipelines.query import Floats, Query
from serving.batcher import OverloadedError
from serving.graphs import Graphs
from serving.heap import collect_rarely
from serving.host import LocalEngine
from serving.library import Shelf, name_of
from serving.logs import keep_log
from serving.runtimes import Runtimes
from serving.settings import Models, Scale
from tsformer.errors import UnavailableError
from tsformer.memory import keep_some_freed_memory

LOG = logging.getLogger(__name__)
ATTEMPTS = 3
LARGE_BYTES = 4 * 1024 * 1024
LARGE_COLUMNS = 1_024  # of float64, as long as the horizon
GONE = "No replica of the model answers; one is being started."


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
        from pipelines.registry import Registry  # imports MLflow, which reads the environment

        torch.set_num_threads(models.threads)
        runtimes = Runtimes(
            Graphs(home.graphs), models.runtime, models.precision, threads=models.threads
        )
        self._shelf = Shelf(
            Registry(home), capacity=models.in_memory, device=scale.device, runtimes=runtimes
        )
        self._engine = LocalEngine(self._shelf)
        collect_rarely()

    async def prepare(self, version: str) -> None:
        """See `Engine.prepare`."""
        await self._engine.prepare(version)

    async def follow(self, version: str) -> None:
        """Prepares a version where another one of its model is in memory."""
        if name_of(version) in map(name_of, self._shelf.loaded):
            await self._engine.prepare(version)

    async def loaded(self) -> list[tuple[str, ...]]:
        """See `Engine.loaded`."""
        return await self._engine.loaded()

    async def run(self, version: str, query: Query, levels: tuple[float, ...]) -> Floats:
        """See `Engine.run`. Where it failed is logged here; the caller hears what alone."""
        try:
            return await self._engine.run(version, query, levels)
        except Exception:
            LOG.exception("%s failed on %s windows", version, len(query))
            raise


class RemoteEngine:
    """The replicas of one deployment behind a Ray Serve handle.

    `placed`: each model has replicas of its own among them (`serving.placing`); else every replica
    holds every version. A call whose replica died is made again; forecasts are pure, so that does no harm.
    """

    def __init__(self, handle: DeploymentHandle, *, placed: bool) -> None:
        self._handle = handle
        self._placed = placed

    async def prepare(self, version: str) -> None:
        """See `Engine.prepare`. A replica that comes later does it as it is first asked."""
        if not self._placed:
            done = await self._everywhere("prepare", version)
            if all(isinstance(each, RayActorError) for each in done):
                raise UnavailableError(GONE)
            return
        await self._everywhere("follow", version)
        await _call(self._at(version).prepare, version)

    async def run(self, version: str, query: Query, levels: tuple[float, ...]) -> Floats:
        """See `Engine.run`."""
        handle = self._at(version)
        if is_large(query, levels):
            handle = handle.options(_by_reference=True)
        values: Floats = await _call(handle.run, version, query, levels)
        return values

    async def loaded(self) -> list[tuple[str, ...]]:
        """See `Engine.loaded`: of the replicas that answer."""
        try:
            done = await self._everywhere("loaded")
        except UnavailableError:
            return []
        return [one for each in done if isinstance(each, list) for one in each]

    def _at(self, version: str) -> DeploymentHandle:
        if not self._placed:
            return self._handle
        return self._handle.options(multiplexed_model_id=name_of(version))

    async def _everywhere(self, method: str, *arguments: object) -> list[Any]:
        """What each replica says; the error of one that died, and what another raises is raised."""
        try:
            done = self._handle.broadcast(method, *arguments)
            answers = await done.results_async(return_exceptions=True)
        except DeploymentUnavailableError as error:
            raise UnavailableError(GONE) from error
        for answer in answers:
            if isinstance(answer, Exception) and not isinstance(answer, RayActorError):
                raise answer
        return list(answers)


def is_large(query: Query, levels: tuple[float, ...]) -> bool:
    """Whether a batch goes by Ray's shared memory: on the wire it or its answer might not fit.

    A message is quicker, and `serving.run.LARGEST_MESSAGE` has room for what is not large here, up to
    a trained horizon of 4,096 steps.
    """
    columns = len(query) * query.variates * (1 + len(levels))
    return query.nbytes > LARGE_BYTES or columns > LARGE_COLUMNS


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
