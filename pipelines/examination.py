"""Every check on the rows of a table, before a panel is made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.axis import (
    Axis,
    Numbered,
    Steps,
    check_grid,
    check_ids,
    find_frequency,
    null_ids,
    number_ids,
    read_axis,
)
from pipelines.findings import Findings
from pipelines.frequency import Frequency
from pipelines.schema import LONE_ID, Schema
from pipelines.values import Column, check_target, covariate, numbers, static_table
from tsformer.errors import DataError, Fault

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Examined:
    """A table read and checked: its axis, its columns by row as given, and what was found."""

    axis: Axis
    frequency: Frequency | None
    steps: Steps | None
    targets: tuple[pl.Series, ...]
    covariates: dict[str, pl.Series]
    static: pl.DataFrame | None
    series: Findings
    rows: Rows  # [series]
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]

    def rows_of_grids(self, schema: Schema) -> int:
        """Rows of the grids of the series without faults, those that are missing counted."""
        if self.steps is None or not len(self.steps.index):
            return 0
        offsets = self.axis.offsets
        lengths = np.where(np.diff(offsets) > 0, self.steps.index[offsets[1:] - 1] + 1, 0)
        kept = [n for n in range(len(self.series.ids)) if n not in self.series.faults]
        return int(lengths[0]) * len(kept) if schema.wide else int(lengths[kept].sum())


def examine(
    frame: pl.DataFrame, schema: Schema, *, freq: str | int | None, tz: str | None, fill: str,
    min_rows: int,
) -> Examined:  # fmt: skip
    """Every check on the rows of `frame`; in a wide table the axis is one for all series."""
    rows = np.arange(len(frame))
    numbered = number_ids(frame[schema.id]) if schema.id else _lone(len(frame))
    found = Findings(numbered.ids)
    check_ids(numbered, found)
    axis = read_axis(frame[schema.time], series=numbered.series, rows=rows, tz=tz, found=found)
    frequency, warnings = find_frequency(axis, freq, found=found)
    steps = None if frequency is None else check_grid(axis, frequency, fill=fill, found=found)

    def column(name: str, series: Rows) -> Column:
        return Column(name, frame[name], series, rows)

    covariates = {
        name: covariate(column(name, numbered.series), found=found) for name in schema.covariates
    }
    static = None
    if schema.static:
        static = static_table(frame.select(schema.static), numbered.series, rows, found)
    series = [numbered.series]
    if schema.wide:
        _raise_shared(found)
        warnings = (*warnings, *(replace(w, series=None) for w in found.warnings.get(0, ())))
        found = Findings(schema.targets)
        series = [np.full(len(frame), n) for n in range(len(schema.targets))]
    targets = []
    for name, of_cell in zip(schema.targets, series, strict=True):
        target = column(name, of_cell)
        values = numbers(target, found=found)
        check_target(target, values, min_rows=min_rows, fill=fill, found=found)
        targets.append(values)
    counts = [np.bincount(of_cell[of_cell >= 0], minlength=len(found.ids)) for of_cell in series]
    return Examined(
        axis, frequency, steps, tuple(targets), covariates, static, found,
        np.sum(counts, axis=0), null_ids(numbered.series, schema.id), warnings,
    )  # fmt: skip


def _lone(rows: int) -> Numbered:
    return Numbered((LONE_ID,), np.zeros(rows, dtype=np.int64))


def _raise_shared(found: Findings) -> None:
    """Faults of the axis that all series of a wide table share belong to none of them."""
    faults = [replace(fault, series=None) for faults in found.faults.values() for fault in faults]
    if faults:
        raise DataError("The time axis of the table cannot be used.", faults)
