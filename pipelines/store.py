"""The project's own database, with the tables of pipelines.store_tables.

SQLite (a file of its own, beside MLflow's) by default, PostgreSQL for teams: `TSFORMER_STORE`.

A transaction opens its connection and closes it: nothing is held between two, by no process, so a
restarted database, a fork and a killed client need no care. It costs 0.3 ms on SQLite and about
12 ms on PostgreSQL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)
from sqlalchemy.pool import NullPool

from pipelines.home import Home
from pipelines.store_tables import SCHEMA
from tsformer.errors import ConfigError, UnavailableError

BUSY_MS = 4_000  # how long a writer waits for another one: whoever asks has a 503 within 5 s
MIGRATION_MS = 60_000  # and whoever finds another one making the tables, which it cannot do without
CONNECT_SECONDS = 3
MIGRATION_LOCK = 7_305_871_192_514_177_281  # any number that is nobody else's advisory lock
WRITES = "tsformer_writes"


@dataclass(frozen=True, slots=True)
class Store:
    """A database with the newest schema."""

    engine: sa.Engine

    @staticmethod
    def of(home: Home) -> Store:
        """The store of `home`, made or brought up to date where it is not."""
        return Store.at(home.store)

    @staticmethod
    def at(url: str) -> Store:
        """The store at `url`, made or brought up to date where it is not.

        Raises ConfigError for an address that is none, UnavailableError where the database does
        not answer, cannot be written, or was written by a newer release.
        """
        address = _address(url)
        store = Store(_engine(address, wait_ms=BUSY_MS))
        with store.read() as connection:
            revision = _revision(connection)
        if revision != SCHEMA:
            Store(_engine(address, wait_ms=MIGRATION_MS))._migrate()
        return store

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """One write transaction: all of it is durable when the block is left, or none of it."""
        with self._transaction(writes=True) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """One transaction that only reads, and waits for no writer."""
        with self._transaction(writes=False) as connection:
            yield connection

    @contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[sa.Connection]:
        try:
            with self.engine.connect() as plain:
                connection = plain.execution_options(**{WRITES: writes})
                with connection.begin():
                    yield connection
        except DBAPIError as error:
            if not _is_away(error):
                raise
            raise UnavailableError(_silent(self.engine.url, error)) from error

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", "pipelines:migrations")
        with self.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            revision = _revision(connection)  # another process may have been faster
            if revision == SCHEMA:
                return
            if revision is not None and revision > SCHEMA:
                raise UnavailableError(
                    f"{_named(self.engine.url)} was written by a newer tsformer (schema {revision}, "
                    f"this one knows {SCHEMA}). Install that release, or name another "
                    "TSFORMER_STORE."
                )
            config.attributes["connection"] = connection
            command.upgrade(config, SCHEMA)


def now_ms(connection: sa.Connection) -> int:
    """The clock of the database, in milliseconds since 1970 UTC: the same for all its clients."""
    if connection.dialect.name == "postgresql":
        text = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
    else:  # 2440587.5 is the Julian day of 1970-01-01T00:00Z
        text = "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000.0) AS INTEGER)"
    return int(connection.execute(sa.text(text)).scalar_one())


def _address(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = URL.create("nothing")
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    file = parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:")
    if not file and parsed.drivername != "postgresql+psycopg":
        raise ConfigError(
            "TSFORMER_STORE must be a database like sqlite:////data/tsformer.db or "
            "postgresql://user@host/name."
        )
    return parsed


def _engine(url: URL, *, wait_ms: int) -> sa.Engine:
    if url.drivername == "sqlite":
        return _sqlite(url, wait_ms=wait_ms)
    try:
        return sa.create_engine(
            url, poolclass=NullPool, connect_args={"connect_timeout": CONNECT_SECONDS}
        )
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            "A store in PostgreSQL needs psycopg: pip install 'tsformer[postgres]'."
        ) from error


def _sqlite(url: URL, *, wait_ms: int) -> sa.Engine:
    file = Path(url.database or "")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, mode=0o600))
    except OSError as error:
        raise UnavailableError(f"{_named(url)} cannot be written: {error}") from error
    engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": wait_ms / 1000})
    sa.event.listen(engine, "connect", _prepare)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
    connection.isolation_level = (
        None  # transactions begin where `_begin` says, not where sqlite3 guesses
    )
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get(WRITES, True)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _revision(connection: sa.Connection) -> str | None:
    """The revision of the schema; None in an empty database."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    row = connection.execute(sa.text("SELECT version_num FROM alembic_version")).one_or_none()
    return None if row is None else str(row[0])


def _named(url: URL) -> str:
    shown = url.database if url.drivername == "sqlite" else url.render_as_string(hide_password=True)
    return f"The store at {shown}"


def _is_away(error: DBAPIError) -> bool:
    """Whether it is about the database, not about a statement.

    SQLite says DatabaseError itself, of which most others are kinds, of a file that is damaged.
    """
    return isinstance(error, OperationalError | InterfaceError) or type(error) is DatabaseError


def _silent(url: URL, error: DBAPIError) -> str:
    cause = str(error.orig).strip().splitlines()
    said = cause[0] if cause else type(error.orig).__name__
    return f"{_named(url)} cannot be read or written: {said}"
