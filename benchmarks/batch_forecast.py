"""Batch forecasts of more series than fit in memory, beside one process that reads and forecasts.

    python -m benchmarks.batch_forecast [--series 40000] [--rows 1000] [--limit 2200] [--workers 2]

A folder of Parquet files of hourly series is forecast by a ridge, every process under a limit of
memory (RLIMIT_DATA, in MiB) under which the whole table cannot be read and forecast at once: that
is tried first, and must fail. Then, without a limit, one process forecasts the first file the
plain way (read, panel, predict) in turns with nothing else; the batch is held against it by
processor seconds a series, which a busy machine spares, and by the clock. A limit below 1,900 is
too low for Ray itself: each of its processes reserves 1,200 MiB. The result goes to
benchmarks/results/batch_forecast-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl
import psutil

from benchmarks.machine import keep, machine
from pipelines.batch_forecast import forecast_folder
from pipelines.block_forecast import Asked
from pipelines.experiment import Experiment
from pipelines.material import Material
from pipelines.panel import read_panel
from pipelines.schema import Schema
from pipelines.training import fit_all
from pipelines.versions import ModelVersion

Contender = Callable[..., dict[str, float]]

MIB = 1024 * 1024
START = datetime(2024, 1, 1)
SERIES_A_FILE = 2_000
LEVELS = (0.1, 0.5, 0.9)
SCHEMA = Schema(id="unique_id", time="ds", targets=("y",))
STACK = 1 * MIB  # of a thread: reserved memory counts, and Ray has many threads
EVERY_SECONDS = 0.2  # between two looks at the memory


def write_table(folder: Path, *, series: int, rows: int) -> None:
    """Hourly series with a day and noise, so many in a file, never all in memory."""
    chance, hours = np.random.default_rng(0), np.arange(rows)
    stamps = pl.datetime_range(START, START + timedelta(hours=rows - 1), "1h", eager=True)
    for first in range(0, series, SERIES_A_FILE):
        count = min(SERIES_A_FILE, series - first)
        level, phase = chance.uniform(5, 50, size=(count, 1)), chance.uniform(0, 6, size=(count, 1))
        noise = chance.normal(size=(count, rows))
        names = pl.Series([f"series-{first + n:07d}" for n in range(count)])
        pl.DataFrame(
            {
                "unique_id": names.gather(np.repeat(np.arange(count), rows)),
                "ds": pl.concat([stamps] * count),
                "y": (level * (1.5 + np.sin(2 * np.pi * hours / 24 + phase)) + noise).ravel(),
            }
        ).write_parquet(folder / f"{first:07d}.parquet")


def model_of(table: Path, folder: Path) -> Asked:
    """A ridge fitted on the first series of the table."""
    some = pl.scan_parquet(table / "0000000.parquet").head(20 * 1_000).collect()
    (folder / "some").mkdir()
    some.write_parquet(folder / "some" / "some.parquet")
    content = {
        "data": {"source": "some.parquet", "id": "unique_id", "time": "ds", "targets": ["y"]},
        "window": {"context": 336, "horizon": 24},
        "model": {"kind": "ridge"},
    }
    experiment = Experiment.from_mapping(content, where="benchmark", folder=folder / "some")
    forecaster = fit_all(experiment, Material.of(experiment), device="cpu")["ridge"].forecaster
    digest = forecaster.save(folder / "model")
    version = ModelVersion("bench", "1", "ridge", digest, run_id="", created_at="")
    return Asked(version, folder / "model", experiment.data, None, LEVELS)


# --- each in a process of its own -----------------------------------------------------------------


def at_once(asked: Asked, table: Path) -> dict[str, float]:
    """Reads all that `table` names and forecasts it in this process."""
    forecaster = asked.forecaster(device="cpu")
    forecaster.predict(read_panel(pl.read_parquet(table).head(4_000), schema=SCHEMA)[0])  # warm
    began, busy = perf_counter(), process_time()
    panel, _ = read_panel(pl.read_parquet(table), schema=SCHEMA)
    read, busy_read = perf_counter() - began, process_time() - busy
    answer = forecaster.predict(panel, levels=LEVELS)
    return {
        "series": len(answer.series),
        "seconds": perf_counter() - began,
        "busy_seconds": process_time() - busy,
        "predict_seconds": perf_counter() - began - read,
        "predict_busy_seconds": process_time() - busy - busy_read,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def in_blocks(asked: Asked, table: Path, folder: Path, workers: int) -> dict[str, float]:
    """Forecasts `table` into `folder` by actors, watching the memory of all processes."""
    watch = Watch()
    began, told = perf_counter(), []

    def report(done: int, _: int) -> None:
        told.append((perf_counter(), done, watch.busy_seconds))

    with watch:
        found = forecast_folder(
            asked, table, future=None, folder=folder, workers=workers, report=report
        )
    # what comes before the first block is the start: processes, imports, the model
    (started, first, busy_first), (ended, last, _) = told[0], told[-1]
    steady = found.series * (last - first) / last
    return {
        "series": found.series,
        "seconds": perf_counter() - began,
        "seconds_to_first_block": started - began,
        "steady_series_a_second": steady / (ended - started),
        "actors_busy_seconds": watch.busy_seconds,
        "steady_series_a_busy_second": steady / (watch.busy_seconds - busy_first),
        "actor_peak_mib": watch.actor_mib,
        "all_processes_peak_mib": watch.all_mib,
        "parts_mib": sum(file.stat().st_size for file in folder.rglob("*.parquet")) / MIB,
    }


class Watch:
    """The largest resident memory of an actor and of this process with its children together."""

    def __init__(self) -> None:
        self.actor_mib = self.all_mib = 0.0
        self._busy: dict[int, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    @property
    def busy_seconds(self) -> float:
        """Processor seconds of all actors."""
        return sum(self._busy.values())

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        here = psutil.Process()
        while not self._over.wait(EVERY_SECONDS):
            total = here.memory_info().rss
            for child in here.children(recursive=True):
                try:
                    memory, name, busy = child.memory_info().rss, child.cmdline(), child.cpu_times()
                except psutil.Error:
                    continue
                total += memory
                if "MapWorker" in " ".join(name):
                    self.actor_mib = max(self.actor_mib, memory / MIB)
                    self._busy[child.pid] = busy.user + busy.system
            self.all_mib = max(self.all_mib, total / MIB)


def limited(limit_mib: int) -> None:
    """Limits the memory of this process and of each that it starts."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit_mib * MIB, limit_mib * MIB))
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))


