"""Panels that are larger than the memory: read in blocks of whole series, and mapped from files.

The same checks, in the same order, as of any table; what is kept of it lies in files, of which the
memory holds the pages that are read. Three things are asked of such a table: Parquet, each series
in one file (`pipelines.blocks`), and covariates that are numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.blocks import BLOCK_CELLS, Block, Span, blocks, check_files, parquet_files
from pipelines.findings import Report, SeriesReport
from pipelines.mapping import Column, Scratch
from pipelines.panel import Panel
from pipelines.room import memory_left
from pipelines.schema import Schema
from pipelines.sources import glance_at, locate
from pipelines.sql_source import is_sql
from pipelines.tables import PARQUET, read_rows
from tsformer.errors import ConfigError, DataError, Fault

# What a row of a table costs at most on its way into windows, measured; and a covariate of it.
BYTES_A_ROW = 150
BYTES_A_COVARIATE = 40
BITS_AT_ONCE = 2**20  # rows; a multiple of 8

ReadBlock = Callable[[pl.DataFrame, str | None], tuple[Panel, Report]]


def large_files(source: str, schema: Schema) -> tuple[Path, ...]:
    """The Parquet files behind `source` if they do not fit into the memory; else none."""
    if is_sql(source) or schema.id is None:
        return ()
    path = locate(source)
    if not path.is_dir() and not path.name.lower().endswith(PARQUET):
        return ()
    files = parquet_files(path, option="source")
    try:
        rows = sum(_rows_in(file) for file in files)
    except (pl.exceptions.PolarsError, OSError):  # whoever reads it says what is wrong with it
        return ()
    need = rows * (BYTES_A_ROW + BYTES_A_COVARIATE * len(schema.covariates))
    return files if need > memory_left() else ()


def read_large(
    files: Sequence[Path],
    *,
    schema: Schema,
    read: ReadBlock,
    scratch: Scratch,
    cells: int = BLOCK_CELLS,
) -> tuple[Panel, Report, str]:
    """The panel of `files`, its report and its fingerprint, as `pipelines.data_section.read` has them.

    `read` makes a panel of the rows of a block, on the step that it is told, if any. Blocks have
    about `cells` rows. Raises DataError with the faults of all blocks.
    """
    assert schema.id is not None
    check_files(files, schema.roles)
    _, digest = glance_at(files)
    writing = _Writing(schema, scratch)
    starts = dict(zip(files, np.cumsum([0, *map(_rows_in, files)]).tolist(), strict=False))
    faults: list[Fault] = []
    for block in blocks(files, id=schema.id, least=1, cells=cells):
        try:
            writing.add(*read(_rows_of(block, schema), writing.step))
        except DataError as error:
            if not error.faults:
                raise
            faults += (_in_file(fault, block.table, starts) for fault in error.faults)
    if faults:
        bad = len({fault.series for fault in faults})
        raise DataError(f"{bad} of the series are invalid.", faults)
    return writing.panel(), writing.report(), digest


@dataclass
class _Writing:
    """A panel as it is written, block after block."""

    schema: Schema
    scratch: Scratch
    first: Panel | None = None
    columns: dict[str, Column] = field(default_factory=dict)
    ids: list[str | int] = field(default_factory=list)
    static: list[pl.DataFrame] = field(default_factory=list)
    entries: list[SeriesReport] = field(default_factory=list)
    warnings: dict[str, Fault] = field(default_factory=dict)

    @property
    def step(self) -> str | None:
        """The step that all blocks have, once one is read."""
        return None if self.first is None else str(self.first.frequency)

    def add(self, panel: Panel, report: Report) -> None:
        """One more block."""
        if self.first is None:
            self.first = replace(panel, table=panel.table.clear(), static=None)
            kinds = dict.fromkeys(("y", *self.schema.covariates), np.float64)
            self.columns = {
                name: self.scratch.column(kind)
                for name, kind in {"series": np.int32, "time": np.int64, **kinds}.items()
            }
        _check_alike(panel, self.first)
        numbers = panel.table["series"].to_numpy() + len(self.ids)
        self.columns["series"].append(numbers)
        self.columns["time"].append(panel.table["time"].to_physical().to_numpy())
        for name in ("y", *self.schema.covariates):
            self.columns[name].append(_numbers(panel, name))
        self.ids += panel.ids
        if panel.static is not None:
            self.static.append(panel.static)
        self.entries += report.series
        self.warnings |= {str(one): one for one in report.warnings}

    def panel(self) -> Panel:
        """The panel of all blocks."""
        if self.first is None:
            message = "The table has no rows. Give at least two rows a series."
            raise DataError(message, [Fault("insufficient_history", message)])
        arrays = {name: column.whole() for name, column in self.columns.items()}
        time = self.first.table.schema["time"]
        columns = {
            "series": _series(arrays["series"], pa.int32()),
            "time": _series(arrays["time"], _arrow_type(time)),
            **{
                name: _series(arrays[name], pa.float64(), self.scratch)
                for name in ("y", *self.schema.covariates)
            },
        }
        static = pl.concat(self.static, how="vertical_relaxed") if self.static else None
        panel = replace(
            self.first, table=pl.DataFrame(columns), ids=tuple(self.ids), static=static,
            scratch=self.scratch,
        )  # fmt: skip
        vars(panel)["target"] = arrays["y"]  # as it would be computed, without a copy
        return panel

    def report(self) -> Report:
        """What was found in all blocks."""
        return Report(tuple(self.entries), warnings=tuple(self.warnings.values()))


def _rows_in(file: Path) -> int:
    return int(pl.scan_parquet(file, glob=False).select(pl.len()).collect().item())


def _rows_of(block: Block, schema: Schema) -> pl.DataFrame:
    parts = [
        read_rows(span.file, columns=schema.roles, start=span.start, rows=span.rows)
        for span in block.table
    ]
    return pl.concat(parts, how="vertical_relaxed")


def _in_file(fault: Fault, spans: Sequence[Span], starts: dict[Path, int]) -> Fault:
    """The fault with its row counted over all files, not from the start of its block."""
    if fault.row is None:
        return fault
    left = fault.row
    for span in spans:
        if left < span.rows:
            return replace(fault, row=starts[span.file] + span.start + left)
        left -= span.rows
    return replace(fault, row=None)


def _check_alike(panel: Panel, first: Panel) -> None:
    if panel.tz != first.tz or panel.table.schema["time"] != first.table.schema["time"]:
        raise DataError(
            f"The stamps of {panel.ids[0]} are in another zone or kind than those of "
            f"{first.ids[0]}. Give data.tz, or stamps of one kind."
        )


def _numbers(panel: Panel, name: str) -> NDArray[np.float64]:
    if panel.table.schema[name] == pl.String:
        raise ConfigError(
            f"data: '{name}' holds text, and the table is larger than the memory, where covariates "
            "are numbers. Give each word a number and name the column in 'categories' too."
        )
    return panel.column(name)


def _arrow_type(time: pl.DataType) -> pa.DataType:
    if isinstance(time, pl.Datetime):
        return pa.timestamp(time.time_unit, tz=time.time_zone)
    return pa.int64()


def _series(array: NDArray[Any], kind: pa.DataType, scratch: Scratch | None = None) -> pl.Series:
    """A column in the memory of `array`; with a `scratch`, NaN is null."""
    valid = None if scratch is None else _valid(array, scratch)
    buffers = [None if valid is None else pa.py_buffer(valid), pa.py_buffer(array)]
    series = pl.from_arrow(pa.Array.from_buffers(kind, len(array), buffers))
    assert isinstance(series, pl.Series)
    return series


def _valid(array: NDArray[Any], scratch: Scratch) -> NDArray[np.uint8] | None:
    """A bit for each number that is one; None where all are."""
    bits = scratch.column(np.uint8)
    gaps = 0
    for start in range(0, len(array), BITS_AT_ONCE):
        there = ~np.isnan(array[start : start + BITS_AT_ONCE])
        gaps += int(len(there) - there.sum())
        bits.append(np.packbits(there, bitorder="little"))
    return bits.whole() if gaps else None
