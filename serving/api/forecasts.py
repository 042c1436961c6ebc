"""Forecast now: POST /v1/forecasts."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Request, Response

from serving import arrow_answers, forecasting, recording
from serving.answering import Call, answer
from serving.api.pages import WEB
from serving.callers import caller_of, needs
from serving.forecasting import Forecasted
from serving.members import forecast_columns
from serving.openapi import described
from serving.schemas.answers import ForecastAnswer
from serving.schemas.forecasts import ForecastRequest
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
    return await answer(request, ForecastRequest, _forecast)


async def _forecast(call: Call, asked: ForecastRequest) -> bytes:
    done = await forecasting.forecast(call.service, asked, seconds=call.seconds, size=call.size)
    if asked.options.record:
        tenant = caller_of(call.request).tenant
        await recording.remember(call.service, done.found, done.panel, tenant=tenant)
    render = _streams if call.in_arrow else _json
    return await off_loop(done.found.size, render, done, call.started)


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
