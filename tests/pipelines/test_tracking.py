"""One run a training: what was logged can be found again through MLflow's own interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from matplotlib.figure import Figure
from mlflow.entities import Run as Logged

from pipelines.home import Home, configure
from pipelines.tracking import DataInput, Run, flatten, git_commit, track

RESOLVED = {
    "name": "flights",
    "model": {"kind": "patchtst", "width": 16, "learning_rate": 1e-3, "features": []},
    "baselines": [{"kind": "ridge", "penalties": [0.1, 1.0]}, {"kind": "seasonal_naive"}],
    "notes": "",
    "source": "a" * 7_000,
}
EPOCHS = [
    {"epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 2 / epoch, "seconds": 0.5}
    for epoch in range(1, 701)
]
FINGERPRINT = "0123456789abcdef" * 4
TABLE = DataInput("flights", FINGERPRINT, "flights.parquet", 23, 201_480, {"y": "Int16"})


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    configure(os.environ, role="training")
    return Home.of({"TSFORMER_HOME": str(tmp_path_factory.mktemp("home"))})


@pytest.fixture(scope="module")
def run(home: Home) -> Iterator[Run]:
    with track(home, experiment="flights", name="patchtst", tags={"horizon": 96}) as run:
        run.config(RESOLVED)
        run.data(TABLE)
        run.metrics({"mase": {"ridge": 0.7, "patchtst": 0.8}, "mase_block": {"ridge": {"h01": 1}}})
        run.history(EPOCHS, model="patchtst")
        run.table(pl.DataFrame({"series": ["a"], "mase": [0.7]}), "scores/series.parquet")
        run.figure(Figure(), "figures/forecast.png")
    return run


@pytest.fixture(scope="module")
def logged(run: Run) -> Logged:
    return run.client.get_run(run.id)


def test_the_run_is_finished_and_can_be_filtered(logged: Logged) -> None:
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "patchtst"
    tags = logged.data.tags
    assert tags["horizon"] == "96"
    assert tags["data_fingerprint"] == FINGERPRINT
    assert tags["mlflow.source.git.commit"] == git_commit(Path.cwd())


def test_settings_are_flat_as_parameters_and_whole_as_a_file(
    run: Run, logged: Logged, tmp_path: Path
) -> None:
    parameters = logged.data.params
    assert parameters["model.width"] == "16"
    assert parameters["baselines.1.kind"] == "seasonal_naive"
    assert len(parameters["source"]) == 6_000  # as much as MLflow takes
    file = run.client.download_artifacts(run.id, "config.yaml", str(tmp_path))
    assert yaml.safe_load(Path(file).read_text()) == RESOLVED


def test_the_data_set_is_an_input_of_the_run(logged: Logged) -> None:
    (entry,) = logged.inputs.dataset_inputs
    assert entry.dataset.name == "flights"
    assert FINGERPRINT.startswith(entry.dataset.digest)
    assert json.loads(entry.dataset.profile) == {"series": 23, "rows": 201_480}


def test_metrics_are_named_metric_first(logged: Logged) -> None:
    assert logged.data.metrics["mase/ridge"] == 0.7
    assert logged.data.metrics["mase_block/ridge/h01"] == 1.0


def test_the_history_of_a_long_training_is_complete(run: Run) -> None:
    """2,100 values are more than MLflow takes in one request."""
    curve = run.client.get_metric_history(run.id, "validation_loss/patchtst")
    assert [(point.step, point.value) for point in curve] == [
        (row["epoch"], row["validation_loss"]) for row in EPOCHS
    ]


def test_tables_and_figures_are_files_of_the_run(run: Run, tmp_path: Path) -> None:
    table = run.client.download_artifacts(run.id, "scores/series.parquet", str(tmp_path))
    assert pl.read_parquet(table)["mase"].to_list() == [0.7]
    figure = Path(run.client.download_artifacts(run.id, "figures/forecast.png", str(tmp_path)))
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_failed_run_says_why_and_lets_the_error_through(home: Home) -> None:
    with pytest.raises(ValueError, match="no window"), track(home, experiment="x", name="r") as run:
        raise ValueError("no window")
    ended = run.client.get_run(run.id)
    assert ended.info.status == "FAILED"
    assert ended.data.tags["failure"] == "ValueError: no window"


def test_an_interrupted_run_is_killed_not_failed(home: Home) -> None:
    with pytest.raises(KeyboardInterrupt), track(home, experiment="x", name="r") as run:
        raise KeyboardInterrupt
    assert run.client.get_run(run.id).info.status == "KILLED"


def test_runs_of_one_data_set_share_an_experiment(home: Home, logged: Logged) -> None:
    with track(home, experiment="flights", name="again") as second:
        pass
    again = second.client.get_run(second.id)
    assert again.info.experiment_id == logged.info.experiment_id
    assert again.info.artifact_uri.startswith((home.folder / "artifacts").as_uri())


def test_settings_of_any_depth_become_dotted_names() -> None:
    nested = {"a": {"b": {"c": 1.5}}, "d": (1, 2), "e": {}, "f": None, "g": True, "h": [{"i": "j"}]}
    assert flatten(nested) == {
        "a.b.c": "1.5", "d": "[1, 2]", "e": "{}", "f": "null", "g": "true", "h.0.i": "j",
    }  # fmt: skip


def test_outside_of_a_repository_there_is_no_commit(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    assert git_commit(tmp_path / "missing") is None


NOISE = """
import os, sys
from pathlib import Path
from pipelines.home import Home, configure
configure(os.environ, role="training")
home = Home.of(os.environ)
from pipelines.tracking import track
with track(home, experiment="quiet", name="run") as run:
    run.metrics({"mase": 1.0})
assert sorted(p.name for p in Path.cwd().iterdir()) == ["home"], list(Path.cwd().iterdir())
import mlflow.telemetry.client
assert mlflow.telemetry.client.get_telemetry_client() is None
"""


def test_a_first_run_prints_nothing_and_writes_nothing_outside_its_home(tmp_path: Path) -> None:
    """A new database runs some hundred migrations, each of which MLflow would report."""
    environment = {key: value for key, value in os.environ.items() if "MLFLOW" not in key}
    done = subprocess.run(
        [sys.executable, "-c", NOISE],
        cwd=tmp_path,
        env={
            **environment,
            "TSFORMER_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def test_numbers_that_are_not_finite_do_not_stop_a_run(home: Home) -> None:
    with track(home, experiment="x", name="r") as run:
        run.metrics({"mase": np.nan, "wql": np.inf})
    assert np.isnan(run.client.get_run(run.id).data.metrics["mase"])
