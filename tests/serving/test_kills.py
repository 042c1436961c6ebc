"""Processes of a running service are killed, stopped, or kill themselves, while it is asked."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import polars as pl
import psutil
import pytest

from pipelines.home import Home
from serving.client import Client
from tests.figures import Told
from tests.serving.mortal import DEADLY, DEATHS
from tests.serving.processes import Process, processes, replicas, started
from tests.serving.running import HORIZON, series, table
from tests.waiting import wait_until

SETTINGS = {
    "models": {"default": "small", "replicas": 2},
    "server": {"replicas": 2},
    "jobs": {"at_once": 0},
}


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, home: Home) -> Iterator[Process]:
    """The service with two ingresses and two replicas, which a deadly value ends."""
    folder = tmp_path_factory.mktemp("mortal")
    with started(home, folder, SETTINGS, module="tests.serving.mortal") as process:
        yield process


def deaths(process: Process) -> int:
    """How many replicas a deadly value has ended."""
    file = process.home.folder / DEATHS
    return file.stat().st_size if file.exists() else 0


@contextmanager
def asked_by(ask: Callable[[int], int], clients: int = 8) -> Iterator[list[int]]:
    """The statuses that so many clients get, each of which asks again and again meanwhile."""
    over, statuses = threading.Event(), list[int]()

    def go_on(number: int) -> None:
        while not over.is_set():
            statuses.append(ask(number))

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(go_on, number) for number in range(clients)]
        try:
            time.sleep(1)
            yield statuses
        finally:
            over.set()
    for each in asking:
        each.result()


def controllers(process: Process) -> list[int]:
    """The processes of Ray Serve's controller."""
    marker = f"TSFORMER_TEST={process.url.rpartition(':')[2]}"
    return [
        pid for pid in processes(marker)
        if b"ServeController" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]  # fmt: skip


def forecast(door: str, number: int, *, deadline_ms: int = 30_000, of: int = 1) -> int:
    """The status of a forecast of so many series."""
    body = {"data": table(*(series(seed=number) for _ in range(of))), "freq": "h"}
    headers = {"X-Request-Timeout-Ms": str(deadline_ms)}
    return httpx.post(f"{door}/v1/forecasts", json=body, headers=headers, timeout=60).status_code


@pytest.mark.faults
def test_a_model_whose_replicas_were_all_killed_is_as_before(
    mortal: Process, record_property: Told
) -> None:
    """F1: new ones came, and one call in two was lost on its way for as long as people asked."""
    before = {*replicas(mortal, "model")}
    with asked_by(lambda number: forecast(mortal.doors[number % 2], number, of=160)) as statuses:
        for pid in before:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.3)
        back = wait_until(lambda: len({*replicas(mortal, "model")} - before) == 2)
        answered = len(statuses)
        took = wait_until(lambda: len(statuses) >= answered + 100, seconds=60)
    failed = len(statuses) - statuses.count(200)
    told = (
        f"both replicas: {failed} of {len(statuses)} requests failed, two others after {back:.1f} s"
    )
    record_property("F1", f"{told}, and 100 answers in the {took:.1f} s after")
    assert failed == 0


@pytest.mark.faults
def test_nobody_notices_that_the_controller_is_killed(
    mortal: Process, record_property: Told
) -> None:
    """F4: who watches over the replicas may die like any process, and must not take them along."""
    (before,) = controllers(mortal)
    with asked_by(lambda number: forecast(mortal.doors[number % 2], number)) as statuses:
        os.kill(before, signal.SIGKILL)
        took = wait_until(lambda: bool({*controllers(mortal)} - {before}) and len(statuses) >= 200)
        (model, _) = replicas(mortal, "model")
        os.kill(model, signal.SIGKILL)  # the new one does its work
        wait_until(lambda: model not in (now := replicas(mortal, "model")) and len(now) == 2)
    failed = len(statuses) - statuses.count(200)
    told = (
        f"controller: {failed} of {len(statuses)} requests failed, another one after {took:.1f} s"
    )
    record_property("F4", told)
    assert failed == 0


