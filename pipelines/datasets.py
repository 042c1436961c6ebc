"""Tables that are kept under a name, apart by tenant: Parquet in the home, a row in the store.

    TSFORMER_HOME/datasets/<tenant>/<name>/<version>.parquet
                                           <version>.static.parquet   attributes of the series

A version is the hash of its content, so the same table is the same version however often it is
sent. Files are written before the row: what the store names is there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipelines.fingerprint import fingerprint
from pipelines.home import Home
from pipelines.store import Store, now_ms
from pipelines.store_tables import DATASET
from pipelines.versions import checked_name
from tsformer.checkpoint import Folder
from tsformer.errors import ConfigError, NotFoundError

FOLDER = "datasets"
VERSION_LENGTH = 16  # of the 64 digits of the hash


@dataclass(frozen=True, slots=True)
class Table:
    """A table and what its columns mean; `id` is None for one series, `tz` for naive stamps."""

    data: pl.DataFrame
    static: pl.DataFrame | None
    id: str | None
    time: str
    target: str
    freq: str
    tz: str | None
    series: int

    @property
    def digest(self) -> str:
        """SHA-256 of the content; the order of columns does not matter, that of rows does."""
        about = [self.id, self.time, self.target, self.freq, self.tz]
        tables = [
            None if table is None else fingerprint(table.select(sorted(table.columns)))
            for table in (self.data, self.static)
        ]
        return hashlib.sha256(json.dumps([about, tables]).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Dataset:
    """A version of a dataset: a row of the store. `columns` and `static_columns` are JSON."""

    tenant: str
    name: str
    version: str
    digest: str
    id: str | None
    time: str
    target: str
    freq: str
    tz: str | None
    columns: str
    static_columns: str
    rows: int
    series: int
    created_ms: int
    created_by: str

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"

    @property
    def values(self) -> int:
        """How many cells its table has."""
        return self.rows * len(json.loads(self.columns))


@dataclass(frozen=True, slots=True)
class Datasets:
    """The datasets of one tenant."""

    home: Home
    store: Store
    tenant: str

    def add(self, name: str, table: Table, *, who: str) -> tuple[Dataset, bool]:
        """The version that `table` is, and whether it is new; it is durable when this is done."""
        digest = table.digest
        version = digest[:VERSION_LENGTH]
        if (known := self._find(checked_name(name), version)) is not None:
            return known, False
        self._write(name, f"{version}.parquet", table.data)
        if table.static is not None:
            self._write(name, f"{version}.static.parquet", table.static)
        with self.store.begin() as connection:
            found = Dataset(
                self.tenant, name, version, digest,
                table.id, table.time, table.target, table.freq, table.tz,
                columns=_kinds(table.data), static_columns=_kinds(table.static),
                rows=len(table.data), series=table.series,
                created_ms=now_ms(connection), created_by=who,
            )  # fmt: skip
            dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
            insert = dialect.insert(DATASET).on_conflict_do_nothing().returning(DATASET.c.name)
            new = connection.execute(insert.values(asdict(found))).one_or_none() is not None
        return found, new

    def versions(self, name: str) -> tuple[Dataset, ...]:
        """The versions of one dataset, newest first; NotFoundError where there is none."""
        mine = (DATASET.c.tenant == self.tenant) & (DATASET.c.name == name)
        query = sa.select(DATASET).where(mine).order_by(DATASET.c.created_ms.desc())
        with self.store.read() as connection:
            rows = connection.execute(query).all()
        if not rows:
            raise NotFoundError(f"There is no dataset '{name}'.")
        return tuple(Dataset(**row._mapping) for row in rows)

    def names(self, *, after: str, at_most: int) -> list[str]:
        """Names in order, those behind `after`."""
        mine = (DATASET.c.tenant == self.tenant) & (DATASET.c.name > after)
        query = sa.select(DATASET.c.name).where(mine).distinct().order_by(DATASET.c.name)
        with self.store.read() as connection:
            return [*connection.execute(query.limit(at_most)).scalars()]

    def one(self, reference: str) -> Dataset:
        """The dataset that `name` (its newest version) or `name/version` means."""
        name, _, version = reference.partition("/")
        for found in self.versions(name):
            if version in ("", found.version):
                return found
        raise NotFoundError(f"The dataset '{name}' has no such version.")

    def path(self, dataset: Dataset, *, static: bool = False) -> Path:
        """The Parquet file of a version."""
        end = "static.parquet" if static else "parquet"
        return self._folder(dataset.name) / f"{dataset.version}.{end}"

    def read(self, dataset: Dataset) -> Table:
        """A version as it was sent."""
        static = self.path(dataset, static=True)
        return Table(
            pl.read_parquet(self.path(dataset)),
            pl.read_parquet(static) if json.loads(dataset.static_columns) else None,
            dataset.id, dataset.time, dataset.target, dataset.freq, dataset.tz, dataset.series,
        )  # fmt: skip

    def training_file(self, dataset: Dataset) -> Path:
        """A file with all columns of a version, the attributes of the series among them."""
        table = self.read(dataset)
        if table.static is None:
            return self.path(dataset)
        on = [] if table.id is None else [table.id]
        how: Literal["left", "cross"] = "left" if on else "cross"
        joined = table.data.join(table.static, on=on or None, how=how)
        name = f"{dataset.version}.joined.parquet"
        self._write(dataset.name, name, joined)
        return self._folder(dataset.name) / name

    def _find(self, name: str, version: str) -> Dataset | None:
        try:
            return self.one(f"{name}/{version}")
        except NotFoundError:
            return None

    def _folder(self, name: str) -> Path:
        return self.home.folder / FOLDER / self.tenant / name

    def _write(self, name: str, file: str, table: pl.DataFrame) -> None:
        sink, folder = io.BytesIO(), self._folder(name)
        table.write_parquet(sink)
        draft = f"{secrets.token_hex(8)}.part"  # others may write the same file at this moment
        Folder(folder).write(draft, sink.getvalue())
        (folder / draft).replace(folder / file)


def stored_as(source: str, home: Home) -> tuple[str, str, str] | None:
    """Tenant, name and version of the dataset whose file `source` is; None for any other file."""
    try:
        tenant, name, file = Path(source).relative_to(home.folder / FOLDER).parts
    except ValueError:
        return None
    return tenant, name, file.partition(".")[0]


def inside(folder: str, name: str) -> Path:
    """The file `name` in the folder that an operator has configured, and nowhere else."""
    if not folder:
        raise ConfigError("No folder of datasets is configured.")
    root = Path(folder).resolve()
    path = Path(os.path.realpath(root / name))  # which, unlike resolve, takes links in a circle
    if path.parent != root or not path.is_file():
        raise NotFoundError("There is no such file in the folder of datasets.")
    return path


def _kinds(table: pl.DataFrame | None) -> str:
    """The names and types of columns, as JSON."""
    if table is None:
        return "{}"
    return json.dumps({name: str(kind) for name, kind in table.schema.items()})
