"""Forecast now: POST /v1/forecasts."""

from __future__ import annotations

import secrets
import time
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serving import answers, body, tables
from serving.access import deadline_seconds, within
from serving.ahead import Ahead, prepared
from serving.answers import Model
from serving.callers import needs
from serving.limits import Limits
from serving.openapi import described
from serving.schemas import ForecastAnswer, ForecastRequest
from serving.service import Service, service_of

router = APIRouter(prefix="/v1", tags=["forecasts"])


@router.post(
    "/forecasts", dependencies=[needs("forecaster")], **described(ForecastRequest, ForecastAnswer)
)
async def forecast(request: Request) -> Response:
    """Forecasts of several series from their history, in one columnar table."""
    service = service_of(request)
    limits = service.settings.limits
    started = time.perf_counter()
    seconds = deadline_seconds(request, limits)
    sent = await body.read(request, limits)
    members = await within(request, seconds, _forecast(service, sent, seconds, started))
    return Response(orjson.dumps(members, option=NUMPY), media_type="application/json")


NUMPY = orjson.OPT_SERIALIZE_NUMPY


async def _forecast(
    service: Service, sent: bytes, seconds: float, started: float
) -> dict[str, Any]:
    limits = service.settings.limits
    asked = await answers.off_loop(len(sent), body.parse, ForecastRequest, sent, limits)
    limits.check_count(
        "quantiles", "/quantiles", count=len(asked.quantiles), maximum=limits.quantiles
    )
    model = await answers.registered(service, asked.model)
    with tables.placed(asked.columns):
        read = await answers.off_loop(len(sent), _read, asked, model, limits)
        data, parsed = read.data, time.perf_counter()
        found = await answers.answer(
            service, model, data.panel, asked, asked.options,
            seconds=seconds, body_size=len(sent), future=read.future,
            requested=len(data.report.series),
        )  # fmt: skip
    panel, frequency = data.panel, data.panel.frequency
    members = {
        "id": f"fc_{secrets.token_hex(10)}",
        "model": found.model.members(),
        "h": found.horizon,
        "freq": frequency.count if frequency.is_integer else str(frequency),
        "tz": panel.tz,
        "forecast": answers.forecast_columns(found, panel, asked.columns),
        "series": answers.series_members(data, panel, found, asked.columns),
        **answers.warning_members(data, found.forecast),
        "fallback": answers.fallback_members(found.forecast, asked.options),
    }
    spent = {
        "parse": 1000 * (parsed - started),
        "queue": found.queue_ms,
        "model": found.model_ms,
        "total": 1000 * (time.perf_counter() - started),
    }
    return {**members, "timing_ms": {name: round(ms, 1) for name, ms in spent.items()}}


def _read(asked: ForecastRequest, model: Model | None, limits: Limits) -> Ahead:
    inputs = answers.inputs_of(model)
    data = tables.read(asked, asked.options, limits, inputs=inputs)
    steps, reach = answers.steps_of(model, data.panel, asked, limits.horizon)
    return prepared(asked, data, asked.options, steps=steps, reach=reach, known=inputs.known)
