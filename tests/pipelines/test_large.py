"""Tables larger than the memory: the same material, the same weights, and no memory for them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from pipelines import large_grid, large_panel
from pipelines.backtest import backtest
from pipelines.experiment import Experiment
from pipelines.mapping import Mapped, Scratch
from pipelines.material import Material
from pipelines.sections import Backtest
from pipelines.shared import Shared
from pipelines.training import fit_all
from tests.panels import START, waves
from tsformer.errors import ConfigError, DataError

SERIES, ROWS = 9, 330
COLUMNS: dict[str, Any] = {
    "known": ["price", "shop"], "past": ["wet"], "static": ["city"], "categories": ["shop"],
}  # fmt: skip


def table(*, series: int = SERIES, rows: int = ROWS) -> pl.DataFrame:
    """Hourly series with holes, numbers known ahead and not, and a city."""
    chance = np.random.default_rng(1)
    frames = []
    for n, (name, values) in enumerate(waves(series, rows).items()):
        values[chance.random(rows) < 0.02] = np.nan
        frames.append(
            pl.DataFrame(
                {
                    "unique_id": [name] * rows,
                    "ds": [START + timedelta(hours=h) for h in range(rows)],
                    "y": values,
                    "price": chance.normal(3, 2, size=rows),
                    "shop": np.full(rows, n % 3),
                    "wet": chance.random(rows),
                    "city": ["north" if n % 2 else "south"] * rows,
                }
            ).with_columns(pl.col("y").fill_nan(None))
        )
    whole = pl.concat(frames)
    return whole.filter(pl.int_range(pl.len()) % 101 != 57)  # rows that are not there at all


def experiment_on(folder: Path, frame: pl.DataFrame, **changes: Any) -> Experiment:
    """An experiment on `frame`, its series spread over three files."""
    files = folder / "table"
    files.mkdir()
    names = frame["unique_id"].unique(maintain_order=True)
    for number, part in enumerate(np.array_split(np.arange(len(names)), 3)):
        rows = frame.filter(pl.col("unique_id").is_in(names[part.tolist()].implode()))
        rows.write_parquet(files / f"part-{number}.parquet")
    data = {
        "source": "table", "id": "unique_id", "time": "ds", "targets": ["y"], "fill": "mask",
        **COLUMNS, **changes.pop("data", {}),
    }  # fmt: skip
    content = {
        "data": data,
        "window": {"context": 48, "horizon": 12, "features": ["hour"]},
        "model": {"kind": "tft", "width": 8},
        "baselines": ["ridge", "nlinear", "seasonal_naive"],
        "training": {"epochs": 2, "windows_per_epoch": 64, "batch_size": 16},
        **changes,
    }
    return Experiment.from_mapping(content, where="test", folder=folder)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose memory is full, so that every table is larger; small blocks and spans."""
    monkeypatch.setattr(large_panel, "memory_left", lambda: 0)
    monkeypatch.setattr(large_panel.read_large, "__kwdefaults__", {"cells": 700})
    monkeypatch.setattr(large_grid.spans, "__defaults__", (500,))
    monkeypatch.setenv("TSFORMER_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("split", [{}, {"split_dates": ["2024-01-10", "2024-01-12", "2024-02-01"]}])
def test_the_material_is_that_of_a_table_in_memory(
    tmp_path: Path, split: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """The same table on a smaller machine must not make another model."""
    experiment = experiment_on(tmp_path, table(), data=split)
    small = Material.of(experiment)
    assert small.panel.scratch is None
    request.getfixturevalue("no_memory")
    large = Material.of(experiment)
    assert large.panel.scratch is not None
    assert large.fingerprint == small.fingerprint
    assert large.panel.table.equals(small.panel.table)
    assert large.panel.table.schema == small.panel.table.schema
    assert (large.panel.ids, large.panel.tz) == (small.panel.ids, small.panel.tz)
    assert large.panel.static.equals(small.panel.static)
    np.testing.assert_array_equal(large.panel.target, small.panel.target)
    assert large.report.all_warnings == small.report.all_warnings
    for part, other in ((large.grid, small.grid), (large.scaled, small.scaled)):
        assert torch.equal(part.values, other.values)
        assert torch.equal(part.observed, other.observed)
        assert torch.equal(part.covariates, other.covariates)
        torch.testing.assert_close(part.known, other.known, rtol=1e-6, atol=1e-6)
        assert torch.equal(part.static, other.static)
        assert torch.equal(part.series, other.series)
        assert (part.offsets == other.offsets).all()
    for name in ("seasonal_error", "seasonal_square"):
        np.testing.assert_array_equal(getattr(large, name), getattr(small, name))
    np.testing.assert_array_equal(large.scaler.std, small.scaler.std)
    np.testing.assert_array_equal(large.borders.train, small.borders.train)
    assert large.shape == small.shape
    for part in ("train", "validation"):
        there, here = (m.training_windows(part, m.shape, at_most=50) for m in (large, small))
        np.testing.assert_array_equal(there.cutoffs.numpy(), here.cutoffs.numpy())
        np.testing.assert_array_equal(there.groups(), here.groups())


def test_training_and_scores_are_those_of_a_table_in_memory(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """From the files to the leaderboard: nothing on the way may need what is not there."""
    experiment = experiment_on(tmp_path, table(), data={"known": [], "categories": []})
    found = []
    for memory in ("enough", "none"):
        if memory == "none":
            request.getfixturevalue("no_memory")
        material = Material.of(experiment)
        fitted = fit_all(experiment, material)
        forecasters = {name: entry.forecaster for name, entry in fitted.items()}
        scores = backtest(forecasters, material, Backtest(12, (0.1, 0.5, 0.9), metric="mase"))
        found.append((fitted, scores.windows))
    (here, small), (there, large) = found
    for name in here:
        mine, theirs = (f[name].forecaster.model.state_dict() for f in (here, there))
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
    assert small.equals(large)


def test_every_fault_of_every_file_is_named_with_its_row(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whoever mends a table must not meet one fault a day, nor look in the wrong row."""
    broken = table().with_columns(
        pl.when(pl.int_range(pl.len()).is_in([400, 2500]))
        .then(float("inf"))
        .otherwise("y")
        .alias("y")
    )
    experiment = experiment_on(tmp_path, broken)
    told = []
    for memory in ("enough", "none"):
        if memory == "none":
            request.getfixturevalue("no_memory")
        with pytest.raises(DataError) as caught:
            Material.of(experiment)
        told.append(caught.value.faults)
    assert [fault.row for fault in told[0]] == [400, 2500]
    assert told[1] == told[0]


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"known": ["city"], "static": [], "categories": []}, "'city' holds text"),
        ({"group": "all", "known": [], "past": [], "static": [], "categories": []}, "group"),
    ],
)
def test_what_cannot_be_had_without_memory_is_said(
    tmp_path: Path, data: dict[str, Any], message: str
) -> None:
    """A wrong number or an end by the kernel would be worse than a refusal."""
    experiment = experiment_on(tmp_path, table(), data=data)
    with pytest.raises(ConfigError, match=message):
        Material.of(experiment)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    """The question how large it is must not end in a traceback."""
    experiment = experiment_on(tmp_path, table())
    (tmp_path / "table" / "part-1.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match=r"part-1.parquet cannot be read"):
        Material.of(experiment)


@pytest.mark.usefixtures("no_memory")
def test_other_processes_find_the_rows_in_the_files(tmp_path: Path) -> None:
    """Sent through the object store, the table would be in memory after all, once a worker."""
    material = Material.of(experiment_on(tmp_path, table()))
    windows = material.training_windows("train", material.shape)
    shared = Shared.of(train=windows)
    mapped = [name for name, array in shared.grid.items() if isinstance(array, Mapped)]
    assert mapped == ["values", "observed", "known", "covariates"]
    assert shared.bytes < 2000
    index = torch.tensor([0, 70, len(windows) - 1])
    for mine, theirs in zip(
        windows.batch(index), shared.windows()["train"].batch(index), strict=True
    ):
        for field in fields(mine):
            one, other = getattr(mine, field.name), getattr(theirs, field.name)
            assert one is other is None or torch.equal(one, other), field.name


def test_files_go_with_their_process(tmp_path: Path) -> None:
    """A disk must not fill with what killed processes left behind."""
    if not (child := os.fork()):
        left = Scratch(tmp_path)
        left.array((9,), "f8")
        os._exit(9)  # as a kill: nothing is tidied up
    os.waitpid(child, 0)
    assert len([*tmp_path.iterdir()]) == 1
    scratch = Scratch(tmp_path)
    assert [*tmp_path.iterdir()] == [scratch.folder]
    del scratch
    assert [*tmp_path.iterdir()] == []


LIMITED = """
import os, resource, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import polars as pl
from pipelines import large_grid, large_panel
from pipelines.backtest import backtest
from pipelines.experiment import Experiment
from pipelines.material import Material
from pipelines.sections import Backtest
from pipelines.training import fit_all

MIB, LIMIT, ROWS, EACH = 2**20, 80, 3_000_000, 20_000
folder = Path(sys.argv[1])
os.environ["TSFORMER_HOME"] = str(folder / "home")
large_panel.read_large.__kwdefaults__["cells"] = 100_000
large_grid.spans.__defaults__ = (100_000,)

def write(name, rows, files):
    (folder / name).mkdir()
    for number in range(files):
        ids = np.repeat(np.arange(rows // files // EACH), EACH) + 1000 * number
        values = np.random.default_rng(number).normal(size=len(ids)) + np.sin(np.arange(len(ids)) / 4)
        columns = {"id": ids, "t": np.arange(len(ids)) % EACH, "y": values}
        pl.DataFrame(columns).write_parquet(folder / name / f"{number}.parquet")

def trained(name):
    experiment = Experiment.from_mapping(
        {
            "data": {"source": name, "id": "id", "time": "t", "targets": ["y"], "season": 24},
            "window": {"context": 96, "horizon": 24},
            "model": {"kind": "nlinear"},
            "training": {"epochs": 1, "windows_per_epoch": 6400},
        },
        where="test", folder=folder,
    )
    material = Material.of(experiment)
    assert material.panel.scratch is not None
    fitted = fit_all(experiment, material)
    rivals = {name: entry.forecaster for name, entry in fitted.items()}
    scores = backtest(rivals, material, Backtest(960, (0.1, 0.5, 0.9)))
    return material, fitted["nlinear"].fit, scores

def used():
    return int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024

write("small", 40_000, 2)
left = large_panel.memory_left
large_panel.memory_left = lambda: 0
trained("small")  # what libraries take once, whatever the table
large_panel.memory_left = left
write("large", ROWS, 3)
limit = used() + LIMIT * MIB
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
material, fit, scores = trained("large")
files = sum(file.stat().st_size for file in material.panel.scratch.folder.iterdir())
try:
    np.ones(files // 8)
except MemoryError:
    print(files // MIB > LIMIT, len(material.panel.table), fit.validation_loss < 1.0, len(scores.windows))
"""


def test_a_table_larger_than_the_memory_trains(tmp_path: Path) -> None:
    """From the files to the scores under a limit that holds less than what is read of them."""
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "POLARS_MAX_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.split() == ["True", "3000000", "True", "750"], ran.stderr[-2000:]
