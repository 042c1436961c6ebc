"""Several models on the same series, with scores where actuals are held out: POST /v1/compare."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from pipelines import times
from pipelines.covariates import Inputs
from pipelines.panel import Panel
from serving import answers, body, tables
from serving.access import deadline_seconds, within
from serving.ahead import Ahead, prepared
from serving.answers import Model, ModelAnswer
from serving.baselines import BUILT_IN
from serving.callers import needs
from serving.openapi import described
from serving.problems import Item, Problem
from serving.schemas import CompareAnswer, CompareRequest
from serving.scoring import Floats, HeldOut, hold_out, leaderboard, numbers
from serving.service import Service, service_of
from serving.tables import Data

router = APIRouter(prefix="/v1", tags=["forecasts"])


@router.post(
    "/compare", dependencies=[needs("forecaster")], **described(CompareRequest, CompareAnswer)
)
async def compare(request: Request) -> Response:
    """The same series through several models side by side, and who was right."""
    service = service_of(request)
    seconds = deadline_seconds(request, service.settings.limits)
    sent = await body.read(request, service.settings.limits)
    members = await within(request, seconds, _compare(service, sent, seconds))
    return Response(orjson.dumps(members), media_type="application/json")


async def _compare(service: Service, sent: bytes, seconds: float) -> dict[str, Any]:
    limits = service.settings.limits
    asked = await answers.off_loop(len(sent), body.parse, CompareRequest, sent, limits)
    for name, value in (("quantiles", asked.quantiles), ("models", asked.models)):
        limit = "compare_models" if name == "models" else name
        maximum = limits.compare_models if name == "models" else limits.quantiles
        limits.check_count(limit, f"/{name}", count=len(value), maximum=maximum)
    references = _references(asked)
    models = [
        await answers.registered(service, name, pointer=f"/models/{place}")
        for place, name in enumerate(references)
    ]
    asked = asked.model_copy(update={"h": asked.h or _common_horizon(models)})
    with tables.placed(asked.columns):
        return await _answers(service, asked, models, seconds, len(sent))


async def _answers(
    service: Service, asked: CompareRequest, models: list[Model | None], seconds: float, size: int
) -> dict[str, Any]:
    read = await answers.off_loop(size, _read, asked, models, service)
    data, options = read.data, asked.options
    held = await answers.off_loop(
        size, hold_out, data.panel, options.holdout, fill=options.fill, future=read.future
    )
    if held.empty and options.on_invalid == "fail":
        raise answers.insufficient(held.empty)
    found = [
        await answers.answer(
            service, model, held.context, asked, options,
            seconds=seconds, body_size=size, future=held.future,
            requested=len(data.report.series),
        )
        for model in models
    ]  # fmt: skip
    return await answers.off_loop(size, _members, asked, data, held, found)


def _references(asked: CompareRequest) -> list[str]:
    baselines = BUILT_IN if asked.options.baselines else ()
    return list(dict.fromkeys([*asked.models, *baselines]))


def _common_horizon(models: list[Model | None]) -> int | None:
    """The longest horizon that all registered models reach."""
    return min((model.forecaster.recipe.horizon for model in models if model), default=None)


def _read(asked: CompareRequest, models: list[Model | None], service: Service) -> Ahead:
    inputs = reduce(Inputs.merged, map(answers.inputs_of, models), Inputs())
    options, limits = asked.options, service.settings.limits
    # Filled only after the held-out rows are cut off: a filled gap would know what follows.
    raw = options.model_copy(update={"fill": "none" if options.fill == "none" else "mask"})
    data = tables.read(asked, raw, limits, inputs=inputs)
    if asked.h is not None and options.holdout > asked.h:
        item = Item("At most h rows can be held out.", "/options/holdout")
        raise Problem("invalid-request", "options.holdout is larger than h.", [item])
    far = [answers.steps_of(model, data.panel, asked, limits.horizon) for model in models]
    steps, reach = (max(column) - options.holdout for column in zip(*far, strict=True))
    return prepared(asked, data, options, steps=steps, reach=reach, known=inputs.known)


def _members(
    asked: CompareRequest, data: Data, held: HeldOut, found: list[ModelAnswer]
) -> dict[str, Any]:
    panel, columns, steps = held.context, asked.columns, found[0].horizon
    ids = [name for name in panel.ids for _ in range(steps)]
    stamps = panel.following(steps)
    if not panel.frequency.is_integer:
        stamps = times.text(stamps, panel.tz)
    holdout = asked.options.holdout
    actuals = np.full((len(panel.ids), steps), np.nan)
    actuals[:, :holdout] = held.actuals
    return {
        "index": {columns.id: ids, columns.time: stamps.to_list()},
        "actuals": _plain(actuals) if holdout else None,
        "forecasts": [_forecast(asked, data, panel, one) for one in found],
        "leaderboard": leaderboard(held, found, asked.quantiles) if holdout else [],
        **answers.warning_members(data, *(one.forecast for one in found)),
    }


def _forecast(
    asked: CompareRequest, data: Data, panel: Panel, found: ModelAnswer
) -> dict[str, Any]:
    values = numbers(found, panel.ids, asked.quantiles)
    names = answers.number_columns(asked.quantiles)
    return {
        "model": found.model.members(),
        "columns": {name: _plain(values[..., i]) for i, name in enumerate(names)},
        "series": answers.series_members(data, panel, found, asked.columns),
        "fallback": answers.fallback_members(found.forecast, asked.options),
    }


def _plain(values: Floats) -> list[float | None]:
    """The values in a row; null where there is none."""
    return [None if np.isnan(value) else value for value in values.ravel().tolist()]
