"""/invocations, /ping and /version."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version as installed
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from serving import body, forecasting, recording, tables
from serving.accept import ARROW, CSV, JSON
from serving.access import deadline_seconds, within
from serving.api import health
from serving.callers import caller_of, needs
from serving.compat.invocations.bodies import SAID, read_csv, read_json, refuse_query
from serving.compat.invocations.frame_form import rows_of
from serving.compat.invocations.question import Form
from serving.compat.invocations.schemas import CSV_TABLE, Invocation, Predictions
from serving.compat.loose import relocated
from serving.compat.undated import calendar_warnings
from serving.forecasting import Forecasted
from serving.forms import parse, service_for
from serving.models import registered
from serving.openapi import STREAMS, described, with_bodies
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.tables import Columns
from serving.service import Service
from serving.threads import off_loop

Rendering = Callable[[Forecasted], list[dict[str, Any]]]

router = APIRouter(tags=["invocations"])
TABLE = "A table with a header, one row a series and step; the parameters are in the query."
INVOCATION = with_bodies(described(Invocation, Predictions), {CSV: TABLE, ARROW: STREAMS})
INVOCATION["openapi_extra"]["requestBody"]["content"][CSV]["example"] = CSV_TABLE
INVOCATION["openapi_extra"]["parameters"] = [
    {"name": name, "in": "query", "required": False, "description": said, "schema": schema}
    for name, (said, schema) in SAID.items()
]


@router.get("/ping", dependencies=[needs("open")])
async def ping(request: Request) -> dict[str, str]:
    """Nothing, if the default model is loaded and has run once; else a problem."""
    await health.ready(request)
    return {}


@router.get("/version", dependencies=[needs("reader")], response_class=PlainTextResponse)
async def version() -> str:
    """The version of MLflow whose protocol is spoken."""
    return installed("mlflow")


@router.post("/invocations", dependencies=[needs("forecaster")], **INVOCATION)
async def invocations(request: Request) -> Response:
    """Forecasts of a data frame, or of series that come one by one."""
    started = time.perf_counter()
    service = service_for(request)
    limits = service.settings.limits
    seconds = deadline_seconds(request, limits)
    sent = await body.read(request, limits)
    work = _answer(service, request, sent, seconds, started)
    return Response(await within(request, seconds, work), media_type=JSON)


async def _answer(
    service: Service, request: Request, sent: bytes, seconds: float, started: float
) -> bytes:
    limits, size, media = service.settings.limits, len(sent), body.media_of(request)
    predictions_of: Rendering = rows_of
    entries_of: Rendering = Forecasted.entries
    if media != CSV:
        refuse_query(request.query_params)
    if media == ARROW:
        asked = await off_loop(size, parse, ForecastRequest, sent, limits, is_arrow=True)
        done = await forecasting.forecast(service, asked, seconds=seconds, size=size)
    else:
        query = request.query_params.multi_items()
        form: Form = (
            await off_loop(size, read_csv, sent, query, limits)
            if media == CSV
            else await off_loop(size, read_json, sent, limits)
        )
        done = await _forecast(service, form, seconds, size)
        predictions_of, entries_of = form.predictions, form.entries
    if done.asked.options.record:
        tenant = caller_of(request).tenant
        await recording.remember(service, done.found, done.panel, tenant=tenant)

    def render() -> bytes:
        members = done.members(started=started)
        warnings = [*calendar_warnings(done), *members["warnings"]]
        metadata = {**members, "warnings": warnings, "series": entries_of(done)}
        return orjson.dumps({"predictions": predictions_of(done), "metadata": metadata})

    return await off_loop(done.found.size, render)


async def _forecast(service: Service, form: Form, seconds: float, size: int) -> Forecasted:
    with relocated(form.place):
        model = await registered(service, form.reference)
        with tables.placed(Columns()):
            question = await off_loop(size, form.question, model)
    with relocated(question.place):
        return await forecasting.forecast(service, question.asked, seconds=seconds, size=size)
