"""More requests than the service can answer, clients that leave, and a neighbour who floods it."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import polars as pl
import psutil
import pytest

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.query import Floats, Query
from pipelines.registry import Registry
from serving.app import create
from serving.frames import MEDIA, pack
from serving.graphs import Graphs, installed
from serving.host import Lane, LocalEngine
from serving.library import Shelf
from serving.limits import Limits
from serving.runner import NICENESS, executor
from serving.settings import Settings
from tests.figures import Told
from tests.serving.conftest import fresh_home
from tests.serving.keyed import new_key
from tests.serving.load import (
    LEFT,
    Answer,
    Ask,
    accepted,
    ask_all,
    ask_in_turn,
    between,
    body,
    quantile,
    statuses,
    steady,
)
from tests.serving.processes import Process, processes, replicas, started
from tests.serving.running import Running, listening, publish, series, table
from tsformer import artifact


class Slow(LocalEngine):
    """A model that takes its time."""

    def __init__(self, shelf: Shelf, ready: Callable[[], Awaitable[object]]) -> None:
        super().__init__(shelf)
        self.ready = ready

    async def run(self, version: str, query: Query, levels: tuple[float, ...]) -> Floats:
        await self.ready()
        return await super().run(version, query, levels)


@contextmanager
def slow_service(
    home: Home,
    ready: Callable[[], Awaitable[object]],
    *,
    windows: int,
    waiting: int,
    in_flight: int = 1,
) -> Iterator[Running]:
    """The service on a model that waits until it is `ready` for each batch of so many windows."""
    settings = Settings.read(
        {
            "models": {"default": "small"},
            "batching": {"max_windows": windows},
            "limits": {"queue_per_model": waiting},
            "jobs": {"at_once": 0},
        }
    )
    door, shelf = (
        Shelf(Registry(home), capacity=8, device="cpu", weights=w) for w in (False, True)
    )
    lane = Lane(Slow(shelf, ready), in_flight)
    yield from listening(create(door, lane, settings))


def url_of(running: Running) -> str:
    return str(running.client.base_url)


def test_a_burst_beyond_the_queue_is_refused_at_once(home: Home, record_property: Told) -> None:
    """L2: a client that cannot be answered in time must hear so while it can still go elsewhere."""
    content, at_once, refused = body(table(series())), threading.Event(), list[Answer]()

    async def all_refused() -> None:
        while not at_once.is_set():
            await asyncio.sleep(0.01)

    def told(answer: Answer) -> None:
        refused.extend([answer] if answer.status == 503 else [])
        if len(refused) == 88:
            at_once.set()  # before the model has answered anybody

    with slow_service(home, all_refused, windows=1, waiting=8, in_flight=4) as running:
        asks = steady(1e9, content, seconds=1e-7, patience_s=50)
        answers = ask_all(url_of(running), asks, told)
        at_once.set()
    latest = max((each.seconds for each in refused), default=0)
    told_at_once, answered = statuses(answers)[503], statuses(answers)[200]
    record_property(
        "L2", f"{answered} answered, {told_at_once} refused, the latest after {latest:.2f} s"
    )
    assert told_at_once + answered == 100
    # Of the first four, those that left the queue before the others came.
    assert 8 <= answered <= 4 + 8
    assert all(int(each.retry_after) >= 1 for each in refused)


@pytest.mark.faults
@pytest.mark.timeout(240)
def test_twice_what_the_model_can_do_costs_only_what_is_too_much(
    home: Home, record_property: Told
) -> None:
    """L3: a service that answers nobody in time because it tries to answer everybody is down."""
    batch_s, windows, waiting = 0.5, 8, 16
    capacity, content = windows / batch_s, body(table(series()))

    async def done() -> None:
        await asyncio.sleep(batch_s)

    with slow_service(home, done, windows=windows, waiting=waiting) as running:
        url = url_of(running)
        base = ask_all(url, steady(capacity / 2, content, seconds=5))
        asks = [
            *steady(2 * capacity, content, seconds=60),
            *steady(capacity / 2, content, seconds=10, start=60),
        ]
        answers = ask_all(url, asks)
    crowd, after = between(answers, 0, 60), between(answers, 65, 70)
    goodput = len(accepted(crowd)) / 60 / capacity
    bound_s = (waiting / windows + 1) * batch_s  # those before it, and its own
    slowest, usual, again = (quantile(accepted(each), 0.99) for each in (crowd, base, after))
    record_property(
        "L3",
        f"goodput {100 * goodput:.0f} % of capacity, p99 of the accepted {slowest:.2f} s by a bound of "
        f"{bound_s:g} s; p99 {usual:.2f} s before and {again:.2f} s from 5 s after",
    )
    assert statuses(crowd).keys() == {200, 503}
    assert statuses(after).keys() == statuses(base).keys() == {200}
    assert goodput > 0.5
    assert slowest < 10 * bound_s
    assert again < 5 * bound_s


def test_a_job_steps_back_for_forecasts(tmp_path: Path) -> None:
    """Training that takes a core from the model makes everybody wait who asks for a forecast."""
    ran = executor(Home.of({"TSFORMER_HOME": str(tmp_path)}), os.environ, Settings())
    sleeping = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
    ran = replace(ran, command=sleeping, folder=tmp_path)
    try:
        for run in ("a", "b"):  # at once: Linux weighs only one of them in 0.1 s
            ran.submit(run, 1)
        for job in ran._started:
            assert os.getpriority(os.PRIO_PROCESS, job.pid) == min(19, os.nice(0) + NICENESS)
            session = Path(f"/proc/{job.pid}/autogroup")
            assert not session.exists() or session.read_text().endswith(f" nice {NICENESS}\n")
    finally:
        for job in ran._started:
            job.kill()
            job.wait()


SHIPPED = {"models": {"default": "small"}}


@pytest.fixture(scope="module")
def own_home(tmp_path_factory: pytest.TempPathFactory, database: Path, model: Forecaster) -> Home:
    """A home whose model is run as it is after the first hour: by its graph, where there is one."""
    made = fresh_home(tmp_path_factory.mktemp("loaded"), database)
    publish(made, "small", model, tmp_path_factory.mktemp("artifact") / "small")
    if installed():
        Graphs(made.graphs).derive(artifact.description(model.model, model.spec))
    return made


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory, own_home: Home) -> Iterator[Process]:
    """The service as it is shipped, on Ray Serve, open to this machine."""
    with started(own_home, tmp_path_factory.mktemp("open"), SHIPPED) as running:
        yield running


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_twice_what_the_processor_can_do_is_refused_in_time(
    process: Process, record_property: Told
) -> None:
    """L3: without a bound on what is read at a time, all waited 20 s and more, and a fifth was cut off."""
    ask = Ask(0, body(table(series())))

    def capacity() -> float:
        began = time.monotonic()
        answers = ask_in_turn(process.url, [ask] * 1_000, clients=32)
        assert statuses(answers) == {200: 1_000}
        return len(answers) / (time.monotonic() - began)

    rate = max(capacity() for _ in range(3))
    crowd = ask_all(process.url, steady(2 * rate, ask.content, seconds=20))
    after = ask_all(process.url, steady(rate / 4, ask.content, seconds=5))
    refused = [each for each in crowd if each.status == 503]
    goodput = len(accepted(crowd)) / 20 / rate
    record_property(
        "L3",
        f"the real service, twice {rate:.0f} requests a second: goodput {100 * goodput:.0f} % of it, p99 "
        f"{quantile(accepted(crowd), 0.99):.1f} s, of the {len(refused)} refused "
        f"{quantile(refused or crowd, 0.99):.2f} s; then p99 {quantile(after, 0.99):.2f} s",
    )
    assert statuses(crowd).keys() <= {200, 503}
    assert all(each.retry_after for each in refused)
    assert goodput > 0.5
    assert quantile(crowd, 0.99) < 15
    assert statuses(after) == {200: len(after)}


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_clients_that_leave_in_a_storm_leave_nothing_behind(
    process: Process, record_property: Told
) -> None:
    """L5: places that are held for clients who left would be missed by those who come after."""
    content = body(table(*(series(seed=seed) for seed in range(20))))

    def patient(rate: float, seconds: float) -> list[Ask]:
        return steady(rate, content, seconds=seconds)

    ask_all(process.url, patient(10, 3))
    before = ask_all(process.url, patient(10, 10))
    leaving = steady(80, content, seconds=15, patience_s=0.03)
    storm = ask_all(process.url, [*leaving, *patient(20, 15)])
    after = ask_all(process.url, patient(10, 10))
    counts, usual, again = statuses(storm), quantile(before, 0.99), quantile(after, 0.99)
    record_property(
        "L5",
        f"{counts[LEFT]} of {counts.total()} clients left; then {statuses(after)[200]} of {len(after)} "
        f"answered, p99 {again / usual:.2f} of what it was ({usual:.2f} s)",
    )
    assert counts[LEFT] > 0.6 * counts.total()
    assert counts.keys() <= {LEFT, 200, 503}
    assert statuses(before) == statuses(after) == {200: len(after)}
    assert again < 12 * usual


def mixture() -> tuple[list[Ask], list[Ask]]:
    """Requests of all kinds that are answered, and such as must be refused."""
    one, two = table(series()), table(series(seed=1), series(200, seed=2))
    frame = pl.DataFrame(two).with_columns(pl.col("ds").str.to_datetime())
    arrow = {"Content-Type": MEDIA, "Accept": MEDIA}
    packed = {"Content-Encoding": "gzip"}
    good = [
        Ask(0, body(one)),
        Ask(0, body(two, quantiles=[0.1, 0.5, 0.9])),
        Ask(0, pack({"freq": "h"}, {"data": frame}), headers=arrow),
        Ask(0, body(one, h=100)),
        Ask(0, gzip.compress(body(two)), headers=packed),
        Ask(0, body(one, model="seasonal_naive", h=12)),
        Ask(0, body(two, models=["small"], h=6), path="/v1/compare"),
        Ask(0, body(table(series(200)), detect={"last": 12}), path="/v1/anomalies"),
        Ask(0, body(one, options={"on_invalid": "skip"})),
    ]
    bad = [
        Ask(0, b'{"data":'),
        Ask(0, body(one, model="nobody")),
        Ask(0, body(one, h=0)),
        Ask(0, body({"ds": ["x"], "y": [1]})),
        Ask(0, b"\xff" * 100, headers=arrow),
    ]
    return good, bad


@dataclass(frozen=True)
class Held:
    """What a process holds: MiB in memory, and open files but for the database's pooled connections."""

    mib: float
    files: int

    @staticmethod
    def by(pid: int) -> Held:
        links = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                links.append(str(link.readlink()))
        files = [each for each in links if not re.search(r"\.db(-wal|-shm|-journal)?$", each)]
        return Held(psutil.Process(pid).memory_info().rss / 2**20, len(files))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_ten_thousand_requests_leave_no_memory_and_no_files_behind(
    process: Process, record_property: Told
) -> None:
    """L6: a service that grows with every request is ended by its machine, some night."""
    good, bad = mixture()
    asks = [(bad[i // 10 % 5] if i % 10 == 9 else good[i % 10]) for i in range(10_000)]
    pids = {name: pid for name in ("ingress", "model") for pid in replicas(process, name)}
    pids["proxy"] = proxy(process)
    warm = ask_in_turn(process.url, asks[:1_000], clients=8)
    time.sleep(5)  # connections and threads of the last requests end
    before = {name: Held.by(pid) for name, pid in pids.items()}
    answers = ask_in_turn(process.url, asks, clients=8)
    time.sleep(5)
    after = {name: Held.by(pid) for name, pid in pids.items()}
    grown = {name: after[name].mib - before[name].mib for name in pids}
    files = {name: after[name].files - before[name].files for name in pids}
    told = ", ".join(f"{name} {grown[name]:+.0f} MiB, {files[name]:+d} files" for name in pids)
    record_property("L6", f"{len(answers)} requests: {told}")
    assert statuses(warm) == {200: 900, 400: 40, 404: 20, 422: 40}
    assert statuses(answers) == {200: 9_000, 400: 400, 404: 200, 422: 400}
    assert max(grown.values()) <= 32
    assert max(files.values()) <= 0


def proxy(process: Process) -> int:
    """Ray Serve's own proxy, which stands beside the ingress and is told to nobody."""
    port = process.url.rpartition(":")[2]
    found = processes(f"TSFORMER_TEST={port}")
    (pid,) = [each for each in found if psutil.Process(each).cmdline()[:1] == ["ray::ProxyActor"]]
    return pid


LESSON = {"window": {"context": 96, "horizon": 24}, "training": {"epochs": 1_000}}


@contextmanager
def training(url: str, key: Mapping[str, str]) -> Iterator[None]:
    """While a model is trained, as a job of the service, by whoever has the key."""
    with httpx.Client(base_url=url, headers=key, timeout=60) as client:
        data = table(*(series(2_000, seed=seed) for seed in range(5)))
        stored = client.post("/v1/datasets", json={"name": "lessons", "freq": "h", "data": data})
        assert stored.is_success, stored.text
        spec = {"dataset": "lessons", "kind": "patchtst", "name": "taught", "config": LESSON}
        job = client.post("/v1/jobs", json={"type": "train", "spec": spec}).json()["id"]
        while (state := client.get(f"/v1/jobs/{job}").json()["state"]) != "running":
            assert state == "pending"
            time.sleep(0.5)
        try:
            yield
            assert client.get(f"/v1/jobs/{job}").json()["state"] == "running"
        finally:
            assert client.post(f"/v1/jobs/{job}/cancel").is_success


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_tenant_who_floods_and_trains_does_not_disturb_a_quiet_one(
    tmp_path: Path, empty: Home, model: Forecaster, record_property: Told
) -> None:
    """L7: with many tenants somebody's loop is always broken; the others must not notice.

    A key has 600 requests a minute, and at a time an eighth of the places in the queue of a model; what
    is refused costs no more than to look at the key; jobs step back for forecasts.
    """
    publish(empty, "small", model, tmp_path / "artifact")
    quiet, loud, other = (
        {"Authorization": f"Bearer {new_key(empty, 'operator', tenant=tenant)}"}
        for tenant in ("quiet", "loud", "loud")
    )
    content = body(table(series()))

    def calm(seconds: float, start: float = 0) -> list[Ask]:
        return steady(5, content, seconds=seconds, start=start, headers=quiet)

    with started(empty, tmp_path, SHIPPED) as process:
        ask_all(process.url, calm(3))
        alone = ask_all(process.url, calm(20))
        with training(process.url, other):
            flood = steady(100, content, seconds=22, headers=loud)
            both = ask_all(process.url, [*flood, *calm(20, start=2)])
    theirs, ours = both[: len(flood)], both[len(flood) :]
    counts, usual, slowest = statuses(ours), quantile(alone, 0.99), quantile(ours, 0.99)
    record_property(
        "L7",
        f"{counts[200]} of {len(ours)} of the quiet one answered, p99 {slowest / usual:.1f} of what it is "
        f"alone ({usual:.3f} s), {statuses(theirs)[200]} of {len(theirs)} of the loud one",
    )
    assert statuses(alone) == {200: len(alone)}
    assert counts[200] >= 0.99 * len(ours)
    assert slowest < 25 * max(usual, 0.05)
    assert statuses(theirs).keys() == {200, 429}
    limits = Limits()
    assert statuses(theirs)[200] <= limits.requests_per_minute
    assert 8 * limits.concurrent_requests <= limits.queue_per_model
