"""The registry wherever MLflow and the store are: SQLite, a server over HTTP, PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from pipelines import audit
from pipelines.demo import free_port
from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.retention import clean
from pipelines.tracking import connect
from serving.settings import Settings
from tests.figures import Told
from tests.pipelines.homes import new_home
from tests.pipelines.outages import Way, way_to
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
from tests.serving.running import application, series, table
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


# --- MLflow is away -------------------------------------------------------------------------

SERVICE = Settings.read({"models": {"default": "away", "poll_s": 0.1}, "jobs": {"at_once": 0}})
BODY = {"data": table(series()), "freq": "h"}


@asynccontextmanager
async def started(home: Home) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that has just been started."""
    app = application(home, SERVICE)
    async with (
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=60
        ) as client,
        app.router.lifespan_context(app),
        asyncio.timeout(120),
    ):
        yield client


async def until_ready(client: httpx.AsyncClient) -> float:
    """The seconds that it took."""
    begun = time.monotonic()
    while (await client.get("/health/ready")).status_code != 200:
        await asyncio.sleep(0.1)
    return time.monotonic() - begun


async def version_of(client: httpx.AsyncClient) -> str:
    reply = await client.post("/v1/forecasts", json=BODY)
    assert reply.status_code == 200, reply.text
    return str(reply.json()["model"]["version"])


async def staleness(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    name = "tsformer_registry_staleness_seconds "
    return next(float(line[len(name) :]) for line in text.splitlines() if line.startswith(name))


async def outage(service: httpx.AsyncClient, cached: Home, bare: Home, version: str) -> float:
    """One service runs, one starts with copies, one with nothing; gives how long the second took."""
    before = await staleness(service)
    async with started(cached) as second, started(bare) as third:
        took = await until_ready(second)
        assert await version_of(second) == version
        while "being loaded" in (reply := await third.get("/health/ready")).text:
            await asyncio.sleep(0.1)
        assert (reply.status_code, (await third.get("/health/live")).status_code) == (503, 200)
    assert await version_of(service) == version
    while await staleness(service) < before + 0.5:
        await asyncio.sleep(0.1)
    return took


def test_an_outage_of_mlflow_costs_no_forecast(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Told
) -> None:
    """F11: refused, hung or cut off, for a service that runs and for two that start meanwhile."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    starts, late = list[float](), list[float]()

    async def scenario(way: Way) -> None:
        home = Home(tmp_path / "home", way.address)
        direct = Registry(Home(tmp_path / "home", server.address))
        async with started(home) as service:
            await until_ready(service)
            for number, mode in enumerate(("refused", "hung", "cut"), start=1):
                with way.block(mode):
                    bare = Home(tmp_path / mode, way.address, home.store)
                    starts.append(await outage(service, home, bare, str(number)))
                    await asyncio.to_thread(direct.promote, f"away/{number + 1}")
                    assert await version_of(service) == str(number)
                begun = time.monotonic()
                while await version_of(service) != str(number + 1):
                    await asyncio.sleep(0.1)
                late.append(time.monotonic() - begun)
                assert await staleness(service) < 30

    direct = Registry(Home(tmp_path / "home", server.address))
    for season in range(1, 5):
        publish(direct, "away", sealed(tmp_path / str(season), season=season))
    direct.promote("away/1")
    with way_to(server.port) as way:
        asyncio.run(scenario(way))
    assert max(starts) < 75
    assert max(late) < 30
    record_property(
        "F11",
        f"3 of 3 outages: 0 forecasts failed; ready from copies after {max(starts):.1f} s at most, "
        f"without any live and not ready; a promotion arrives {max(late):.1f} s at most after it",
    )
