"""Which version an alias is on: promoted by compare-and-set, and rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, Path, Request, Response

from pipelines.audit import Actor
from pipelines.champions import Champion
from pipelines.entries import REFUSED
from pipelines.registry import Registry
from pipelines.versions import CANDIDATE, ENCODER, ModelVersion
from serving import body, trees
from serving.access import deadline_seconds, within
from serving.baselines import BUILT_IN
from serving.callers import caller_of, needs
from serving.conditions import CONDITIONS, Condition, condition_of, failed
from serving.openapi import described
from serving.problems import UNUSABLE, Item, Problem
from serving.schemas.fields import ALIAS, ALIASED, NAME, NAMED, Strict
from serving.schemas.models import AliasAnswer, AliasRequest, RollbackRequest
from serving.service import service_of
from tsformer.errors import ArtifactError, ConfigError, ConflictError, MovedError, NotFoundError

router = APIRouter(prefix="/v1/models", tags=["models"])
Name = Annotated[str, Path(pattern=NAME, description=NAMED, examples=["patchtst"])]
Alias = Annotated[str, Path(pattern=ALIAS, description=ALIASED, examples=["champion"])]
REASON_SHOWN = 400  # characters
OVERRIDE = 'To promote it all the same, send "override": true and a "reason".'
Asked = TypeVar("Asked", bound=Strict)
CONDITIONAL = described(AliasRequest, AliasAnswer)
CONDITIONAL["openapi_extra"]["parameters"] = CONDITIONS


@router.put("/{name}/aliases/{alias}", dependencies=[needs("operator")], **CONDITIONAL)
async def promote(request: Request, name: Name, alias: Alias) -> Response:
    """Puts an alias on a version, where it stands as the caller saw it."""
    condition = condition_of(request)

    def move(registry: Registry, asked: AliasRequest, who: Actor) -> Champion:
        return _promoted(registry, f"{name}/{asked.version}", alias, asked, condition, who)

    return await _moved(request, name, AliasRequest, move)


@router.post(
    "/{name}/rollback", dependencies=[needs("operator")], **described(RollbackRequest, AliasAnswer)
)
async def rollback(request: Request, name: Name) -> Response:
    """Puts an alias back on the version that it had before; once."""

    def move(registry: Registry, asked: RollbackRequest, who: Actor) -> Champion:
        return _rolled_back(registry, name, asked, who)

    return await _moved(request, name, RollbackRequest, move)


async def _moved(
    request: Request, name: str, model: type[Asked],
    move: Callable[[Registry, Asked, Actor], Champion],
) -> Response:  # fmt: skip
    """Where the alias stands after `move`; it is done even where the caller has left."""
    service = service_of(request)
    limits = service.settings.limits
    seconds = deadline_seconds(request, limits)
    asked = trees.parse(model, await body.read(request, limits), limits)
    if name in BUILT_IN:
        raise Problem("not-found", "The built-in baselines have no versions.")
    registry, who = service.library.shelf.registry, _actor(request)
    now = await within(request, seconds, asyncio.to_thread(_told, move, registry, asked, who))
    members = {"name": name, "alias": now.alias, **alias_members(now)}
    return Response(orjson.dumps(members), 200, {"ETag": etag_of(now)}, "application/json")


def _told(
    move: Callable[[Registry, Asked, Actor], Champion], registry: Registry, asked: Asked, who: Actor
) -> Champion:
    """What `move` does, its refusals as problems; they are made of names alone."""
    try:
        return move(registry, asked, who)
    except NotFoundError as error:
        raise Problem("not-found", error.told or str(error)) from error
    except ConflictError as error:
        raise Problem("wrong-state", error.told or str(error)) from error
    except ArtifactError as error:
        raise Problem("wrong-state", UNUSABLE) from error
    except ConfigError as error:
        raise Problem("invalid-request", error.told or str(error)) from error


def _promoted(
    registry: Registry, reference: str, alias: str, asked: AliasRequest, condition: Condition,
    who: Actor,
) -> Champion:  # fmt: skip
    version = registry.describe(reference)
    if version.kind == ENCODER:
        raise ConflictError("This version is a pretrained encoder: it makes no forecasts.")
    if alias != CANDIDATE and version.gate == REFUSED:
        _check_override(asked, version)
    now = _standing(registry, version.name, alias)
    condition.check(etag_of(now) if now.rev else None)
    try:
        registry.promote(
            reference,
            alias=alias,
            seen=now.rev,
            who=who,
            reason=asked.reason,
            override=asked.override,
        )
    except MovedError as error:
        after = _standing(registry, version.name, alias)
        raise failed(etag_of(after), f"It is at {etag_of(after)} now.") from error
    return _standing(registry, version.name, alias)


def _check_override(asked: AliasRequest, version: ModelVersion) -> None:
    if not asked.override:
        raise ConflictError(f"{reason_of(version)} {OVERRIDE}")
    if not asked.reason.strip():
        item = Item("To override the gate, say why; the audit keeps it.", "/reason")
        raise Problem("invalid-request", "A reason is needed.", [item])


def _rolled_back(registry: Registry, name: str, asked: RollbackRequest, who: Actor) -> Champion:
    registry.versions(name)
    if not _standing(registry, name, asked.alias).rev:
        raise Problem("not-found", f"There is no such alias. GET /v1/models/{name} lists them.")
    registry.rollback(
        name, alias=asked.alias, from_version=asked.from_version, who=who, reason=asked.reason
    )
    return _standing(registry, name, asked.alias)


def _standing(registry: Registry, name: str, alias: str) -> Champion:
    """Where an alias stands, what was moved by hand in MLflow included."""
    with suppress(ArtifactError):  # moved by hand to what cannot be loaded
        registry.reconcile(name, alias=alias)
    return registry.champion(name, alias=alias) or Champion(name, alias)


def reason_of(version: ModelVersion) -> str:
    """Why the gate refused a version: the first line of its page, which is of names and numbers."""
    first = version.description.partition("\n")[0].strip()
    return first[:REASON_SHOWN] or "The gate refused this version."


def etag_of(now: Champion) -> str:
    """The entity tag of an alias: it changes with every move."""
    return f'"{now.alias}-{now.rev}"'


def alias_members(now: Champion) -> dict[str, Any]:
    """Where an alias stands, in the words of the contract."""
    since = datetime.fromtimestamp(now.since_ms / 1_000, tz=UTC).isoformat(timespec="milliseconds")
    return {
        "version": now.version,
        "etag": etag_of(now),
        "since": since.replace("+00:00", "Z"),
        "previous": now.previous,
    }


def _actor(request: Request) -> Actor:
    """Who moves it: the key, or whoever may use a service without keys."""
    caller, request_id = caller_of(request), request.state.request_id
    if not caller.prefix:
        return Actor(Actor.here().name, request_id=request_id)
    return Actor(f"key {caller.prefix}", role=caller.role, request_id=request_id)
