"""What is wrong with a request, and what it still needs: validations and future frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from pipelines import times
from pipelines.covariates import Covariate
from pipelines.forecast import Forecast
from pipelines.plan import Plan
from serving import ahead, tables
from serving.answering import Call, answer
from serving.callers import needs
from serving.forecasting import inquiry_of, read_data
from serving.host import Answered
from serving.inquiry import steps_of
from serving.limits import NUMBER_BYTES, Limits
from serving.members import error_member, freq_member, warning_members
from serving.models import Model, inputs_of, registered
from serving.openapi import described
from serving.preparation import Prepared, prepare
from serving.problems import Item, Problem
from serving.schemas.answers import FramesAnswer, ValidationAnswer
from serving.schemas.forecasts import ForecastRequest
from serving.service import Service
from serving.tables import Data
from serving.threads import off_loop
from tsformer.errors import Fault

router = APIRouter(prefix="/v1", tags=["forecasts"])
# What POST /v1/forecasts may say of the data alone.
DATA_PROBLEMS = ("invalid-data", "insufficient-history", "future-covariates-missing")
ANY = 2**62  # of a limit that only synchronous requests have


@router.post(
    "/validations",
    dependencies=[needs("forecaster")],
    **described(ForecastRequest, ValidationAnswer),
)
async def validate(request: Request) -> Response:
    """Everything that is wrong with the data of a forecast, without the forecast."""
    return await answer(request, ForecastRequest, _validated)


@router.post(
    "/future-frames", dependencies=[needs("forecaster")], **described(ForecastRequest, FramesAnswer)
)
async def frames(request: Request) -> Response:
    """The rows and the columns of `future` that a forecast needs, to be filled in."""
    return await answer(request, ForecastRequest, _frames)


async def _model(service: Service, asked: ForecastRequest) -> Model | None:
    limits, count = service.settings.limits, len(asked.quantiles)
    limits.check_count("quantiles", "/quantiles", count=count, maximum=limits.quantiles)
    tables.check_free(asked.columns, asked.quantiles)
    return await registered(service, asked.model)


# --- future frames ------------------------------------------------------------------------------


async def _frames(call: Call, asked: ForecastRequest) -> bytes:
    model = await _model(call.service, asked)
    asked = asked.model_copy(update={"future": {}})
    with tables.placed(asked.columns):
        data, steps = await off_loop(call.size, _series_ahead, call.limits, asked, model)
    known = inputs_of(model).known
    cells = len(data.panel.ids) * steps * (1 + len(known))
    call.limits.check_output(cells)
    return await off_loop(NUMBER_BYTES * cells, _frame, asked, data, steps, known)


def _series_ahead(limits: Limits, asked: ForecastRequest, model: Model | None) -> tuple[Data, int]:
    """The series of a request, and how many steps after them a forecast needs."""
    data = tables.read(asked, asked.options, limits, inputs=inputs_of(model))
    steps, reach = steps_of(model, data.panel, asked, limits.horizon)
    return ahead.prepared(
        asked, data, asked.options, steps=steps, reach=reach, known=()
    ).data, steps


def _frame(asked: ForecastRequest, data: Data, steps: int, known: Sequence[Covariate]) -> bytes:
    panel, columns = data.panel, asked.columns
    stamps = panel.following(steps)
    if not panel.frequency.is_integer:
        stamps = times.text(stamps, panel.tz)
    ids = [name for name in panel.ids for _ in range(steps)]
    own = {} if panel.schema.id is None else {columns.id: ids}
    future = {
        **own,
        columns.time: stamps.to_list(),
        **{column.name: [None] * len(ids) for column in known},
    }
    members = {"h": steps, "freq": freq_member(panel, asked), "tz": panel.tz, "future": future}
    return orjson.dumps({**members, **warning_members(data)})


# --- validations --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was found: in the data, in the plan of a forecast, and of the tables as a whole."""

    data: Data | None = None
    faults: tuple[Fault, ...] = ()  # of series that the model would have to leave out
    forecast: Forecast | None = None  # its numbers mean nothing: the model was not asked
    errors: tuple[Item, ...] = ()
    limit: str | None = None  # the first that a synchronous request is beyond


