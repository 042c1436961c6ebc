"""The tasks of the Nixtla client: each is the request of our own routes, translated and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from pipelines.frequency import Frequency
from serving import forecasting, rolling
from serving.anomalies import Judged, bounds
from serving.answers import ModelAnswer
from serving.compat.loose import relocated
from serving.compat.nixtla import schemas, windows
from serving.compat.nixtla.series import Tables, tables_of
from serving.compat.nixtla.windows import Extent, Windows
from serving.compat.undated import Undated
from serving.inquiry import Inquiry
from serving.members import fallback_members, warning_members
from serving.models import Model, inputs_of, registered
from serving.problems import Item, Problem
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.series import Options
from serving.scoring import Floats
from serving.service import Service
from serving.tables import Data
from serving.threads import off_loop


@dataclass(frozen=True, slots=True)
class Task:
    """A request in our own form, the model that it means, and how it came."""

    service: Service
    sent: schemas.Asked
    asked: ForecastRequest
    model: Model | None
    tables: Tables
    seconds: float
    size: int

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels of the intervals, each once."""
        return _levels(self.sent)


def _levels(sent: schemas.Asked) -> tuple[float, ...]:
    level = getattr(sent, "level", None)
    return tuple(dict.fromkeys([level] if isinstance(level, int | float) else level or ()))


def reference_of(service: Service, name: str | None) -> str | None:
    """The model that `name` means here; None for the default."""
    for pattern, reference in service.settings.nixtla.models.items():
        if name is not None and fnmatchcase(name, pattern):
            return reference or None
    return name


def check_tuning(sent: schemas.Asked) -> None:
    """Raises `invalid-request` where a forecast is to tune the model first."""
    if sent.finetune_steps:
        message = "Fine-tuning is a task of its own here: give finetune_steps 0."
        raise Problem("invalid-request", message, [Item(message, "/finetune_steps")])


async def task_of(
    service: Service, sent: schemas.Asked, *, h: int | None, seconds: float, size: int
) -> Task:
    """`sent` as a request of /v1/forecasts for `h` steps."""
    limits = service.settings.limits
    check_tuning(sent)
    levels = sorted({quantile for level in _levels(sent) for quantile in bounds(level)})
    limits.check_count("quantiles", "/level", count=len(levels), maximum=limits.quantiles)
    limits.check_count("horizon", "/h", count=h or 0, maximum=limits.horizon)
    limits.check_size(series=len(sent.series.sizes), values=len(sent.series.y))
    reference = reference_of(service, sent.finetuned_model_id or sent.model)
    model = await registered(service, reference)
    own = None if model is None else model.forecaster.recipe.frequency
    read = await off_loop(size, tables_of, sent, inputs_of(model), own=own, ahead=h or 0)
    kind = ForecastRequest if sent.series.start_datetime else Undated
    options = Options(group="all" if sent.multivariate else "by_id")
    asked = kind(data={}, model=reference, h=h, freq=read.freq, options=options).model_copy(
        update={"data": read.data, "future": read.future, "quantiles": levels}
    )
    return Task(service, sent, asked, model, read, seconds, size)


# --- forecasts ------------------------------------------------------------------------------------


async def forecast(
    service: Service, sent: schemas.NixtlaForecastRequest, seconds: float, size: int
) -> dict[str, Any]:
    """`h` steps after each series."""
    task = await task_of(service, sent, h=sent.h, seconds=seconds, size=size)
    with relocated(task.tables.place):
        done = await forecasting.forecast(service, task.asked, seconds=seconds, size=size)
    numbers = done.found.forecast.table[:, 2:].to_numpy()
    return {
        **_numbers(task, numbers),
        **_said(task, done.data, done.found),
        "feature_contributions": None,
    }


async def cross_validation(
    service: Service, sent: schemas.NixtlaCrossValidationRequest, seconds: float, size: int
) -> dict[str, Any]:
    """Windows over what is known already."""
    h = None if sent.full_history else sent.h
    task = await task_of(service, sent, h=h, seconds=seconds, size=size)
    if sent.full_history:
        made = _history(task)
    else:
        step, series = sent.step_size or sent.h, _extent(task)
        windows.check_rows(series, sent.h + step * (sent.n_windows - 1))
        numbers_each = sent.h * (1 + len(task.asked.quantiles))
        service.settings.limits.check_output(len(series) * sent.n_windows * numbers_each)
        made = windows.of_backtest(series, h=sent.h, step=step, windows=sent.n_windows)
    data, found, numbers = await _rolled(task, made)
    return {
        "idxs": made.places,
        "sizes": made.sizes,
        **_numbers(task, numbers),
        **_said(task, data, found),
        "feature_contributions": None,
    }


# --- anomalies ------------------------------------------------------------------------------------


