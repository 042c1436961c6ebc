"""Runs cells that have no result yet, one after the other; each adds one line to the results."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.cells import Cell, Series, read_series
from benchmarks.accuracy.results import append, done
from benchmarks.accuracy.score import errors
from benchmarks.machine import machine
from tsformer.models import build
from tsformer.runtime import Runtime, pick_device
from tsformer.train import fit

SERIES_KEPT = 1  # in memory; cells come data set by data set


def run(cells: Iterable[Cell], *, folder: Path, results: Path, device: str) -> int:
    """Runs what is left of `cells`; gives how many failed. Those are tried again next time.

    Raises ConfigError where there is no such device.
    """
    where = machine(device=pick_device(device))
    there = done(results)
    left = [cell for cell in cells if cell not in there]
    series = lru_cache(SERIES_KEPT)(lambda name: read_series(folder, name))
    failures = 0
    for number, cell in enumerate(left, start=1):
        try:
            line = measure(cell, series(cell.data), device=device)
        except Exception as error:  # one cell must not end a night's run
            line = {"error": f"{type(error).__name__}: {error}"}
            failures += 1
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"cell": cell.to_mapping(), **line, "machine": where, "finished": finished}
        append(results, record)
        print(f"{number}/{len(left)} {cell.name} {_short(line)}", flush=True)
    return failures


def measure(cell: Cell, series: Series, *, device: str) -> dict[str, Any]:
    """Fits and scores one cell; on a CPU equal cells give equal scores, bit by bit."""
    torch.manual_seed(cell.seed)
    windows = series.windows(context=cell.context, horizon=cell.horizon)
    model = build(cell.spec, windows["train"].shape)
    outcome = fit(
        model,
        train=windows["train"],
        validation=windows["validation"],
        training=cell.training,
        device=pick_device(device),
    )
    started = time.perf_counter()
    runtime = Runtime(model, device=device)
    validation, test = (errors(runtime, windows[part]) for part in ("validation", "test"))
    return {
        "validation": validation.mean(),
        "test": test.mean(),
        "drop_last": test.without_last_batch(cell.loader_batch),
        "train_windows": len(windows["train"]),
        "epochs": len(outcome.history),
        "best_epoch": outcome.best_epoch,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "fit_s": round(outcome.seconds, 2),
        "score_s": round(time.perf_counter() - started, 2),
    }


def _short(line: dict[str, Any]) -> str:
    if "error" in line:
        return str(line["error"]).partition("\n")[0]
    seconds = line["fit_s"] + line["score_s"]
    return (
        f"test {line['test']['mse']:.4f}/{line['test']['mae']:.4f} "
        f"validation {line['validation']['mse']:.4f} {seconds:.1f} s"
    )
