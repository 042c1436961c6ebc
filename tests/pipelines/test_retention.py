"""A clean-up removes what nobody needs, with its files, and never what somebody needs."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.store.entities import PagedList

from pipelines import audit, digests
from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.retention import clean, pin, planned, unpin
from pipelines.tracking import connect
from pipelines.versions import Fetched
from tests.figures import Told
from tests.pipelines.homes import new_home
from tests.pipelines.postgres import new_database
from tests.pipelines.processes import CONTEXT, start
from tests.pipelines.registries import (
    clean_or_crash,
    hold_a_version,
    new_run,
    publish,
    published,
    sealed,
)
from tsformer.artifact import verify
from tsformer.errors import ConfigError, ConflictError, NotFoundError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path / "home")


@pytest.fixture
def registry(home: Home) -> Registry:
    return Registry(home)


def left(registry: Registry) -> list[str]:
    return [version.version for version in registry.versions("m")]


def files(home: Home) -> int:
    """How many versions have their weights in MLflow's storage."""
    return len([*(home.folder / "artifacts").rglob("weights.safetensors")])


def test_what_is_needed_stays_and_the_rest_goes_with_its_files(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """A disk fills with a version a night; a rollback must still find the version before."""
    published(registry, "m", tmp_path, versions=8)
    for number in (2, 3):
        registry.promote(f"m/{number}")
    registry.promote("m/4", alias="candidate")
    pin(registry, "m/5")
    loaded = registry.fetch("m/6")
    registry.fetch("m/7")
    plan = planned(registry, "m", keep=1)
    cleaned = clean(registry, "m", keep=1)
    assert cleaned == plan
    assert [version.version for version in cleaned.removed] == ["1", "7"]
    assert cleaned.kept == {
        "8": "one of the newest 1",
        "6": "loaded by a process on this machine",
        "5": "pinned",
        "4": "@candidate",
        "3": "@champion",
        "2": "@champion was on it before",
    }
    assert left(registry) == ["8", "6", "5", "4", "3", "2"]
    assert files(home) == 6
    assert len(connect(home).search_logged_models(["1"])) == 6
    assert not [*(home.models / "m").glob("7*")]
    assert registry.rollback("m").version == "2"
    assert loaded.version.version == "6"


def test_a_lease_ends_with_who_had_it(home: Home, registry: Registry, tmp_path: Path) -> None:
    """A service that was killed must not keep its versions for ever."""
    published(registry, "m", tmp_path, versions=1)
    here, there = CONTEXT.Pipe()
    process = start(hold_a_version, home, "m/1", there)
    assert here.recv() == "m/1"
    assert clean(registry, "m", keep=0).removed == ()
    process.kill()
    process.join()
    assert len(clean(registry, "m", keep=0).removed) == 1


def test_a_pin_holds_until_it_is_taken_away(registry: Registry, tmp_path: Path) -> None:
    published(registry, "m", tmp_path, versions=1)
    for _ in range(2):
        pin(registry, "m/1")
    assert clean(registry, "m", keep=0).removed == ()
    unpin(registry, "m/1")
    assert len(clean(registry, "m", keep=0).removed) == 1
    with registry.store.read() as connection:
        chain = audit.entries(connection)
    assert [entry.what for entry in chain] == ["pin", "unpin", "clean"]


def test_what_was_removed_is_not_known_any_more(registry: Registry, tmp_path: Path) -> None:
    content, run_id = sealed(tmp_path / "1", season=1), new_run(registry.home)
    publish(registry, "m", content, run_id=run_id)
    registry.fetch("m/1")
    clean(registry, "m", keep=0)
    for attempt in (registry.fetch, registry.promote, registry.adopt):
        with pytest.raises(NotFoundError):
            attempt("m/1")
    with pytest.raises(ConflictError, match="was removed by a clean-up"):
        publish(registry, "m", content, run_id=run_id)
    assert publish(registry, "m", content).version == "2"


def test_a_version_of_another_store_is_left_alone(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """Another installation shares MLflow; its champion stands in a table that is not here."""
    published(registry, "m", tmp_path, versions=2)
    other = Registry(Home(tmp_path / "elsewhere", home.uri))
    assert clean(other, "m", keep=0).removed == ()
    assert left(registry) == ["2", "1"]


def test_an_alias_set_by_hand_in_mlflow_protects(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    published(registry, "m", tmp_path, versions=2)
    connect(home).set_registered_model_alias("m", "reference", "1")
    assert [v.version for v in clean(registry, "m", keep=0).removed] == ["2"]


def test_fewer_than_none_is_refused(registry: Registry, tmp_path: Path) -> None:
    published(registry, "m", tmp_path, versions=1)
    with pytest.raises(ConfigError, match="--keep"):
        clean(registry, "m", keep=-1)
    with pytest.raises(NotFoundError):
        clean(registry, "nobody")


@pytest.mark.parametrize("step", ["clean-claimed", "clean-copy-removed"])
def test_a_clean_up_that_was_killed_goes_on(
    home: Home, registry: Registry, tmp_path: Path, step: str
) -> None:
    """A version without files would stay in MLflow, offered to everybody and loadable by none."""
    published(registry, "m", tmp_path, versions=2)
    registry.promote("m/2")
    registry.fetch("m/1")
    process = start(clean_or_crash, home, "m", step)
    process.join(200)
    assert process.exitcode == 9
    with pytest.raises(NotFoundError, match="removed by a clean-up"):
        registry.promote("m/1")
    assert [v.version for v in clean(registry, "m", keep=0).removed] == ["1"]
    assert left(registry) == ["2"]
    assert files(home) == 1
    with registry.store.read() as connection:
        assert [e.what for e in audit.entries(connection)] == ["promote", "clean"]


class Meanwhile(MlflowClient):
    """A client that lets something happen once, just before it is asked for something."""

    def __init__(self, home: Home, asked: str, happens: Callable[[], object]) -> None:
        super().__init__(tracking_uri=home.uri, registry_uri=home.uri)
        self.asked, self.happens = asked, happens

    def _before(self, asked: str) -> None:
        if asked == self.asked:
            self.asked = ""
            self.happens()

    def get_logged_model(self, model_id: str) -> LoggedModel:
        self._before("files")
        return super().get_logged_model(model_id)

    def search_model_versions(self, *what: object, **how: object) -> PagedList[ModelVersion]:
        found = super().search_model_versions(*what, **how)
        self.asked = "aliases" if self.asked == "aliases after versions" else self.asked
        return found

    def get_registered_model(self, name: str) -> RegisteredModel:
        self._before("aliases")
        return super().get_registered_model(name)


def test_a_version_loaded_while_it_is_about_to_be_removed_stays(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """A service that starts during the nightly clean-up would lose the files under its model."""
    published(registry, "m", tmp_path, versions=1)
    loaded: list[Fetched] = []

    def load() -> None:
        loaded.append(registry.fetch("m/1"))

    cleaner = Registry(home)
    cleaner.link._client = Meanwhile(home, "aliases after versions", load)
    cleaned = clean(cleaner, "m", keep=0)
    assert (cleaned.removed, cleaned.kept) == ((), {"1": "loaded by a process on this machine"})
    verify(loaded[0].directory, loaded[0].version.digest)
    assert registry.fetch("m/1").fresh
    with registry.store.read() as connection:
        assert [e.what for e in audit.entries(connection)] == ["clean", "clean undone"]


@pytest.mark.parametrize("held", [True, False])
def test_who_is_too_late_for_a_version_leaves_a_copy_to_its_user_only(
    home: Home, registry: Registry, tmp_path: Path, held: bool
) -> None:
    """Tidying up under somebody who has the copy loaded; or a copy that no clean-up removes."""
    published(registry, "m", tmp_path, versions=1)
    loaded: list[Fetched] = []

    def load_and_claim() -> None:
        if held:
            loaded.append(registry.fetch("m/1"))
        with registry.store.begin() as connection:
            digests.set_removed(connection, "m", "1")

    late = Registry(home)
    late.link._client = Meanwhile(home, "files", load_and_claim)
    with pytest.raises(NotFoundError, match="removed by a clean-up"):
        late.fetch("m/1")
    assert len([*(home.models / "m").glob("1-*")]) == len(loaded)
    for fetched in loaded:
        verify(fetched.directory, fetched.version.digest)


def test_a_clean_up_that_goes_on_gives_nothing_back(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """The one before it may have removed files: who is late would get a version of half of them."""
    version = published(registry, "m", tmp_path, versions=1)[0]
    with registry.store.begin() as connection:
        digests.set_removed(connection, "m", "1")
    loaded = []

    def load() -> None:
        loaded.append(registry.copies.take(version, download=registry.download))

    cleaner = Registry(home)
    cleaner.link._client = Meanwhile(home, "aliases after versions", load)
    assert clean(cleaner, "m", keep=0).removed == ()
    with pytest.raises(NotFoundError, match="removed by a clean-up"):
        registry.fetch("m/1")
    loaded.clear()
    assert [v.version for v in clean(registry, "m", keep=0).removed] == ["1"]


def during_promotions(home: Home, folder: Path, *, cleanings: int, seed: int) -> str:
    """Clean-ups at random moments while others publish, promote, pin, fetch and roll back.

    Says what was removed: something, and nothing that was needed.
    """
    registry, dice = Registry(home), random.Random(seed)
    published(registry, "m", folder, versions=4)
    registry.promote("m/4")
    ended = threading.Event()
    with ThreadPoolExecutor() as pool:
        busy = pool.submit(change_at_random, Registry(home), folder, ended, random.Random(seed))
        try:
            removed = sum(
                len(clean(registry, "m", keep=dice.randrange(3)).removed) for _ in range(cleanings)
            )
        finally:
            ended.set()
        busy.result(60)
    replay(registry)
    elsewhere = Registry(Home(folder / "elsewhere", home.uri, home.store))  # with no copies
    now = registry.champion("m")
    assert now is not None
    assert all(elsewhere.fetch(f"m/{v}").fresh for v in (now.version, now.previous) if v)
    assert removed
    return f"{cleanings} clean-ups removed {removed} versions, 0 of them needed"


def change_at_random(
    registry: Registry, folder: Path, ended: threading.Event, dice: random.Random
) -> None:
    """Changes of all kinds until the end; what was fetched is kept for a while, and stays."""
    held: list[Fetched] = []
    season = 5
    while not ended.is_set():
        reference = str(dice.choice(registry.versions("m")))
        try:
            match dice.randrange(6):
                case 0:
                    publish(registry, "m", sealed(folder / f"m-{season}", season=season))
                    season += 1
                case 1 | 2:
                    registry.promote(reference)
                case 3:
                    (pin if dice.random() < 0.3 else unpin)(registry, reference)
                case 4:
                    held.append(registry.fetch(reference))
                case 5:
                    registry.rollback("m")
        except (NotFoundError, ConflictError):
            pass  # it was removed first, or there is nothing to go back to
        if len(held) > 2:
            registry.describe(str(held[0].version))  # it was leased until now
            del held[0]


def replay(registry: Registry) -> None:
    """Goes through the audit, which is in order: nothing was removed when it was needed."""
    with registry.store.read() as connection:
        chain = audit.entries(connection)
    assert audit.faults(chain) == ()
    champion, previous, pinned = None, None, set[str]()
    for entry in chain:
        match entry.what:
            case "promote":
                champion, previous = entry.after, champion
            case "rollback":
                champion, previous = entry.after, None
            case "pin":
                pinned.add(entry.subject)
            case "unpin":
                pinned.discard(entry.subject)
            case "clean":
                assert entry.subject not in {f"m/{champion}", f"m/{previous}", *pinned}


def test_clean_ups_during_promotions_remove_nothing_that_is_needed(
    home: Home, tmp_path: Path, record_property: Told
) -> None:
    """D4 in small: the champion's files disappear between the check and the removal."""
    record_property("D4", during_promotions(home, tmp_path, cleanings=8, seed=0))


@pytest.mark.faults
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_fifty_clean_ups_during_promotions_remove_nothing_that_is_needed(
    home: Home, tmp_path: Path, store: str, seed: int, record_property: Told
) -> None:
    """D4 in full."""
    if store == "postgresql":
        home = Home(home.folder, home.uri, new_database())
    told = during_promotions(home, tmp_path, cleanings=50, seed=seed)
    record_property("D4", f"{store}, seed {seed}: {told}")
