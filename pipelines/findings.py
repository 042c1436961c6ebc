"""What was found in the series of a table: faults and warnings, each once a series.

Messages hold positions, counts, ids and time stamps, never values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tsformer.errors import Fault

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """One series of the table: its id, its rows as given, and what was found."""

    id: str | int
    rows: int
    status: Literal["ok", "invalid"]
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What was found in a table: one entry a series, in order of first appearance.

    `faults` and `warnings` are those that belong to no single series.
    """

    series: tuple[SeriesReport, ...]
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()

    @property
    def invalid(self) -> tuple[SeriesReport, ...]:
        """The series that cannot be used."""
        return tuple(entry for entry in self.series if entry.status == "invalid")

    @property
    def all_faults(self) -> tuple[Fault, ...]:
        """Every fault, those of the whole table first."""
        return (*self.faults, *(fault for entry in self.series for fault in entry.faults))

    @property
    def all_warnings(self) -> tuple[Fault, ...]:
        """Every warning, those of the whole table first."""
        return (*self.warnings, *(one for entry in self.series for one in entry.warnings))


@dataclass(slots=True)
class Findings:
    """Faults and warnings while a table is read; `ids[n]` is the id of series number n."""

    ids: Sequence[str | int]
    faults: dict[int, list[Fault]] = field(default_factory=dict)
    warnings: dict[int, list[Fault]] = field(default_factory=dict)

    def fault(
        self, series: int, code: str, message: str, *, row: int | None = None,
        column: str | None = None, count: int | None = None,
    ) -> None:  # fmt: skip
        """Notes a fault of one series."""
        fault = Fault(code, message, self.ids[series], column, row, count)
        self.faults.setdefault(series, []).append(fault)

    def warn(self, series: int, code: str, message: str, *, count: int | None = None) -> None:
        """Notes a warning about one series."""
        warning = Fault(code, message, self.ids[series], count=count)
        self.warnings.setdefault(series, []).append(warning)

    def report(self, rows: Rows, faults: Sequence[Fault], warnings: Sequence[Fault]) -> Report:
        """The report on all series; `rows` counts those of each series, the rest is the table's."""
        entries = (
            SeriesReport(
                id=self.ids[n],
                rows=int(count),
                status="invalid" if n in self.faults else "ok",
                faults=tuple(self.faults.get(n, ())),
                warnings=tuple(self.warnings.get(n, ())),
            )
            for n, count in enumerate(rows)
        )
        return Report(tuple(entries), tuple(faults), tuple(warnings))


@dataclass(frozen=True, slots=True)
class Offence:
    """The rows of one series that a mask picks: how many, and the position of the first."""

    series: int
    position: int
    count: int


def offences(mask: Mask, series: Rows) -> Iterator[Offence]:
    """The rows that `mask` picks, series by series; `series` numbers each row's, -1 is none."""
    positions = np.flatnonzero(mask)
    positions = positions[series[positions] >= 0]
    numbers, firsts, counts = np.unique(series[positions], return_index=True, return_counts=True)
    for number, first, count in zip(numbers, firsts, counts, strict=True):
        yield Offence(int(number), int(positions[first]), int(count))


def counted(count: int, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`: a number with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"
