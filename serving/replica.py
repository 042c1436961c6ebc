"""The model deployment, and the ingress's end of the wire to it.

Its own process: the one that parses requests and the one that multiplies matrices must not share
an interpreter lock.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TypeVar

import torch
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from pipelines.home import Home, configure
from pipelines.query import Query
from serving.batcher import OverloadedError
from serving.host import Answered, ModelHost
from serving.library import Shelf
from serving.settings import Settings
from tsformer.errors import UnavailableError

Value = TypeVar("Value")
ATTEMPTS = 2


class Replica:
    """A ModelHost as a Ray Serve deployment."""

    def __init__(self, home: Home, settings: Settings) -> None:
        configure(os.environ, role="serving")
        from pipelines.registry import Registry  # imports MLflow, which reads the environment

        models = settings.models
        torch.set_num_threads(models.threads)
        shelf = Shelf(Registry(home), capacity=models.in_memory, device=models.device)
        self._host = ModelHost(
            shelf, batching=settings.batching, max_waiting=settings.limits.queue_per_model
        )

    async def prepare(self, version: str) -> None:
        """See `Host.prepare`."""
        await self._host.prepare(version)

    async def answer(
        self, version: str, query: Query, levels: tuple[float, ...], seconds: float
    ) -> Answered:
        """See `Host.answer`."""
        return await self._host.answer(version, query, levels, seconds=seconds)


class RemoteHost:
    """The replicas behind a Ray Serve handle.

    A call whose replica died is made once more; forecasts are pure, so that does no harm.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def prepare(self, version: str) -> None:
        """See `Host.prepare`."""
        await _call(lambda: self._handle.prepare.remote(version))

    async def answer(
        self, version: str, query: Query, levels: tuple[float, ...], *, seconds: float
    ) -> Answered:
        """See `Host.answer`."""
        return await _call(lambda: self._handle.answer.remote(version, query, levels, seconds))


async def _call(ask: Callable[[], DeploymentResponse[Value]]) -> Value:
    for _ in range(ATTEMPTS):
        response = ask()
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()  # Serve does not do so by itself
            raise
        except BackPressureError as error:
            raise OverloadedError(str(error)) from error
        except RayActorError:
            continue
    raise UnavailableError("No replica of the model answers; one is being started.")
