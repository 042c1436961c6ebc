"""The whole service as a process of its own, on Ray Serve: started, asked, hurt, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from threading import Semaphore
from typing import Any

import httpx
import numpy as np
import polars as pl
import psutil
import pytest

from pipelines.forecaster import Forecaster
from pipelines.panel import read_panel
from pipelines.recipe import Recipe
from pipelines.schema import Schema
from serving.client import Client
from serving.slate import SLATES
from tests.figures import Told
from tests.serving.conftest import fresh_home
from tests.serving.processes import Process, processes, replicas, started
from tests.serving.running import forecaster, publish, series, table
from tsformer.batch import Shape
from tsformer.models.linear import NLinearSpec

pytestmark = pytest.mark.timeout(180)
WINDOWS = r'tsformer_windows_total{model="small",.*} (\S+)'
LEFT = r'tsformer_requests_total{.*status="disconnected"} (\S+)'  # before they were answered


@pytest.fixture(scope="module")
def process(
    tmp_path_factory: pytest.TempPathFactory, model: Forecaster, database: Path
) -> Iterator[Process]:
    home = fresh_home(tmp_path_factory.mktemp("home"), database)
    for name in ("small", "other"):
        publish(home, name, model, tmp_path_factory.mktemp("artifact") / name)
    settings = {
        "models": {"default": "small", "replicas": 2, "own": {"other": {"replicas": 1}}},
        "server": {"replicas": 2},
    }
    variables = {"TSFORMER_SQL_PASSWORD": SECRET}
    with started(home, tmp_path_factory.mktemp("serve"), settings, variables=variables) as process:
        yield process


def test_a_forecast_is_that_of_the_library(process: Process, model: Forecaster) -> None:
    data = table(series(), series(200, seed=1))
    schema = Schema(id="unique_id", time="ds", targets=("y",))
    panel, _ = read_panel(pl.DataFrame(data), schema=schema, freq="h")
    reply = process.post("/v1/forecasts", {"data": data, "freq": "h", "quantiles": [0.9]})
    assert reply.status_code == 200, reply.text
    expected = model.predict(panel, levels=[0.9]).table
    for column in ("mean", "q0.9"):
        np.testing.assert_allclose(reply.json()["forecast"][column], expected[column], rtol=1e-5)


def test_a_batch_of_long_contexts_fits_on_the_wire(
    process: Process, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By default gRPC takes 4 MiB, which forty contexts of two years of hours exceed."""
    spec, context = NLinearSpec(), 16_384
    recipe = Recipe(frequency="h", season=24, context=context, min_context=24, horizon=24)
    long = Forecaster(spec.build(Shape(context=context, horizon=24)), spec=spec, recipe=recipe)
    publish(process.home, "long", long, tmp_path_factory.mktemp("artifact") / "long")
    first = datetime(2024, 1, 1)
    stamps = pl.datetime_range(first, first + timedelta(hours=context - 1), "1h", eager=True)
    ids = pl.Series("unique_id", np.repeat([f"s{i}" for i in range(40)], context))
    y = np.random.default_rng(0).normal(size=40 * context)
    data = pl.DataFrame({"unique_id": ids, "ds": pl.concat([stamps] * 40), "y": y})
    with Client(process.url) as client:
        forecast = client.forecast(data, {"model": "long", "freq": "h"})
    assert len(forecast.table) == 40 * 24


def test_alone_and_among_64_at_once_the_numbers_agree(
    process: Process, record_property: Told
) -> None:
    """D7: who else asks, and which replica answers, must not change a forecast."""

    def ask(seed: int) -> list[float]:
        reply = process.post("/v1/forecasts", {"data": table(series(seed=seed)), "freq": "h"})
        assert reply.status_code == 200, reply.text
        mean: list[float] = reply.json()["forecast"]["mean"]
        return mean

    alone = [ask(seed) for seed in range(4)]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, range(64)))
    apart = np.abs(np.array(together[:4]) / np.array(alone) - 1).max()
    record_property("D7", f"alone and among 64 at once, by two replicas: {apart:.0e} apart")
    np.testing.assert_allclose(together[:4], alone, rtol=1e-5)


