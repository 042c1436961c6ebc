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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.block_forecast import Asked, forecast_block, future_columns
from pipelines.blocks import BLOCK_CELLS, Block, blocks, check_files, parquet_files
from pipelines.data_section import schema_of
from pipelines.local_ray import last_line, some_ray
from pipelines.parts import FORECAST, REJECTED, SERIES, Parts, parts_of
from pipelines.recipe import Recipe
from pipelines.recording import record, scales_of
from pipelines.schema import Schema
from pipelines.sections import Data
from pipelines.store import Store
from tsformer.errors import ConfigError, DataError, Fault, TsformerError, UnavailableError
from tsformer.settings import to_mapping

Progress = Callable[[int, int], None]

PLAIN_COLUMNS = 3  # id, time, target: with more of them a block has fewer rows
TRIES = 2  # of a block whose actor dies under it, which Ray would start again for ever


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
    Raises IncompatibleError and DataError before any work for what the model cannot give and where
    a series does not lie whole in one file; DataError afterwards where a block failed, with what it
    said, when all others are done, and UnavailableError where store or Ray give out.
    """
    forecaster = asked.forecaster(device="cpu")
    steps, recipe = forecaster.steps(asked.horizon), forecaster.recipe
    forecaster.check_levels(asked.levels)
    _check_alone(asked, recipe, future)
    _check_apart(table, folder)
    files = parquet_files(table, option="TABLE")
    ahead = parquet_files(future, option="--future") if future and recipe.inputs.known else ()
    schema = schema_of(asked.data, list(pl.read_parquet_schema(files[0])))
    _check_types(asked.data, recipe, schema, files, ahead)
    laid = recipe.context + max(recipe.horizon, steps)  # steps that each series is laid out over
    rows = cells * PLAIN_COLUMNS // max(PLAIN_COLUMNS, len(schema.roles))
    cut = blocks(files, id=asked.data.id, least=laid, future=ahead, cells=rows)
    if not cut:
        raise DataError(f"{table} has no rows.")
    if asked.store:
        Store.at(asked.store)  # it answers, before any work
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


def _check_apart(table: Path, folder: Path) -> None:
    """The second run would else take the parts of the first one for rows of the table."""
    if table.is_dir() and folder.resolve().is_relative_to(table.resolve()):
        raise ConfigError(f"--out: {folder} lies in the table's own folder. Choose another.")


def _check_types(
    data: Data, recipe: Recipe, schema: Schema, files: Sequence[Path], ahead: Sequence[Path]
) -> None:
    """Ids and stamps have one type in all files of the table, and ids the same in the future."""
    head = check_files(files, schema.roles)
    if not ahead:
        return
    there = check_files(ahead, future_columns(data, recipe))
    ours, theirs = head.schema[data.id], there.schema[data.id]
    if ours.is_integer() != theirs.is_integer():
        raise DataError(
            f"The ids of --future are {theirs}, those of the table {ours}. Give both in one type."
        )


def _plan(asked: Asked, files: Sequence[Path], ahead: Sequence[Path], cells: int) -> dict[str, Any]:
    """What makes the parts of a folder belong together."""

    def stamped(paths: Sequence[Path]) -> list[list[Any]]:
        return [[str(p.absolute()), p.stat().st_size, p.stat().st_mtime_ns] for p in paths]

    return {
        "version": str(asked.version),
        "digest": asked.version.digest,
        "horizon": asked.horizon,
        "levels": [*asked.levels],
        "columns": to_mapping(asked.data),
        "table": stamped(files),
        "future": stamped(ahead),
        "block_cells": cells,
        "record": asked.store is not None,
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


# --- the pool -------------------------------------------------------------------------------------


class Actor:
    """Forecasts blocks one after the other; the model is loaded once."""

    def __init__(self, asked: Asked, schema: Schema, parts: Parts) -> None:
        self.asked, self.schema, self.parts = asked, schema, parts
        self.forecaster = asked.forecaster()
        self.store = Store.at(asked.store) if asked.store else None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Makes the part of a block; what went wrong is an answer too, for the others go on."""
        number, fault = int(row["number"]), ""
        try:
            if self.parts.tries(number) > TRIES:
                raise DataError(f"The process that worked on it died {TRIES} times.")
            self._forecast(number, Block.of_text(row["block"]))
        except TsformerError as error:
            fault = str(error)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        return {"number": number, "fault": fault}

    def _forecast(self, number: int, block: Block) -> None:
        """Recorded before the part is there: what is done is recorded too."""
        done = forecast_block(self.forecaster, self.asked, self.schema, block)
        if self.store is not None:
            recipe, profile = self.forecaster.recipe, self.forecaster.profile
            scales = scales_of(done.panel, profile=profile, season=recipe.season)
            record(self.store, self.asked.version, done.panel, done.forecast, scales=scales)
        self.parts.write(number, done.tables)


def _by_actors(
    asked: Asked,
    schema: Schema,
    parts: Parts,
    cut: Sequence[Block],
    *,
    todo: Sequence[int],
    workers: int | None,
) -> Iterator[tuple[int, str]]:
    """The numbers of the blocks `todo` as they are done, each with what went wrong, if anything."""
    if not todo:
        return
    with some_ray(processors=workers or os.cpu_count() or 1, shared_bytes=0):
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
        try:
            for row in blocks_done.iter_rows():
                yield row["number"], row["fault"]
        except ray.exceptions.RayError as error:
            raise UnavailableError(
                f"Ray gave out: {last_line(error)}. The blocks that are done are kept; run the same "
                "again to go on."
            ) from error


def _pool(
    found: Mapping[str, float], workers: int | None, blocks: int
) -> tuple[int, dict[str, float]]:
    """How many actors, and what each holds: a GPU where there are any, else a processor."""
    kind = "GPU" if found.get("GPU") else "CPU"
    size = max(1, min(int(found.get(kind, 1)), workers or blocks, blocks))
    return size, {f"num_{kind.lower()}s": 1}
