"""From configurations and tables to a folder of numbers, where everything is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.accuracy.cells import Cell, Series, chosen, write_cells, write_series
from benchmarks.accuracy.sweep import BY_HORIZON, DATASETS, ROWS, Dataset, Row
from pipelines.config_files import config_path
from pipelines.experiment import Experiment
from pipelines.material import Material
from pipelines.windows import Floats
from tsformer.errors import NotFoundError
from tsformer.model import ModelSpec
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
        experiment = Experiment.read(_file(folder, row)) if row.config else _plain(folder, row.name)
        contexts = (dataset.context,) if dataset.context else row.contexts
        for seed, context, horizon in product(row.seeds, contexts, dataset.horizons):
            spec, training = settings_of(experiment, folder, row, horizon=horizon, seed=seed)
            yield Cell(
                data=name,
                model=row.name,
                context=context,
                horizon=horizon,
                spec=spec,
                training=training,
                loader_batch=row.loader.get(folder, dataset.loader_batch),
            )


def settings_of(
    experiment: Experiment, folder: str, row: Row, *, horizon: int, seed: int
) -> tuple[ModelSpec, Training]:
    """The settings of a YAML file with the row's own changes and the horizon's."""
    own = BY_HORIZON.get((folder, row.config), {}).get(horizon, {})
    where = f"{folder}/{row.config}.yaml at horizon {horizon}"
    spec = experiment.model.to_mapping() | dict(row.model) | dict(own.get("model", {}))
    training = to_mapping(experiment.training) | dict(own.get("training", {})) | {"seed": seed}
    return (
        spec_from_mapping({"kind": experiment.model.kind, **spec}, where=where),
        Training.from_mapping(training, where=where),
    )


def series_of(dataset: Dataset, data: str | Mapping[str, object]) -> Series:
    """The rows of all three parts of a name or data section; NotFoundError where the table is not on this machine."""
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


def _plain(data: str | Mapping[str, object], kind: str) -> Experiment:
    """The experiment of a kind without settings."""
    window = {"context": 1, "horizon": 1}
    mapping = {"data": data, "model": kind, "window": window}
    return Experiment.from_mapping(mapping, where=kind, folder=Path())


def _file(folder: str, row: Row) -> Path:
    return config_path(f"{folder}/{row.config}.yaml")
