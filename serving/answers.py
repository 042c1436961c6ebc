"""One model's answer to the series of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import polars as pl

from pipelines.covariates import Inputs
from pipelines.fallback import FALLBACK
from pipelines.forecast import Forecast
from pipelines.forecaster import Forecaster, Plan
from pipelines.panel import Panel
from pipelines.versions import Reference
from serving.baselines import BASELINES, BUILT_IN, FITTED, built_in, check_fits
from serving.groups import Groups, Part, groups_of, joined, misaligned, parts_of, reduced
from serving.host import Answered
from serving.limits import MIB
from serving.problems import Item, Problem
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.series import Options, Series
from serving.schemas.tables import Cells
from serving.service import Service
from serving.traces import Traces
from tsformer.errors import DataError, Fault, NotFoundError, UnavailableError

Result = TypeVar("Result")
Given = ParamSpec("Given")
ROUNDS = 5  # of leaving series out of a window: for their ends, and for each kind of covariate
BLOCKS = 1_000  # calls of a model for one answer, each after the one before it


@dataclass(frozen=True, slots=True)
class Model:
    """A forecaster and what an answer calls it; a built-in baseline has no version."""

    name: str
    version: str | None
    alias: str | None
    run_id: str | None
    forecaster: Forecaster

    def members(self) -> dict[str, str | None]:
        return {
            "name": self.name,
            "version": self.version,
            "alias": self.alias,
            "run_id": self.run_id,
        }


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """A model's forecast of a panel."""

    model: Model
    forecast: Forecast
    horizon: int
    queue_ms: float = 0.0
    model_ms: float = 0.0
    faults: tuple[Fault, ...] = ()  # of series that the model had to leave out
    fallback: str = FALLBACK  # what stands in for it, or none