def test_comparing_and_naming_another_model(process: Process) -> None:
    body = {
        "models": ["small", "other/1"],
        "data": table(series()),
        "h": 6,
        "freq": "h",
        "options": {"holdout": 6},
    }
    reply = process.post("/v1/compare", body)
    assert reply.status_code == 200, reply.text
    assert {row["model"]["name"] for row in reply.json()["leaderboard"]} == {
        "small", "other", "seasonal_naive", "linear",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"y=1", 400),
        (b'{"data": {"y": [NaN]}}', 400),
        (b"[" * 5_000_000, 400),
        (b'{"data": {"y": [1e999]}}', 422),
        (b'{"data": {}, "h": 0}', 422),
        (b'{"data": {"ds": ["x"], "y": [1]}, "freq": "h"}', 422),
        (b'{"data": {"ds": ["2026-01-01"], "y": [1]}, "freq": "D", "model": "nobody"}', 404),
        (b" " * (33 * 1024 * 1024), 413),
    ],
)
def test_bad_bodies_are_problems_here_too(process: Process, content: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{process.url}/v1/forecasts", content=content, headers=headers, timeout=60)
    assert (reply.status_code, reply.json()["status"]) == (status, status)
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["x-request-id"]


def test_an_answer_has_one_request_id(process: Process) -> None:
    """Serve adds one of its own, and would echo whatever a client calls an id."""
    for sent, kept in (("mine-1", True), ("<b>not an id</b>", False)):
        reply = httpx.get(f"{process.url}/health/live", headers={"X-Request-ID": sent}, timeout=60)
        (own,) = reply.headers.get_list("x-request-id")
        assert (own == sent) is kept
        assert "<" not in own


def numbers(process: Process) -> list[str]:
    """What each ingress counted, which is asked for at its own port."""
    return [httpx.get(f"{door}/metrics", timeout=60).text for door in process.doors]


def counted(process: Process, pattern: str) -> float:
    """The sum of all numbers that `pattern` finds."""
    found = (value for text in numbers(process) for value in re.findall(pattern, text))
    return sum(map(float, found))


def models_answer(process: Process, count: int) -> bool:
    """Whether so many processes that run models answer."""
    return all(f"tsformer_model_replicas {count}.0" in text for text in numbers(process))


def test_nobody_notices_that_one_of_two_replicas_is_killed(
    process: Process, record_property: Told
) -> None:
    """F1: a batch that was on its way goes to the other one, and the dead one is replaced."""
    first, second = before = replicas(process, "model")
    over, windows = threading.Event(), counted(process, WINDOWS)

    def ask(seed: int) -> list[int]:
        body, statuses = {"data": table(series(seed=seed)), "freq": "h"}, []
        while not over.is_set():
            statuses.append(process.post("/v1/forecasts", body).status_code)
        return statuses

    with ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask, seed) for seed in range(8)]
        time.sleep(1)
        os.kill(first, signal.SIGKILL)
        started = time.monotonic()
        time.sleep(2)
        over.set()
    while first in (now := replicas(process, "model")) or not models_answer(process, 3):
        assert time.monotonic() - started < 100, (before, now)
        time.sleep(0.1)
    took = time.monotonic() - started
    statuses = [status for each in asking for status in each.result()]
    answered = counted(process, WINDOWS) - windows
    record_property(
        "F1",
        f"{len(statuses) - statuses.count(200)} of {len(statuses)} requests failed, {answered:.0f} "
        f"windows answered; two replicas again after {took:.1f} s",
    )
    assert {*statuses} == {200}
    assert answered == len(statuses)  # so each ran once, or twice where its batch died
    assert second in now


def test_a_model_of_its_own_is_on_no_shared_replica(process: Process) -> None:
    """Else a champion would wait behind the models that others ask for, and they behind it."""
    for name in ("small", "other"):
        assert _forecast(process.url, name).is_success
    assert len(replicas(process, "model-other")) == 1
    started = time.monotonic()
    while not models_answer(process, 3):
        assert time.monotonic() - started < 30, numbers(process)
        time.sleep(0.2)
    loaded = 'tsformer_model_loaded_replicas{model="other",version="1"} 1.0'
    assert all(loaded in text for text in numbers(process))
    logs = {path.name for path in process.home.logs.iterdir()}
    assert {"ingress.log", "ingress-1.log", "model.log", "model-1.log", "model-other.log"} <= logs


