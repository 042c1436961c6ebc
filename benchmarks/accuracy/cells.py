"""A cell of the table, the data it needs, and the folder in which both travel."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.windows import Borders, Floats, Grid, PanelWindows
from tsformer.batch import Shape
from tsformer.errors import ConfigError, DataError
from tsformer.model import ModelSpec
from tsformer.models import spec_from_mapping
from tsformer.settings import to_mapping
from tsformer.train import Training

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Cell:
    """One model fitted and scored once; equal cells have equal results.

    `model` is the name of the row, which may be finer than the kind. `context` and `horizon` are
    in steps; the seed is that of `training`. `loader_batch` is the batch size of the official test
    loader, which drops the last batch.
    """

    data: str
    model: str
    context: int
    horizon: int
    spec: ModelSpec
    training: Training
    loader_batch: int

    @property
    def seed(self) -> int:
        return self.training.seed

    @property
    def name(self) -> str:
        """data/model/context/horizon/seed: unlike the settings, what a person tells apart."""
        return f"{self.data}/{self.model}/{self.context}/{self.horizon}/{self.seed}"

    def to_mapping(self) -> dict[str, Any]:
        """The cell as plain values, every default included."""
        return {
            "data": self.data,
            "model": self.model,
            "context": self.context,
            "horizon": self.horizon,
            "spec": {"kind": self.spec.kind, **self.spec.to_mapping()},
            "training": to_mapping(self.training),
            "loader_batch": self.loader_batch,
        }

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any]) -> Cell:
        """The cell that `mapping` describes; what has become an option since has its default."""
        where = f"cell of {mapping['data']}"
        return Cell(
            data=mapping["data"],
            model=mapping["model"],
            context=mapping["context"],
            horizon=mapping["horizon"],
            spec=spec_from_mapping(mapping["spec"], where=where),
            training=Training.from_mapping(mapping["training"], where=where),
            loader_batch=mapping["loader_batch"],
        )


@dataclass(frozen=True, slots=True)
class Series:
    """A data set: `values` `[row, variate]`, NaN where missing, and the rows of its three parts."""

    values: Floats
    parts: tuple[int, int, int]

    def windows(self, *, context: int, horizon: int) -> dict[str, PanelWindows]:
        """All standardised windows of each part.

        Raises DataError unless every target row of validation and test is used, whatever the
        context: other counts would compare scores of different targets.
        """
        variates = self.values.shape[1]
        grid = Grid.of([self.values], series=np.arange(1, variates + 1)[None])
        borders = Borders.by_rows(self.parts, grid.lengths)
        scaled = grid.standardised(grid.fit_scaler(borders.train))
        shape = Shape(context=context, horizon=horizon, variates=variates, series=variates + 1)
        cut = {
            part: PanelWindows(scaled, cutoffs=borders.cutoffs(part, scaled, shape), shape=shape)
            for part in PARTS
        }
        for part, rows in zip(PARTS[1:], self.parts[1:], strict=True):
            if len(cut[part]) != rows - horizon + 1:
                raise DataError(
                    f"The {part} part of {rows} rows has {len(cut[part])} windows of "
                    f"{context} + {horizon} steps, expected {rows - horizon + 1}. "
                    "Shorten the context: it must fit into the rows before."
                )
        return cut


def chosen(cells: Iterable[Cell], patterns: Iterable[str]) -> list[Cell]:
    """The cells of which the name fits a pattern, pattern after pattern; each cell once."""
    left = list(cells)
    found = []
    for pattern in patterns:
        found += [cell for cell in left if fnmatchcase(cell.name, pattern)]
        left = [cell for cell in left if not fnmatchcase(cell.name, pattern)]
    return found


# --- the folder ------------------------------------------------------------------------------


def write_cells(folder: Path, cells: Iterable[Cell]) -> None:
    """Writes what is to be run, a line a cell."""
    lines = [json.dumps(cell.to_mapping()) for cell in cells]
    (folder / "cells.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_cells(folder: Path) -> list[Cell]:
    """What is to be run; ConfigError where `prepare` has not been."""
    file = folder / "cells.jsonl"
    if not file.is_file():
        raise ConfigError(
            f"There is no {file}. Make it: python -m benchmarks.accuracy prepare {folder}"
        )
    lines = file.read_text(encoding="utf-8").splitlines()
    return [Cell.from_mapping(json.loads(line)) for line in lines]


def write_series(folder: Path, name: str, series: Series) -> None:
    """Writes a data set as two files that numpy and the standard library read."""
    np.save(folder / f"{name}.npy", series.values)
    facts = json.dumps({"parts": series.parts})
    (folder / f"{name}.json").write_text(f"{facts}\n", encoding="utf-8")


def read_series(folder: Path, name: str) -> Series:
    """A data set that `write_series` wrote."""
    facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    values = np.load(folder / f"{name}.npy", allow_pickle=False)
    return Series(values, parts=tuple(facts["parts"]))
