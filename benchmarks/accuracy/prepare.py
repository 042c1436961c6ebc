"""From configurations and tables to a folder of numbers, where everything is installed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.accuracy.cells import Cell, Series, chosen, write_cells, write_series
from benchmarks.accuracy.sweep import BY_HORIZON, DATASETS, ROWS, Dataset, Row
from pipelines.experiment import Experiment, config_path
from pipelines.material import Material
from pipelines.windows import Floats
from tsformer.errors import NotFoundError
from tsformer.models import spec_from_mapping
from tsformer.settings import to_mapping
from tsformer.train import Training


def prepare(folder: Path, *, only: Sequence[str]) -> list[Cell]:
    """Writes the cells that fit `only`, and their data; says which data sets are not at hand."""
    folder.mkdir(parents=True, exist_ok=True)
    cells: list[Cell] = []
    for name, dataset in DATASETS.items():
        wanted = chosen(cells_of(name, dataset), only)
        if not wanted:
            continue
        try:
            series = series_of(dataset, folder_of(name, dataset))
        except NotFoundError as error:
            print(f"{name}: not at hand. {error}")
            continue
        write_series(folder, name, series)
        cells += wanted
    write_cells(folder, cells)
    return cells


def folder_of(name: str, dataset: Dataset) -> str:
    """The folder in `configs/` whose experiments a data set uses."""
    return dataset.config or name


def cells_of(name: str, dataset: Dataset) -> Iterator[Cell]:
    """Every cell of a data set for which there is a configuration, the first seed first."""
    folder = folder_of(name, dataset)
    for row in (row for row in ROWS if not row.config or _file(folder, row).is_file()):
        contexts = (dataset.context,) if dataset.context else row.contexts
        for seed in row.seeds:
            for context in contexts:
                for horizon in dataset.horizons:
                    yield cell_of(name, dataset, row, context=context, horizon=horizon, seed=seed)


def cell_of(
    name: str, dataset: Dataset, row: Row, *, context: int, horizon: int, seed: int
) -> Cell:
    """A cell with the settings of its YAML file, the row's own and the horizon's own."""
    folder = folder_of(name, dataset)
    experiment = Experiment.read(_file(folder, row)) if row.config else _plain(folder, row.name)
    own = BY_HORIZON.get((folder, row.config), {}).get(horizon, {})
    spec = {
        "kind": experiment.model.kind,
        **experiment.model.to_mapping(),
        **row.model,
        **own.get("model", {}),
    }
    training = {**to_mapping(experiment.training), **own.get("training", {}), "seed": seed}
    where = f"{folder}/{row.config}.yaml at horizon {horizon}"
    return Cell(
        data=name,
        model=row.name,
        context=context,
        horizon=horizon,
        spec=spec_from_mapping(spec, where=where),
        training=Training.from_mapping(training, where=where),
        loader_batch=row.loader.get(folder, dataset.loader_batch),
    )


def series_of(dataset: Dataset, data: str) -> Series:
    """The rows of all three parts; NotFoundError where the table is not on this machine."""
    material = Material.of(_plain(data, "last_value"))
    ends = [int(end[0]) for end in (material.borders.train, material.borders.validation)]
    last = int(material.borders.test[0])
    grid = material.grid
    values: Floats = grid.values[:last].numpy()
    if grid.observed is not None:
        values = np.where(grid.observed[:last].numpy(), values, np.nan)
    if dataset.sentinel is not None:
        values = np.where(values == dataset.sentinel, np.nan, values)
    parts = (ends[0], ends[1] - ends[0], last - ends[1])
    return Series(values, parts=parts)


def _plain(data: str, kind: str) -> Experiment:
    """The experiment of a kind without settings."""
    window = {"context": 1, "horizon": 1}
    mapping = {"data": data, "model": kind, "window": window}
    return Experiment.from_mapping(mapping, where=data, folder=Path())


def _file(folder: str, row: Row) -> Path:
    return config_path(f"{folder}/{row.config}.yaml")