def test_every_ingress_serves_the_version_that_was_promoted(
    process: Process, tmp_path: Path
) -> None:
    """A caller who is sent to the second one must not be answered by an old champion for long."""
    publish(process.home, "other", forecaster(seed=2), tmp_path / "second")
    for door in process.doors:
        started = time.monotonic()
        while (reply := _forecast(door, "other")).json()["model"]["version"] != "2":
            assert reply.is_success
            assert time.monotonic() - started < 30
            time.sleep(0.1)


@dataclass
class Callers:
    """Those who ask the model `small` of two ingresses until it is `over`, and what they heard."""

    process: Process
    over: threading.Event = field(default_factory=threading.Event)
    answered: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)  # of those who stay connected, by door
    lost: Counter[str] = field(default_factory=Counter)  # of those who connect anew
    ready: Counter[str] = field(default_factory=Counter)

    def stay(self, doors: Sequence[str]) -> None:
        """As a front does: a door that is closed is passed by."""
        body = {"data": table(series()), "freq": "h", "model": "small"}
        with httpx.Client(timeout=60) as client:
            while not self.over.is_set():
                for door in doors:
                    try:
                        reply = client.post(f"{door}/v1/forecasts", json=body)
                    except httpx.ConnectError:
                        continue
                    except httpx.TransportError:
                        self.cut[door] += 1
                    else:
                        self.answered[str(reply.status_code)] += 1
                    break

    def connect_anew(self) -> None:
        """At the port that both share."""
        while not self.over.is_set():
            try:
                self.answered[str(_forecast(self.process.url, "small").status_code)] += 1
            except httpx.TransportError as error:
                self.lost[type(error).__name__] += 1

    def look(self) -> None:
        """Whether it is ready, as a balancer does."""
        while not self.over.is_set():
            with suppress(httpx.TransportError):
                reply = httpx.get(f"{self.process.url}/health/ready", timeout=60)
                self.ready[str(reply.status_code)] += 1

    def by_client(self, door: str) -> None:
        """By ours, which repeats."""
        frame = pl.DataFrame(table(series())).with_columns(pl.col("ds").str.to_datetime())
        with Client(door) as client:
            while not self.over.is_set():
                client.forecast(frame, {"freq": "h", "model": "small"})
                self.answered["client"] += 1


def test_the_other_ingress_answers_while_one_is_killed(
    process: Process, record_property: Told
) -> None:
    """F3: what was in flight at the dead one fails, nothing else; its port comes back.

    Who connects anew at the port that they share does not notice that one of them is gone.
    """
    before, doors, callers = replicas(process, "ingress"), process.doors, Callers(process)
    with ThreadPoolExecutor(9) as pool, httpx.Client(timeout=60) as idle:
        asking = [pool.submit(callers.stay, order) for order in (doors, doors[::-1]) * 2]
        asking += [pool.submit(callers.by_client, door) for door in doors]
        asking += [pool.submit(ask) for ask in (callers.connect_anew,) * 2 + (callers.look,)]
        for door in doors:  # a connection that outlives the process keeps its port busy
            assert idle.get(f"{door}/health/live").is_success
        time.sleep(0.5)
        os.kill(before[0], signal.SIGKILL)
        started = time.monotonic()
        try:
            while before[0] in (now := replicas(process, "ingress")) or not all(
                map(_answers, doors)
            ):
                assert time.monotonic() - started < 100, (before, now)
                time.sleep(0.1)
        finally:
            callers.over.set()
    took = time.monotonic() - started
    for each in asking:
        each.result()
    cut, lost, answered = callers.cut, callers.lost, callers.answered
    told = f"{cut.total()} of 4 raw clients cut off, {lost.total()} of 2 at the shared port, "
    told += f"{answered['200']} answered"
    record_property("F3", f"{told}; client: 0 of {answered['client']} failed, back in {took:.1f} s")
    assert {*answered} == {"200", "client"}
    assert cut.total() <= 4
    assert len(cut) <= 1
    assert lost.total() <= 2  # each had one request with the dead one at most
    assert httpx.ConnectError.__name__ not in lost
    assert {*callers.ready} == {"200"}  # one that starts again is asked when it can answer


def sent(door: str, body: dict[str, Any], count: Semaphore) -> httpx.Response:
    """The answer to a request, of which `count` hears as it has left."""

    def content() -> Iterator[bytes]:
        yield json.dumps(body).encode()
        count.release()

    headers = {"content-type": "application/json"}
    return httpx.post(f"{door}/v1/forecasts", content=content(), headers=headers, timeout=60)