async def registered(
    service: Service, reference: str | None, *, pointer: str = "/model"
) -> Model | None:
    """The registered model that `reference` means; None for a built-in baseline.

    `pointer` is the place of the reference in the request.
    """
    if reference in BUILT_IN:
        return None
    try:
        loaded = await service.library.resolve(reference)
    except NotFoundError as error:
        if reference is None:
            raise UnavailableError(str(error)) from error
        message = str(error)  # names alone, of a safe alphabet: the reference was checked
        raise Problem("not-found", message, [Item(message, pointer)]) from error
    version = loaded.version
    alias = Reference.parse(reference or service.library.default).alias
    return Model(version.name, version.version, alias, version.run_id, loaded.forecaster)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is to be asked of a model: `panel` are the series that it is given, in parts."""

    model: Model
    panel: Panel
    parts: tuple[Part, ...]
    groups: Groups
    faults: tuple[Fault, ...]  # of series that the model has to leave out
    levels: tuple[float, ...]
    built_in: bool
    fallback: str

    def assembled(self, answered: Sequence[Answered]) -> Forecast:
        """The forecast of all series from the answer to each part."""
        forecaster = self.model.forecaster
        forecasts = [
            _labelled(
                forecaster.assemble(part.panel, part.plan, one.values, self.levels), part.plan, one
            )
            for part, one in zip(self.parts, answered, strict=True)
        ]
        forecast = joined(self.parts, forecasts, self.panel.ids)
        if not forecaster.recipe.joint:
            return forecast
        return reduced(forecast, self.panel, self.parts, self.groups)


async def prepare(
    service: Service, model: Model | None, panel: Panel, asked: Series, options: Options,
    *, body_size: int, future: pl.DataFrame | None = None, requested: int,
    baseline: str | None = None,
) -> Prepared:  # fmt: skip
    """The questions to `model` (None: the `baseline`, or that of the request) about `panel`, or why there are none.

    A model that reads series side by side (`recipe.joint`) gets a window a group; with
    `on_invalid` skip the series that do not fit are left out.
    """
    levels = tuple(sorted(asked.quantiles))
    limits = service.settings.limits
    horizon = horizon_of(model, panel, asked, limits.horizon)
    limits.check_output(len(panel.ids) * horizon * (1 + len(levels)))
    given = model is None
    if model is None:
        name = baseline_of(asked, baseline)
        check_fits(name, limits, fits=len(panel.ids))
        forecaster = built_in(name, panel, horizon=horizon, levels=levels)
        model = Model(name, None, None, None, forecaster)
    _check_levels(model.forecaster, levels)
    groups = groups_of(asked, options, requested=requested)
    fallback = options.fallback or service.settings.defaults.fallback
    panel, parts, faults = await off_loop(
        body_size, _planned, model.forecaster, panel, groups, options,
        horizon=horizon, future=future, most=limits.variates_per_group, fallback=fallback,
    )  # fmt: skip
    if fallback == "none":
        _refuse_short(parts, options)
        parts = tuple(replace(part, plan=replace(part.plan, fallback=None)) for part in parts)
    return Prepared(model, panel, parts, groups, faults, levels, given, fallback)


def baseline_of(asked: Series, given: str | None) -> str:
    """The built-in baseline that is asked: the one `given`, or that of the request."""
    named = asked.model if isinstance(asked, ForecastRequest) else None
    return given or named or BASELINES[0]


async def answer(
    service: Service,
    model: Model | None,
    panel: Panel,
    asked: Series,
    options: Options,
    *,
    seconds: float,
    body_size: int,
    future: pl.DataFrame | None = None,
    requested: int,
    baseline: str | None = None,
) -> ModelAnswer:
    """What `model` (None: `baseline`) forecasts for `panel`, of the `requested` series."""
    prepared = await prepare(
        service, model, panel, asked, options, body_size=body_size, future=future,
        requested=requested, baseline=baseline,
    )  # fmt: skip
    return await answered(service, prepared, options, seconds=seconds, body_size=body_size)


async def answered(
    service: Service, prepared: Prepared, options: Options, *, seconds: float, body_size: int
) -> ModelAnswer:
    """The answer to what was prepared."""
    asking = (_ask(service, prepared, part, seconds, body_size) for part in prepared.parts)
    parts = await asyncio.gather(*asking)
    forecast = await off_loop(body_size, prepared.assembled, parts)
    service.metrics.forecast(prepared.model.name, forecast.series)
    _refuse_failed(forecast, options)
    return ModelAnswer(
        prepared.model,
        forecast,
        prepared.parts[0].plan.horizon,
        max(one.queue_ms for one in parts),
        sum(one.model_ms for one in parts),
        prepared.faults,
        prepared.fallback,
    )


async def _ask(
    service: Service, prepared: Prepared, part: Part, seconds: float, body_size: int
) -> Answered:
    """The answer to one part, block after block."""
    model, course, levels = prepared.model, part.plan.course, prepared.levels
    blocks: list[Answered] = []
    for _ in range(course.blocks):
        done = [block.values for block in blocks]
        query = await off_loop(body_size, course.question, done)
        if prepared.built_in and model.name in FITTED:
            blocks.append(await service.fits.answer(model.forecaster, query, levels))
        elif prepared.built_in:
            values = await asyncio.to_thread(model.forecaster.answer, query, levels)
            blocks.append(Answered(values, (), 0.0, 0.0))
        else:
            version, horizon = f"{model.name}/{model.version}", model.forecaster.recipe.horizon
            block = await service.host.answer(
                version, query, levels, horizon=horizon, seconds=seconds
            )
            _trace(service.traces, block, version=version, windows=len(query))
            blocks.append(block)
    return await off_loop(body_size, Answered.joined, blocks)


def _trace(traces: Traces, block: Answered, *, version: str, windows: int) -> None:
    """The wait for a batch and the model's work on it as spans."""
    wait, work = block.queue_ms / 1000, block.model_ms / 1000
    traces.past("queue", {}, ago_s=wait + work, seconds=wait)
    told: dict[str, str | int] = {"tsformer.version": version, "tsformer.windows": windows}
    traces.past("model", told, ago_s=work, seconds=work)


