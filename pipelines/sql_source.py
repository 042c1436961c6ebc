"""A table of a database as a source: `sql:` and its address, `#` and the table or view.

    source: sql:postgresql://reader@db/shop#sales

Which rows and columns are read is for a view to say. A password does not stand in an experiment,
which MLflow keeps: TSFORMER_SQL_PASSWORD has it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from pipelines.tables import read_table
from tsformer.errors import ConfigError, DataError, NotFoundError, UnavailableError

PREFIX = "sql:"
PASSWORD = "TSFORMER_SQL_PASSWORD"


def is_sql(source: str | Path) -> bool:
    """Whether `source` names a table of a database."""
    return str(source).startswith(PREFIX)


def read_sql(source: str, *, environment: Mapping[str, str] = os.environ) -> pl.DataFrame:
    """The whole table, its rows sorted: a database gives them in any order.

    Raises ConfigError for a source that is none, UnavailableError where the database does not
    answer, NotFoundError for an unknown table and DataError for one that cannot be read.
    """
    url, schema, name = _parsed(source)
    _check_file(url)
    engine = _engine(url, environment.get(PASSWORD))
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table(name, schema=schema):
                raise NotFoundError(f"{_shown(url)} has no table or view '{name}'.")
            query = sa.select(sa.text("*")).select_from(sa.table(name, schema=schema))
            table = pl.read_database(query, connection=connection, infer_schema_length=None)
    except DBAPIError as error:
        raise UnavailableError(f"{_shown(url)} does not answer: {_first_line(error)}") from error
    except pl.exceptions.PolarsError as error:
        raise DataError(f"'{name}' of {_shown(url)} cannot be read: {error}") from error
    plain = table.with_columns(pl.selectors.decimal().cast(pl.Float64))
    return read_table(plain, columns=dict.fromkeys(plain.columns, "value")).sort(pl.all())


def _parsed(source: str) -> tuple[URL, str | None, str]:
    """Address, schema and table."""
    address, _, table = source.removeprefix(PREFIX).rpartition("#")
    schema, _, name = table.rpartition(".")
    try:
        url = make_url(address)
    except ArgumentError:
        url = None
    if url is None or not name:
        raise ConfigError(
            f"data: {_hidden(source)} is no table of a database. Expected sql:ADDRESS#TABLE, such "
            "as sql:postgresql://reader@db/shop#sales."
        )
    if url.password is not None:
        raise ConfigError(
            "data: 'source' has a password, which MLflow would keep with every run. Take it out; "
            f"{PASSWORD} in the environment has it."
        )
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    return url, schema or None, name


def _hidden(source: str) -> str:
    """A source without anything that may be a password."""
    head, at, tail = source.rpartition("@")
    return f"'sql:...@{tail}'" if at and head else f"'{source}'"


def _check_file(url: URL) -> None:
    """SQLite would make an empty database of a typing error."""
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        raise NotFoundError(f"There is no file {Path(url.database or '').absolute()}.")


def _engine(url: URL, password: str | None) -> sa.Engine:
    whole = url.set(password=password) if password and url.host else url
    try:
        return sa.create_engine(whole, poolclass=NullPool)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"data: to read {_shown(url)}, install a driver for it ({error})."
        ) from error


def _shown(url: URL) -> str:
    return f"The database {url.render_as_string(hide_password=True)}"


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
