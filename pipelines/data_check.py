"""What a file is: which public data set, whether unaltered, and what a model would meet in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from pipelines.catalogue import CATALOGUE, Dataset, identify
from pipelines.panel import Report, Schema, read_panel
from pipelines.sources import SAMPLE, SAMPLE_FILE, locate, read_table, shape_fault
from tsformer.errors import DataError, Fault

IDS = ("unique_id", "series", "id", "item_id", "series_id")
TIMES = ("ds", "date", "time", "timestamp", "datetime", "t")
INFERRED = "frequency_inferred"  # the frequency is a field of Check already
VALUES = ("y", "value", "target")


@dataclass(frozen=True, slots=True)
class Check:
    """What was found in a file.

    `dataset` is the public set that it is or claims to be; `origin` says in words how it compares
    with the original. `schema` is how the columns were understood and `frequency` what the stamps
    showed, both None when that failed. `problems` and `warnings` are sentences; without a problem
    the table is ready to use.
    """

    path: Path
    size_bytes: int
    dataset: str | None
    origin: str
    rows: int
    columns: tuple[str, ...]
    schema: Schema | None
    series: int
    frequency: str | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check(source: str | Path) -> Check:
    """Reads and checks the file behind a path or name.

    Raises NotFoundError when there is no such file, and DataError when it is not a table.
    """
    path = locate(source)
    table = read_table(path)
    name, origin, altered = _origin(path, table)
    schema = _guess(table)
    series, frequency, report = _panel(table, schema)
    return Check(
        path=path,
        size_bytes=path.stat().st_size,
        dataset=name,
        origin=origin,
        rows=table.height,
        columns=tuple(table.columns),
        schema=schema,
        series=series,
        frequency=frequency,
        problems=(*altered, *_sentences(report, "faults")),
        warnings=_sentences(report, "warnings"),
    )


def _origin(path: Path, table: pl.DataFrame) -> tuple[str | None, str, list[str]]:
    """The name of the data set, how the file compares with it, and what is wrong with that."""
    if path == SAMPLE_FILE:
        return SAMPLE, "the sample that is shipped with tsformer", []
    if known := identify(path):
        return known.name, _genuine(path, known), []
    claimed = next((d for d in CATALOGUE.values() if path.name in d.files), None)
    if claimed is None:
        return None, "not a public data set that tsformer knows", []
    if fault := shape_fault(claimed, table):
        return claimed.name, "altered", [f"It is called {path.name}, but {fault}."]
    kind = "a conversion that is not known here" if path.suffix == ".parquet" else "altered"
    fault = (
        f"Rows and columns are those of '{claimed.name}', the checksum is not: values may differ."
    )
    return claimed.name, kind, [fault]


def _genuine(path: Path, known: Dataset) -> str:
    if path.suffix.lower() == ".parquet":
        return "a known conversion of the original to Parquet"
    if path.stat().st_size == known.size_bytes:
        return "the original, byte for byte"
    return "the original with other line ends (CRLF)"


def _guess(table: pl.DataFrame) -> Schema | None:
    """Roles of the columns by their usual names and types; None where that does not suffice."""
    dtypes = table.schema
    numbers = [name for name, dtype in dtypes.items() if dtype.is_numeric()]
    stamps = [name for name, dtype in dtypes.items() if dtype.is_temporal()]
    time = next((name for name in (*TIMES, *stamps) if name in dtypes), None)
    identity = next((name for name in IDS if name in dtypes), None)
    values = [name for name in numbers if name not in (time, identity)]
    if time is None or not values:
        return None
    if identity is not None:
        values = [next((name for name in VALUES if name in values), values[0])]
    return Schema(id=identity, time=time, targets=tuple(values))


def _panel(table: pl.DataFrame, schema: Schema | None) -> tuple[int, str | None, Report]:
    """How many series there are, their frequency, and what was wrong on the way."""
    if schema is None:
        return 0, None, Report(series=(), faults=(_no_schema(table),), warnings=())
    try:
        panel, report = read_panel(table, schema=schema, on_invalid="skip")
    except DataError as error:
        faults = error.faults or (Fault("unreadable", str(error)),)
        return 0, None, Report(series=(), faults=faults, warnings=())
    return len(panel.ids), str(panel.frequency), report


def _no_schema(table: pl.DataFrame) -> Fault:
    return Fault(
        "missing_column",
        f"Columns {', '.join(table.columns[:8])}: expected a column of dates (best called ds or "
        "date) and at least one of numbers. Name the columns in a YAML under configs/data/.",
    )


def _sentences(report: Report, kind: Literal["faults", "warnings"]) -> tuple[str, ...]:
    """The faults or warnings of the whole table, then those of each series."""
    own: tuple[Fault, ...] = getattr(report, kind)
    of_series = (fault for one in report.series for fault in getattr(one, kind))
    return tuple(str(fault) for fault in (*own, *of_series) if fault.code != INFERRED)
