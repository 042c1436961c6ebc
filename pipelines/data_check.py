"""What a file is: which public data set, whether unaltered, and what a model would meet in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import polars as pl

from pipelines.catalogue import CATALOGUE, Dataset, identify
from pipelines.findings import Report
from pipelines.frequency import SEASONS_NEEDED
from pipelines.panel import Panel, read_panel
from pipelines.roles import guess
from pipelines.schema import Schema
from pipelines.sources import SAMPLE, SAMPLE_FILE, locate, read_table, shape_fault
from tsformer.errors import DataError, Fault

if TYPE_CHECKING:
    from pipelines.experiment import Experiment
    from pipelines.sections import Data

INFERRED = "frequency_inferred"  # the frequency is a field of Check already
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
YAML = (".yaml", ".yml")
NAMED = 5  # short series


@dataclass(frozen=True, slots=True)
class Check:
    """What was found in a file.

    `dataset` is the public set that it is or claims to be; `origin` says in words how it compares
    with the original. `schema` is how the columns were understood and `frequency` what the stamps
    showed, both None when that failed. Of the `series`, `invalid` cannot be used. `problems` and
    `warnings` are sentences; without a problem the table is ready to use.
    """

    path: Path
    size_bytes: int
    dataset: str | None
    origin: str
    rows: int
    columns: tuple[str, ...]
    schema: Schema | None
    series: int
    invalid: int
    frequency: str | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def check(source: str | Path) -> Check:
    """Reads and checks the file behind a path or name.

    An experiment (.yaml) says what its columns mean; of any other table it is guessed. Raises
    NotFoundError when there is no such file, DataError when it is not a table, and ConfigError for
    an experiment that is not as specified.
    """
    experiment = _experiment(source)
    data = None if experiment is None else experiment.data
    path = locate(source if data is None else data.source or data.name)
    table = read_table(path, id="" if data is None else data.id)
    name, origin, altered = _origin(path, table)
    schema, panel, report = _guessed(table) if data is None else _declared(table, data)
    return Check(
        path=path,
        size_bytes=path.stat().st_size,
        dataset=name,
        origin=origin,
        rows=table.height,
        columns=tuple(table.columns),
        schema=schema,
        series=0 if panel is None else len(panel.ids) + len(report.invalid),
        invalid=len(report.invalid),
        frequency=None if panel is None else str(panel.frequency),
        problems=(*altered, *_sentences(report, "faults")),
        warnings=(*_short(panel, experiment), *_sentences(report, "warnings")),
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


def _experiment(source: str | Path) -> Experiment | None:
    """The experiment behind a path; None where `source` is a table or a name."""
    if Path(source).suffix.lower() not in YAML:
        return None
    from pipelines.experiment import Experiment  # it knows models, which a table does not need

    return Experiment.read(Path(source))


Examined = tuple[Schema | None, Panel | None, Report]


def _guessed(table: pl.DataFrame) -> Examined:
    """Roles, usable series and faults of a table of which nothing is known."""
    schema = guess(table)
    if schema is None:
        return None, None, _report(_no_schema(table))
    return _panel(table, schema)


def _declared(table: pl.DataFrame, data: Data) -> Examined:
    """The same for a table whose columns an experiment names."""
    from pipelines.data_section import schema_of

    schema = schema_of(data, table.columns)
    if data.freq.isdigit() and {data.time, data.id or data.time} <= {*table.columns}:
        steps = pl.int_range(pl.len())  # rows are counted, whatever the stamps say
        table = table.with_columns((steps.over(data.id) if data.id else steps).alias(data.time))
    return _panel(table, schema, freq=data.freq or None, tz=data.tz or None, fill=data.fill)


def _panel(
    table: pl.DataFrame,
    schema: Schema,
    *,
    freq: str | None = None,
    tz: str | None = None,
    fill: str = "none",
) -> Examined:
    """The series that can be used, and what was wrong on the way."""
    try:
        panel, report = read_panel(
            table, schema=schema, freq=freq, tz=tz, fill=fill, on_invalid="skip"
        )
    except DataError as error:
        faults = error.faults or (Fault("unreadable", str(error)),)
        return schema, None, _report(*faults, *_values(table, schema))
    return schema, panel, report


def _short(panel: Panel | None, experiment: Experiment | None) -> tuple[str, ...]:
    """The series with fewer rows than a training window of the experiment has, or than two seasons."""
    if panel is None or not panel.ids:
        return ()
    rows = np.diff(panel.offsets)
    if experiment is None:
        least = SEASONS_NEEDED * panel.frequency.season
        lack = f"fewer rows than two seasons take ({least:,}): too few to tell a season from noise"
        remedy = "Give them more rows, or leave them out."
    else:
        from pipelines.layout import borders_of  # it knows torch, which a table does not need

        window = experiment.window
        rows = borders_of(experiment.data, panel, rows).train
        least = max(window.context, *window.lags, 0) + window.horizon
        lack = f"fewer rows in the train part than a window takes ({least:,}): they give a training no window"
        remedy = "Shorten window.context, window.horizon or window.lags, or give them more rows."
    short = [repr(panel.ids[place]) for place in np.flatnonzero(rows < least)]
    if not short:
        return ()
    named = ", ".join(short[:NAMED]) + (", ..." if len(short) > NAMED else "")
    return (f"{len(short):,} of the {len(rows):,} usable series ({named}) have {lack}. {remedy}",)


def _values(table: pl.DataFrame, schema: Schema) -> tuple[Fault, ...]:
    """What is wrong with the values where the time axis that all series share is wrong as well."""
    if not schema.wide or not {schema.time, *schema.targets} <= {*table.columns}:
        return ()
    steps = table.with_columns(pl.int_range(pl.len()).alias(schema.time))
    _, report = read_panel(
        steps, schema=Schema(time=schema.time, targets=schema.targets), on_invalid="skip"
    )
    return report.all_faults


def _report(*faults: Fault) -> Report:
    return Report(series=(), faults=faults, warnings=())


def _no_schema(table: pl.DataFrame) -> Fault:
    separators = [mark for mark in SEPARATORS if mark in table.columns[0]]
    if table.width == 1 and separators:
        return Fault(
            "missing_column",
            f"There is one column, whose name has {SEPARATORS[separators[0]]} in it: expected "
            "fields between commas. Save the file with commas (and points in numbers).",
        )
    return Fault(
        "missing_column",
        f"Columns {', '.join(table.columns[:8])}: expected a column of dates, such as "
        "2024-01-31 or 2024-01-31T14:00:00, and at least one of numbers. Where it is there, name "
        "it in an experiment and check that: tsformer data check mine.yaml.",
    )


def _sentences(report: Report, kind: Literal["faults", "warnings"]) -> tuple[str, ...]:
    """The faults or warnings of the whole table, then those of each series."""
    own: tuple[Fault, ...] = getattr(report, kind)
    of_series = (fault for one in report.series for fault in getattr(one, kind))
    return tuple(str(fault) for fault in (*own, *of_series) if fault.code != INFERRED)
