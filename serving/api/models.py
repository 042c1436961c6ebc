"""What can be asked for a forecast: models, their aliases, their versions' cards."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request

from pipelines.entries import REFUSED
from pipelines.published import table_name
from pipelines.versions import ENCODER, ModelVersion
from serving.api.aliases import alias_members, reason_of
from serving.baselines import BUILT_IN
from serving.callers import needs
from serving.problems import Problem, sought
from serving.schemas.fields import NAME, NAMED, NUMBERED, VERSION
from serving.schemas.models import Card, ModelEntry, ModelPage
from serving.service import service_of

router = APIRouter(prefix="/v1/models", tags=["models"])
Name = Annotated[str, Path(pattern=NAME, description=NAMED, examples=["patchtst"])]


@router.get("", dependencies=[needs("reader")], response_model=ModelPage)
async def models(
    request: Request,
    limit: Annotated[int | None, Query(ge=1)] = None,
    cursor: Annotated[str, Query(max_length=64)] = "",
) -> dict[str, Any]:
    """All models by name, the built-in baselines among them; `cursor` is the last name seen."""
    registry = service_of(request).library.shelf.registry
    names = sorted({*await asyncio.to_thread(registry.models), *BUILT_IN})
    rest = [name for name in names if name > cursor]
    page = rest[: service_of(request).settings.limits.page(limit)]
    items = [await _entry(request, name) for name in page]
    return {"items": items, "next": page[-1] if len(rest) > len(page) else None}


@router.get("/{name}", dependencies=[needs("reader")], response_model=ModelEntry)
async def model(request: Request, name: Name) -> dict[str, Any]:
    """One model: its versions, newest first, and its aliases."""
    return await _entry(request, name)


@router.get("/{name}/versions/{version}", dependencies=[needs("reader")], response_model=Card)
async def card(
    request: Request,
    name: Name,
    version: Annotated[str, Path(pattern=VERSION, description=NUMBERED, examples=["7"])],
) -> dict[str, Any]:
    """The card of one version."""
    if name in BUILT_IN:
        raise Problem("not-found", "The built-in baselines have no versions.")
    registry = service_of(request).library.shelf.registry
    with sought("model", "/v1/models"):
        await asyncio.to_thread(registry.versions, name)
    with sought("version", f"/v1/models/{name}"):
        described = await asyncio.to_thread(registry.describe, f"{name}/{version}")
    if described.kind == ENCODER:
        raise Problem("not-found", "This is a pretrained encoder: it makes no forecasts.")
    return card_of(described)


async def _entry(request: Request, name: str) -> dict[str, Any]:
    if name in BUILT_IN:
        members: dict[str, Any] = {"versions": [], "aliases": {}}
        return {"name": name, "built_in": True, "description": BUILT_IN[name], **members}
    registry = service_of(request).library.shelf.registry
    with sought("model", "/v1/models"):
        versions = await asyncio.to_thread(registry.versions, name)
    standing = await asyncio.to_thread(registry.champions, name)
    listed = [{"version": v.version, "kind": v.kind, "created_at": v.created_at} for v in versions]
    return {
        "name": name,
        "built_in": False,
        "description": "",
        "versions": listed,
        "aliases": {alias: alias_members(now) for alias, now in sorted(standing.items())},
    }


def card_of(version: ModelVersion) -> dict[str, Any]:
    """What is known of a version, in the words of the contract."""
    card = dict(version.card)
    metrics = dict(card.pop("metrics", {}))
    coverage = metrics.pop("coverage", None)
    own = {
        "name": version.name,
        "version": version.version,
        "aliases": sorted(version.aliases),
        "run_id": version.run_id,
        "created_at": version.created_at,
        "status": "ready",
        "gate": version.gate,
        "gate_reason": reason_of(version) if version.gate == REFUSED else "",
        "metrics": metrics,
        "coverage": {} if coverage is None else {"0.8": coverage},
        "data": _trained_on(card),
    }
    return {**card, **own}


def _trained_on(card: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the version was trained on, without the folder or the address where it lies."""
    if (data := card.get("data")) is None:
        return None
    table = card.get("table")  # older cards have none
    return {
        "dataset": table["name"] if table else table_name(str(data.get("source", ""))),
        "version": table["version"] if table else None,
        "window": {"start": table["start"], "end": table["end"]} if table else None,
        "targets": [*data.get("targets", ())],
        "group": str(data.get("group", "none")),
    }
