"""References move to a new version once it has run, never to a bad one, and nobody waits."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from pipelines.champions import move
from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.retention import clean, retire
from pipelines.tracking import connect
from serving.library import Library, Loaded, NoDefaultError, Shelf, warm_up
from tests.serving.running import forecaster, publish
from tsformer.errors import ArtifactError, NotFoundError, TsformerError, UnavailableError


@pytest.fixture
def stocked(empty: Home, tmp_path: Path) -> Home:
    """A registry with one version of the model m."""
    publish(empty, "m", forecaster(seed=1), tmp_path / "1")
    return empty


def library(
    home: Home,
    *,
    default: str = "",
    refused: list[str] | None = None,
    failing: Mapping[str, Exception] | None = None,
) -> tuple[Library, list[str]]:
    """A library, and which versions it prepares; those that are `failing` cannot be."""
    prepared: list[str] = []

    async def prepare(version: str) -> None:
        prepared.append(version)
        if failing and version in failing:
            raise failing[version]

    shelf = Shelf(Registry(home), capacity=2, device="cpu")
    heard = [] if refused is None else refused
    return Library(shelf, default=default, prepare=prepare, on_refusal=heard.append), prepared


def test_a_moved_alias_is_followed_and_the_old_version_can_still_be_named(
    stocked: Home, tmp_path: Path
) -> None:
    async def scenario() -> list[str]:
        books, prepared = library(stocked, default="m")
        first = await books.resolve(None)
        publish(stocked, "m", forecaster(seed=2), tmp_path / "2")
        assert (await books.resolve("m")).version.version == "1"
        await books.refresh()
        assert (await books.resolve("m")).version.version == "2"
        assert await books.resolve("m/1") == first
        return prepared

    assert asyncio.run(scenario()) == ["m/1", "m/2", "m/1"]


class Slow(Shelf):
    """Loads as a large model does, and counts how often."""

    loads = 0

    def _load(self, version: str) -> Loaded:
        self.loads += 1
        time.sleep(0.2)
        return super()._load(version)


def test_a_model_whose_asker_left_is_loaded_once_all_the_same(home: Home) -> None:
    """One that takes longer than its callers wait would be loaded again and again, and never be there."""
    shelf = Slow(Registry(home), capacity=2, device="cpu")

    async def scenario() -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(shelf.get("small/1"), 0.05)
        assert (await shelf.get("small/1")).version.version == "1"

    asyncio.run(scenario())
    assert shelf.loads == 1


def test_a_damaged_version_never_serves(stocked: Home, tmp_path: Path) -> None:
    """The old version answers on, and the refusal is told once, not with every look."""

    async def scenario() -> None:
        refused: list[str] = []
        books, _ = library(stocked, default="m", refused=refused)
        await books.resolve(None)
        publish(stocked, "m", forecaster(seed=2), tmp_path / "2")
        shutil.rmtree(stocked.models / "m", ignore_errors=True)
        for weights in (stocked.folder / "artifacts").rglob("weights.safetensors"):
            data = bytearray(weights.read_bytes())
            data[-1] ^= 1
            weights.write_bytes(data)
        await books.refresh()
        await books.refresh()
        assert refused == ["m"]  # once, however often it is looked at
        assert (await books.resolve(None)).version.version == "1"
        with pytest.raises(ArtifactError):
            await books.resolve("m/2")

    asyncio.run(scenario())


def test_a_defect_that_keeps_a_version_out_is_told_with_its_place(
    stocked: Home, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody could mend what is called "'context'" and nothing else."""

    async def scenario() -> None:
        books, _ = library(stocked, default="m", failing={"m/2": KeyError("context")})
        await books.resolve(None)
        publish(stocked, "m", forecaster(seed=2), tmp_path / "2")
        await books.refresh()
        assert (await books.resolve(None)).version.version == "1"

    asyncio.run(scenario())
    assert "stays at version 1" in caplog.text
    assert "KeyError: 'context'" in caplog.text
    assert ", in prepare" in caplog.text


