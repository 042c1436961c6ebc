"""/invocations, /ping and /version."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version as installed
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from serving import body, forecasting, recording, tables
from serving.accept import ARROW, CSV, JSON
from serving.answering import Call, answered
from serving.api import health
from serving.callers import caller_of, needs
from serving.compat.invocations.bodies import SAID, read_csv, read_json, refuse_query
from serving.compat.invocations.frame_form import FrameForm, rows_of
from serving.compat.invocations.question import Form
from serving.compat.invocations.schemas import CSV_TABLE, Invocation, Predictions
from serving.compat.loose import relocated
from serving.compat.undated import calendar_warnings
from serving.forecasting import Forecasted
from serving.models import registered
from serving.openapi import STREAMS, described, with_bodies
from serving.problems import without_options
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.tables import Columns
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
    return Response(await answered(request, _answer), media_type=JSON)


async def _answer(call: Call) -> bytes:
    request, size, media = call.request, call.size, body.media_of(call.request)
    predictions_of: Rendering = rows_of
    entries_of: Rendering = Forecasted.entries
    if media != CSV:
        refuse_query(request.query_params)
    if media == ARROW:
        asked = await off_loop(size, call.read_as, ForecastRequest)
        done = await forecasting.forecast(call.service, asked, seconds=call.seconds, size=size)
    else:
        query = request.query_params.multi_items()
        form: Form = (
            await off_loop(size, read_csv, call.sent, query, call.limits)
            if media == CSV
            else await off_loop(size, read_json, call.sent, call.limits)
        )
        with nullcontext() if isinstance(form, FrameForm) else without_options():
            done = await _forecast(call, form)
        predictions_of, entries_of = form.predictions, form.entries
    if done.asked.options.record:
        tenant = caller_of(request).tenant
        await recording.remember(call.service, done.found, done.panel, tenant=tenant)

    def render() -> bytes:
        members = done.members(started=call.started)
        warnings = [*calendar_warnings(done), *members["warnings"]]
        metadata = {**members, "warnings": warnings, "series": entries_of(done)}
        return orjson.dumps({"predictions": predictions_of(done), "metadata": metadata})

    return await off_loop(done.found.size, render)


async def _forecast(call: Call, form: Form) -> Forecasted:
    service = call.service
    with relocated(form.place):
        model = await registered(service, form.reference)
        with tables.placed(Columns()):
            question = await off_loop(call.size, form.question, model)
    with relocated(question.place):
        asked, seconds = question.asked, call.seconds
        return await forecasting.forecast(service, asked, seconds=seconds, size=call.size)
