"""The panel of a data section: its source read, its columns in their roles."""

from __future__ import annotations

import os

import polars as pl

from pipelines.findings import Report
from pipelines.large_panel import large_files, read_large
from pipelines.mapping import Scratch
from pipelines.panel import Panel, read_panel
from pipelines.schema import Schema
from pipelines.sections import Data
from pipelines.sources import cache_folder, load
from pipelines.stamps import read_stamps
from tsformer.errors import ConfigError, DataError


def read(data: Data) -> tuple[Panel, Report, str]:
    """The panel of a data section, with its report and the fingerprint of its table."""
    source = data.source or data.name
    if data.id and data.targets:
        schema = schema_of(data, [])
        if files := large_files(source, schema):
            return read_large(
                files,
                schema=schema,
                read=lambda table, step: _panel_of(table, data, schema, step),
                scratch=Scratch(cache_folder(os.environ) / "mapped"),
            )
    table, fingerprint = load(source, id=data.id)
    panel, report = _panel_of(table, data, schema_of(data, list(table.columns)), None)
    return panel, report, fingerprint


def _panel_of(
    table: pl.DataFrame, data: Data, schema: Schema, step: str | None
) -> tuple[Panel, Report]:
    """The panel of `table`, on the step that the data section or else `step` says."""
    return read_panel(
        numbered(table, data),
        schema=schema,
        freq=data.freq or step,
        tz=data.tz or None,
        fill=data.fill,
    )


def numbered(table: pl.DataFrame, data: Data) -> pl.DataFrame:
    """The table with the rows of each series counted in the order of their stamps.

    As it is unless the frequency is a number and the stamps are not. Equal stamps count in the
    order of the file, and so does a column that holds no stamps.
    """
    if not data.freq.isdigit() or table[data.time].dtype.is_integer():
        return table
    try:
        stamps = read_stamps(table[data.time], tz=data.tz or None).values
    except DataError:
        stamps = pl.Series([None] * len(table), dtype=pl.Int64)
    if stamps.has_nulls():
        stamps = pl.int_range(len(table), eager=True)
    table = table.with_columns(stamps.to_physical().alias(data.time))
    place = pl.col(data.time).rank("ordinal").cast(pl.Int64) - 1  # equal ones in their order
    return table.with_columns((place.over(data.id) if data.id else place).alias(data.time))


def schema_of(data: Data, columns: list[str]) -> Schema:
    """The schema of a data section; without targets every other column of a wide table is one."""
    named = {data.id, data.time, *data.known, *data.past, *data.static}
    targets = data.targets or tuple(c for c in columns if c not in named)
    if not targets:
        raise ConfigError("data: no column is left to forecast; name it in 'targets'.")
    return Schema(
        id=data.id or None, time=data.time, targets=targets,
        known=data.known, past=data.past, static=data.static,
    )  # fmt: skip
