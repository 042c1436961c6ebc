"""The whole service as a process of its own, on Ray Serve: started, asked, hurt, stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
import yaml

from pipelines.forecaster import Forecaster, Recipe
from pipelines.home import Home
from pipelines.panel import Schema, read_panel
from serving.client import Client
from serving.run import await_ready, read_config
from tests.serving.running import forecaster, publish, series, table
from tsformer.batch import Shape
from tsformer.models.linear import NLinearSpec

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Process:
    url: str
    pid: int
    home: Home

    @property
    def doors(self) -> tuple[str, str]:
        """Where each of the two ingresses listens."""
        host, _, port = self.url.rpartition(":")
        return self.url, f"{host}:{int(port) + 1}"

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=60)


def processes(marker: str) -> list[int]:
    """Processes that have `marker` in their environment: all that the service started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody has."""
    while True:
        with ExitStack() as stack:
            first, *others = [stack.enter_context(socket.socket()) for _ in range(count)]
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with suppress(OSError, OverflowError):
                for number, probe in enumerate(others, start=port + 1):
                    probe.bind(("127.0.0.1", number))
                return port


@pytest.fixture(scope="module")
def process(
    tmp_path_factory: pytest.TempPathFactory, home: Home, model: Forecaster
) -> Iterator[Process]:
    publish(home, "other", model, tmp_path_factory.mktemp("artifact") / "other")
    port = free_ports(2)
    marker = f"TSFORMER_TEST={port}"
    own = {"TSFORMER_HOME": str(home.folder), "TSFORMER_TEST": str(port)}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | own
    log = (tmp_path_factory.mktemp("serve") / "log").open("w+")
    config = read_config(None)
    config["applications"][0]["args"] = {
        "models": {"default": "small", "replicas": 2, "own": {"other": {"replicas": 1}}},
        "server": {"replicas": 2},
    }
    file = tmp_path_factory.mktemp("config") / "serve.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "serving", "--port", str(port), "--config", str(file)]
    started = time.monotonic()
    child = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        await_ready(url, seconds=120)
        print(f"start to ready: {time.monotonic() - started:.1f} s")
        yield Process(url, child.pid, home)
    finally:
        started = time.monotonic()
        child.send_signal(signal.SIGTERM)
        code = child.wait(60)
        print(f"stopped in {time.monotonic() - started:.1f} s")
        log.seek(0)
        text = log.read()
        log.close()
    assert code == 0, text
    assert "Traceback" not in text
    while left := processes(marker):
        assert time.monotonic() - started < 20, left
        time.sleep(0.1)


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


def test_alone_and_among_64_at_once_the_numbers_agree(process: Process) -> None:
    def ask(seed: int) -> list[float]:
        reply = process.post("/v1/forecasts", {"data": table(series(seed=seed)), "freq": "h"})
        assert reply.status_code == 200, reply.text
        mean: list[float] = reply.json()["forecast"]["mean"]
        return mean

    alone = [ask(seed) for seed in range(4)]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, range(64)))
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


@pytest.mark.parametrize(
    "headers",
    [
        {"x-request-timeout-seconds": "0"},
        {"x-request-timeout-seconds": "nan"},
        {"x-request-disconnect-disabled": "?1"},
        {"serve_multiplexed_model_id": "x"},
    ],
    ids=str,
)
def test_control_headers_of_the_framework_change_nothing(
    process: Process, headers: dict[str, str]
) -> None:
    """S12: such a header must not lengthen the service's own deadline, nor route elsewhere."""
    large = {"data": table(*(series(seed=i) for i in range(500))), "freq": "h"}
    reply = process.post("/v1/forecasts", large, **headers, **{"X-Request-Timeout-Ms": "1"})
    assert reply.status_code == 504
    assert process.post(
        "/v1/forecasts", {"data": table(series()), "freq": "h"}, **headers
    ).is_success


def test_an_answer_has_one_request_id(process: Process) -> None:
    """Serve adds one of its own, and would echo whatever a client calls an id."""
    for sent, kept in (("mine-1", True), ("<b>not an id</b>", False)):
        reply = httpx.get(f"{process.url}/health/live", headers={"X-Request-ID": sent})
        (own,) = reply.headers.get_list("x-request-id")
        assert (own == sent) is kept
        assert "<" not in own


def replicas(process: Process, deployment: str) -> list[int]:
    """The processes of a deployment."""
    port = process.url.rpartition(":")[2]
    titles = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        for pid in processes(f"TSFORMER_TEST={port}")
    }
    return [pid for pid, title in titles.items() if title.endswith(f":{deployment}".encode())]


