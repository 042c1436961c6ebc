"""A forecast and what the model read for it, of the same windows."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import polars as pl

from pipelines import shares
from pipelines.shares import Windows
from serving import forecasting, tables
from serving.answers import answered
from serving.forecasting import Forecasted
from serving.models import Model, registered
from serving.preparation import Prepared, prepare
from serving.problems import Item, Problem
from serving.schemas.forecasts import ExplainRequest
from serving.service import Service
from serving.threads import off_loop
from tsformer.explain import EXPLAINED_BY

KINDS = ", ".join((*EXPLAINED_BY["selection"], *EXPLAINED_BY["variates"]))


async def explain(
    service: Service, asked: ExplainRequest, *, seconds: float, size: int
) -> tuple[Forecasted, dict[str, Any]]:
    """The forecast, and the tables of its explanation by name, in columns."""
    limits = service.settings.limits
    count = len(asked.quantiles)
    limits.check_count("quantiles", "/quantiles", count=count, maximum=limits.quantiles)
    tables.check_free(asked.columns, asked.quantiles)
    model = _able(await registered(service, asked.model))
    with tables.placed(asked.columns):
        read = await off_loop(size, forecasting.read_data, asked, model, limits)
        data, parsed = read.data, time.perf_counter()
        prepared = await prepare(service, model, forecasting.inquiry_of(asked, read, size))
        windows = _windows(prepared)
        cells = shares.cells_of(model.forecaster, windows, steps=prepared.parts[0].plan.horizon)
        limits.check_explanation(cells)
        found = await answered(service, prepared, seconds=seconds)
    told = await asyncio.to_thread(_tables, asked, prepared, windows)
    return Forecasted(asked, data, found, parsed), told


def _able(model: Model | None) -> Model:
    """`model`, if it says what it read."""
    if model is not None and shares.kind_of(model.forecaster) is not None:
        return model
    message = f"This model does not say what it read. Kinds that do: {KINDS}."
    raise Problem("model-incompatible", message, [Item(message, "/model")])


def _windows(prepared: Prepared) -> list[Windows]:
    """The windows of each part that has any: what the first block of the forecast reads."""
    made = []
    for part in prepared.parts:
        ids = [part.panel.ids[place] for place in part.plan.modelled]
        if not ids:
            continue
        query = part.plan.course.question()
        labels = [prepared.groups.of(name) for name in ids[:: query.variates]]
        groups = [label[1] if label[0] == "group" else None for label in labels]
        made.append(Windows(query, ids, groups))
    return made


def _tables(asked: ExplainRequest, prepared: Prepared, windows: list[Windows]) -> dict[str, Any]:
    forecaster, target = prepared.model.forecaster, asked.columns.target
    names: tuple[str, ...]
    if shares.kind_of(forecaster) == "variates":
        found = [shares.by_variate(forecaster, one, target=target) for one in windows]
        names = ("variate_attention",)
    else:
        found = [
            shares.by_variable(
                forecaster, one, target=target, steps=prepared.parts[0].plan.horizon,
                together=asked.explain.aggregate == "request",
            )
            for one in windows
        ]  # fmt: skip
        names = ("variables", "attention")
    return {name: _columns([part[name] for part in found], asked) for name in names}


def _columns(parts: list[pl.DataFrame], asked: ExplainRequest) -> dict[str, Any]:
    """Tables below each other as columns, the id under the client's name."""
    names = {"unique_id": asked.columns.id}
    columns: dict[str, list[Any]] = {}
    for part in parts:
        for column in part:
            name = names.get(column.name, column.name)
            columns.setdefault(name, []).extend(column.to_list())
    return columns
