"""Whether the process answers, and whether it can forecast; and what each problem means."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request

from serving.callers import needs
from serving.problems import KINDS, LOADING, Problem
from serving.service import service_of

router = APIRouter(tags=["health"])


@router.get("/health/live", dependencies=[needs("open")])
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "live"}


@router.get("/health/ready", dependencies=[needs("open")])
async def ready(request: Request) -> dict[str, str]:
    """The default model is loaded and has run once."""
    library = service_of(request).library
    if not library.ready:
        raise Problem("not-ready", library.trouble or LOADING)
    if not service_of(request).keys.known:
        raise Problem("not-ready", "The keys cannot be read: the store does not answer.")
    return {"status": "ready"}


@router.get("/problems/{type}", dependencies=[needs("open")])
async def problem(type: Annotated[str, Path(examples=["invalid-data"])]) -> dict[str, Any]:
    """What a type of problem means and what to do about it."""
    if type not in KINDS:
        raise Problem("not-found", "There is no problem of this type.")
    return asdict(KINDS[type])
