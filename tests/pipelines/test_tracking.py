"""Runs: what was logged is found again through MLflow's own interface; each ends, and says how."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
import yaml
from matplotlib.figure import Figure
from mlflow.entities import Run as Logged

from pipelines.home import Home, configure
from pipelines.owner import Owner
from pipelines.run import DataInput, Run, flatten
from pipelines.tracking import (
    FAILURE_TAG,
    PROCESS_TAG,
    SILENT,
    bury,
    git_commit,
    measured,
    resumable,
    resume,
    track,
)
from tests.waiting import wait_until
from tsformer.errors import ConfigError, NotFoundError

RESOLVED = {
    "name": "flights",
    "model": {"kind": "patchtst", "width": 16, "learning_rate": 1e-3, "features": []},
    "baselines": [{"kind": "ridge", "penalties": [0.1, 1.0]}, {"kind": "seasonal_naive"}],
    "notes": "",
    "source": "a" * 7_000,
}
CURVE = {epoch: 2 / epoch for epoch in range(1, 2_101)}
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
        run.metrics({"mase": 0.8, "coverage": 0.9})
        run.curve("validation_loss", CURVE)
        run.note("| model | mase |")
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


def test_metrics_have_plain_names(logged: Logged) -> None:
    """`mase/ridge` beside `mase/patchtst` are two columns that MLflow never compares."""
    assert logged.data.metrics["mase"] == 0.8
    assert logged.data.metrics["coverage"] == 0.9
    assert logged.data.tags["mlflow.note.content"] == "| model | mase |"


def test_a_long_curve_is_complete(run: Run) -> None:
    """2,100 values are more than MLflow takes in one request."""
    curve = run.client.get_metric_history(run.id, "validation_loss")
    assert {point.step: point.value for point in curve} == CURVE


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
    for error, reason in ((KeyboardInterrupt(), "keyboard"), (SystemExit(143), "told to end")):
        with pytest.raises(type(error)), track(home, experiment="x", name="r") as run:
            raise error
        ended = run.client.get_run(run.id)
        assert ended.info.status == "KILLED"
        assert reason in ended.data.tags[FAILURE_TAG]


def test_an_interrupted_run_goes_on_as_itself(home: Home) -> None:
    """A second run for the second half would tear one training into two that nobody joins."""
    with pytest.raises(KeyboardInterrupt), track(home, experiment="x", name="r") as run:
        raise KeyboardInterrupt
    run.metrics({"mase": 1.0})
    with resume(home, run.id) as again:
        assert again.client.get_run(run.id).info.status == "RUNNING"
        again.metrics({"wql": 2.0})
    ended = run.client.get_run(run.id)
    assert ended.info.status == "FINISHED"
    assert ended.data.metrics == {"mase": 1.0, "wql": 2.0}
    assert FAILURE_TAG not in ended.data.tags


def test_a_child_stands_under_its_parent_and_when_it_was_fitted(home: Home) -> None:
    """MLflow's list shows the time of the fit, not that of the writing."""
    with (
        track(home, experiment="x", name="all") as parent,
        track(home, experiment="x", name="one", parent=parent, span=(1_000, 4_000)) as child,
    ):
        pass
    info = child.client.get_run(child.id)
    assert info.data.tags["mlflow.parentRunId"] == parent.id
    assert (info.info.start_time, info.info.end_time) == (1_000, 4_000)


def test_a_run_whose_process_was_killed_does_not_run_for_ever(home: Home) -> None:
    """kill -9 says nothing; without this the list shows a training at work, for years."""
    with track(home, experiment="graves", name="killed") as run:
        pass
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    began = Owner.own().began
    for pid, status in ((dead.pid, "KILLED"), (os.getpid(), "RUNNING")):
        run.tags({PROCESS_TAG: Owner(Owner.own().host, pid, began)})
        run.client.update_run(run.id, status="RUNNING")
        bury(home, "graves")
        found = run.client.get_run(run.id)
        assert found.info.status == status
        run.client.set_terminated(run.id)
    assert found.data.tags[FAILURE_TAG] == SILENT


def test_a_process_with_the_number_of_a_dead_one_is_another() -> None:
    """Numbers come round: the run of a dead process must not live on in a stranger."""
    own = Owner.own()
    assert own.alive
    assert Owner.parse(str(own)) is not None
    assert not Owner(own.host, own.pid, own.began - 60).alive
    assert Owner.parse("nonsense") is None


def test_what_cannot_be_resumed_is_said(home: Home, run: Run) -> None:
    """Another id, a run of another kind, one that is done or at work: each its own sentence."""
    for unknown in ("f" * 32, "sales.csv", run.id):
        with pytest.raises(NotFoundError, match=f"no comparison '{unknown}'"):
            resumable(home, unknown, kind="comparison")
    with track(home, experiment="x", name="r", tags={"kind": "comparison"}) as other:
        assert resumable(home, other.id, kind="comparison")  # this process knows what it does
        busy = Owner(Owner.own().host, os.getppid(), psutil.Process(os.getppid()).create_time())
        other.tags({PROCESS_TAG: busy})
        with pytest.raises(ConfigError, match=f"at work: process {busy}"):
            resumable(home, other.id, kind="comparison")
    with pytest.raises(ConfigError, match="has finished"):
        resumable(home, other.id, kind="comparison")


def test_system_metrics_are_those_of_mlflow(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that ran out of memory is explained by its curve."""
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    key = "system/system_memory_usage_percentage"
    with track(home, experiment="x", name="r") as run, measured(run, home):
        deadline = time.monotonic() + 20
        while not (found := run.client.get_run(run.id).data.metrics.get(key)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert 0 < found <= 100


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
        timeout=220,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def test_numbers_that_are_not_finite_do_not_stop_a_run(home: Home) -> None:
    with track(home, experiment="x", name="r") as run:
        run.metrics({"mase": np.nan, "wql": np.inf})
    assert np.isnan(run.client.get_run(run.id).data.metrics["mase"])


FIRST = """
import os, sys
from pipelines.home import Home, configure
configure(os.environ, role="training")
from pipelines.tracking import connect
print("here", flush=True)
sys.stdin.readline()
connect(Home.of(os.environ)).create_experiment(sys.argv[1])
"""


def first(home: Path, name: str) -> subprocess.Popen[str]:
    """A process that is about to make the experiment `name`, the first in `home`, when it is told."""
    process = subprocess.Popen(
        [sys.executable, "-c", FIRST, name],
        env={**os.environ, "TSFORMER_HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


def test_several_at_once_make_one_database(tmp_path: Path) -> None:
    """Two jobs on a new installation spoilt the tables for each other and for all who came later."""
    begun = [first(tmp_path, name) for name in ("ann", "bob", "eve")]
    for process in begun:
        process.communicate("go\n", timeout=120)
    assert [process.returncode for process in begun] == [0, 0, 0]


def test_who_is_killed_as_it_makes_the_tables_leaves_none(tmp_path: Path) -> None:
    """Ctrl-C in the first seconds of a first run spoilt the installation for good."""
    killed = first(tmp_path, "ann")
    assert killed.stdin is not None
    print("go", file=killed.stdin, flush=True)
    made = tmp_path / "mlflow.db.new"
    wait_until(lambda: made.exists() and made.stat().st_size > 0)
    killed.kill()
    killed.communicate()
    assert (tmp_path / "mlflow.db").stat().st_size == 0
    second = first(tmp_path, "bob")
    second.communicate("go\n", timeout=120)
    assert second.returncode == 0
    assert not made.exists()
