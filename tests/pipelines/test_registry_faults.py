"""Kills, full disks and races around the registry: one version a run, one winner a promotion."""

from __future__ import annotations

import resource
import shutil
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus

from pipelines import audit, digests
from pipelines.home import Home
from pipelines.publication import Publication
from pipelines.publication import publish as publish_files
from pipelines.registry import Registry
from pipelines.tracking import connect
from tests.figures import Told
from tests.pipelines.disks import disk_full
from tests.pipelines.homes import new_home
from tests.pipelines.processes import CONTEXT, start
from tests.pipelines.registries import (
    Sealed,
    new_run,
    promote_or_crash,
    publish,
    publish_or_crash,
    publish_together,
    published,
    race,
    rollback_together,
    sealed,
)
from tsformer.errors import ArtifactError, ConflictError, NotFoundError, UnavailableError

KILLED = 9  # the exit status of a crash point
STEPS = ("publish-uploaded", "publish-registered", "publish-linked")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path / "home")


@pytest.fixture
def registry(home: Home) -> Registry:
    return Registry(home)


def logged_models(home: Home) -> list[str]:
    """The status of every model that MLflow shows, with or without a version."""
    client = connect(home)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [str(model.status) for model in client.search_logged_models(experiments)]


def uploaded(home: Home) -> list[Path]:
    """The files of models in MLflow's storage."""
    return [path for path in (home.folder / "artifacts").rglob("models/**/*") if path.is_file()]


def in_process(target: Callable[..., None], *arguments: object) -> tuple[int | None, object]:
    """How a process of its own ended, and what it said before."""
    here, there = CONTEXT.Pipe()
    process = start(target, *arguments, there)
    there.close()
    process.join(200)
    try:
        return process.exitcode, here.recv() if here.poll() else None
    except EOFError:
        return process.exitcode, None


# --- publish --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_a_publication_that_was_killed_is_completed_by_the_next(
    home: Home, registry: Registry, tmp_path: Path, step: str
) -> None:
    """A half-registered version would serve, or a second one of the same run would appear."""
    content, run_id = sealed(tmp_path / "model"), new_run(home)
    code, said = in_process(publish_or_crash, home, "m", content, run_id, step)
    assert (code, said) == (KILLED, None)
    with pytest.raises((ArtifactError, NotFoundError)):
        registry.fetch("m/1")
    version = publish(registry, "m", content, run_id=run_id)
    assert [str(v) for v in registry.versions("m")] == [str(version)] == ["m/1"]
    assert registry.fetch("m/1").fresh
    assert logged_models(home) == [str(LoggedModelStatus.READY)]
    assert publish(registry, "m", content, run_id=run_id) == version


