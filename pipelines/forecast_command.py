"""`tsformer forecast`: a table as the version was trained on, into a file or a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipelines.batch_forecast import Summary, forecast_folder
from pipelines.block_forecast import Asked
from pipelines.data_section import read
from pipelines.forecast import Forecast
from pipelines.home import Home
from pipelines.outputs import output_file
from pipelines.published import data_of
from pipelines.recording import record, scales_of
from pipelines.registry import Registry
from pipelines.sources import locate, read_table
from pipelines.store import Store
from tsformer.errors import ConfigError

FILES = (".csv", ".parquet")
NOTES_SHOWN = 5
LINES = 10  # of a long batch, in a log


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    table: str | None
    future: Path | None
    horizon: int | None
    levels: str
    out: Path
    workers: int | None
    record: bool = False


def forecast_command(reference: str, wanted: Wanted, *, home: Home) -> None:
    """`tsformer forecast`: every series of the table, into a file or a folder of Parquet files."""
    console = Console(markup=False)
    if reference.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"'{reference}': forecast takes a model, not an experiment: tsformer forecast "
            f"{Path(reference).stem}"
        )
    into_file, levels = _into_file(wanted.out), parse_levels(wanted.levels)
    fetched = Registry(home).fetch(reference)
    data = data_of(fetched.version)
    if wanted.table is not None:
        data = replace(data, source=wanted.table)
    asked = Asked(
        version=fetched.version,
        directory=fetched.directory,
        data=data,
        horizon=wanted.horizon,
        levels=levels,
        store=home.store if wanted.record else None,
    )
    forecast = _forecast_file if into_file else _forecast_folder
    forecast(asked, wanted, console=console)


def _into_file(out: Path) -> bool:
    """Whether `out` is a file, which can be written; ConfigError where it is no folder either."""
    if out.suffix in FILES:
        output_file(out, option="--out")
        return True
    if out.suffix and not out.is_dir():
        raise ConfigError(
            f"--out must end in .csv or .parquet, or be a folder, got '{out.name}'. (A folder "
            "whose name has a dot must be there already.)"
        )
    return False


# --- in this process ------------------------------------------------------------------------------


def _forecast_file(asked: Asked, wanted: Wanted, *, console: Console) -> None:
    data = asked.data
    forecaster = asked.forecaster()
    panel, report, _ = read(data)
    for warning in report.all_warnings[:NOTES_SHOWN]:
        console.print(f"Note: {warning}", highlight=False)
    forecast = forecaster.predict(
        panel,
        horizon=asked.horizon,
        levels=asked.levels,
        future=None if wanted.future is None else read_table(wanted.future, id=data.id),
    )
    if asked.store is not None:
        scales = scales_of(panel, profile=forecaster.profile, season=forecaster.recipe.season)
        record(Store.at(asked.store), asked.version, panel, forecast, scales=scales)
    names = {"unique_id": data.id or "unique_id", "ds": data.time}
    answer = as_days(forecast.table).rename(names)
    write = answer.write_csv if wanted.out.suffix == ".csv" else answer.write_parquet
    write(wanted.out)
    notes = forecast_notes(forecast)
    for note in notes[:NOTES_SHOWN]:
        console.print(f"Note: {note}", highlight=False, soft_wrap=True)
    if len(notes) > NOTES_SHOWN:
        console.print(f"Note: {len(notes) - NOTES_SHOWN} more of this kind.", highlight=False)
    console.print(
        f"{len(forecast.series)} series, {len(answer):,} rows by {asked.version} "
        f"{asked.version.kind}: {wanted.out}",
        soft_wrap=True,
    )


def forecast_notes(forecast: Forecast) -> list[str]:
    """What a reader of the numbers must know: fallbacks, series without rows, padded histories."""
    replaced = [
        f"{entry.unique_id}: forecast by {entry.fallback['model']} ({entry.fallback['reason']})"
        for entry in forecast.series
        if entry.fallback
    ]
    silent = [f"{entry.unique_id}: {entry.status}" for entry in forecast.series if not entry.rows]
    return [*replaced, *silent, *map(str, forecast.warnings)]


def as_days(table: pl.DataFrame) -> pl.DataFrame:
    """The table with days instead of stamps where every naive stamp is a midnight."""
    stamps = table["ds"]
    if stamps.dtype != pl.Datetime("us") or (stamps.dt.truncate("1d") != stamps).any():
        return table
    return table.with_columns(pl.col("ds").cast(pl.Date))


def parse_levels(text: str) -> tuple[float, ...]:
    """Quantile levels from `0.1,0.5,0.9`."""
    try:
        levels = tuple(sorted(float(part) for part in text.split(",") if part.strip()))
    except ValueError:
        raise ConfigError(f"--levels must be numbers like 0.1,0.5,0.9, got '{text}'.") from None
    if any(not 0 < level < 1 for level in levels) or len(set(levels)) < len(levels):
        raise ConfigError(f"--levels must lie between 0 and 1 without repeats, got '{text}'.")
    return levels


# --- by a pool of actors --------------------------------------------------------------------------


def _forecast_folder(asked: Asked, wanted: Wanted, *, console: Console) -> None:
    table = locate(asked.data.source or asked.data.name)
    columns = (TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task("blocks", total=None)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)
            step = max(1, total // LINES)
            if not console.is_terminal and (done % step == 0 or done == total):
                console.print(f"  {done:,} of {total:,} blocks", highlight=False)

        found = forecast_folder(
            asked,
            table,
            future=wanted.future,
            folder=wanted.out,
            workers=wanted.workers,
            report=report,
        )
    for line in told(found):
        console.print(f"Note: {line}", highlight=False, soft_wrap=True)
    console.print(
        f"{found.series:,} series, {found.rows:,} rows by {asked.version} {asked.version.kind}: "
        f"{wanted.out / 'forecast'}",
        soft_wrap=True,
    )


def told(found: Summary) -> list[str]:
    """What a reader of the numbers must know of a batch."""
    lines = []
    if found.fallbacks:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in found.fallbacks.items())
        lines.append(
            f"{sum(found.fallbacks.values()):,} series were forecast by a fallback ({counts}); "
            "series/ names them."
        )
    if found.rejected:
        counts = ", ".join(f"{reason} {count:,}" for reason, count in found.rejected.items())
        lines.append(
            f"{sum(found.rejected.values()):,} series have no forecast ({counts}); rejected/ "
            "names them and says why."
        )
    return lines