def _planned(
    forecaster: Forecaster, panel: Panel, groups: Groups, options: Options, *, horizon: int,
    future: pl.DataFrame | None, most: int, fallback: str,
) -> tuple[Panel, tuple[Part, ...], tuple[Fault, ...]]:  # fmt: skip
    """The series that fit into their windows, what is asked of them, and why the others do not."""
    faults: tuple[Fault, ...] = ()
    for left in reversed(range(ROUNDS)):
        try:
            parts = parts_of(
                forecaster, panel, groups, horizon=horizon, fallback=fallback, future=future,
                most=most,
            )  # fmt: skip
            break
        except DataError as error:
            apart = any(fault.code == "group_misaligned" for fault in error.faults)
            if options.on_invalid == "fail" or not apart or not left:
                raise
            left_out = misaligned(panel, groups) or error.faults
        faults += tuple(left_out)
        names = {fault.series for fault in left_out}
        panel = panel.take([i for i, name in enumerate(panel.ids) if name not in names])
    return panel, parts, faults


def steps_of(model: Model | None, panel: Panel, asked: Series, limit: int) -> tuple[int, int]:
    """The horizon, and the steps of the grid after the data that it takes."""
    horizon = horizon_of(model, panel, asked, limit)
    if model is None or not (inputs_of(model).features or inputs_of(model).known):
        return horizon, horizon
    own = model.forecaster.recipe.horizon
    return horizon, -(-horizon // own) * own


def inputs_of(model: Model | None) -> Inputs:
    """What a model reads beside the target."""
    return Inputs() if model is None else model.forecaster.recipe.inputs


def horizon_of(model: Model | None, panel: Panel, asked: Series, limit: int) -> int:
    """The horizon asked for, or the model's own; `invalid-request` beyond the limit."""
    own = panel.frequency.season if model is None else model.forecaster.recipe.horizon
    steps = asked.h or _rows_ahead(asked)
    place = "/future" if asked.h is None else "/h"
    if steps is not None and steps > limit:
        raise Problem(
            "invalid-request",
            f"h is limited to {limit} steps.",
            [Item(f"At most {limit} steps are forecast here.", place)],
        )
    if model is not None and steps is not None and steps > BLOCKS * own:
        message = (
            f"The model forecasts {own} at a time, at most {BLOCKS:,} times: {BLOCKS * own:,} "
            "steps. Ask for fewer, or use a model with a longer horizon."
        )
        raise Problem("invalid-request", "h is too far for this model.", [Item(message, place)])
    return steps or own


def _rows_ahead(asked: Series) -> int | None:
    """Rows of the first series in the future table; None without one."""
    table = asked.future
    ids: Cells = table.get(asked.columns.id, ()) if asked.columns.id in asked.data else ()
    if isinstance(ids, pl.Series) and len(ids):
        return int(ids.eq_missing(ids.head(1)).sum())
    if len(ids):
        return sum(cell == ids[0] for cell in ids)
    return max(map(len, table.values()), default=0) or None


async def off_loop(
    body_size: int, function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> Result:
    """`function` of the arguments; in a thread if the body is so large that others would wait."""
    if body_size <= MIB:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def _check_levels(forecaster: Forecaster, levels: Sequence[float]) -> None:
    served = forecaster.levels
    if not levels or (served and served[0] <= levels[0] and levels[-1] <= served[-1]):
        return
    able = f"levels from {served[0]:g} to {served[-1]:g}" if served else "no quantiles"
    item = Item(f"This model serves {able}.", "/quantiles")
    raise Problem("model-incompatible", "The model cannot serve these quantiles.", [item])


def _refuse_short(parts: Sequence[Part], options: Options) -> None:
    short = [part.panel.ids[position] for part in parts for position in part.plan.short]
    if options.on_invalid == "fail" and short:
        items = [
            Item("Too little history for this model.", "/data", "insufficient_history", name)
            for name in short
        ]
        detail = (
            f"{len(items)} series have too little history. Send more rows, or allow a fallback."
        )
        raise Problem("insufficient-history", detail, items)


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


def _labelled(forecast: Forecast, plan: Plan, answered: Answered) -> Forecast:
    """The forecast with the reason `model_error` where the model raised."""
    if not answered.failed:
        return forecast
    variates = plan.course.whole.variates
    failed = [row * variates + place for row in answered.failed for place in range(variates)]
    raised = {plan.modelled[place] for place in failed}
    series = tuple(
        replace(entry, fallback={**entry.fallback, "reason": "model_error"})
        if position in raised and entry.fallback
        else entry
        for position, entry in enumerate(forecast.series)
    )
    return replace(forecast, series=series)
