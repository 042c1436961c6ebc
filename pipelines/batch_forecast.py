"""Forecasts of more series than fit in memory: blocks of them, by a pool of actors of Ray Data.

A block is the same rows in every run and knows nothing of other blocks, so an interrupted run that
goes on ends with the same bytes as one that was not. Ray Data hands out the numbers of blocks;
actors read and write the tables themselves, with polars behind the guard of `pipelines.tables`,
since Ray brings an Arrow type whose decoding runs the sender's code.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.blocks import BLOCK_CELLS, Block, Span, blocks, check_files, parquet_files
from pipelines.experiment import Data
from pipelines.forecast import Forecast, level_name
from pipelines.forecaster import Forecaster, Recipe
from pipelines.local_ray import local_ray
from pipelines.material import numbered, schema_of
from pipelines.panel import Panel, Report, Schema, read_panel
from pipelines.parts import FORECAST, REJECTED, SERIES, Parts, parts_of
from pipelines.tables import read_rows
from tsformer.errors import ConfigError, DataError, Fault, IncompatibleError, TsformerError
from tsformer.settings import to_mapping

Progress = Callable[[int, int], None]
Kinds = dict[str, pl.DataType]

TRIES = 2  # of a block whose actor dies under it, which Ray would start again for ever


@dataclass(frozen=True, slots=True)
class Asked:
    """What is forecast, the same for every block.

    `version` is in `directory` as verified files of `digest`; without `horizon` it is as trained.
    """

    version: str
    digest: str
    directory: Path
    data: Data
    horizon: int | None
    levels: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What stands in a folder of forecasts: series, rows, and the rejected by their reason."""

    series: int
    rows: int
    fallbacks: Mapping[str, int]
    rejected: Mapping[str, int]


def forecast_folder(
    asked: Asked,
    table: Path,
    *,
    future: Path | None,
    folder: Path,
    workers: int | None = None,
    cells: int = BLOCK_CELLS,
    report: Progress | None = None,
) -> Summary:
    """Forecasts every series of the Parquet file or folder `table` into `folder`.

    Goes on where an earlier run was interrupted. `report` is told the blocks done, and all.
    Raises DataError before any work where a series does not lie whole in one file, and afterwards
    where a block failed, with what it said; the other blocks are done then.
    """
    forecaster = Forecaster.load(asked.directory, digest=asked.digest, device="cpu")
    recipe = forecaster.recipe
    _check_alone(asked, recipe, future)
    files = parquet_files(table, option="TABLE")
    ahead = parquet_files(future, option="--future") if future else ()
    schema = schema_of(asked.data, list(pl.read_parquet_schema(files[0])))
    check_files(files, schema.roles)
    steps = recipe.context + max(recipe.horizon, asked.horizon or 0)
    cut = blocks(files, id=asked.data.id, least=steps, future=ahead, cells=cells)
    with parts_of(_plan(asked, files, ahead, cells), folder) as parts:
        todo = [number for number in range(len(cut)) if not parts.done(number)]
        failed = dict.fromkeys(todo, "The process that worked on it died.")
        done = len(cut) - len(todo)
        for number, fault in _by_actors(asked, schema, parts, cut, todo=todo, workers=workers):
            done += 1
            if fault:
                failed[number] = fault
            else:
                del failed[number]
            if report:
                report(done, len(cut))
        if failed:
            raise _incomplete(failed, cut)
        return summary(parts)


def summary(parts: Parts) -> Summary:
    """What stands in the parts."""

    def counts(table: str, reason: str) -> dict[str, int]:
        rows = parts.table(table).drop_nulls(reason).group_by(reason).len().sort(reason).collect()
        return dict(rows.iter_rows())

    return Summary(
        series=parts.table(SERIES).select(pl.len()).collect().item(),
        rows=parts.table(FORECAST).select(pl.len()).collect().item(),
        fallbacks=counts(SERIES, "reason"),
        rejected=counts(REJECTED, "reason"),
    )


def _check_alone(asked: Asked, recipe: Recipe, future: Path | None) -> None:
    """Refuses what cannot be forecast series by series."""
    if recipe.joint:
        raise ConfigError(
            f"{asked.version} reads all series as one window, so they cannot be forecast in "
            "blocks. Forecast them into a file: --out forecast.parquet."
        )
    if not asked.data.id:
        raise ConfigError(
            f"{asked.version} was trained on a table without a column of ids. Forecast such a "
            "table into a file: --out forecast.parquet."
        )
    if recipe.inputs.known and future is None:
        names = ", ".join(column.name for column in recipe.inputs.known)
        raise ConfigError(f"{asked.version} needs {names} over the horizon: give --future.")


