"""Digests: what the store vouches for. Files of a version are loaded only if they are of the digest
that is kept here, apart from MLflow's tables and apart from the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from pipelines.store import now_ms
from pipelines.store_tables import MODEL_VERSION
from pipelines.versions import ModelVersion
from tsformer.errors import ArtifactError, NotFoundError

Lock = Literal["none", "shared", "own"]


@dataclass(frozen=True, slots=True)
class Vouched:
    """A version that was published, or taken in, by this store; `removed_ms` by a clean-up."""

    model: str
    version: str
    run_id: str | None
    digest: str
    pinned: bool
    created_ms: int
    removed_ms: int | None

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


def vouched(connection: sa.Connection, model: str, version: str) -> Vouched | None:
    """What is kept of a version."""
    return _one(connection, _of(model, version))


def vouched_of_run(connection: sa.Connection, run_id: str) -> Vouched | None:
    """The version that a run has published."""
    return _one(connection, MODEL_VERSION.c.run_id == run_id)


def all_vouched(connection: sa.Connection, model: str) -> dict[str, Vouched]:
    """All versions of a model by their numbers, removed ones too."""
    rows = connection.execute(sa.select(MODEL_VERSION).where(MODEL_VERSION.c.model == model))
    return {row.version: Vouched(**row._mapping) for row in rows}


def everything(connection: sa.Connection) -> dict[tuple[str, str], Vouched]:
    """All versions of all models, by model and number, removed ones too."""
    rows = connection.execute(sa.select(MODEL_VERSION))
    return {(row.model, row.version): Vouched(**row._mapping) for row in rows}


def vouch(
    connection: sa.Connection, *, model: str, version: str, run_id: str | None, digest: str
) -> None:
    """Keeps the digest of a new version. A second version of a run is an IntegrityError."""
    values = {"model": model, "version": version, "run_id": run_id, "digest": digest}
    connection.execute(MODEL_VERSION.insert().values(**values, created_ms=now_ms(connection)))


def trusted(connection: sa.Connection, version: ModelVersion) -> Vouched:
    """What is kept of `version`; raises unless it is the digest that MLflow has."""
    return agreeing(vouched(connection, version.name, version.version), version)


def hold(connection: sa.Connection, version: ModelVersion) -> Vouched:
    """As `trusted`, of a version that no clean-up removes before this transaction ends."""
    known = _one(connection, _of(version.name, version.version), lock="shared")
    return agreeing(known, version)


def hold_alone(connection: sa.Connection, model: str, version: str) -> Vouched | None:
    """What is kept of a version, which nobody promotes before this transaction ends."""
    return _one(connection, _of(model, version), lock="own")


def set_pinned(connection: sa.Connection, model: str, version: str, *, pinned: bool) -> None:
    """Keeps a version from clean-ups, or no longer."""
    connection.execute(MODEL_VERSION.update().where(_of(model, version)).values(pinned=pinned))


def set_removed(connection: sa.Connection, model: str, version: str) -> None:
    """From now on nobody loads or promotes the version; its row stays, so its run is not repeated."""
    now = now_ms(connection)
    connection.execute(MODEL_VERSION.update().where(_of(model, version)).values(removed_ms=now))


def set_kept(connection: sa.Connection, model: str, version: str) -> None:
    """Takes `set_removed` back."""
    connection.execute(MODEL_VERSION.update().where(_of(model, version)).values(removed_ms=None))


def agreeing(known: Vouched | None, version: ModelVersion) -> Vouched:
    """`known`, if it vouches for `version` as MLflow has it."""
    if known is None:
        raise ArtifactError(
            f"The store does not know {version}, so nobody vouches for its files. If it was "
            "published with another store (TSFORMER_STORE) and you trust it: tsformer registry "
            f"import {version}"
        )
    if known.removed_ms is not None:
        raise NotFoundError(f"{version} was removed by a clean-up.")
    if known.digest != version.digest:
        raise ArtifactError(
            f"{version}: MLflow has the digest {version.digest}, but {known.digest} was published. "
            "Somebody altered it there; train and publish again."
        )
    return known


def _of(model: str, version: str) -> sa.ColumnElement[bool]:
    return sa.and_(MODEL_VERSION.c.model == model, MODEL_VERSION.c.version == version)


def _one(
    connection: sa.Connection, which: sa.ColumnElement[bool], *, lock: Lock = "none"
) -> Vouched | None:
    query = sa.select(MODEL_VERSION).where(which)
    if lock != "none":  # PostgreSQL's row locks; SQLite has one writer at a time by itself
        query = query.with_for_update(read=lock == "shared")
    row = connection.execute(query).one_or_none()
    return None if row is None else Vouched(**row._mapping)
