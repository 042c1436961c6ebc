"""Forecast now: POST /v1/forecasts."""

from __future__ import annotations

import secrets
import time

import orjson
from fastapi import APIRouter, Request, Response

from serving import answers, arrow_answers, body, tables
from serving.accept import ARROW, form_of
from serving.access import deadline_seconds, within
from serving.ahead import Ahead, prepared
from serving.answers import Model
from serving.callers import needs
from serving.forms import parse, service_for
from serving.limits import Limits
from serving.members import fallback_members, forecast_columns, series_members, warning_members
from serving.openapi import described
from serving.schemas import ForecastAnswer, ForecastRequest
from serving.service import Service

router = APIRouter(prefix="/v1", tags=["forecasts"])
STREAMS = (
    "The stream forecast, whose metadata forecast.response holds the other members; then the "
    "stream series, with fallback_model, fallback_reason and the errors of an invalid one as JSON."
)


@router.post(
    "/forecasts",
    dependencies=[needs("forecaster")],
    **described(ForecastRequest, ForecastAnswer, arrow=STREAMS),
)
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
    asked = await answers.off_loop(
        size, parse, ForecastRequest, sent, limits, is_arrow=body.is_arrow(request)
    )
    limits.check_count(
        "quantiles", "/quantiles", count=len(asked.quantiles), maximum=limits.quantiles
    )
    model = await answers.registered(service, asked.model)
    with tables.placed(asked.columns):
        read = await answers.off_loop(size, read_data, asked, model, limits)
        data, parsed = read.data, time.perf_counter()
        found = await answers.answer(
            service, model, data.panel, asked, asked.options,
            seconds=seconds, body_size=size, future=read.future,
            requested=len(data.report.series),
        )  # fmt: skip
    panel, frequency = data.panel, data.panel.frequency
    entries = series_members(data, panel, found, asked.columns)
    members = {
        "id": f"fc_{secrets.token_hex(10)}",
        "model": found.model.members(),
        "h": found.horizon,
        "freq": frequency.count if frequency.is_integer else str(frequency),
        "tz": panel.tz,
        **warning_members(data, found.forecast),
        "fallback": fallback_members(found.forecast, asked.options),
    }
    spent = {
        "parse": 1000 * (parsed - started),
        "queue": found.queue_ms,
        "model": found.model_ms,
        "total": 1000 * (time.perf_counter() - started),
    }
    members["timing_ms"] = {name: round(ms, 1) for name, ms in spent.items()}
    if form_of(request) == ARROW:
        table = arrow_answers.forecast_table(found, panel, asked.columns)
        of_series = arrow_answers.series_table(entries)
        return await answers.off_loop(size, arrow_answers.encode, table, of_series, members)
    columns = forecast_columns(found, panel, asked.columns)
    return orjson.dumps({**members, "forecast": columns, "series": entries}, option=NUMPY)


NUMPY = orjson.OPT_SERIALIZE_NUMPY


def read_data(asked: ForecastRequest, model: Model | None, limits: Limits) -> Ahead:
    """The series of a request, and the covariates that its model knows ahead."""
    inputs = answers.inputs_of(model)
    data = tables.read(asked, asked.options, limits, inputs=inputs)
    steps, reach = answers.steps_of(model, data.panel, asked, limits.horizon)
    return prepared(asked, data, asked.options, steps=steps, reach=reach, known=inputs.known)
