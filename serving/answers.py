"""One model's answer to the series of a request."""

from __future__ import annotations

import asyncio
from collections import Counter
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
from serving.baselines import BUILT_IN, built_in
from serving.host import Answered
from serving.limits import MIB
from serving.problems import Item, Problem
from serving.schemas import Cells, Options, Series
from serving.service import Service
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
    """What is to be asked of a model: `panel` are the series that it is given."""

    model: Model
    panel: Panel
    plan: Plan
    faults: tuple[Fault, ...]  # of series that the model has to leave out
    levels: tuple[float, ...]
    built_in: bool


async def prepare(
    service: Service, model: Model | None, panel: Panel, asked: Series, options: Options,
    *, body_size: int, future: pl.DataFrame | None = None,
) -> Prepared:  # fmt: skip
    """The questions to `model` (None: seasonal naive) about `panel`, or why there are none.

    To a model that reads series side by side (`recipe.joint`) all series of a request are one
    window, whatever their attributes; with `on_invalid` skip those that do not fit are left out.
    """
    levels = tuple(sorted(asked.quantiles))
    horizon = horizon_of(model, panel, asked, service.settings.limits.horizon)
    service.settings.limits.check_output(len(panel.ids) * horizon * (1 + len(levels)))
    given = model is None
    if model is None:
        forecaster = built_in(panel, horizon=horizon, levels=levels)
        model = Model(BUILT_IN[0], None, None, None, forecaster)
    _check_levels(model.forecaster, levels)
    panel, plan, faults = await off_loop(
        body_size, _planned, model.forecaster, panel, options, horizon=horizon, future=future
    )
    if options.fallback == "none":
        _refuse_short(panel, plan, options)
        plan = replace(plan, fallback=None)
    return Prepared(model, panel, plan, faults, levels, given)


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
) -> ModelAnswer:
    """What `model` (None: seasonal naive) forecasts for `panel`, of the `requested` series."""
    prepared = await prepare(
        service, model, panel, asked, options, body_size=body_size, future=future
    )
    model, panel, plan, levels = prepared.model, prepared.panel, prepared.plan, prepared.levels
    forecaster = model.forecaster
    blocks: list[Answered] = []
    for _ in range(plan.course.blocks):
        done = [block.values for block in blocks]
        query = await off_loop(body_size, plan.course.question, done)
        if prepared.built_in:
            values = await asyncio.to_thread(forecaster.answer, query, levels)
            blocks.append(Answered(values, (), 0.0, 0.0))
        else:
            blocks.append(
                await service.host.answer(
                    f"{model.name}/{model.version}",
                    query,
                    levels,
                    horizon=forecaster.recipe.horizon,
                    seconds=seconds,
                )
            )
    answered = await off_loop(body_size, Answered.joined, blocks)
    forecast = await off_loop(body_size, forecaster.assemble, panel, plan, answered.values, levels)
    forecast = _labelled(forecast, plan, answered)
    if forecaster.recipe.joint:
        forecast = _reduced(forecast, panel, plan, requested)
    service.metrics.forecast(model.name, forecast.series)
    _refuse_failed(forecast, options)
    return ModelAnswer(
        model, forecast, plan.horizon, answered.queue_ms, answered.model_ms, prepared.faults
    )


def _planned(
    forecaster: Forecaster, panel: Panel, options: Options, *, horizon: int,
    future: pl.DataFrame | None,
) -> tuple[Panel, Plan, tuple[Fault, ...]]:  # fmt: skip
    """The series that can share a window, their plan, and what is wrong with the others."""
    faults: tuple[Fault, ...] = ()
    for left in reversed(range(ROUNDS)):
        try:
            plan = forecaster.plan(panel, horizon=horizon, fallback=FALLBACK, future=future)
            break
        except DataError as error:
            misaligned = any(fault.code == "group_misaligned" for fault in error.faults)
            if options.on_invalid == "fail" or not misaligned or not left:
                raise
            apart = _apart(panel) or error.faults
        faults += tuple(apart)
        names = {fault.series for fault in apart}
        panel = panel.take([i for i, name in enumerate(panel.ids) if name not in names])
    return panel, plan, faults


def _apart(panel: Panel) -> list[Fault]:
    """The series that do not end when most do; of ends as frequent the first counts."""
    ((common, _),) = Counter(panel.ends).most_common(1)
    message = "It does not end when most others do. Series of one window end together."
    return [
        Fault("group_misaligned", message, name)
        for name, end in zip(panel.ids, panel.ends, strict=True)
        if end != common
    ]


def _reduced(forecast: Forecast, panel: Panel, plan: Plan, requested: int) -> Forecast:
    """The forecast with a warning on each series of a window that lacks some of the `requested`."""
    inside = len(plan.modelled)
    if inside == requested:
        return forecast
    message = f"The model saw {inside} of the {requested} series, which it reads side by side."
    warnings = (
        Fault("group_reduced", message, panel.ids[place], count=requested - inside)
        for place in plan.modelled
    )
    return replace(forecast, warnings=(*forecast.warnings, *warnings))


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


def _refuse_short(panel: Panel, plan: Plan, options: Options) -> None:
    if options.on_invalid == "fail" and plan.short:
        items = [
            Item("Too little history for this model.", "/data", "insufficient_history", name)
            for name in (panel.ids[position] for position in plan.short)
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
