"""What really happened: POST /v1/actuals, and what it says of a model: GET /v1/monitors/{model}."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import polars as pl
from fastapi import APIRouter, Path, Query, Request, Response

from pipelines import actuals, monitor
from pipelines.actuals import Received
from pipelines.keys import TENANT
from pipelines.recording import name_for
from pipelines.registry import Registry
from serving import tables
from serving.answering import Call, created
from serving.callers import caller_of, needs
from serving.cells import column_of, distinct
from serving.limits import Limits
from serving.openapi import creating
from serving.problems import Item, Problem, sought, without_options
from serving.schemas.actuals import ActualsAnswer, ActualsRequest, MonitorAnswer
from serving.schemas.fields import NAME, NAMED, NUMBERED, VERSION
from serving.service import service_of
from tsformer.errors import TsformerError

LOG = logging.getLogger(__name__)
router = APIRouter(prefix="/v1", tags=["monitoring"])
WINDOW = r"^[1-9][0-9]{0,5}[hdw]?$"


@router.post(
    "/actuals",
    dependencies=[needs("forecaster")],
    **creating(ActualsRequest, ActualsAnswer, statuses=(200,), arrow=True),
)
async def receive(request: Request) -> Response:
    """Keeps what really happened, by series and time; recorded forecasts are scored by it.

    A later value takes the place of an earlier one; everything is durable before the answer.
    """
    return await created(request, _received)


async def _received(call: Call, _token: str) -> Response:
    got = await asyncio.to_thread(_receive, call)
    return Response(orjson.dumps(asdict(got)), media_type="application/json")


def _receive(call: Call) -> Received:
    registry, tenant = call.service.library.shelf.registry, caller_of(call.request).tenant
    asked = call.read_as(ActualsRequest)
    rows = read(asked, call.limits)
    if not len(rows):
        return Received()
    everywhere = actuals.everywhere(name_for("", tenant))
    with without_options(), tables.placed(asked.columns):
        got = actuals.add(registry.store, everywhere, rows, time=asked.columns.time)
    if got.matched and tenant == TENANT:  # schedules of drift follow what the default tenant sees
        for model in actuals.recorded_models(registry.store, everywhere, rows):
            _watch(registry, model)
    return got


def read(asked: ActualsRequest, limits: Limits) -> pl.DataFrame:
    """The values of a request as `actuals.read_values` gives them; a problem names every fault."""
    limits.check_size(
        series=distinct(asked.data.get(asked.columns.id, ())),
        values=sum(map(len, asked.data.values())),
    )
    with without_options(), tables.placed(asked.columns):
        return _values(asked, limits)


def _values(asked: ActualsRequest, limits: Limits) -> pl.DataFrame:
    data, columns = asked.data, asked.columns
    own = (columns.id, columns.time, columns.target)
    if strangers := [place for place, name in enumerate(data) if name not in own]:
        message = f"Column {strangers[0]}, counted from 0, is none of id, time and target."
        raise Problem("invalid-request", message, [Item(message, "/data")])
    tables.check_columns(data, columns)
    tables.check_id_lengths(data, columns, limits)
    tables.check_ids(data, columns, read=(columns.time, columns.target))
    tables.check_tz(asked.tz)
    ids = data.get(columns.id, ["0"] * len(data[columns.time]))
    frame = pl.DataFrame(
        [
            column_of(columns.id, ids),
            column_of(columns.time, data[columns.time]),
            column_of(columns.target, data[columns.target]),
        ]
    )
    return actuals.read_values(frame, id=columns.id, time=columns.time, tz=asked.tz)


def _watch(registry: Registry, model: str) -> None:
    """Looks whether the model has drifted; what is kept stays kept where that cannot be told."""
    try:
        monitor.watch(registry, model)
    except TsformerError as error:
        LOG.warning("the drift of %s is not known: %s", model, error)


@router.get("/monitors/{model}", dependencies=[needs("reader")], response_model=MonitorAnswer)
async def monitored(
    request: Request,
    model: Annotated[str, Path(pattern=NAME, description=NAMED, examples=["patchtst"])],
    version: Annotated[str, Query(pattern=VERSION, description=f"Only this one. {NUMBERED}")] = "",
    window: Annotated[
        str,
        Query(pattern=WINDOW, description="Back from the newest actual: 30d, 12h, 2w, or steps."),
    ] = "",
) -> dict[str, Any]:
    """How the recorded forecasts of each version turned out, and whether its data have changed."""
    registry = service_of(request).library.shelf.registry
    reference = f"{model}/{version}" if version else model
    with sought("model or version", "/v1/models"):
        found = await asyncio.to_thread(
            monitor.monitor, registry, reference, window=window, tenant=caller_of(request).tenant
        )
    if found is None:
        return {"model": model, "after": None, "until": None, "versions": []}
    versions = [_condition(found, one) for one in found.conditions]
    return {"model": model, "after": found.after, "until": found.until, "versions": versions}


def _condition(found: monitor.Monitor, one: monitor.Condition) -> dict[str, Any]:
    live = one.live
    scores = {} if live is None else asdict(live)
    drifts = [] if one.found is None else one.found.drifts
    return {
        "version": one.version,
        "points": scores.get("points", 0),
        "series": scores.get("series", 0),
        "fallbacks": scores.get("fallbacks", 0),
        "metrics": scores.get("metrics", {}),
        "coverage": scores.get("coverage", {}),
        "judged_series": None if one.found is None else one.found.series,
        "drift": [
            {
                "unique_id": drift.unique_id,
                "kind": drift.kind,
                "since": found.stamp(drift.since_us),
                "score": drift.score,
            }
            for drift in drifts
        ],
    }