def _plan(asked: Asked, files: Sequence[Path], ahead: Sequence[Path], cells: int) -> dict[str, Any]:
    """What makes the parts of a folder belong together."""

    def stamped(paths: Sequence[Path]) -> list[list[Any]]:
        return [[str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]

    return {
        "version": asked.version,
        "digest": asked.digest,
        "horizon": asked.horizon,
        "levels": [*asked.levels],
        "columns": to_mapping(asked.data),
        "table": stamped(files),
        "future": stamped(ahead),
        "block_cells": cells,
    }


def _incomplete(failed: Mapping[int, str], cut: Sequence[Block]) -> DataError:
    faults = [
        Fault(
            "block_failed", f"{cut[number].table[0].file}, row {cut[number].table[0].start}: {said}"
        )
        for number, said in failed.items()
    ]
    return DataError(
        f"{len(failed)} of {len(cut)} blocks were not forecast, the others are done. Run the same "
        "again when the cause is removed.",
        faults,
    )


# --- one block ------------------------------------------------------------------------------------


def forecast_block(
    forecaster: Forecaster, asked: Asked, schema: Schema, block: Block
) -> dict[str, pl.DataFrame]:
    """The tables of a block by name: forecasts, how each series was answered, and the rejected."""
    table = _rows(block.table, schema.roles)
    panel, report = _panel(table, asked.data, schema, forecaster.recipe)
    rejected = [_rejected(entry.id, entry.faults) for entry in report.invalid]
    rejected += [_rejected(None, [fault]) for fault in report.faults]
    future = _future(block.future, asked.data, forecaster.recipe)
    forecast, refused = _predict(forecaster, panel, asked, future)
    silent = [entry.unique_id for entry in forecast.series if not entry.rows]
    rejected += refused + [(name, "all_missing", "It has no value at all.") for name in silent]
    names = {"unique_id": asked.data.id, "ds": asked.data.time}
    whole = table.schema[asked.data.id].is_integer()
    kinds: Kinds = {asked.data.id: pl.Int64() if whole else pl.String()}
    if table.schema[asked.data.time] == pl.Date:
        kinds[asked.data.time] = pl.Date()
    return {
        FORECAST: _typed(forecast.table.rename(names), kinds),
        SERIES: _typed(
            _answered(forecast, report, panel).rename({"unique_id": asked.data.id}), kinds
        ),
        REJECTED: _typed(_table(rejected, (asked.data.id, "reason", "message")), kinds),
    }


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


def _future(spans: Sequence[Span], data: Data, recipe: Recipe) -> pl.DataFrame | None:
    if not spans or not recipe.inputs.known:
        return None
    known = {column.name: "covariate" for column in recipe.inputs.known}
    return _rows(spans, {data.id: "id", data.time: "time", **known})


Rejected = tuple[str | int | None, str, str]  # the series, the code of the fault, and all it says


def _predict(
    forecaster: Forecaster, panel: Panel, asked: Asked, future: pl.DataFrame | None
) -> tuple[Forecast, list[Rejected]]:
    """The forecast of the series that can be, and the rest."""
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
            return forecast, rejected
    kinds: Kinds = {"unique_id": pl.String(), "ds": panel.table.schema["time"]}
    kinds |= dict.fromkeys(("mean", *map(level_name, asked.levels)), pl.Float64())
    return Forecast(pl.DataFrame(schema=kinds), ()), rejected


def _rejected(name: str | int | None, faults: Sequence[Fault]) -> Rejected:
    return name, faults[0].code, " ".join(fault.message for fault in faults)


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


# --- the pool -------------------------------------------------------------------------------------


class Actor:
    """Forecasts blocks one after the other; the model is loaded once."""

    def __init__(self, asked: Asked, schema: Schema, parts: Parts) -> None:
        self.asked, self.schema, self.parts = asked, schema, parts
        self.forecaster = Forecaster.load(asked.directory, digest=asked.digest)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Makes the part of a block; what went wrong is an answer too, for the others go on."""
        number, fault, everywhere = int(row["number"]), "", False
        try:
            if self.parts.tries(number) > TRIES:
                raise DataError(f"The process that worked on it died {TRIES} times.")
            block = Block.of_text(row["block"])
            self.parts.write(
                number, forecast_block(self.forecaster, self.asked, self.schema, block)
            )
        except (ConfigError, IncompatibleError) as error:
            fault, everywhere = str(error), True
        except TsformerError as error:
            fault = str(error)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        return {"number": number, "fault": fault, "everywhere": everywhere}


def _by_actors(
    asked: Asked,
    schema: Schema,
    parts: Parts,
    cut: Sequence[Block],
    *,
    todo: Sequence[int],
    workers: int | None,
) -> Iterator[tuple[int, str]]:
    """The numbers of the blocks `todo` as they are done, each with what went wrong, if anything.

    Raises IncompatibleError for what would go wrong with every block.
    """
    if not todo:
        return
    with _cluster(workers):
        import ray
        from ray import data

        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context = data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.max_errored_blocks = -1  # the others go on; what is missing is seen by its part
        size, resources = _pool(ray.cluster_resources(), workers, len(todo))
        rows = [{"number": number, "block": cut[number].text()} for number in todo]
        blocks_done = data.from_items(rows, override_num_blocks=len(rows)).map(
            Actor,
            fn_constructor_args=(asked, schema, parts),
            compute=data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2),
            runtime_env={"env_vars": {"POLARS_MAX_THREADS": "1"}},
            **resources,
        )
        for row in blocks_done.iter_rows():
            if row["everywhere"]:
                raise IncompatibleError(row["fault"])
            yield row["number"], row["fault"]


def _pool(
    found: Mapping[str, float], workers: int | None, blocks: int
) -> tuple[int, dict[str, float]]:
    """How many actors, and what each holds: a GPU where there are any, else a processor."""
    kind = "GPU" if found.get("GPU") else "CPU"
    size = max(1, min(int(found.get(kind, 1)), workers or blocks, blocks))
    return size, {f"num_{kind.lower()}s": 1}


@contextmanager
def _cluster(workers: int | None) -> Iterator[None]:
    """The Ray that this process is part of; else that of RAY_ADDRESS; else one of its own."""
    theirs = False
    if "RAY_ADDRESS" in os.environ:
        import ray

        theirs = not ray.is_initialized()
        if theirs:
            ray.init(log_to_driver=False, logging_level="error")
    try:
        with local_ray(processors=workers or os.cpu_count() or 1, shared_bytes=0):
            yield
    finally:
        if theirs:
            ray.shutdown()