@contextmanager
def in_flight(
    doors: Sequence[str], model: str, count: int
) -> Iterator[list[Future[httpx.Response]]]:
    """So many large requests, all of them sent and some not answered."""
    body = {"data": table(*(series(seed=i) for i in range(400))), "freq": "h", "model": model}
    body["options"] = {"fallback": "none"}
    left = Semaphore(0)
    with ThreadPoolExecutor(count) as pool:
        asking = [pool.submit(sent, doors[i % len(doors)], body, left) for i in range(count)]
        for _ in range(count):
            assert left.acquire(timeout=60)
        assert not all(each.done() for each in asking)
        yield asking


def test_who_asked_the_only_replica_is_answered_or_told_to_repeat(
    process: Process, record_property: Told
) -> None:
    """F2: a batch dies with the only replica of a model; its clients wait for the next one."""
    (only,) = replicas(process, "model-other")
    with in_flight([process.url], "other", 16) as asking:
        slates = process.home.at_work
        while not any(path.read_bytes()[:16].strip(b"\0") for path in slates.glob(SLATES)):
            assert not all(each.done() for each in asking)
        os.kill(only, signal.SIGKILL)
        started = time.monotonic()
        while _forecast(process.url, "other").status_code != 200:
            assert time.monotonic() - started < 100
            time.sleep(0.1)
        took = time.monotonic() - started
        replies = [each.result() for each in asking]
    statuses = Counter(reply.status_code for reply in replies)
    record_property("F2", f"16 in flight: {dict(statuses)}; the first 200 after {took:.1f} s")
    for reply in replies:
        assert reply.status_code in (200, 503), reply.text
        assert reply.status_code == 200 or "retry-after" in reply.headers


def _forecast(door: str, name: str) -> httpx.Response:
    body = {"data": table(series()), "freq": "h", "model": name}
    return httpx.post(f"{door}/v1/forecasts", json=body, timeout=60)


def _answers(door: str) -> bool:
    try:
        reply = _forecast(door, "small")
    except httpx.TransportError:
        return False
    assert reply.status_code in (200, 503), reply.text
    assert reply.status_code == 200 or "retry-after" in reply.headers
    return reply.status_code == 200


def test_a_leaving_client_frees_its_place(process: Process) -> None:
    """Serve does not look for it here (`serving.doors`): the application must."""
    before = counted(process, LEFT)
    large = {"data": table(*(series(seed=i) for i in range(2_000))), "freq": "h"}
    for headers in ({}, {"x-request-disconnect-disabled": "?1"}):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{process.url}/v1/forecasts", json=large, headers=headers,
                timeout=httpx.Timeout(30, read=0.01),
            )  # fmt: skip
    assert process.post("/v1/forecasts", {"data": table(series()), "freq": "h"}).is_success
    deadline = time.monotonic() + 20
    while counted(process, LEFT) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert counted(process, LEFT) == before + 2


def test_the_numbers_of_the_ingress_hold_the_batches_of_the_model(process: Process) -> None:
    """The model runs in another process; a person on call asks one address."""
    door = process.doors[0]
    assert _forecast(door, "small").is_success
    text = httpx.get(f"{door}/metrics", timeout=60).text
    assert 'tsformer_windows_total{model="small",version="1"}' in text
    assert 'tsformer_model_version{alias="champion",model="small",version="1"} 1.0' in text


# --- what others could reach, and what is told -------------------------------------------------

SECRET = "c4nary-5ecret"  # in the environment of the service, and in what it is sent
EVERYWHERE, HERE, NODE = "every address", "loopback", "the node's address"
LISTENERS = {  # of Ray all but the last; a firewall stands before them (docs/operations.md)
    ("python", EVERYWHERE),
    ("gcs_server", EVERYWHERE),
    ("raylet", EVERYWHERE),
    ("ray::DashboardAgent", EVERYWHERE),  # metrics of Ray, and no dashboard
    ("ray::DashboardAgent", HERE),  # jobs, where its port 52365 was free
    ("ray::DashboardAgent", NODE),
    ("ray::RuntimeEnvAgent", NODE),
    ("ray::ServeController", EVERYWHERE),
    ("ray::ProxyActor", EVERYWHERE),
    ("ray::ProxyActor", HERE),
    ("ray::ServeReplica", EVERYWHERE),
    ("ray::ServeReplica", HERE),
}


