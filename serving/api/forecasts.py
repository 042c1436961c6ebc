"""Forecast now: POST /v1/forecasts."""

from __future__ import annotations

import time

import orjson
from fastapi import APIRouter, Request, Response

from serving import arrow_answers, body, forecasting, recording
from serving.accept import ARROW, form_of
from serving.access import deadline_seconds, within
from serving.api.pages import WEB
from serving.callers import caller_of, needs
from serving.forecasting import Forecasted
from serving.forms import parse, service_for
from serving.members import forecast_columns
from serving.openapi import described
from serving.schemas.answers import ForecastAnswer
from serving.schemas.forecasts import ForecastRequest
from serving.service import Service
from serving.threads import off_loop

router = APIRouter(prefix="/v1", tags=["forecasts"])
STREAMS = (
    "The stream forecast, whose metadata forecast.response holds the other members; then the "
    "stream series, with fallback_model, fallback_reason and the errors of an invalid one as JSON."
)
FORECASTS = described(ForecastRequest, ForecastAnswer, arrow=STREAMS)
FORECASTS["openapi_extra"]["x-codeSamples"] = [
    {"lang": "Python", "label": "Arrow", "source": (WEB / "arrow_forecast.py").read_text()}
]


@router.post("/forecasts", dependencies=[needs("forecaster")], **FORECASTS)
async def forecast(request: Request) -> Response:
    """Forecasts of several series from their history, in one table."""
    started = time.perf_counter()
    service = service_for(request)
    limits = service.settings.limits
    seconds = deadline_seconds(request, limits)
    sent = await body.read(request, limits)
    work = _forecast(service, request, sent, seconds, started)
    return Response(await within(request, seconds, work), media_type=form_of(request))


async def _forecast(
    service: Service, request: Request, sent: bytes, seconds: float, started: float
) -> bytes:
    limits, size = service.settings.limits, len(sent)
    asked = await off_loop(
        size, parse, ForecastRequest, sent, limits, is_arrow=body.is_arrow(request)
    )
    done = await forecasting.forecast(service, asked, seconds=seconds, size=size)
    if asked.options.record:
        tenant = caller_of(request).tenant
        await recording.remember(service, done.found, done.panel, tenant=tenant)
    render = _streams if form_of(request) == ARROW else _json
    return await off_loop(done.found.size, render, done, started)


def _streams(done: Forecasted, started: float) -> bytes:
    return arrow_answers.encode(
        arrow_answers.forecast_table(done.found, done.panel, done.asked.columns),
        arrow_answers.series_table(done.entries()),
        done.members(started=started),
    )


def _json(done: Forecasted, started: float) -> bytes:
    members = {
        **done.members(started=started),
        "forecast": forecast_columns(done.found, done.panel, done.asked.columns),
        "series": done.entries(),
    }
    return orjson.dumps(members, option=orjson.OPT_SERIALIZE_NUMPY)