@pytest.mark.faults
def test_the_client_waits_for_processes_that_listen(mortal: Process, record_property: Told) -> None:
    """F4: a script that runs at night must not end because no process listens for some seconds."""
    before = replicas(mortal, "ingress")
    frame = pl.DataFrame(table(series())).with_columns(pl.col("ds").str.to_datetime())
    clients = [Client(door) for door in mortal.doors]

    def ask(number: int) -> int:
        return len(clients[number].forecast(frame, {"freq": "h"}).table)

    with asked_by(ask, clients=2) as rows:
        for each in before:
            os.kill(each, signal.SIGKILL)
        wait_until(lambda: not {*before} & {*replicas(mortal, "ingress")})
        took = wait_until(lambda: all(map(_listens, mortal.doors)))
    for client in clients:
        client.close()
    told = f"{len(rows)} requests of the client answered, both ports answer after {took:.1f} s"
    record_property("F4", f"both ingresses: {told}")
    assert {*rows} == {HORIZON}


def _listens(door: str) -> bool:
    try:
        return httpx.get(f"{door}/health/live").is_success
    except httpx.TransportError:
        return False


def busiest(pids: Iterable[int]) -> int:
    """Which of the processes works most."""
    start = {pid: psutil.Process(pid).cpu_times().user for pid in pids}
    time.sleep(1)
    return max(start, key=lambda pid: psutil.Process(pid).cpu_times().user - start[pid])


@pytest.mark.faults
def test_who_asked_a_replica_that_hangs_hears_so_in_time(
    mortal: Process, record_property: Told
) -> None:
    """F5: a replica that stands still must cost those it works for a deadline, and others nothing."""
    before = {*replicas(mortal, "model")}
    seconds = list[float]()

    def ask(number: int) -> int:
        started = time.monotonic()
        status = forecast(mortal.doors[number % 2], number, deadline_ms=5_000)
        if status == 504:
            seconds.append(time.monotonic() - started)
        return status

    with asked_by(ask) as statuses:
        os.kill(busiest(before), signal.SIGSTOP)
        took = wait_until(lambda: bool({*replicas(mortal, "model")} - before))
    answers, longest = Counter(statuses), max(seconds, default=0.0)
    share = answers[200] / answers.total()
    record_property(
        "F5",
        f"{100 * share:.1f} % of {answers.total()} answered, {answers[504]} got 504 after at most "
        f"{longest:.2f} s; replaced after {took:.1f} s",
    )
    assert {*answers} <= {200, 504}
    assert share >= 0.99
    assert longest < 10


@pytest.mark.faults
def test_a_series_that_kills_the_model_is_refused(mortal: Process, record_property: Told) -> None:
    """F7: one client's odd series must not take the service away from all others, again and again.

    Each ingress learns it for itself, so one of them is asked.
    """
    data = table(series(), [*series()[:-1], DEADLY])
    deadly = {"freq": "h", "options": {"fallback": "none"}, "data": data}
    url = f"{mortal.doors[0]}/v1/forecasts"
    with asked_by(lambda number: forecast(mortal.url, number)) as statuses:
        began = time.monotonic()
        first = httpx.post(url, json=deadly, timeout=60)
        found_s = time.monotonic() - began
        died = deaths(mortal)
        again = [httpx.post(url, json=deadly, timeout=60) for _ in range(3)]
        wait_until(lambda: len(replicas(mortal, "model")) == 2)
    failed = len(statuses) - statuses.count(200)
    record_property(
        "F7",
        f"{died} replicas died, 422 after {found_s:.1f} s; {deaths(mortal) - died} when it was sent "
        f"three times more; {failed} of {len(statuses)} others failed",
    )
    assert died <= 2
    assert deaths(mortal) == died
    assert failed <= len(statuses) / 100
    for reply in (first, *again):
        assert reply.status_code == 422, reply.text
        problem = reply.json()
        assert problem["type"] == "/problems/model-output-invalid"
        assert [each["unique_id"] for each in problem["errors"]] == ["s1"]
