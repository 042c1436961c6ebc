"""Processes that tests may kill: forked from one that has imported everything once.

A fresh interpreter needs seconds to import what the store needs; a fork needs milliseconds, and
comes from a process without threads.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from pipelines.attempt import attempt
from pipelines.claims import Result
from pipelines.home import Home
from pipelines.ledger import Ledger
from pipelines.scheduler import Scheduler
from pipelines.store import Store
from pipelines.store_tables import ACTUAL

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "alembic.command",
        "psycopg",
        "tests.pipelines.registries",
        "tests.pipelines.processes",
    ]
)


def start(target: Callable[..., object], *arguments: object) -> BaseProcess:
    """A process that runs `target`, which must stand in a module that tests can import.

    It ends with the tests at the latest.
    """
    process = CONTEXT.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def kill(process: BaseProcess) -> None:
    """kill -9, and waits for the end."""
    process.kill()
    process.join()


def write_for_ever(url: str, name: str, first: int, said: Connection) -> None:
    """Inserts numbered rows, and says each number after its commit."""
    store = Store.at(url)
    for number in range(first, first + 1_000_000):
        row = {"model": "m", "unique_id": name, "ds_us": number, "y": 0.0, "received_ms": 0}
        with store.begin() as connection:
            connection.execute(ACTUAL.insert().values(row))
        said.send(number)


@dataclass(frozen=True)
class Forks:
    """Submits by forking: the job is a process that outlives its scheduler, as in production.

    As there, a submission that comes twice starts one process: a file in `folder` says so.
    """

    url: str
    folder: Path
    crash: str

    def submit(self, run_id: str, attempt: int) -> None:
        """Twice forked, so that nobody must wait for it."""
        try:
            (self.folder / f"{run_id}-{attempt}").touch(exist_ok=False)
        except FileExistsError:
            return
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        os.setsid()
        if os.fork():
            os._exit(0)
        try:
            work(self.url, run_id, attempt, self.crash if attempt == 1 else "")
        finally:
            os._exit(0)


def quick(url: str) -> Ledger:
    """A ledger whose leases are as short as a test may wait."""
    return Ledger(Store.at(url), lease_ms=2_000, start_ms=30_000)


def work(url: str, run_id: str, attempt_number: int, crash: str) -> None:
    """A job that has nothing to do, and may die at a crash point."""
    os.environ["TSF_CRASH"] = crash
    attempt(
        quick(url),
        run_id,
        attempt_number,
        lambda *_: Result(),
        lost=lambda: os._exit(3),
        every_s=0.3,
    )


def schedule_for_ever(url: str, clock: Path, scheduler_crash: str, job_crash: str) -> None:
    """A scheduler by the time that stands in `clock`; it may die at a crash point."""
    os.environ["TSF_CRASH"] = scheduler_crash
    scheduler = Scheduler(
        quick(url),
        Forks(url, clock.parent, job_crash),
        report=lambda _: None,
        clock=lambda: int(clock.read_text(encoding="ascii")),
    )
    scheduler.run(threading.Event(), every_s=0.2)


def work_until_killed(url: str, run_id: str, number: int, lease_ms: int) -> None:
    """A job without an end; it leaves with status 3 when its run is another attempt's."""

    def never(*_: object) -> Result:
        while True:
            time.sleep(3600)

    attempt(
        Ledger(Store.at(url), lease_ms=lease_ms),
        run_id,
        number,
        never,
        lost=lambda: os._exit(3),
        every_s=lease_ms / 4000,
    )


def retrain_in(home: Home, run_id: str, number: int, crash: str) -> None:
    """The real job, which may die at a crash point."""
    from pipelines.retrain import retrain  # MLflow, which most tests of this file do without

    os.environ["TSF_CRASH"] = crash
    job = partial(retrain, home=home)
    attempt(Ledger(Store.of(home)), run_id, number, job, lost=lambda: os._exit(3))
