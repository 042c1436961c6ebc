"""Champions: which version each alias is on, moved by compare-and-set.

MLflow's alias follows, which it cannot do safely by itself: its last writer wins. Between
the two a row is not settled, and whoever comes next finishes the move.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from pipelines.audit import Change
from pipelines.store import now_ms
from pipelines.store_tables import CHAMPION
from tsformer.errors import MovedError


@dataclass(frozen=True, slots=True)
class Champion:
    """Where an alias (`champion`, or another) of a model stands.

    `rev` counts its moves; at 0 it is on nothing yet. `previous` is what a rollback restores.
    `settled` says that MLflow's alias was moved too.
    """

    model: str
    alias: str
    version: str | None = None
    previous: str | None = None
    rev: int = 0
    since_ms: int = 0
    settled: bool = True

    def __str__(self) -> str:
        return f"{self.model}@{self.alias}"

    def change(self, what: str, *, to: str, reason: str = "") -> Change:
        """The move from here to the version `to`, for the audit."""
        return Change(what, str(self), before=self.version, after=to, reason=reason)


def standing(connection: sa.Connection, model: str, alias: str) -> Champion:
    """Where `alias` stands."""
    row = connection.execute(sa.select(CHAMPION).where(_of(model, alias))).one_or_none()
    return Champion(model, alias) if row is None else Champion(**row._mapping)


def standings(connection: sa.Connection, model: str) -> tuple[Champion, ...]:
    """Where all aliases of a model stand."""
    rows = connection.execute(sa.select(CHAMPION).where(CHAMPION.c.model == model))
    return tuple(Champion(**row._mapping) for row in rows)


def all_standings(connection: sa.Connection) -> tuple[Champion, ...]:
    """Where all aliases of all models stand."""
    return tuple(Champion(**row._mapping) for row in connection.execute(sa.select(CHAMPION)))


def move(
    connection: sa.Connection,
    now: Champion,
    *,
    to: str,
    previous: str | None,
    settled: bool = False,
) -> None:
    """Moves an alias to the version `to`, if it stands where it did `now`; else MovedError."""
    values: dict[str, object] = {
        "version": to,
        "previous": previous,
        "rev": now.rev + 1,
        "since_ms": now_ms(connection),
        "settled": settled,
    }
    where = (_of(now.model, now.alias), CHAMPION.c.rev == now.rev)
    if now.rev:
        if connection.execute(CHAMPION.update().where(*where).values(values)).rowcount == 0:
            raise moved_meanwhile(now, seen=now.rev)
        return
    try:
        new = CHAMPION.insert().values(**values, model=now.model, alias=now.alias)
        connection.execute(new)
    except IntegrityError as error:
        raise moved_meanwhile(now, seen=0) from error


def mark(connection: sa.Connection, now: Champion, *, settled: bool) -> None:
    """Notes whether MLflow's alias stands where it does `now`, unless the row has moved on."""
    where = (_of(now.model, now.alias), CHAMPION.c.rev == now.rev)
    connection.execute(CHAMPION.update().where(*where).values(settled=settled))


def leave(connection: sa.Connection, model: str) -> None:
    """Forgets all aliases of a model that is taken away."""
    connection.execute(CHAMPION.delete().where(CHAMPION.c.model == model))


def moved_meanwhile(now: Champion, *, seen: int) -> MovedError:
    """The error of who comes second."""
    return MovedError(
        f"{now} has moved since it was looked at (in revision {seen}). Look again, then decide."
    )


def _of(model: str, alias: str) -> sa.ColumnElement[bool]:
    return sa.and_(CHAMPION.c.model == model, CHAMPION.c.alias == alias)