async def _validated(call: Call, asked: ForecastRequest) -> bytes:
    """The report on a request; every series is looked at, as if bad ones were to be skipped."""
    service, size = call.service, call.size
    model = await _model(service, asked)
    skipping = asked.options.model_copy(update={"on_invalid": "skip"})
    asked = asked.model_copy(update={"options": skipping})
    try:
        outcome = await _outcome(service, asked, model, size)
    except Problem as problem:
        if problem.type != "too-large":
            raise
        limit = str(problem.members["limit"])
        outcome = await _beyond(service, asked, model, size, limit)
    return await off_loop(size, _report, asked, outcome, call.limits.errors_listed)


async def _outcome(
    service: Service, asked: ForecastRequest, model: Model | None, size: int
) -> _Outcome:
    data: Data | None = None
    try:
        with tables.placed(asked.columns):
            limits = service.settings.limits
            read = await off_loop(size, read_data, asked, model, limits)
            data = read.data
            if not data.panel.ids:
                return _Outcome(data)
            prepared = await prepare(service, model, inquiry_of(asked, read, size))
            forecast = await off_loop(prepared.inquiry.size, _unasked, prepared)
    except Problem as problem:
        if problem.type not in DATA_PROBLEMS:
            raise
        return _Outcome(data, errors=_items(problem))
    return _Outcome(data, prepared.faults, forecast)


async def _beyond(
    service: Service, asked: ForecastRequest, model: Model | None, size: int, limit: str
) -> _Outcome:
    """What can be said of a request that is too large to be answered at once: its data alone."""
    wide = replace(service.settings.limits, series_per_request=ANY, points_per_series=ANY)
    try:
        with tables.placed(asked.columns):
            read = await off_loop(size, read_data, asked, model, wide)
    except Problem as problem:
        if problem.type not in DATA_PROBLEMS:
            raise
        return _Outcome(errors=_items(problem), limit=limit)
    return _Outcome(read.data, limit=limit)


def _items(problem: Problem) -> tuple[Item, ...]:
    return tuple(problem.errors) or (Item(problem.detail),)


def _unasked(prepared: Prepared) -> Forecast:
    """The forecast of a model that says 0: what it leaves to the fallback is as it would be."""
    levels = prepared.inquiry.levels
    return prepared.assembled([_nothing(part.plan, levels) for part in prepared.parts])


def _nothing(plan: Plan, levels: Sequence[float]) -> Answered:
    variates = plan.course.whole.variates
    shape = (len(plan.modelled) // max(variates, 1), plan.horizon, variates, 1 + len(levels))
    return Answered(np.zeros(shape), (), 0.0, 0.0)


def _report(asked: ForecastRequest, outcome: _Outcome, most: int) -> bytes:
    data, forecasts = outcome.data, () if outcome.forecast is None else (outcome.forecast,)
    series = [] if data is None else _series(asked, data, outcome)
    errors = [item.members() for item in outcome.errors]
    errors += [] if data is None else [error_member(f, asked.columns) for f in data.report.faults]
    told: dict[str, Any] = {"warnings": [], "warnings_truncated": False}
    members = {
        "valid": not errors and not any(entry["errors"] for entry in series),
        "freq": asked.freq if data is None else freq_member(data.panel, asked),
        "tz": asked.tz if data is None else data.panel.tz,
        "series": series,
        "errors": errors[:most],
        **(told if data is None else warning_members(data, *forecasts)),
        "sync": {"allowed": outcome.limit is None, "limit": outcome.limit},
    }
    return orjson.dumps(members)


def _series(asked: ForecastRequest, data: Data, outcome: _Outcome) -> list[dict[str, Any]]:
    """One entry a series of the request, with all that forbids its forecast."""
    planned = {} if outcome.forecast is None else {s.unique_id: s for s in outcome.forecast.series}
    apart: dict[str | int | None, list[Fault]] = {}
    for fault in outcome.faults:
        apart.setdefault(fault.series, []).append(fault)
    entries = []
    for report in data.report.series:
        faults = (*report.faults, *apart.get(report.id, ()))
        errors = [error_member(fault, asked.columns) for fault in faults]
        entry = planned.get(report.id)
        if entry is not None and not entry.rows:
            item = Item("Too little history for this model.", "/data", "insufficient_history")
            errors.append(item.members())
        status = entry.status if entry is not None else "invalid" if errors else "ok"
        entries.append(
            {"unique_id": report.id, "rows": report.rows, "status": status, "errors": errors}
        )
    return entries
