"""From tensors to the request of /v1/forecasts that they mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from serving.attributes import GROUP_ID
from serving.compat.loose import levels_of, parts_of, words_of
from serving.compat.oip.tensors import Numbers, Sent
from serving.compat.samples import Sample, Where, check_ids, grid_of, tables_of
from serving.limits import Limits
from serving.models import Model, inputs_of
from serving.problems import Item, Problem, of_faults
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.tables import Cells
from serving.trees import validated

# Where the fields of /v1/forecasts stand in a request of the protocol.
INPUTS = {"unique_id": "unique_id", "ds": "start", "y": "y"}
PARAMETERS = {"h": "h", "freq": "freq", "tz": "tz", "quantiles": "quantiles", "options": "fallback"}


def question(sent: Sent, reference: str, model: Model | None, limits: Limits) -> ForecastRequest:
    """What `sent` asks of the model `reference`; DataError for stamps that are out of range."""
    y = _series(sent)
    count = math.prod(y.shape[:-1])
    limits.check_size(series=count, values=sum(values.size for values in sent.numbers.values()))
    samples = _samples(sent, y.reshape(count, -1), model)
    if y.ndim == 3 and model is not None and model.forecaster.recipe.joint:
        samples = [
            replace(sample, static={GROUP_ID: place // y.shape[1]})
            for place, sample in enumerate(samples)
        ]
    where = Where(
        sample=lambda _: sent.place("y"),
        id=lambda place: sent.place("unique_id", place),
        start=lambda place: sent.place("start", place),
    )
    check_ids(samples, where)
    given = sent.asked.parameters
    grid = grid_of(samples, model, freq=given.freq, tz=given.tz, where=where)
    levels = levels_of(words_of(given.quantiles), "/parameters/quantiles")
    fallback = {} if given.fallback is None else {"fallback": given.fallback}
    fields: dict[str, Any] = {"model": reference, "h": given.h, "tz": given.tz}
    fields |= {"freq": grid.step, "quantiles": levels, "options": fallback, "data": {}}
    return validated(grid.request, fields).model_copy(update=tables_of(samples, grid))


def relocation(sent: Sent) -> Callable[[str], str]:
    """From pointers into a request of /v1/forecasts to pointers into `sent`."""

    def moved(pointer: str) -> str:
        parts = parts_of(pointer)
        match parts[:1]:
            case ["data"]:
                return sent.place(INPUTS.get("".join(parts[1:2]), "x_past")) or sent.place("y")
            case ["future"]:
                return sent.place("x_future") or sent.place("y")
            case ["inputs" | "parameters"]:
                return pointer
            case [name] if PARAMETERS.get(name) in sent.asked.parameters.model_fields_set:
                return f"/parameters/{PARAMETERS[name]}"
        return ""

    return moved


def _series(sent: Sent) -> Numbers:
    y = sent.numbers.get("y")
    if y is None:
        raise _invalid("The input y is missing.", "/inputs")
    if y.ndim < 2:
        raise _invalid("y is [series, time] or [group, variate, time].", f"{sent.place('y')}/shape")
    if not y.size:
        item = Item("The tensor has no values.", f"{sent.place('y')}/shape", "insufficient_history")
        raise of_faults("There is no history.", [item])
    return y


def _samples(sent: Sent, y: Numbers, model: Model | None) -> list[Sample]:
    """A sample a row of `y` `[series, time]`."""
    count, length = y.shape
    inputs = inputs_of(model)
    known = [column.name for column in inputs.known]
    past = _columns(sent, "x_past", count, [column.name for column in inputs.columns])
    if past and past[0] and len(next(iter(past[0].values()))) != length:
        message = f"x_past has a step for each of the {length} of y."
        raise _invalid(message, f"{sent.place('x_past')}/shape")
    future = _columns(sent, "x_future", count, known)
    ids = _texts(sent, "unique_id", count) or [str(place) for place in range(count)]
    starts: Sequence[str | None] = _texts(sent, "start", count) or [None] * count
    return [
        Sample(ids[i], y[i], starts[i], past[i] if past else {}, future[i] if future else {})
        for i in range(count)
    ]


def _columns(sent: Sent, name: str, count: int, names: Sequence[str]) -> list[dict[str, Cells]]:
    """The columns of a tensor `[series, step, column]`, by series; empty where it is not there."""
    values = sent.numbers.get(name)
    if values is None:
        return []
    place = f"{sent.place(name)}/shape"
    if values.ndim != 3 or values.shape[0] != count or values.shape[2] != len(names):
        read = f"{len(names)} columns ({', '.join(names)})" if names else "no columns"
        raise _invalid(f"{name} is [{count} series, step, column]; the model reads {read}.", place)
    if not values.shape[1] or not names:
        raise _invalid(f"{name} is empty, or the model does not read it. Leave it out.", place)
    by_series = values.transpose(0, 2, 1)
    return [
        {column: pl.Series(cells).fill_nan(None) for column, cells in zip(names, rows, strict=True)}
        for rows in by_series
    ]


def _texts(sent: Sent, name: str, count: int) -> list[str] | None:
    texts = sent.texts.get(name)
    if texts is not None and len(texts) != count:
        message = f"{name} has one text for each of the {count} series."
        raise _invalid(message, f"{sent.place(name)}/shape")
    return texts


def _invalid(message: str, pointer: str) -> Problem:
    return Problem("invalid-request", "A tensor is not as specified.", [Item(message, pointer)])
