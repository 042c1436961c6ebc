"""What a model looked at: POST /v1/explanations."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serving import recording
from serving.accept import ARROW
from serving.answering import Call, answer
from serving.callers import caller_of, needs
from serving.explaining import explain
from serving.forecasting import Forecasted
from serving.members import forecast_columns
from serving.openapi import STREAMS, described, with_bodies
from serving.schemas.answers import ExplainAnswer
from serving.schemas.forecasts import ExplainRequest

router = APIRouter(prefix="/v1", tags=["forecasts"])


@router.post(
    "/explanations",
    dependencies=[needs("forecaster")],
    **with_bodies(described(ExplainRequest, ExplainAnswer), {ARROW: STREAMS}),
)
async def explanations(request: Request) -> Response:
    """A forecast, and which variables, steps and other series the model read for it."""
    return await answer(request, ExplainRequest, _explained)


async def _explained(call: Call, asked: ExplainRequest) -> bytes:
    done, tables = await explain(call.service, asked, seconds=call.seconds, size=call.size)
    if asked.options.record:
        tenant = caller_of(call.request).tenant
        await recording.remember(call.service, done.found, done.panel, tenant=tenant)
    return await asyncio.to_thread(_json, done, tables, call.started)


def _json(done: Forecasted, tables: Mapping[str, Any], started: float) -> bytes:
    members = {
        **done.members(started=started),
        "forecast": forecast_columns(done.found, done.panel, done.asked.columns),
        "series": done.entries(),
        **tables,
    }
    return orjson.dumps(members, option=orjson.OPT_SERIALIZE_NUMPY)