@pytest.mark.parametrize(
    ("error", "tries"), [(ArtifactError("no"), 6), (UnavailableError("away"), 64)]
)
def test_what_cannot_serve_is_tried_again_more_and_more_rarely(
    stocked: Home, tmp_path: Path, error: TsformerError, tries: int
) -> None:
    """Fetched with every look, a damaged version of a gigabyte keeps the registry busy all night.

    What is only away for now is asked for with every look.
    """

    async def scenario() -> None:
        books, prepared = library(stocked, default="m", failing={"m/2": error})
        await books.resolve(None)
        publish(stocked, "m", forecaster(seed=2), tmp_path / "2")
        for _ in range(64):
            await books.refresh()
        assert prepared.count("m/2") == tries
        publish(stocked, "m", forecaster(seed=3), tmp_path / "3")
        await books.refresh()  # another one is tried at once
        assert (await books.resolve(None)).version.version == "3"

    asyncio.run(scenario())


def test_an_interrupted_move_off_a_damaged_version_is_finished_at_once(
    empty: Home, tmp_path: Path
) -> None:
    """A rollback that dies half-way must not wait until the damaged version is tried again."""
    for number in (1, 2, 3):
        publish(empty, "m", forecaster(seed=number), tmp_path / str(number))
    registry = Registry(empty)
    registry.promote("m/1")

    async def scenario() -> None:
        books, _ = library(empty, default="m", failing={"m/2": ArtifactError("damaged")})
        await books.resolve(None)
        registry.promote("m/2")
        for _ in range(4):
            await books.refresh()
        champion = registry.champion("m")
        assert champion is not None
        with registry.store.begin() as connection:
            move(connection, champion, to="3", previous="2")
        await books.refresh()
        assert (await books.resolve(None)).version.version == "3"
        assert registry.describe("m").version == "3"

    asyncio.run(scenario())


def test_a_version_that_gives_no_finite_number_is_refused() -> None:
    with pytest.raises(ArtifactError, match="not finite"):
        warm_up(forecaster(seed=1, broken=True), name="m/1")


def test_the_only_model_is_the_default(stocked: Home) -> None:
    async def scenario() -> None:
        books, _ = library(stocked)
        assert not books.ready
        assert (await books.resolve(None)).version.name == "m"
        assert books.ready

    asyncio.run(scenario())


def test_one_of_several_models_must_be_named(empty: Home, tmp_path: Path) -> None:
    """A service with a second model was not ready after a restart, and told its callers to wait."""
    for seed, name in enumerate(("m", "n")):
        publish(empty, name, forecaster(seed=seed), tmp_path / name)

    async def scenario() -> None:
        books, _ = library(empty)
        with pytest.raises(NoDefaultError, match="2 models are registered"):
            await books.resolve(None)
        assert books.ready
        assert (await books.resolve("n")).version.name == "n"
        retire(books.shelf.registry, "m")
        assert (await books.resolve(None)).version.name == "n"

    asyncio.run(scenario())


def test_where_the_only_model_is_taken_away_the_next_only_one_is_the_default(
    stocked: Home, tmp_path: Path
) -> None:
    """Else the service would not be ready until it is started again, and nothing would say why."""

    async def scenario() -> None:
        books, _ = library(stocked)
        await books.resolve(None)
        publish(stocked, "n", forecaster(seed=2), tmp_path / "2")
        await books.refresh()
        assert (await books.resolve(None)).version.name == "m"  # what is in use stays so
        retire(books.shelf.registry, "m")
        await books.refresh()
        assert not books.ready
        assert (await books.resolve(None)).version.name == books.default == "n"
        assert books.ready

    asyncio.run(scenario())


def test_a_model_that_was_taken_away_elsewhere_answers_no_more_by_its_number(
    stocked: Home, tmp_path: Path
) -> None:
    """Of several ingresses one hears of it; the others would serve it on until they are restarted."""
    publish(stocked, "other", forecaster(seed=2), tmp_path / "2")
    away = Home(stocked.folder, stocked.uri, "postgresql://nobody@127.0.0.1:9/none")

    async def scenario() -> None:
        books, _ = library(stocked, default="other/1")
        for reference in ("m/1", "other/1"):
            await books.resolve(reference)
        retire(Registry(stocked), "m")
        books.shelf.registry = Registry(away)
        await books.refresh()
        assert (await books.resolve("m/1")).version.name == "m"  # nobody can say that it is gone
        books.shelf.registry = Registry(stocked)
        await books.refresh()
        with pytest.raises(NotFoundError):
            await books.resolve("m/1")
        assert books.ready

    asyncio.run(scenario())


