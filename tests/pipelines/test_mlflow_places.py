"""A training lands wherever MLflow is: a server over HTTP, a PostgreSQL; and survives its loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.demo import free_port
from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.record import children
from pipelines.registry import Registry
from pipelines.run import Run
from pipelines.tracking import connect
from pipelines.train_command import Outcome, Ticket, train_and_register
from tests.panels import experiment_on, hourly, waves
from tests.pipelines.homes import new_home
from tests.pipelines.postgres import new_database
from tests.pipelines.servers import Server
from tsformer.errors import UnavailableError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    new_home(folder)  # its database is ready
    server = Server(folder, free_port())
    server.start()
    yield server
    server.stop()


def experiment(folder: Path) -> Experiment:
    return experiment_on(
        folder,
        hourly(waves(2, 300)),
        name="sales",
        window={"context": 48, "horizon": 12},
        model={"kind": "nlinear"},
        training={"epochs": 1, "windows_per_epoch": 32},
        baselines=["ridge", "seasonal_naive"],
        backtest={"stride": 12},
    )


class Watched(Console):
    """A terminal that does something when it shows that models are being scored."""

    def __init__(self, then: object) -> None:
        super().__init__(quiet=True)
        self.then = then

    def status(self, status: object, **options: object) -> object:  # type: ignore[override]
        if callable(self.then) and "Asking the gate" in str(status):
            self.then()
        return super().status(str(status), **options)  # type: ignore[arg-type]


def train(
    made: Experiment, home: Home, *, resumed: str | None = None, then: object = None
) -> Outcome:
    return train_and_register(
        made, home=home, console=Watched(then), device="cpu", ticket=Ticket(resumed)
    )


def is_complete(outcome: Outcome, home: Home) -> None:
    """Parent, a child a model, a version of each child, and the champion's files."""
    client, registry = connect(home), Registry(home)
    parent = client.get_run(outcome.run_id)
    assert parent.info.status == "FINISHED"
    runs = children(Run(client, outcome.run_id), "sales")
    assert {name: status for name, (_, status) in runs.items()} == dict.fromkeys(
        ("nlinear", "ridge", "seasonal_naive"), "FINISHED"
    )
    versions = registry.versions("sales")
    assert {v.run_id for v in versions} == {run for run, _ in runs.values()}
    assert len(versions) == 3
    wql = {name: client.get_run(run).data.metrics["wql"] for name, (run, _) in runs.items()}
    assert min(wql, key=lambda name: wql[name]) == "ridge"
    champion = registry.fetch("sales@champion")
    assert champion.fresh
    assert (champion.directory / "manifest.json").exists()
    figures = {file.path for file in client.list_artifacts(outcome.run_id, "figures")}
    assert "figures/leaderboard.png" in figures


def test_an_mlflow_server_that_dies_meanwhile_costs_nothing_that_was_fitted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP, lost between fit and registration, and back again: one sentence, and go on."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made, home = experiment(tmp_path), Home.of(
        {"TSFORMER_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": server.address}
    )  # fmt: skip
    with pytest.raises(UnavailableError, match=r"What was fitted is kept\. Go on with: ") as lost:
        train(made, home, then=server.stop)
    run_id = str(lost.value).split()[-1]
    assert any((home.folder / "checkpoints" / run_id / "nlinear").iterdir())
    server.start()
    outcome = train(made, home, resumed=run_id)
    assert outcome.run_id == run_id
    is_complete(outcome, home)


def test_a_training_lands_in_postgresql(tmp_path: Path) -> None:
    """A team's MLflow has no SQLite file; what only works with one is found out too late."""
    home = Home.of({"TSFORMER_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": new_database()})
    is_complete(train(experiment(tmp_path), home), home)


def test_a_training_lands_in_sqlite(tmp_path: Path) -> None:
    home = new_home(tmp_path / "home")
    is_complete(train(experiment(tmp_path), home), home)
