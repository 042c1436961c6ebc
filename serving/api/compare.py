"""Several models on the same series, with scores where actuals are held out: POST /v1/compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from pipelines import times
from pipelines.covariates import Inputs
from serving import answers, arrow_answers, recording, tables
from serving.ahead import Ahead, prepared
from serving.answering import Call, answer
from serving.answers import ModelAnswer
from serving.baselines import BASELINES, check_fits
from serving.callers import caller_of, needs
from serving.inquiry import Inquiry, horizon_of, steps_of
from serving.members import fallback_members, number_columns, series_members, warning_members
from serving.models import Model, inputs_of, registered
from serving.openapi import described
from serving.problems import Item, Problem
from serving.schemas.answers import CompareAnswer
from serving.schemas.forecasts import CompareRequest
from serving.scoring import Floats, HeldOut, hold_out, leaderboard, numbers
from serving.service import Service
from serving.tables import Data
from serving.threads import off_loop

router = APIRouter(prefix="/v1", tags=["forecasts"])
COMPARED = (
    "The stream forecast, long: model, the client's id and time, actual where rows are held out, "
    "mean and quantiles; its metadata forecast.response holds the other members. Then series."
)


@router.post(
    "/compare",
    dependencies=[needs("forecaster")],
    **described(CompareRequest, CompareAnswer, arrow=COMPARED),
)
async def compare(request: Request) -> Response:
    """The same series through several models side by side, and who was right."""
    return await answer(request, CompareRequest, _compare)


async def _compare(call: Call, asked: CompareRequest) -> bytes:
    service, limits = call.service, call.limits
    for name, value in (("quantiles", asked.quantiles), ("models", asked.models)):
        limit = "compare_models" if name == "models" else name
        maximum = limits.compare_models if name == "models" else limits.quantiles
        limits.check_count(limit, f"/{name}", count=len(value), maximum=maximum)
    tables.check_free(asked.columns, asked.quantiles)
    if call.in_arrow:
        arrow_answers.check_compared(asked.columns)
    references = _references(asked)
    models = [
        await registered(service, name, pointer=f"/models/{place}")
        for place, name in enumerate(references)
    ]
    asked = asked.model_copy(update={"h": asked.h or _common_horizon(models)})
    with tables.placed(asked.columns):
        compared = await _answers(service, asked, models, call.seconds, call.size)
    if asked.options.record:
        for found in compared.found.values():
            tenant = caller_of(call.request).tenant
            await recording.remember(service, found, compared.held.context, tenant=tenant)
    render = _streams if call.in_arrow else _json
    answered = sum(found.size for found in compared.found.values())
    return await off_loop(answered, render, asked, compared)


@dataclass(frozen=True, slots=True)
class _Compared:
    data: Data
    held: HeldOut
    found: Mapping[str, ModelAnswer]  # by what the request calls the model


async def _answers(
    service: Service, asked: CompareRequest, models: list[Model | None], seconds: float, size: int
) -> _Compared:
    read = await off_loop(size, _read, asked, models, service)
    data, options = read.data, asked.options
    held = await off_loop(
        size, hold_out, data.panel, options.holdout, fill=options.fill, future=read.future
    )
    if held.empty and options.on_invalid == "fail":
        raise answers.insufficient(held.empty)
    for name in _references(asked):  # before the first of them takes its time
        check_fits(name, service.settings.limits, fits=len(held.context.ids))
    requested = len(data.report.series)
    series, numbers = len(held.context.ids), 1 + len(asked.quantiles)
    horizon = horizon_of(None, held.context, asked, service.settings.limits.horizon)
    service.settings.limits.check_output(series * horizon * numbers * len(_references(asked)))
    inquiry = Inquiry(asked, options, held.context, requested, size, future=held.future)
    found = {
        name: await answers.answer(service, model, replace(inquiry, baseline=name), seconds=seconds)
        for name, model in zip(_references(asked), models, strict=True)
    }
    return _Compared(data, held, found)


def _references(asked: CompareRequest) -> list[str]:
    baselines = BASELINES if asked.options.baselines else ()
    return list(dict.fromkeys([*asked.models, *baselines]))


def _common_horizon(models: list[Model | None]) -> int | None:
    """The longest horizon that all registered models reach."""
    return min((model.forecaster.recipe.horizon for model in models if model), default=None)


def _read(asked: CompareRequest, models: list[Model | None], service: Service) -> Ahead:
    inputs = reduce(Inputs.merged, map(inputs_of, models), Inputs())
    options, limits = asked.options, service.settings.limits
    # Filled only after the held-out rows are cut off: a filled gap would know what follows.
    raw = options.model_copy(update={"fill": "none" if options.fill == "none" else "mask"})
    data = tables.read(asked, raw, limits, inputs=inputs)
    far = [steps_of(model, data.panel, asked, limits.horizon) for model in models]
    horizon = far[0][0]  # of all models
    if options.holdout > horizon:
        item = Item(f"At most h rows can be held out, here {horizon}.", "/options/holdout")
        raise Problem("invalid-request", "options.holdout is larger than h.", [item])
    steps, reach = (max(column) - options.holdout for column in zip(*far, strict=True))
    return prepared(asked, data, options, steps=steps, reach=reach, known=inputs.known)


def _json(asked: CompareRequest, compared: _Compared) -> bytes:
    panel, held, columns = compared.held.context, compared.held, asked.columns
    steps = _steps(compared)
    ids = [name for name in panel.ids for _ in range(steps)]
    stamps = panel.following(steps)
    if not panel.frequency.is_integer:
        stamps = times.text(stamps, panel.tz)
    actuals = _actuals(asked, held, steps)
    names = number_columns(asked.quantiles)
    forecasts = []
    for name, found in compared.found.items():
        values = numbers(found, panel.ids, asked.quantiles)
        forecasts.append(
            {
                **_said(name, found),
                "columns": {column: _flat(values[..., i]) for i, column in enumerate(names)},
                "series": series_members(compared.data, panel, found, columns),
            }
        )
    members = {
        "index": {columns.id: ids, columns.time: stamps.to_list()},
        "actuals": None if actuals is None else _flat(actuals),
        "forecasts": forecasts,
        **_common(asked, compared),
    }
    return orjson.dumps(members, option=orjson.OPT_SERIALIZE_NUMPY)


def _streams(asked: CompareRequest, compared: _Compared) -> bytes:
    panel, levels = compared.held.context, sorted(asked.quantiles)
    values = {
        name: numbers(found, panel.ids, asked.quantiles) for name, found in compared.found.items()
    }
    actuals = _actuals(asked, compared.held, _steps(compared))
    entries = {
        name: series_members(compared.data, panel, found, asked.columns)
        for name, found in compared.found.items()
    }
    forecasts = [_said(name, found) for name, found in compared.found.items()]
    return arrow_answers.encode(
        arrow_answers.compared_table(values, actuals, panel, asked.columns, levels),
        arrow_answers.series_table(entries),
        {"forecasts": forecasts, **_common(asked, compared)},
    )


def _steps(compared: _Compared) -> int:
    return next(iter(compared.found.values())).horizon


def _actuals(asked: CompareRequest, held: HeldOut, steps: int) -> Floats | None:
    """The held-out values `[series, step]`, NaN after them; None where none were held out."""
    holdout = asked.options.holdout
    if not holdout:
        return None
    actuals = np.full((len(held.context.ids), steps), np.nan)
    actuals[:, :holdout] = held.actuals
    return actuals


def _said(name: str, found: ModelAnswer) -> dict[str, Any]:
    return {
        "reference": name,
        "model": found.model.members(),
        "fallback": fallback_members(found),
    }


def _common(asked: CompareRequest, compared: _Compared) -> dict[str, Any]:
    """What both forms of the answer hold."""
    held, found = compared.held, [*compared.found.values()]
    rows = leaderboard(held, found, asked.quantiles) if asked.options.holdout else []
    warnings = warning_members(compared.data, *(one.forecast for one in found))
    return {"tz": held.context.tz, "leaderboard": rows, **warnings}


def _flat(values: Floats) -> Floats:
    """The values in a row, as orjson takes them; NaN becomes null."""
    return np.ascontiguousarray(values.ravel())
