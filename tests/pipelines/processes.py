"""Processes that tests may kill: forked from one that has imported everything once.

A fresh interpreter needs seconds to import what the store needs; a fork needs milliseconds, and
comes from a process without threads.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from pipelines.store import ACTUAL, Store

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["pytest", "alembic.command", "psycopg", "tests.pipelines.processes"]
)


def start(target: Callable[..., object], *arguments: object) -> BaseProcess:
    """A process that runs `target`, which must stand in a module that tests can import."""
    process = CONTEXT.Process(target=target, args=arguments)
    process.start()
    return process


def kill(process: BaseProcess) -> None:
    """kill -9, and waits for the end."""
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def write_for_ever(url: str, name: str, first: int, said: Connection) -> None:
    """Inserts numbered rows, and says each number after its commit."""
    store = Store.at(url)
    for number in range(first, first + 1_000_000):
        row = {"model": "m", "unique_id": name, "ds_us": number, "y": 0.0, "received_ms": 0}
        with store.begin() as connection:
            connection.execute(ACTUAL.insert().values(row))
        said.send(number)