def alone(limit_mib: int | None, said: Connection, contender: Contender, *arguments: Any) -> None:
    """A contender in a process of its own."""
    if limit_mib is not None:
        limited(limit_mib)
    said.send(contender(*arguments))


def of(contender: Contender, *arguments: Any, limit_mib: int | None = None) -> dict[str, float]:
    """What a contender says; `failed` with its exit status where it says nothing."""
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=alone, args=(limit_mib, theirs, contender, *arguments))
    process.start()
    theirs.close()
    try:
        found: dict[str, float] = ours.recv()
    except EOFError:
        process.join()
        return {"failed": float(process.exitcode or 0)}
    process.join()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the table, lets the contenders take their turns, keeps the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--series", type=int, default=40_000)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--limit", type=int, default=2_200)
    parser.add_argument("--workers", type=int, default=2)
    asked_for = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        table = folder / "table"
        table.mkdir()
        write_table(table, series=asked_for.series, rows=asked_for.rows)
        asked = model_of(table, folder)
        whole = of(at_once, asked, table, limit_mib=asked_for.limit)
        batch = of(
            in_blocks, asked, table, folder / "out", asked_for.workers, limit_mib=asked_for.limit
        )
        plain = of(at_once, asked, table / "0000000.parquet")
    result = {
        "machine": machine("polars", "ray"),
        "series": asked_for.series,
        "rows": asked_for.rows,
        "limit_mib": asked_for.limit,
        "workers": asked_for.workers,
        "at_once_under_the_limit": whole,
        "batch_under_the_limit": batch,
        "one_file_in_one_process": plain,
        **compared(batch, plain),
    }
    print(json.dumps(result, indent=2))
    print(keep("batch_forecast", result))


def compared(batch: dict[str, float], plain: dict[str, float]) -> dict[str, float]:
    """Series a second of both, and the quotients: by processor seconds, and by the clock."""
    if "failed" in batch or "failed" in plain:
        return {}
    plain_busy = plain["series"] / plain["busy_seconds"]
    predict_busy = plain["series"] / plain["predict_busy_seconds"]
    return {
        "batch_series_a_second": batch["series"] / batch["seconds"],
        "batch_steady_series_a_second": batch["steady_series_a_second"],
        "plain_series_a_second": plain["series"] / plain["seconds"],
        "predict_series_a_second": plain["series"] / plain["predict_seconds"],
        "batch_over_plain_by_processor": batch["series"]
        / batch["actors_busy_seconds"]
        / plain_busy,
        "steady_batch_over_plain_by_processor": batch["steady_series_a_busy_second"] / plain_busy,
        "steady_batch_over_predict_by_processor": batch["steady_series_a_busy_second"]
        / predict_busy,
        "steady_batch_over_plain_by_clock": batch["steady_series_a_second"]
        / (plain["series"] / plain["seconds"]),
    }


if __name__ == "__main__":
    main()
