"""What becomes of a call on its way to a replica; the deployment is a stub on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError

from serving.host import DiedError
from serving.remote import Ticket, call
from serving.slate import Slate, ticket
from tsformer.errors import UnavailableError


class Response:
    """What a handle gives: awaited for the answer, cancelled where nobody waits."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.cancelled = answer, False

    def cancel(self) -> None:
        self.cancelled = True

    def __await__(self) -> Generator[Any, None, Any]:
        return self.answer().__await__()


class Deployment:
    """Answers each call by the next of `ways`."""

    def __init__(self, *ways: Callable[[], Any]) -> None:
        self._ways = iter(ways)
        self.responses: list[Response] = []

    deployment_name = "model"

    def remote(self, *_arguments: object) -> Response:
        self.responses.append(Response(next(self._ways)))
        return self.responses[-1]


async def answers() -> str:
    return "answer"


async def never() -> str:
    return await asyncio.Future()


async def dies() -> str:
    raise RayActorError


def ask(deployment: Deployment, folder: Path, mine: bytes) -> Any:
    return call(deployment, mine=Ticket(folder, mine), patience_s=0.05)  # type: ignore[arg-type]


def test_a_call_that_no_replica_took_is_made_again(tmp_path: Path) -> None:
    """One that was on its way as a replica died is answered by nobody, ever."""
    deployment = Deployment(never, answers)
    assert asyncio.run(ask(deployment, tmp_path, ticket())) == "answer"
    assert [each.cancelled for each in deployment.responses] == [True, False]


def test_a_call_that_was_taken_is_waited_for(tmp_path: Path) -> None:
    """A replica that loads its model first, or has another batch, would be given the same again and again."""
    mine, slate = ticket(), Slate(tmp_path)

    async def slowly() -> str:
        with slate.taken(mine):
            await asyncio.sleep(0.3)
        return "answer"

    deployment = Deployment(slowly)
    assert asyncio.run(ask(deployment, tmp_path, mine)) == "answer"
    assert len(deployment.responses) == 1


def test_a_replica_that_died_at_work_is_told_from_one_that_had_not_begun(tmp_path: Path) -> None:
    """The batch at work may be why; another one is no less welcome at the next replica."""
    mine, slate = ticket(), Slate(tmp_path)
    deployment = Deployment(dies, answers)
    assert asyncio.run(ask(deployment, tmp_path, mine)) == "answer"
    with slate.at_work(mine), pytest.raises(DiedError):
        asyncio.run(ask(Deployment(dies), tmp_path, mine))


def test_where_every_replica_dies_the_caller_is_told_to_repeat(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No replica of the model answers"):
        asyncio.run(ask(Deployment(dies, dies, dies), tmp_path, ticket()))


def test_who_leaves_takes_the_call_back(tmp_path: Path) -> None:
    """The replica must not work for nobody."""
    deployment = Deployment(never)

    async def leave() -> None:
        asking = asyncio.create_task(ask(deployment, tmp_path, ticket()))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(leave())
    assert deployment.responses[0].cancelled
