"""One model's answer to the series of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.forecast import Forecast
from pipelines.versions import FALLBACK
from serving.baselines import FITTED
from serving.groups import Part
from serving.host import Answered
from serving.inquiry import Inquiry
from serving.models import Model
from serving.preparation import Prepared, prepare
from serving.problems import Item, Problem
from serving.schemas.series import Options
from serving.service import Service
from serving.threads import off_loop
from serving.traces import Traces
from tsformer.errors import Fault


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A model's forecast of a panel; `size` as of its inquiry."""

    model: Model
    forecast: Forecast
    horizon: int
    size: int
    queue_ms: float = 0.0
    model_ms: float = 0.0
    faults: tuple[Fault, ...] = ()  # of series that the model had to leave out
    fallback: str = FALLBACK  # what stands in for it, or none


async def answer(
    service: Service, model: Model | None, inquiry: Inquiry, *, seconds: float
) -> ModelAnswer:
    """What `model` (None: the built-in baseline of `inquiry`) forecasts."""
    return await answered(service, await prepare(service, model, inquiry), seconds=seconds)


async def answered(service: Service, prepared: Prepared, *, seconds: float) -> ModelAnswer:
    """The answer to what was prepared."""
    asking = (_ask(service, prepared, part, seconds) for part in prepared.parts)
    parts = await asyncio.gather(*asking)
    forecast = await off_loop(prepared.inquiry.size, prepared.assembled, parts)
    service.metrics.forecast(prepared.model.name, forecast.series)
    _refuse_failed(forecast, prepared.inquiry.options)
    return ModelAnswer(
        prepared.model,
        forecast,
        prepared.parts[0].plan.horizon,
        prepared.inquiry.size,
        max(one.queue_ms for one in parts),
        sum(one.model_ms for one in parts),
        prepared.faults,
        prepared.fallback,
    )


async def _ask(service: Service, prepared: Prepared, part: Part, seconds: float) -> Answered:
    """The answer to one part, block after block."""
    model, course, inquiry = prepared.model, part.plan.course, prepared.inquiry
    blocks: list[Answered] = []
    for _ in range(course.blocks):
        done = [block.values for block in blocks]
        query = await off_loop(inquiry.size, course.question, done)
        if model.version is None and model.name in FITTED:
            blocks.append(await service.fits.answer(model.forecaster, query, inquiry.levels))
        elif model.version is None:
            values = await asyncio.to_thread(model.forecaster.answer, query, inquiry.levels)
            blocks.append(Answered(values, (), 0.0, 0.0))
        else:
            version, horizon = f"{model.name}/{model.version}", model.forecaster.recipe.horizon
            block = await service.host.answer(
                version, query, inquiry.levels, horizon=horizon, seconds=seconds
            )
            _trace(service.traces, block, version=version, windows=len(query))
            blocks.append(block)
    return await off_loop(inquiry.size, Answered.joined, blocks)


def _trace(traces: Traces, block: Answered, *, version: str, windows: int) -> None:
    """The wait for a batch and the model's work on it as spans."""
    wait, work = block.queue_ms / 1000, block.model_ms / 1000
    traces.past("queue", {}, ago_s=wait + work, seconds=wait)
    told: dict[str, str | int] = {"tsformer.version": version, "tsformer.windows": windows}
    traces.past("model", told, ago_s=work, seconds=work)


def _refuse_failed(forecast: Forecast, options: Options) -> None:
    empty = [entry for entry in forecast.series if not entry.rows]
    if options.on_invalid == "skip" or not empty:
        return
    failed = [entry for entry in empty if entry.status == "model_failed"]
    if not failed:
        raise insufficient([entry.unique_id for entry in empty])
    items = [Item("No finite forecast.", unique_id=entry.unique_id) for entry in failed]
    detail = f"The model failed on {len(failed)} series. Use a fallback, or skip them."
    raise Problem("model-output-invalid", detail, items)


def insufficient(names: Sequence[str | int]) -> Problem:
    """The problem of series without a value from which anything could follow."""
    message = "No value is left to forecast from."
    items = [Item(message, "/data", "insufficient_history", name) for name in names]
    detail = f"{len(items)} series have no value to forecast from. Send more rows, or skip them."
    return Problem("insufficient-history", detail, items)
