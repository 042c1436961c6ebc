"""The registry wherever MLflow and the store are: SQLite, a server over HTTP, PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import audit
from pipelines.demo import free_port
from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.retention import clean
from pipelines.tracking import connect
from tests.pipelines.homes import new_home
from tests.pipelines.postgres import new_database
from tests.pipelines.processes import start
from tests.pipelines.registries import (
    clean_or_crash,
    new_run,
    promote_or_crash,
    publish,
    race,
    sealed,
)
from tests.pipelines.servers import Server
from tsformer.errors import ConflictError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    new_home(folder)  # its database is ready
    server = Server(folder, free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "http", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A home whose MLflow is in SQLite, behind a server, or in the PostgreSQL of the store too."""
    if request.param == "sqlite":
        return new_home(tmp_path / "home")
    if request.param == "http":
        return Home(tmp_path / "home", request.getfixturevalue("server").address)
    return Home(tmp_path / "home", new_database(), new_database())


def test_a_version_lives_and_ends_everywhere(home: Home, tmp_path: Path) -> None:
    """Published, promoted, moved by hand, rolled back, lost by a crash, cleaned up."""
    registry = Registry(home)
    contents = [sealed(tmp_path / str(season), season=season) for season in (1, 2, 3)]
    run_ids = [new_run(home) for _ in contents]
    for content, run_id in zip(contents, run_ids, strict=True):
        publish(registry, "m", content, run_id=run_id)
    assert publish(registry, "m", contents[0], run_id=run_ids[0]).version == "1"
    with pytest.raises(ConflictError):
        publish(registry, "m", contents[1], run_id=run_ids[0])

    registry.annotate("m/1", "The first.", passed=True)
    assert registry.promote("m/1", seen=0).gate == "passed"
    registry.promote("m/2", seen=1)
    with pytest.raises(ConflictError):
        registry.promote("m/3", seen=1)
    assert registry.rollback("m", from_version="2").version == "1"
    with pytest.raises(ConflictError):
        registry.rollback("m", from_version="2")
    assert registry.fetch("m").fresh

    connect(home).set_registered_model_alias("m", "champion", "3")
    now = registry.reconcile("m")
    assert now is not None
    assert (now.version, now.previous) == ("3", "1")
    process = start(promote_or_crash, home, "m/2", "promote-moved")
    process.join(200)
    assert registry.describe("m").version == "3"
    now = registry.reconcile("m")
    assert now is not None
    assert (now.version, registry.describe("m").version) == ("2", "2")

    registry.copies.remove(registry.describe("m/1"))
    process = start(clean_or_crash, home, "m", "clean-claimed")
    process.join(200)
    assert [v.version for v in clean(registry, "m", keep=0).removed] == ["1"]
    assert [v.version for v in registry.versions("m")] == ["3", "2"]
    with registry.store.read() as connection:
        chain = audit.entries(connection)
    assert audit.faults(chain) == ()
    assert [entry.what for entry in chain] == [
        "promote", "promote", "rollback", "moved outside", "promote", "clean",
    ]  # fmt: skip


def test_one_wins_in_postgresql_too(tmp_path: Path) -> None:
    """There, transactions run side by side, where SQLite has them wait."""
    home = Home(
        new_home(tmp_path / "home").folder, f"sqlite:///{tmp_path}/home/mlflow.db", new_database()
    )
    registry = Registry(home)
    for season in (1, 2, 3):
        publish(registry, "m", sealed(tmp_path / str(season), season=season))
    race(home, registry, processes=2, rounds=4)
