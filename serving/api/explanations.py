"""What a model looked at: POST /v1/explanations."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serving import body, recording
from serving.accept import ARROW
from serving.access import deadline_seconds, within
from serving.callers import caller_of, needs
from serving.explaining import explain
from serving.forecasting import Forecasted
from serving.forms import parse, service_for
from serving.members import forecast_columns
from serving.openapi import STREAMS, described, with_bodies
from serving.schemas.answers import ExplainAnswer
from serving.schemas.forecasts import ExplainRequest
from serving.service import Service
from serving.threads import off_loop

router = APIRouter(prefix="/v1", tags=["forecasts"])


@router.post(
    "/explanations",
    dependencies=[needs("forecaster")],
    **with_bodies(described(ExplainRequest, ExplainAnswer), {ARROW: STREAMS}),
)
async def explanations(request: Request) -> Response:
    """A forecast, and which variables, steps and other series the model read for it."""
    started = time.perf_counter()
    service = service_for(request)
    limits = service.settings.limits
    seconds = deadline_seconds(request, limits)
    sent = await body.read(request, limits)
    work = _explained(service, request, sent, seconds, started)
    return Response(await within(request, seconds, work), media_type="application/json")


async def _explained(
    service: Service, request: Request, sent: bytes, seconds: float, started: float
) -> bytes:
    limits, size = service.settings.limits, len(sent)
    asked = await off_loop(
        size, parse, ExplainRequest, sent, limits, is_arrow=body.is_arrow(request)
    )
    done, tables = await explain(service, asked, seconds=seconds, size=size)
    if asked.options.record:
        tenant = caller_of(request).tenant
        await recording.remember(service, done.found, done.panel, tenant=tenant)
    return await asyncio.to_thread(_json, done, tables, started)


def _json(done: Forecasted, tables: Mapping[str, Any], started: float) -> bytes:
    members = {
        **done.members(started=started),
        "forecast": forecast_columns(done.found, done.panel, done.asked.columns),
        "series": done.entries(),
        **tables,
    }
    return orjson.dumps(members, option=orjson.OPT_SERIALIZE_NUMPY)
