"""A training in MLflow: told before it begins, ended with a reason, and gone on with as itself."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from mlflow.entities import Run as Logged
from rich.console import Console

from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.record import children
from pipelines.registry import Registry
from pipelines.run import Run
from pipelines.tracking import FAILURE_TAG, connect
from pipelines.train_command import Outcome, Ticket, train_and_register
from tests.panels import experiment_on, hourly, waves
from tests.pipelines.homes import new_home
from tests.pipelines.processes import start
from tsformer.errors import ConfigError, DivergedError

KINDS = {"nlinear", "ridge", "seasonal_naive"}


class Interrupting(Console):
    """A terminal at which somebody presses Ctrl-C when they read `word`."""

    def __init__(self, word: str) -> None:
        super().__init__(file=io.StringIO())
        self.word = word

    def print(self, *objects: object, **options: object) -> None:
        if self.word in str(objects):
            raise KeyboardInterrupt
        super().print(*objects, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return new_home(tmp_path_factory.mktemp("home"))


def experiment(folder: Path, name: str, **training: object) -> Experiment:
    return experiment_on(
        folder,
        hourly(waves(3, 400)),
        name=name,
        window={"context": 72, "horizon": 12},
        model={"kind": "nlinear"},
        training={"epochs": 4, "windows_per_epoch": 64, **training},
        baselines=["ridge", "seasonal_naive"],
        backtest={"stride": 6},
    )


def train(
    made: Experiment, home: Home, *, resumed: str | None = None, console: Console | None = None
) -> Outcome:
    quiet = console or Console(quiet=True)
    return train_and_register(made, home=home, console=quiet, device="cpu", ticket=Ticket(resumed))


@pytest.fixture(scope="module")
def first(home: Home, tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Outcome]:
    """A training that came through."""
    made = experiment(tmp_path_factory.mktemp("first"), "again")
    return made, train(made, home)


def newest(home: Home, name: str) -> Logged:
    """The newest comparison of an experiment, however it ended."""
    client = connect(home)
    found = client.get_experiment_by_name(name)
    return client.search_runs([found.experiment_id], "tags.kind = 'comparison'", max_results=1)[0]


def test_an_interrupted_training_goes_on_in_its_own_run(home: Home, tmp_path: Path) -> None:
    """Hours of epochs are not fitted twice, and one training does not look like two."""
    made = experiment(tmp_path, "cut")
    with pytest.raises(KeyboardInterrupt):
        train(made, home, console=Interrupting("epoch 2/4"))
    cut = newest(home, "cut")
    assert cut.info.status == "KILLED"
    assert "keyboard" in cut.data.tags[FAILURE_TAG]
    kept = home.folder / "checkpoints" / cut.info.run_id
    assert any(kept.rglob("epoch-000001-*"))
    outcome = train(made, home, resumed=cut.info.run_id)
    assert outcome.run_id == cut.info.run_id
    assert newest(home, "cut").info.status == "FINISHED"
    assert not kept.exists()
    whole = train(replace(made, name="whole"), home)
    one, other = (
        Registry(home).describe(str(result.versions["nlinear"])).digest
        for result in (outcome, whole)
    )
    assert one == other


def test_a_training_that_fails_says_so(home: Home, tmp_path: Path) -> None:
    """RUNNING for ever is what a list of runs shows where nobody took care."""
    made = experiment(tmp_path, "diverged", learning_rate=1e30)
    with pytest.raises(DivergedError):
        train(made, home)
    failed = newest(home, "diverged")
    assert failed.info.status == "FAILED"
    assert failed.data.tags[FAILURE_TAG].startswith("DivergedError: nlinear")
    assert failed.data.params["training.learning_rate"] == "1e+30"
    assert not children(Run(connect(home), failed.info.run_id), "diverged")


def train_until(crash: str, folder: Path, home: Path) -> None:
    """A training in a process of its own, which dies at a crash point."""
    os.environ["TSF_CRASH"] = crash
    train(experiment(folder, "killed"), Home.of({"TSFORMER_HOME": str(home)}))


def test_a_process_killed_while_it_registers_publishes_nothing_twice(
    home: Home, tmp_path: Path
) -> None:
    """kill -9 after the first version: going on completes three, and makes no fourth."""
    process = start(train_until, "publish-linked", tmp_path, home.folder)
    process.join(220)
    assert process.exitcode == 9
    killed = newest(home, "killed")
    assert killed.info.status == "RUNNING"  # nobody was left to say otherwise
    before = children(Run(connect(home), killed.info.run_id), "killed")
    assert before.keys() == KINDS
    outcome = train(experiment(tmp_path, "killed"), home, resumed=killed.info.run_id)
    after = children(Run(connect(home), killed.info.run_id), "killed")
    assert after == before
    versions = Registry(home).versions("killed")
    assert {v.kind for v in versions} == KINDS
    assert len(versions) == 3
    assert {v.run_id for v in versions} == {run for run, _ in after.values()}
    assert {str(v) for v in outcome.versions.values()} == {str(v) for v in versions}


def test_only_the_same_training_can_go_on(home: Home, tmp_path: Path) -> None:
    """Half of one training and half of another is a model that nobody asked for."""
    made = experiment(tmp_path, "same")
    with pytest.raises(KeyboardInterrupt):
        train(made, home, console=Interrupting("epoch 1/4"))
    run = newest(home, "same").info.run_id
    longer = replace(made, training=replace(made.training, epochs=9))
    with pytest.raises(ConfigError, match="other settings"):
        train(longer, home, resumed=run)
    table = pl.read_parquet(tmp_path / "table.parquet")
    table.with_columns(pl.col("y") + 1).write_parquet(tmp_path / "table.parquet")
    with pytest.raises(ConfigError, match="table has changed"):
        train(made, home, resumed=run)
    assert newest(home, "same").info.status == "KILLED"


def test_the_verdict_stands_on_the_run_and_is_found_by_a_filter(
    home: Home, first: tuple[Experiment, Outcome]
) -> None:
    """Who looks in MLflow a month later must find which run changed the champion, and why."""
    _, outcome = first
    assert outcome.verdict.winner == "ridge"
    client = connect(home)
    place = client.get_experiment_by_name("again").experiment_id
    (parent,) = client.search_runs([place], "tags.gate = 'promoted: ridge'")
    assert parent.info.run_id == outcome.run_id
    assert "| ridge | again/" in parent.data.tags["mlflow.note.content"]
    assert parent.data.tags["verdict"].startswith("ridge is the champion now.")
    by_kind = {
        kind: client.get_run(run).data.tags.get("gate")
        for kind, (run, _) in children(Run(client, outcome.run_id), "again").items()
    }
    assert by_kind["ridge"] == "promoted"
    assert str(by_kind["nlinear"]).startswith("refused")
    assert by_kind["seasonal_naive"] is None
    found = client.search_runs([place], "tags.kind = 'model' and tags.horizon = '12'")
    assert {run.data.tags["model"] for run in found} == KINDS


def test_the_champion_so_far_has_a_child_run_beside_the_new_ones(
    home: Home, first: tuple[Experiment, Outcome]
) -> None:
    """It was scored on the same windows; without a run it is missing where models are compared."""
    made, before = first
    second = train(made, home)
    runs = children(Run(connect(home), second.run_id), "again")
    old = str(before.versions["ridge"])
    assert runs.keys() == {*KINDS, f"{old} ridge"}
    logged = connect(home).get_run(runs[f"{old} ridge"][0])
    assert logged.data.tags["version"] == old
    assert np.isfinite(logged.data.metrics["wql"])
    assert second.verdict.winner is None
    assert len(Registry(home).versions("again")) == 6
