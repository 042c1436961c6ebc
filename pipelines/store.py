"""The project's own database: schedules, runs, champions, versions, audit, keys, actuals.

SQLite (a file of its own, beside MLflow's) by default, PostgreSQL for teams: `TSFORMER_STORE`.
What MLflow's tables cannot promise (compare-and-set, one row a due time, an append-only audit)
stands here. Times are milliseconds since 1970 UTC by the clock of the database.

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
from tsformer.errors import ConfigError, UnavailableError

SCHEMA = "0005"  # the newest revision in pipelines/migrations/versions
BUSY_MS = 5_000  # how long a writer waits for another one (RELIABILITY F22: 503 within 5 s)
MIGRATION_MS = 60_000  # and whoever finds another one making the tables, which it cannot do without
CONNECT_SECONDS = 3
MIGRATION_LOCK = 7_305_871_192_514_177_281  # any number that is nobody else's advisory lock
WRITES = "tsformer_writes"

METADATA = sa.MetaData()

SCHEDULE = sa.Table(
    "schedule",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("experiment", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("trigger", sa.Text, nullable=False),
    sa.Column("cron", sa.Text),
    sa.Column("tz", sa.Text),
    sa.Column("every_s", sa.BigInteger),
    sa.Column("jitter_s", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("catch_up_s", sa.BigInteger, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("anchor_ms", sa.BigInteger, nullable=False),
    sa.Column("last_due_ms", sa.BigInteger),
    sa.Column("missed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("skipped", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("rev", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("job", sa.Text),  # JSON: the type and the spec of a job in place of an experiment
    sa.Column("owner", sa.Text),  # the prefix of the key that ordered it
    sa.Column("gate", sa.Text),  # JSON, as it was asked for
    sa.CheckConstraint("trigger IN ('cron', 'interval', 'drift')", name="schedule_trigger"),
)

RUN = sa.Table(
    "run",
    METADATA,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("schedule", sa.Text),  # NULL for a run that no schedule asked for
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("experiment", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("due_ms", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="pending"),
    sa.Column("attempt", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("submitted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("submitted_ms", sa.BigInteger),
    sa.Column("lease_until_ms", sa.BigInteger),
    sa.Column("heartbeat_ms", sa.BigInteger),
    sa.Column("input_sha256", sa.Text),
    sa.Column("input_columns", sa.Text),
    sa.Column("result_version", sa.Text),
    sa.Column("outcome", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("started_ms", sa.BigInteger),
    sa.Column("finished_ms", sa.BigInteger),
    sa.UniqueConstraint("schedule", "due_ms", name="run_due"),
    sa.CheckConstraint(
        "state IN ('pending', 'running', 'succeeded', 'failed', 'dead', 'skipped', 'cancelled')",
        name="run_state",
    ),
    sa.Index(
        "run_no_overlap",
        "schedule",
        unique=True,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    ),
)

RUN_EVENT = sa.Table(
    "run_event",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.CheckConstraint("kind IN ('state', 'progress', 'log')", name="run_event_kind"),
)

# What a client of the service asked for: a run of no schedule. `owner` is the prefix of its key,
# `spec` zlib of JSON, `problem` what it failed by, as the client is told.
JOB = sa.Table(
    "job",
    METADATA,
    sa.Column("run_id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("problem", sa.Text),
    sa.Index("job_tenant", "tenant", "owner"),
)

CHAMPION = sa.Table(
    "champion",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("alias", sa.Text, primary_key=True, server_default="champion"),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("previous", sa.Text),
    sa.Column("rev", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("settled", sa.Boolean, nullable=False, server_default=sa.true()),  # in MLflow too
)

MODEL_VERSION = sa.Table(
    "model_version",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("run_id", sa.Text, unique=True),  # a run yields at most one version
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("removed_ms", sa.BigInteger),  # by a clean-up; the row keeps its run from publishing
)

AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("what", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("before", sa.Text),
    sa.Column("after", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("request_id", sa.Text),
    sa.Column("previous_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

ACCESS_KEY = sa.Table(
    "access_key",
    METADATA,
    sa.Column("prefix", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("expires_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_ms", sa.BigInteger),  # the row stays: a service with keys never opens again
    sa.CheckConstraint("role IN ('reader', 'forecaster', 'operator')", name="access_key_role"),
)

ACTUAL = sa.Table(
    "actual",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("unique_id", sa.Text, primary_key=True),
    sa.Column("ds_us", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("y", sa.Double, nullable=False),
    sa.Column("received_ms", sa.BigInteger, nullable=False),
    sa.Index("actual_newest", "model", "ds_us"),
)

# One row a forecast of one series: what later actuals are matched with. `ds` are int64, `point`
# and `quantiles` `[step, level]` are float64, little-endian; `levels` is JSON.
FORECAST_RECORD = sa.Table(
    "forecast_record",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("unique_id", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("cutoff_us", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("first_us", sa.BigInteger, nullable=False),
    sa.Column("last_us", sa.BigInteger, nullable=False),
    sa.Column("ds", sa.LargeBinary, nullable=False),
    sa.Column("point", sa.LargeBinary, nullable=False),
    sa.Column("quantiles", sa.LargeBinary, nullable=False),
    sa.Column("levels", sa.Text, nullable=False),
    sa.Column("scale", sa.Double),  # that of MASE; NULL where the season is not known or flat
    sa.Column("fallback", sa.Text),
    sa.Column("recorded_ms", sa.BigInteger, nullable=False),
    sa.Index("forecast_record_last", "model", "last_us"),
)

DRIFT_ALARM = sa.Table(
    "drift_alarm",
    METADATA,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("since_ms", sa.BigInteger),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("measured_ms", sa.BigInteger, nullable=False),
)


# A request that creates something, and what it was answered; `status` is NULL while it runs.
REPEAT = sa.Table(
    "repeat",
    METADATA,
    sa.Column("caller", sa.Text, primary_key=True),
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("body_sha256", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("held_until_ms", sa.BigInteger, nullable=False),
    sa.Column("status", sa.BigInteger),
    sa.Column("headers", sa.Text),
    sa.Column("body", sa.LargeBinary),
    sa.Index("repeat_created", "created_ms"),
)

# A version of a table that a tenant has stored; its files are in the home (pipelines.datasets).
DATASET = sa.Table(
    "dataset",
    METADATA,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("id", sa.Text),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("freq", sa.Text, nullable=False),
    sa.Column("tz", sa.Text),
    sa.Column("columns", sa.Text, nullable=False),
    sa.Column("static_columns", sa.Text, nullable=False),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("series", sa.BigInteger, nullable=False),
    sa.Column("created_ms", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
)


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
