"""Plans: what a model is asked about a panel, and the forecast from what it answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipelines.course import Course
from pipelines.fallback import replacement, rows_read
from pipelines.forecast import Forecast, Method, SeriesForecast, Status, forecast_table
from pipelines.panel import Panel
from pipelines.query import Floats
from pipelines.recipe import Recipe
from tsformer.errors import Fault

# What a series is called whose model gave nothing, by the reason.
STATUS: dict[str, Status] = {
    "insufficient_history": "insufficient_history",
    "nonfinite_output": "model_failed",
}
FLOAT32 = 3e38  # what a network works in: beyond it lies what it cannot have meant, unless
BEYOND = 1e3  # the series itself is almost so large
ROUNDING = 1e-9  # of the largest number: quantiles that cross by so little are straightened


@dataclass(frozen=True, slots=True)
class Plan:
    """Which series of a panel the model forecasts, and what it is given for them."""

    course: Course
    modelled: tuple[int, ...]
    short: tuple[int, ...]
    horizon: int
    fallback: str | None
    warnings: tuple[Fault, ...] = ()


def assembled(
    panel: Panel, plan: Plan, values: Floats, levels: Sequence[float], *, recipe: Recipe
) -> Forecast:
    """The forecast of `panel` from what a model of `recipe` answered to `plan`.

    A series whose answer is no forecast gets the fallback, or the status `model_failed`.
    """
    # [window, horizon, variate, 1 + level] as [series, horizon, 1 + level]
    answers = values[:, : plan.horizon].swapaxes(1, 2).reshape(-1, plan.horizon, values.shape[3])
    broken = np.flatnonzero(~_usable(panel, plan, answers, levels))
    failed = tuple(plan.modelled[row] for row in broken)
    numbers = np.full((len(panel.ids), plan.horizon, answers.shape[2]), np.nan)
    numbers[list(plan.modelled)] = answers
    replaced = (*plan.short, *failed) if plan.fallback else ()
    if plan.fallback and replaced:
        numbers[list(replaced)] = replacement(
            plan.fallback, panel, replaced, season=recipe.season, horizon=plan.horizon,
            levels=levels,
        )  # fmt: skip
    reasons = dict.fromkeys(plan.short, "insufficient_history")
    reasons |= dict.fromkeys(failed, "nonfinite_output")
    answered = np.isfinite(numbers).all(axis=(1, 2))
    series = tuple(
        _entry(panel, i, plan, reasons.get(i), recipe=recipe, answered=bool(answered[i]))
        for i in range(len(panel.ids))
    )
    table = forecast_table(panel, numbers, levels, series)
    return Forecast(table, series, (*plan.warnings, *_warnings(series)))


def _usable(
    panel: Panel, plan: Plan, answers: Floats, levels: Sequence[float]
) -> NDArray[np.bool_]:
    """Which of the answers `[series, horizon, 1 + level]` are forecasts.

    They are finite, quantiles do not cross, and none is beyond what a network can say of its series.
    """
    columns = [answers[..., 1 + place] for place in np.argsort(levels)]
    largest, rise = np.zeros(len(answers)), np.zeros(len(answers))
    with np.errstate(invalid="ignore", over="ignore"):  # by column: answers can fill the memory
        for column in (answers[..., 0], *columns):
            largest = np.maximum(largest, np.abs(column).max(axis=1, initial=0.0))
        for lower, upper in pairwise(columns):
            rise = np.minimum(rise, (upper - lower).min(axis=1, initial=0.0))
        usable: NDArray[np.bool_] = np.isfinite(largest) & (rise >= -ROUNDING * largest)
    for row in np.flatnonzero(usable & (largest > FLOAT32)):
        place = plan.modelled[row]
        past = panel.target[panel.offsets[place] : panel.offsets[place + 1]]
        usable[row] = largest[row] / BEYOND <= np.nanmax(np.abs(past))
    return usable


def _entry(
    panel: Panel, position: int, plan: Plan, reason: str | None, *, recipe: Recipe, answered: bool
) -> SeriesForecast:
    """How one series was answered; `reason` says why not by the model."""
    rows = int(panel.offsets[position + 1] - panel.offsets[position])
    used = min(rows, recipe.context)
    longer = plan.horizon > recipe.horizon
    direct: Method = "direct" if plan.horizon == recipe.horizon else "prefix"
    entry = SeriesForecast(
        unique_id=panel.ids[position],
        status="ok" if reason is None else STATUS[reason],
        rows=plan.horizon if answered else 0,
        method="rollout" if longer else direct,
        blocks=plan.course.blocks,
        rows_used=used,
        padded=recipe.context - used,
        context_end=panel.ends[position],
    )
    if reason is None:
        return entry
    if not answered or plan.fallback is None:
        return replace(entry, method="none", blocks=1, rows_used=0, padded=0)
    fallback = {"model": plan.fallback, "reason": reason}
    (read,) = rows_read(plan.fallback, panel, [position])
    return replace(entry, method="fallback", blocks=1, rows_used=read, padded=0, fallback=fallback)


def _warnings(series: Sequence[SeriesForecast]) -> tuple[Fault, ...]:
    rolled = tuple(
        Fault(
            "rollout",
            f"{entry.rows} steps in {entry.blocks} blocks, each fed with the forecasts before it.",
            series=entry.unique_id,
        )
        for entry in series
        if entry.method == "rollout"
    )
    return rolled + tuple(
        Fault(
            "history_padded",
            f"{entry.padded} steps before the first row count as missing.",
            series=entry.unique_id,
        )
        for entry in series
        if entry.padded and entry.fallback is None and entry.rows
    )