async def anomalies(
    service: Service, sent: schemas.NixtlaAnomalyRequest, seconds: float, size: int
) -> dict[str, Any]:
    """All points that have enough history before them."""
    task = await task_of(service, sent, h=None, seconds=seconds, size=size)
    made = _history(task)
    data, found, numbers = await _rolled(task, made)
    return {
        "sizes": made.sizes,
        **_numbers(task, numbers),
        "anomaly": _judged(task, made, numbers).outside,
        **_said(task, data, found),
    }


async def online_anomalies(
    service: Service, sent: schemas.NixtlaOnlineRequest, seconds: float, size: int
) -> dict[str, Any]:
    """The last points of each series, each by itself or all series together."""
    task = await task_of(service, sent, h=sent.h, seconds=seconds, size=size)
    step = sent.step_size or sent.h
    made = windows.of_newest(_extent(task), last=sent.detection_size, h=sent.h, step=step)
    together = sent.threshold_method == "multivariate"
    if together and any(len({*sizes}) > 1 for sizes in (sent.series.sizes, made.sizes.tolist())):
        message = "For a common threshold all series must have the same length."
        raise Problem("invalid-request", message, [Item(message, "/series/sizes")])
    data, found, numbers = await _rolled(task, made)
    judged = _judged(task, made, numbers)
    outside, score = judged.outside, judged.score
    in_all = _accumulated(score, len(sent.series.sizes)) if together else score
    return {
        "idxs": made.places,
        "sizes": made.sizes,
        **_numbers(task, numbers),
        "anomaly": in_all > 1 if together else outside,
        "anomaly_score": score,
        "accumulated_anomaly_score": in_all,
        **_said(task, data, found),
    }


def _accumulated(score: Floats, series: int) -> Floats:
    """The root mean square over the series of each step; 1 where all are at their bounds."""
    squares = np.square(score.reshape(series, -1))
    known = np.isfinite(squares)
    mean = np.where(known, squares, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.tile(np.sqrt(mean), series)


def _judged(task: Task, made: Windows, numbers: Floats) -> Judged:
    """The points of the windows beside their forecasts, flat."""
    y = np.array(task.sent.series.y, dtype=np.float64)[made.places]
    lo, hi = (_column(task, numbers, quantile) for quantile in bounds(task.levels[0]))
    return Judged(y, numbers[:, 0], lo, hi)


# --- both -----------------------------------------------------------------------------------------


def _extent(task: Task) -> Extent:
    return Extent.of(task.sent.series.y, task.sent.series.sizes)


def _history(task: Task) -> Windows:
    """Blocks of the trained horizon over all rows that have enough history before them."""
    if task.model is not None:
        recipe = task.model.forecaster.recipe
        return windows.of_history(_extent(task), h=recipe.horizon, least=recipe.min_context)
    season = Frequency.parse(task.tables.freq).season
    return windows.of_history(_extent(task), h=season, least=season)


async def _rolled(task: Task, made: Windows) -> tuple[Data, ModelAnswer, Floats]:
    """The forecasts of the windows, flat: `[row, 1 + quantile]`."""
    limits, asked = task.service.settings.limits, task.asked
    limits.check_output(len(made.cuts) * made.steps * (1 + len(asked.quantiles)))
    with relocated(task.tables.place):
        data = await off_loop(
            task.size, rolling.read, task.service, asked, asked.options, task.model
        )
        inquiry = Inquiry(asked, asked.options, data.panel, len(data.report.series), task.size)
        rolled = await rolling.roll(
            task.service, task.model, inquiry, made.cuts, steps=made.steps, seconds=task.seconds
        )
    return data, rolled.answer, rolled.numbers[made.kept]


def _numbers(task: Task, numbers: Floats) -> dict[str, Any]:
    """The members with numbers, from `[row, 1 + quantile]`."""
    intervals = {}
    for level in task.levels:
        name = int(level) if level == int(level) else level
        for side, quantile in zip(("lo", "hi"), bounds(level), strict=True):
            intervals[f"{side}-{name}"] = _column(task, numbers, quantile)
    asked = getattr(task.sent, "level", None) is not None
    return {
        "mean": np.ascontiguousarray(numbers[:, 0]),
        "intervals": intervals if asked else None,
        "weights_x": None,
    }


def _column(task: Task, numbers: Floats, quantile: float) -> Floats:
    return np.ascontiguousarray(numbers[:, 1 + task.asked.quantiles.index(quantile)])


def _said(task: Task, data: Data, found: ModelAnswer) -> dict[str, Any]:
    """What every answer of this service says of itself; the client does not read it."""
    said = warning_members(data, found.forecast)
    return {
        "model": found.model.members(),
        "fallback": fallback_members(found),
        **said,
        "warnings": [*_own_warnings(task.sent), *said["warnings"]],
    }


def _own_warnings(sent: schemas.Asked) -> Sequence[dict[str, Any]]:
    if sent.series.start_datetime:
        return []
    message = "No start_datetime came: nothing is known of hours, weekdays and holidays."
    count = len(sent.series.sizes)
    return [{"code": "calendar_unknown", "unique_id": None, "count": count, "message": message}]