def test_a_replica_that_starts_later_is_not_waited_for_in_whole_rounds(stocked: Home) -> None:
    """Every start would be so much later as there is between two looks at the aliases."""

    async def scenario() -> None:
        missing = [UnavailableError("being started")] * 2

        async def prepare(_: str) -> None:
            if missing:
                raise missing.pop()

        books = Library(Shelf(Registry(stocked), capacity=2), default="m", prepare=prepare)
        watching = asyncio.create_task(books.watch(every_s=3_600))
        async with asyncio.timeout(30):
            while not books.ready:
                await asyncio.sleep(0.01)
        watching.cancel()

    asyncio.run(scenario())


def test_what_nobody_knows_is_not_found(home: Home) -> None:
    for reference in ("nobody", "small/9", "small@nobody"):
        with pytest.raises(NotFoundError):
            asyncio.run(library(home)[0].resolve(reference))


def test_an_empty_registry_is_unavailable_not_a_crash(empty: Home) -> None:
    with pytest.raises(UnavailableError):
        asyncio.run(library(empty)[0].resolve(None))


def test_a_version_in_memory_is_not_cleaned_up(empty: Home, tmp_path: Path) -> None:
    """A replica that restarts fetches it again; it must still be there."""
    registry = Registry(empty)
    for number in (1, 2):
        publish(empty, "m", forecaster(seed=number), tmp_path / str(number))
    publish(empty, "m", forecaster(seed=3), tmp_path / "3")

    async def scenario() -> None:
        books, _ = library(empty, default="m")
        await books.resolve("m/1")
        assert clean(registry, "m", keep=0).removed == ()
        for _ in range(2):  # the shelf holds two: now without the first
            await books.resolve("m/3")
            await books.resolve("m/2")
        assert [v.version for v in clean(registry, "m", keep=0).removed] == ["1"]

    asyncio.run(scenario())


def test_an_alias_moved_by_hand_is_followed_and_recorded(empty: Home, tmp_path: Path) -> None:
    """What a person sees in MLflow is what serves; so is a promotion that was killed half-way."""
    registry = Registry(empty)
    for number in (1, 2):
        publish(empty, "m", forecaster(seed=number), tmp_path / str(number))

    async def scenario() -> None:
        books, _ = library(empty, default="m")
        assert (await books.resolve(None)).version.version == "2"
        connect(empty).set_registered_model_alias("m", "champion", "1")
        await books.refresh()
        assert (await books.resolve(None)).version.version == "1"
        champion = registry.champion("m")
        assert champion is not None
        assert (champion.version, champion.previous) == ("1", "2")
        with registry.store.begin() as connection:
            move(connection, champion, to="2", previous="1")
        await books.refresh()
        assert (await books.resolve(None)).version.version == "2"
        assert registry.describe("m").version == "2"

    asyncio.run(scenario())


def test_the_service_goes_on_while_the_store_is_away(stocked: Home, tmp_path: Path) -> None:
    """Nobody can vouch for a new version then; the one that serves does so on, and after a start."""
    away = Home(stocked.folder, stocked.uri, "postgresql://nobody@127.0.0.1:9/none")

    async def scenario() -> None:
        await library(stocked, default="m")[0].resolve(None)  # a service that was up before
        refused: list[str] = []
        books, _ = library(away, default="m", refused=refused)
        assert (await books.resolve(None)).version.version == "1"
        publish(stocked, "m", forecaster(seed=2), tmp_path / "2")
        before = books.stale_s
        await books.refresh()
        assert (await books.resolve(None)).version.version == "1"
        assert books.stale_s > before  # the number to look at; no version is to blame
        assert refused == []

    asyncio.run(scenario())


def test_an_outage_shows_where_only_versions_are_in_use(stocked: Home, tmp_path: Path) -> None:
    """Else nobody would be woken before the first promotion that does not arrive."""

    async def scenario() -> None:
        books, _ = library(stocked, default="m/1")
        await books.resolve(None)
        await books.refresh()
        heard = books.stale_s
        shutil.move(stocked.folder / "mlflow.db", tmp_path / "elsewhere")
        books.shelf.registry = Registry(stocked)
        await books.refresh()
        assert books.stale_s > heard
        shutil.move(tmp_path / "elsewhere", stocked.folder / "mlflow.db")
        before = books.stale_s
        await books.refresh()
        assert books.stale_s < before

    asyncio.run(scenario())
