"""The ingress's end of the wire to a model deployment.

Batches are made before the wire, so that its cost is shared too.
"""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from pipelines.query import Floats, Query
from serving.batcher import PATIENCE_S, OverloadedError
from serving.host import DiedError, Lane
from serving.library import name_of
from serving.replica import IN_FLIGHT
from serving.settings import Scale
from serving.slate import is_at_work, is_taken, ticket
from tsformer.errors import UnavailableError

LOG = logging.getLogger(__name__)
ATTEMPTS = 3
LARGE_BYTES = 4 * 1024 * 1024
LARGE_COLUMNS = 1_024  # of float64, as long as the horizon
GONE = "No replica of the model answers; one is being started."
DIED = "The process of the model ended while it worked on this."


def lane(handle: DeploymentHandle, scale: Scale, *, slates: Path, doors: int, placed: bool) -> Lane:
    """The way from one of `doors` ingresses to a deployment: each has its share of what is out."""
    engine = RemoteEngine(handle, slates=slates, placed=placed)
    return Lane(engine, math.ceil(IN_FLIGHT * scale.most / doors))


class RemoteEngine:
    """The replicas of one deployment behind a Ray Serve handle.

    `placed`: each model has replicas of its own among them (`serving.placing`); else every replica
    holds every version. A call whose replica died, or that no replica has taken for long, is made again;
    forecasts are pure, so that does no harm. But a batch that the replica was at work on may have killed it:
    DiedError. Which one that is `slates` tell.
    """

    def __init__(self, handle: DeploymentHandle, *, slates: Path, placed: bool) -> None:
        self._handle = handle
        self._slates = slates
        self._placed = placed

    async def prepare(self, version: str) -> None:
        """See `Engine.prepare`. A replica that comes later does it as it is first asked."""
        if not self._placed:
            done = await self._everywhere("prepare", version)
            if all(isinstance(each, RayActorError) for each in done):
                raise UnavailableError(GONE)
            return
        await self._everywhere("follow", version)
        await call(self._at(version).prepare, version)

    async def run(self, version: str, query: Query, levels: tuple[float, ...]) -> Floats:
        """See `Engine.run`."""
        handle = self._at(version)
        if is_large(query, levels):
            handle = handle.options(_by_reference=True)
        mine = Ticket(self._slates, ticket())
        values: Floats = await call(handle.run, version, query, levels, mine.text, mine=mine)
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


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a call is known by on the slates of a folder."""

    slates: Path
    text: bytes

    @property
    def at_work(self) -> bool:
        """Whether a replica works on the call, or died as it did."""
        return is_at_work(self.slates, self.text)

    @property
    def lost(self) -> bool:
        """Whether no replica that lives has taken the call."""
        return not is_taken(self.slates, self.text)


class _LostError(Exception):
    """No replica has taken a call."""


async def call(
    method: DeploymentHandle,
    *arguments: object,
    mine: Ticket | None = None,
    patience_s: float = PATIENCE_S,
) -> Any:
    """What a replica says; with a ticket, asked again where no replica has taken the call in time.

    DiedError where the replica died at work on it, UnavailableError where some died before that.
    """
    deaths = 0
    while deaths < ATTEMPTS:
        response: DeploymentResponse = method.remote(*arguments)
        try:
            if mine is None:
                return await response
            return await _unless_lost(response, mine, patience_s)
        except asyncio.CancelledError:
            response.cancel()  # Serve does not do so by itself
            raise
        except BackPressureError as error:
            raise OverloadedError(str(error)) from error
        except RayActorError as error:
            LOG.warning("a replica of %s died", method.deployment_name)
            if mine is not None and mine.at_work:
                raise DiedError(DIED) from error
            deaths += 1
        except _LostError:
            LOG.warning(
                "no replica of %s took a call in %g s: one hangs or died, or all are busy; asked again",
                method.deployment_name,
                patience_s,
            )
            response.cancel()
            patience_s *= 2  # all replicas may be busy
    raise UnavailableError(GONE)


async def _unless_lost(response: DeploymentResponse, mine: Ticket, patience_s: float) -> Any:
    """The response. One that was on its way to a replica as that died, or hung, may never come."""

    async def answer() -> Any:
        return await response

    answering = asyncio.create_task(answer())
    try:
        while not (await asyncio.wait((answering,), timeout=patience_s))[0]:
            if mine.lost:
                raise DiedError(DIED) if mine.at_work else _LostError
        return answering.result()
    finally:
        answering.cancel()