RAYS = (
    *(("GET", "/api/jobs/"), ("DELETE", "/api/serve/applications/")),
    *(("GET", "/api/job_agent/jobs/"), ("POST", "/api/job_agent/jobs/")),
)


def listeners(process: Process) -> dict[tuple[str, int], tuple[str, str]]:
    """Who of the service listens where, by address and port."""
    found = {}
    service = psutil.Process(process.pid)
    for one in (service, *service.children(recursive=True)):
        with suppress(psutil.Error):
            name = re.sub(r"(::\w+)[:.].*|(?<=^python)[\d.]+$", r"\1", one.name())
            for each in one.net_connections(kind="inet"):
                if each.status == psutil.CONN_LISTEN and "IDLE" not in name:
                    host, port = each.laddr
                    kind = {"::": EVERYWHERE, "0.0.0.0": EVERYWHERE, "127.0.0.1": HERE}
                    own = "127.0.0.1" if host in kind else host
                    found[own, port] = name, kind.get(host, NODE)
    return found


def test_nobody_reaches_ray_without_the_token(process: Process, record_property: Told) -> None:
    """S10: through Ray's dashboard or job interface anyone on the network could run code."""
    started = time.monotonic()
    agents = {each for each in LISTENERS if each[0] == "ray::DashboardAgent"}
    while LISTENERS - {*(found := listeners(process)).values()} - agents:  # some come late
        assert time.monotonic() - started < 60, LISTENERS ^ {*found.values()}
        time.sleep(0.2)
    assert {*found.values()} <= LISTENERS
    statuses = Counter[str]()
    for host, port in found:
        for method, path in RAYS:
            try:
                reply = httpx.request(method, f"http://{host}:{port}{path}", timeout=10)
            except httpx.TransportError:
                statuses["no HTTP"] += 1
            else:
                metrics = reply.text.startswith("# H")  # of Ray's Prometheus, whatever is asked
                statuses["metrics" if metrics else str(reply.status_code)] += 1
    token = process.home.folder / "ray_token"
    mode = token.stat().st_mode & 0o777
    assert (token.parent.stat().st_mode & 0o777, mode) == (0o700, 0o600)
    record_property(
        "S10",
        f"{len(found)} listeners as listed; jobs and applications asked of each without the token: "
        f"{dict(statuses)}; no dashboard; token file {mode:o}",
    )
    assert {*statuses} <= {"no HTTP", "metrics", "401", "404"}


WORDS = (
    *({"x-request-timeout-seconds": text} for text in ("0", "-1", "nan", "inf", "9999")),
    {"x-request-disconnect-disabled": "?1"},
    {"serve_multiplexed_model_id": "x"},
    {"serve-multiplexed-model-id": "x"},
    {"x-serve-router-policy": "x"},
)


def test_no_word_for_the_framework_lengthens_or_routes(
    process: Process, record_property: Told
) -> None:
    """S12: a client could switch off the deadline that protects all others."""
    large = {"data": table(*(series(seed=i) for i in range(500))), "freq": "h"}
    small, content = {"data": table(series()), "freq": "h"}, json.dumps(large).encode()
    expected, latest = process.post("/v1/forecasts", small).json()["forecast"], 0.0
    for words in WORDS:
        headers = {"content-type": "application/json", "x-request-timeout-ms": "50", **words}
        started = time.monotonic()
        reply = httpx.post(
            f"{process.url}/v1/forecasts", content=content, headers=headers, timeout=60
        )
        latest = max(latest, time.monotonic() - started)
        assert reply.status_code == 504
        reply = process.post("/v1/forecasts", small, **words)
        assert reply.json()["forecast"] == expected
    forged = process.post("/v1/forecasts", small, **{"x-forwarded-for": "127.0.0.1"})
    assert forged.status_code == 403  # no detour where there are no keys
    record_property(
        "S12", f"{len(WORDS)} headers: answered within {latest:.2f} s of a deadline of 0.05 s, same "
        "numbers; a forged address is refused"
    )  # fmt: skip
    assert latest < 10  # 0.2 s on a quiet machine