def test_nobody_notices_that_one_of_two_replicas_is_killed(process: Process) -> None:
    """F1: a batch that was on its way goes to the other one, and the dead one is replaced."""
    first, second = before = replicas(process, "model")
    over = threading.Event()

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
        while len(now := replicas(process, "model")) < 2 or first in now:
            assert time.monotonic() - started < 60, (before, now)
            time.sleep(0.1)
        print(f"two replicas again after {time.monotonic() - started:.1f} s")
        time.sleep(1)
        over.set()
    statuses = [status for each in asking for status in each.result()]
    print(f"{len(statuses)} requests")
    assert {*statuses} == {200}
    assert second in replicas(process, "model")


def test_a_model_of_its_own_is_on_no_shared_replica(process: Process) -> None:
    """Else a champion would wait behind the models that others ask for, and they behind it."""
    for name in ("small", "other"):
        assert _forecast(process.url, name).is_success
    assert len(replicas(process, "model-other")) == 1
    started = time.monotonic()
    while "tsformer_model_replicas 3.0" not in (text := httpx.get(f"{process.url}/metrics").text):
        assert time.monotonic() - started < 30, text
        time.sleep(0.2)
    assert 'tsformer_model_loaded_replicas{model="other",version="1"} 1.0' in text
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


def test_the_other_ingress_answers_while_one_is_killed(process: Process) -> None:
    """F3: what was in flight at the dead one fails, nothing else; its port comes back."""
    before = replicas(process, "ingress")
    over, failed = threading.Event(), Counter[str]()
    answered = Counter[tuple[str, int]]()

    def ask(door: str) -> None:
        body = {"data": table(series()), "freq": "h", "model": "small"}
        with httpx.Client(base_url=door, timeout=60) as client:  # stays connected, as a front does
            while not over.is_set():
                try:
                    answered[door, client.post("/v1/forecasts", json=body).status_code] += 1
                except httpx.TransportError:
                    failed[door] += 1
                    time.sleep(0.1)

    with ThreadPoolExecutor(2) as pool, httpx.Client() as idle:
        asking = [pool.submit(ask, door) for door in process.doors]
        for door in process.doors:  # a connection that outlives the process keeps its port busy
            assert idle.get(f"{door}/health/live").is_success
        os.kill(before[0], signal.SIGKILL)
        started = time.monotonic()
        try:
            while not failed or not all(_answers(door) for door in process.doors):
                assert time.monotonic() - started < 60
                time.sleep(0.1)
        finally:
            over.set()
    for each in asking:
        each.result()
    print(f"both answer after {time.monotonic() - started:.1f} s; {answered} {failed}")
    (dead,) = failed
    assert {status for door, status in answered if door != dead} == {200}


@pytest.mark.parametrize("deployment", ["model", "ingress"])
def test_a_deployment_without_a_replica_heals(process: Process, deployment: str) -> None:
    """F2, F3: a caller gets an answer or is told to repeat, and the service heals by itself."""
    for replica in replicas(process, deployment):
        os.kill(replica, signal.SIGKILL)
    started = time.monotonic()
    while not all(_answers(door) for door in process.doors):
        assert time.monotonic() - started < 60
        time.sleep(0.2)
    print(f"{deployment} killed: the first 200 after {time.monotonic() - started:.1f} s")


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


def left(process: Process) -> float:
    """How many clients the service saw leave before they were answered."""
    text = httpx.get(f"{process.url}/metrics").text
    found = re.findall(r'tsformer_requests_total{.*status="disconnected"} (\S+)', text)
    return sum(map(float, found))


def test_a_leaving_client_frees_its_place(process: Process) -> None:
    """Serve does not look for it here (`serving.doors`): the application must."""
    before = left(process)
    large = {"data": table(*(series(seed=i) for i in range(2_000))), "freq": "h"}
    for headers in ({}, {"x-request-disconnect-disabled": "?1"}):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{process.url}/v1/forecasts", json=large, headers=headers,
                timeout=httpx.Timeout(30, read=0.01),
            )  # fmt: skip
    assert process.post("/v1/forecasts", {"data": table(series()), "freq": "h"}).is_success
    deadline = time.monotonic() + 20
    while left(process) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left(process) == before + 2


def test_the_numbers_of_the_ingress_hold_the_batches_of_the_model(process: Process) -> None:
    """The model runs in another process; a person on call asks one address."""
    assert process.post("/v1/forecasts", {"data": table(series()), "freq": "h"}).is_success
    text = httpx.get(f"{process.url}/metrics").text
    assert 'tsformer_windows_total{model="small",version="1"}' in text
    assert 'tsformer_model_version{alias="champion",model="small",version="1"} 1.0' in text


def test_the_private_files_are_private(process: Process) -> None:
    token = process.home.folder / "ray_token"
    assert token.stat().st_mode & 0o777 == 0o600
