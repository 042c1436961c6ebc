"""Lines of results as measurements: what the seeds of a cell gave, and what validation chooses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.accuracy.cells import Cell
from benchmarks.accuracy.results import read

Line = Mapping[str, Any]
Model = tuple[str, int]  # the row's name and its context


@dataclass(frozen=True, slots=True)
class Measured:
    """One model at one horizon: the lines of its seeds, in the order of the seeds."""

    lines: tuple[Line, ...]

    @property
    def seeds(self) -> list[int]:
        return [line["cell"]["training"]["seed"] for line in self.lines]

    def mean(self, part: str, metric: str) -> float:
        """Over seeds; `part` is test, validation or drop_last, `metric` mse or mae."""
        return fmean(line[part][metric] for line in self.lines)

    def std(self, part: str, metric: str) -> float | None:
        """The sample deviation over seeds; None of a single one."""
        values = [line[part][metric] for line in self.lines]
        return stdev(values) if len(values) > 1 else None


Row = Mapping[int, Measured]  # by horizon
Models = Mapping[Model, Row]
Table = Mapping[str, Models]  # by data set


def read_all(folder: Path) -> Table:
    """The measurements of all files of results in `folder`."""
    return tabulate(pair for file in sorted(folder.glob("*.jsonl")) for pair in read(file))


def tabulate(pairs: Iterable[tuple[Cell, Line]]) -> Table:
    """Cells and lines in any order as a table.

    Of a cell that was run twice the later line counts, and seeds are averaged only where they
    share their settings with the newest: others belong to a configuration that is no more.
    """
    scored = [(cell, line) for cell, line in pairs if "error" not in line]
    scored.sort(key=lambda pair: str(pair[1]["finished"]))
    newest = {_place(cell): _settings(cell) for cell, _ in scored}
    seeds: dict[tuple[str, Model, int], dict[int, Line]] = {}
    for cell, line in scored:
        if newest[_place(cell)] == _settings(cell):
            seeds.setdefault(_place(cell), {})[cell.seed] = line
    table: dict[str, dict[Model, dict[int, Measured]]] = {}
    for (data, model, horizon), lines in sorted(seeds.items()):
        row = table.setdefault(data, {}).setdefault(model, {})
        row[horizon] = Measured(tuple(lines[seed] for seed in sorted(lines)))
    return table


def failed(folder: Path) -> dict[str, str]:
    """The errors of cells that have no score, by name."""
    pairs = [pair for file in sorted(folder.glob("*.jsonl")) for pair in read(file)]
    scored = {cell for cell, line in pairs if "error" not in line}
    return {cell.name: line["error"] for cell, line in pairs if cell not in scored}


def _place(cell: Cell) -> tuple[str, Model, int]:
    return cell.data, (cell.model, cell.context), cell.horizon


def _settings(cell: Cell) -> Cell:
    return replace(cell, training=replace(cell.training, seed=0))


# --- what validation chooses ------------------------------------------------------------------


def choose(models: Models, horizon: int) -> Model | None:
    """The model with the least validation MSE at `horizon`, mean over seeds.

    Validation windows end in the same targets whatever the context, so these compare.
    """
    able = {model: row[horizon] for model, row in models.items() if horizon in row}
    return min(able, key=lambda model: able[model].mean("validation", "mse"), default=None)


def choose_one(models: Models, horizons: Sequence[int]) -> Model | None:
    """The model with the least validation MSE averaged over all `horizons`."""
    able = {model: row for model, row in models.items() if all(h in row for h in horizons)}

    def error(model: Model) -> float:
        return fmean(able[model][horizon].mean("validation", "mse") for horizon in horizons)

    return min(able, key=error, default=None)


# --- as values --------------------------------------------------------------------------------


def summary(table: Table) -> list[dict[str, Any]]:
    """A record for each model and horizon."""
    return [
        {
            "data": data,
            "model": model,
            "context": context,
            "horizon": horizon,
            "seeds": len(cell.seeds),
            **{
                f"{part}_{metric}": round(cell.mean(part, metric), 5)
                for part in ("test", "validation", "drop_last")
                for metric in ("mse", "mae")
            },
            "test_mse_std": _rounded(cell.std("test", "mse")),
            "chosen": choose(models, horizon) == (model, context),
        }
        for data, models in table.items()
        for (model, context), row in models.items()
        for horizon, cell in row.items()
    ]


def write_summary(table: Table, file: Path) -> None:
    """The summary as JSON, a record a line."""
    records = ",\n".join(json.dumps(record) for record in summary(table))
    file.write_text(f"[\n{records}\n]\n", encoding="utf-8")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 5)