def test_no_secret_and_nothing_of_the_inside_is_told(
    process: Process, record_property: Told
) -> None:
    """S14: a key in the wrong header must not end up in a log, nor a path in an answer."""
    headers = {
        "authorization": f"Bearer {SECRET}", "cookie": f"key={SECRET}", "x-api-key": SECRET,
        "user-agent": SECRET, "referer": f"http://{SECRET}/", "x-request-id": f"<{SECRET}>",
        "content-type": "application/json",
    }  # fmt: skip
    bodies = (
        b"{", b'{"data": {"y": [NaN]}}', b"[" * 5_000, f'{{"{SECRET}": 1}}'.encode(),
        json.dumps({"data": table(series()), "freq": SECRET}).encode(),
        json.dumps({"data": {"ds": [SECRET], "y": [1.0]}}).encode(),
        json.dumps({"data": table(series()), "freq": "h"}).encode(),
    )  # fmt: skip
    paths = ("forecasts", "compare", "validations", "datasets", "jobs", "schedules", "actuals")
    replies = [
        httpx.post(f"{process.url}/v1/{path}", content=body, headers=headers, timeout=60)
        for path in paths
        for body in bodies
    ]
    replies += [
        httpx.get(f"{process.url}{path}", headers=headers, timeout=60)
        for path in ("/nothing", "/v1/models", "/v1/models/x", "/v1/jobs/x", "/metrics", "/ping")
    ]
    ours = "|".join(re.escape(str(at)) for at in (process.home.folder, Path(__file__).parents[2]))
    for reply in replies:
        assert reply.status_code < 500, reply.text
        assert SECRET not in reply.text + str(reply.headers), reply.text
        assert not re.search(
            rf"{ours}|Traceback|File \"|site-packages|/home/|/tmp/|ActorID|actor_id|\.py\b",
            reply.text.replace("serving/client.py", ""),
        ), reply.text
    logs = [*process.home.logs.iterdir()]
    kept = [path for path in process.home.folder.rglob("*") if path.is_file()]
    assert [path.name for path in kept if SECRET.encode() in path.read_bytes()] == []
    environment = {
        name: value
        for pid in processes(f"TSFORMER_TEST={process.url.rpartition(':')[2]}")[:1]
        for name, _, value in (
            pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0")
        )
    }
    assert SECRET in environment.values(), "the service has it"
    record_property(
        "S14",
        f"a secret in the environment, 6 headers and the bodies of {len(replies)} requests: in 0 of "
        f"their answers, in 0 of {len(kept)} files, {len(logs)} of them logs; no path or traceback told",
    )


def test_who_is_in_flight_is_answered_before_the_service_ends(
    process: Process, record_property: Told
) -> None:
    """F21: an update of the machine must cost nobody an answer. The last test: nothing runs after it.

    Nor does it wait until nobody asks any more: who asks on is told to close, and then refused.
    """
    late = Counter[str]()

    def ask_on() -> Counter[str]:
        body, heard = {"data": table(series()), "freq": "h", "model": "small"}, Counter[str]()
        with httpx.Client(timeout=60) as client:  # stays connected
            while "ConnectError" not in heard:
                try:
                    heard[
                        str(client.post(f"{process.url}/v1/forecasts", json=body).status_code)
                    ] += 1
                except httpx.TransportError as error:
                    heard[type(error).__name__] += 1
        return heard

    with ThreadPoolExecutor(4) as pool, in_flight(process.doors, "small", 6) as asking:
        asking_on = [pool.submit(ask_on) for _ in range(4)]
        waiting = sum(not each.done() for each in asking)
        os.kill(process.pid, signal.SIGTERM)
        started = time.monotonic()
        while processes(f"TSFORMER_TEST={process.url.rpartition(':')[2]}"):
            late[_late(process.url)] += 1
            assert time.monotonic() - started < 100
        replies = [each.result() for each in asking]
    statuses = Counter(reply.status_code for reply in replies)
    ended = time.monotonic() - started
    on = sum((each.result() for each in asking_on), Counter[str]())
    told = f"{waiting} in flight: {dict(statuses)}; 4 who asked on: {dict(on)}; who came later: {dict(late)}"
    record_property("F21", f"{told}; ended after {ended:.1f} s")
    assert statuses == {200: 6}
    assert {*on} <= {"200", "ConnectError"}
    assert {*late} <= {"200", "ConnectError", "ReadError"}  # cut as the port closes
    assert _late(process.url) == "ConnectError"


def _late(door: str) -> str:
    """What a client hears who comes while the service ends."""
    try:
        return str(_forecast(door, "small").status_code)
    except httpx.TransportError as error:
        return type(error).__name__