def test_a_run_published_by_two_processes_at_once_has_one_version(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """Two workers that both believe to hold a job must not register its model twice."""
    publish_at_once(home, registry, tmp_path, rounds=2)


@pytest.mark.faults
@pytest.mark.timeout(1_200)
def test_twenty_runs_published_by_two_processes_at_once_have_a_version_each(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """The same in full."""
    publish_at_once(home, registry, tmp_path, rounds=20)


def publish_at_once(home: Home, registry: Registry, folder: Path, *, rounds: int) -> None:
    """Two processes publish one run after the other, each run at the same moment."""
    content, runs = sealed(folder / "model"), [new_run(home) for _ in range(rounds)]
    together, pipes = CONTEXT.Barrier(2), [CONTEXT.Pipe() for _ in range(2)]
    processes = [
        start(publish_together, home, "m", content, runs, together, there) for _, there in pipes
    ]
    for _, there in pipes:
        there.close()  # whoever dies is not waited for
    said = [[here.recv() for here, _ in pipes] for _ in runs]
    for process in processes:
        process.join(200)
    assert said == [[str(number)] * 2 for number in range(1, rounds + 1)]
    assert [v.run_id for v in registry.versions("m")] == [*reversed(runs)]
    assert len(logged_models(home)) == len(runs)


def test_a_run_publishes_nothing_else(home: Home, registry: Registry, tmp_path: Path) -> None:
    """A repeated job that fitted other weights must not pass them off as the first ones."""
    run_id = new_run(home)
    publish(registry, "m", sealed(tmp_path / "1", season=1), run_id=run_id)
    with pytest.raises(ConflictError, match=r"has published m/1 already"):
        publish(registry, "m", sealed(tmp_path / "2", season=2), run_id=run_id)
    with pytest.raises(ConflictError, match=r"has published m/1 already"):
        publish(registry, "n", sealed(tmp_path / "3", season=1), run_id=run_id)
    assert registry.models() == ("m",)


class Late(MlflowClient):
    """A client whose version is registered when another process has just published the run."""

    def __init__(self, home: Home, before: Callable[[], object]) -> None:
        super().__init__(tracking_uri=home.uri, registry_uri=home.uri)
        self.before = before

    def create_model_version(self, *arguments: object, **options: object) -> object:
        self.before()
        return super().create_model_version(*arguments, **options)


def test_who_comes_second_despite_the_turns_takes_the_version_back(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """Turns end with a connection to the database; the table's own guard does not."""
    content, run_id = sealed(tmp_path / "model"), new_run(home)

    def other() -> None:
        with registry.store.begin() as connection:
            digests.vouch(connection, model="m", version="7", run_id=run_id, digest=content.digest)

    what = Publication("m", content.directory, content.digest, run_id, content.card, "")
    second = publish_files(what, client=Late(home, other), home=home, store=registry.store)
    assert str(second) == "m/7"
    assert registry.versions("m") == ()
    assert (logged_models(home), uploaded(home)) == ([], [])


def test_another_registry_under_the_same_store_is_noticed(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """MLflow's database was made anew: its version 1 is not the one whose digest is kept."""
    publish(registry, "m", sealed(tmp_path / "1", season=1))
    assert home.database is not None
    shutil.copy(new_home(tmp_path / "empty").database or "", home.database)
    anew = Registry(home)
    with pytest.raises(ConflictError, match="not the one that it was made with"):
        publish(anew, "m", sealed(tmp_path / "2", season=2))
    assert anew.versions("m") == ()


def test_a_full_disk_registers_nothing_and_moves_nothing(
    home: Home, registry: Registry, tmp_path: Path, record_property: Told
) -> None:
    """F12: a version without all of its files would be promoted, then serve nobody."""
    publish(registry, "m", sealed(tmp_path / "1", season=1))
    registry.promote("m/1")
    before = uploaded(home)
    size = sum(path.stat().st_size for path in before)
    content, run_id = sealed(tmp_path / "2", season=2), new_run(home)
    for after in (size * part // 20 for part in range(20)):
        with (
            disk_full(home.folder / "artifacts", after=after),
            pytest.raises(UnavailableError, match="No space left on device"),
        ):
            publish(registry, "m", content, run_id=run_id)
        assert [str(v) for v in registry.versions("m")] == ["m/1"]
        assert sorted(uploaded(home)) == sorted(before)
    assert registry.describe("m").version == "1"
    assert str(publish(registry, "m", content, run_id=run_id)) == "m/2"
    record_property("F12", "20 of 20 registrations left no version, no file and the alias alone")


def publish_with_little_space(
    home: Home, content: Sealed, run_id: str, limit: int, said: Connection
) -> None:
    """Publishes where no file may grow beyond `limit` bytes: MLflow's database cannot either."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        publish(Registry(home), "m", content, run_id=run_id)
    except UnavailableError as error:
        said.send(str(error))


def test_a_database_that_cannot_grow_registers_nothing(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """The kernel's own refusal, which also hits the databases of MLflow and of the store."""
    content, run_id = sealed(tmp_path / "model"), new_run(home)
    code, said = in_process(publish_with_little_space, home, content, run_id, 2_000)
    assert code == 0
    assert "cannot be" in str(said)
    assert registry.models() == ()
    assert str(publish(registry, "m", content, run_id=run_id)) == "m/1"


def test_a_copy_that_cannot_be_kept_leaves_the_last_good_one(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """The disk of a service fills up: the champion that it has serves on."""
    published(registry, "m", tmp_path, versions=2)
    registry.promote("m/1")
    service = Registry(Home(tmp_path / "service", home.uri, home.store))
    service.fetch("m")
    registry.promote("m/2")
    with disk_full(service.home.models, after=100):
        last = service.fetch("m")
        with pytest.raises(UnavailableError, match="No space left on device"):
            service.fetch("m/2")
    assert (last.version.version, last.fresh) == ("1", False)
    assert sorted(path.name[:2] for path in (service.home.models / "m").iterdir()) == ["1-", "ch"]
    assert service.fetch("m").version.version == "2"
    service.home.models.rename(tmp_path / "away")
    service.home.models.write_text("no folder")
    with pytest.raises(UnavailableError, match="cannot be kept"):
        service.fetch("m")


# --- promote --------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["promote-moved", "promote-followed"])
def test_a_promotion_that_was_killed_is_finished(
    home: Home, registry: Registry, tmp_path: Path, step: str
) -> None:
    """The table and MLflow would name two champions, and the next promotion revert one."""
    published(registry, "m", tmp_path, versions=2)
    registry.promote("m/1")
    process = start(promote_or_crash, home, "m/2", step)
    process.join(200)
    assert process.exitcode == KILLED
    stored = registry.champion("m")
    assert stored is not None
    assert (stored.version, stored.previous, stored.settled) == ("2", "1", False)
    finished = registry.reconcile("m")
    assert finished is not None
    assert (finished.version, finished.rev, finished.settled) == ("2", stored.rev, True)
    assert registry.describe("m").version == "2"
    with registry.store.read() as connection:
        moves = [(e.what, e.before, e.after) for e in audit.entries(connection)]
    assert moves == [("promote", None, "1"), ("promote", "1", "2")]


def test_of_those_who_promote_at_once_one_wins(
    home: Home, registry: Registry, tmp_path: Path, record_property: Told
) -> None:
    """F19 in small: two jobs that both beat the old champion; the second verdict is outdated."""
    published(registry, "m", tmp_path, versions=3)
    record_property("F19", race(home, registry, processes=2, rounds=6))


@pytest.mark.faults
@pytest.mark.timeout(1_200)
def test_of_four_who_promote_at_once_a_hundred_times_one_wins(
    home: Home, registry: Registry, tmp_path: Path, record_property: Told
) -> None:
    """F19 in full."""
    published(registry, "m", tmp_path, versions=5)
    record_property("F19", race(home, registry, processes=4, rounds=100))


def test_a_rollback_by_two_at_once_goes_back_once(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """Two people answer one alarm: the champion must not go back two versions."""
    published(registry, "m", tmp_path, versions=3)
    for number in (1, 2, 3):
        registry.promote(f"m/{number}")
    together, pipes = CONTEXT.Barrier(2), [CONTEXT.Pipe() for _ in range(2)]
    processes = [start(rollback_together, home, "m", together, there) for _, there in pipes]
    said = [here.recv() for here, _ in pipes]
    for process in processes:
        process.join(200)
    assert sorted(said, key=str) == ["2", None]
    assert registry.describe("m").version == "2"
