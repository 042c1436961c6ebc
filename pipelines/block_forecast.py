"""One block of series: read as the version was trained, forecast, and laid out as tables.

A series that cannot be forecast costs no other; it is named with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from pipelines.blocks import Block, Span
from pipelines.data_section import numbered
from pipelines.findings import Report
from pipelines.forecast import Forecast, level_name
from pipelines.forecaster import Forecaster
from pipelines.panel import Panel, read_panel
from pipelines.parts import FORECAST, REJECTED, SERIES
from pipelines.recipe import Recipe
from pipelines.schema import Schema
from pipelines.sections import Data
from pipelines.tables import read_rows
from pipelines.versions import ModelVersion
from tsformer.errors import DataError, Fault

Kinds = dict[str, pl.DataType]

FAULTS_TOLD = 3  # of a series; a missing future has one a step


@dataclass(frozen=True, slots=True)
class Asked:
    """What is forecast, the same for every block.

    The verified files of `version` are in `directory`; without `horizon` it is as trained. Where
    there is a `store`, its address, the forecasts are recorded in it.
    """

    version: ModelVersion
    directory: Path
    data: Data
    horizon: int | None
    levels: tuple[float, ...]
    store: str | None = None

    def forecaster(self, *, device: str = "auto") -> Forecaster:
        """The version, loaded."""
        return Forecaster.load(self.directory, digest=self.version.digest, device=device)


@dataclass(frozen=True, slots=True)
class Done:
    """A block that was forecast: the series that could be, and its tables by name."""

    panel: Panel
    forecast: Forecast
    tables: dict[str, pl.DataFrame]


def forecast_block(forecaster: Forecaster, asked: Asked, schema: Schema, block: Block) -> Done:
    """Forecasts a block; its tables hold how each series was answered, and the rejected."""
    table = _rows(block.table, schema.roles)
    panel, report = _panel(table, asked.data, schema, forecaster.recipe)
    rejected = [_rejected(entry.id, entry.faults) for entry in report.invalid]
    rejected += [_rejected(None, [fault]) for fault in report.faults]
    future = _future(block.future, asked.data, forecaster.recipe, table)
    panel, forecast, refused = _predict(forecaster, panel, asked, future)
    silent = [entry.unique_id for entry in forecast.series if not entry.rows]
    rejected += refused + [(name, "all_missing", "It has no value at all.") for name in silent]
    own = {"unique_id": asked.data.id, "ds": asked.data.time}
    tables = {
        FORECAST: forecast.table.rename(own),
        SERIES: _answered(forecast, report, panel).rename({"unique_id": asked.data.id}),
        REJECTED: _table(rejected, (asked.data.id, "reason", "message")),
    }
    kinds = _kinds(table, asked.data)
    return Done(panel, forecast, {name: _typed(tables[name], kinds) for name in tables})


def _kinds(table: pl.DataFrame, data: Data) -> Kinds:
    """The types of ids and days, as the table has them."""
    whole = table.schema[data.id].is_integer()
    kinds: Kinds = {data.id: pl.Int64() if whole else pl.String()}
    return kinds | ({data.time: pl.Date()} if table.schema[data.time] == pl.Date else {})


def _rows(spans: Sequence[Span], columns: Mapping[str, str]) -> pl.DataFrame:
    parts = [read_rows(s.file, columns=columns, start=s.start, rows=s.rows) for s in spans]
    return pl.concat(parts, how="vertical_relaxed")


def _panel(table: pl.DataFrame, data: Data, schema: Schema, recipe: Recipe) -> tuple[Panel, Report]:
    """The series of a block without faults; all of them are read on the grid of the model.

    Where most of a block have another step, `fill` does not make series of the model's step of
    them.
    """
    table = numbered(table, data)

    def read(freq: str | None, fill: str) -> tuple[Panel, Report]:
        return read_panel(
            table, schema=schema, freq=freq, tz=data.tz or None, on_invalid="skip", fill=fill
        )

    panel, report = read(data.freq or None, data.fill)
    if data.freq or str(panel.frequency) == recipe.frequency:
        return panel, report
    return read(recipe.frequency, "none")


def future_columns(data: Data, recipe: Recipe) -> dict[str, str]:
    """What is read of the table of the horizon: each column and its role."""
    known = {column.name: "covariate" for column in recipe.inputs.known}
    return {data.id: "id", data.time: "time", **known}


def _future(
    spans: Sequence[Span], data: Data, recipe: Recipe, table: pl.DataFrame
) -> pl.DataFrame | None:
    """The covariates of the horizon; without rows where no series of the block has any."""
    if not recipe.inputs.known:
        return None
    columns = future_columns(data, recipe)
    return _rows(spans, columns) if spans else table.select([*columns]).clear()


Rejected = tuple[str | int | None, str, str]  # the series, the code of the fault, and all it says


def _predict(
    forecaster: Forecaster, panel: Panel, asked: Asked, future: pl.DataFrame | None
) -> tuple[Panel, Forecast, list[Rejected]]:
    """The series that can be forecast, their forecast, and the rest."""
    rejected: list[Rejected] = []
    while panel.ids:
        try:
            forecast = forecaster.predict(
                panel, horizon=asked.horizon, levels=asked.levels, future=future
            )
        except DataError as error:
            faults: dict[str | int, list[Fault]] = {name: [] for name in panel.ids}
            for fault in error.faults:
                if fault.series is not None:
                    faults[fault.series].append(fault)
            rejected += [_rejected(name, of_it) for name, of_it in faults.items() if of_it]
            kept = [place for place, name in enumerate(panel.ids) if not faults[name]]
            if len(kept) == len(panel.ids):
                raise
            panel = panel.take(kept)
        else:
            return panel, forecast, rejected
    kinds: Kinds = {"unique_id": pl.String(), "ds": panel.table.schema["time"]}
    kinds |= dict.fromkeys(("mean", *map(level_name, asked.levels)), pl.Float64())
    return panel, Forecast(pl.DataFrame(schema=kinds), ()), rejected


def _rejected(name: str | int | None, faults: Sequence[Fault]) -> Rejected:
    more = f" And {len(faults) - FAULTS_TOLD} more." if len(faults) > FAULTS_TOLD else ""
    told = " ".join(fault.message for fault in faults[:FAULTS_TOLD])
    return name, faults[0].code, told + more


def _answered(forecast: Forecast, report: Report, panel: Panel) -> pl.DataFrame:
    """A row a series with a forecast: how it came by it."""
    codes: dict[object, dict[str, None]] = {}
    for warning in (*report.all_warnings, *forecast.warnings):
        codes.setdefault(warning.series, {})[warning.code] = None
    rows = [
        (
            entry.unique_id, entry.status, entry.method, entry.rows, entry.rows_used, entry.padded,
            entry.context_end, entry.fallback["model"] if entry.fallback else None,
            entry.fallback["reason"] if entry.fallback else None,
            ",".join(codes.get(entry.unique_id, ())),
        )
        for entry in forecast.series
        if entry.rows
    ]  # fmt: skip
    names = (
        "unique_id", "status", "method", "rows", "rows_used", "padded", "context_end", "fallback",
        "reason", "warnings",
    )  # fmt: skip
    kinds: Kinds = {"context_end": panel.table.schema["time"]}
    kinds |= dict.fromkeys(("rows", "rows_used", "padded"), pl.Int64())
    return _typed(_table(rows, names), kinds)


def _table(rows: Sequence[tuple[object, ...]], names: Sequence[str]) -> pl.DataFrame:
    """Rows as columns; one without any entry is of text."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(names)
    made = {name: pl.Series(name, list(cells)) for name, cells in zip(names, columns, strict=True)}
    return pl.DataFrame(made).with_columns(pl.col(pl.Null).cast(pl.String))


def _typed(table: pl.DataFrame, kinds: Kinds) -> pl.DataFrame:
    return table.cast({name: kind for name, kind in kinds.items() if name in table.columns})
