"""What a run has to say: events in the order in which they were appended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from pipelines.store import now_ms
from pipelines.store_tables import RUN, RUN_EVENT

EventKind = Literal["state", "progress", "log"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a run had to say, numbered from 1."""

    seq: int
    at_ms: int
    kind: str
    text: str


def append(connection: sa.Connection, run_id: str, kind: EventKind, text: str) -> None:
    """Appends an event. The lock of the run's row gives writers on PostgreSQL their turns."""
    connection.execute(sa.select(RUN.c.id).where(RUN.c.id == run_id).with_for_update())
    last = sa.select(sa.func.coalesce(sa.func.max(RUN_EVENT.c.seq), 0) + 1)
    number = connection.execute(last.where(RUN_EVENT.c.run_id == run_id)).scalar_one()
    connection.execute(
        RUN_EVENT.insert().values(
            run_id=run_id, seq=number, at_ms=now_ms(connection), kind=kind, text=text
        )
    )


def since(connection: sa.Connection, run_id: str, after: int) -> Sequence[Event]:
    """The events of a run with numbers above `after`, oldest first."""
    columns = (RUN_EVENT.c.seq, RUN_EVENT.c.at_ms, RUN_EVENT.c.kind, RUN_EVENT.c.text)
    query = (
        sa.select(*columns)
        .where(RUN_EVENT.c.run_id == run_id, RUN_EVENT.c.seq > after)
        .order_by(RUN_EVENT.c.seq)
    )
    return [Event(**row._mapping) for row in connection.execute(query)]


def newest_progress(connection: sa.Connection, run_id: str) -> str | None:
    """What a run has said last of how far it is."""
    said = (RUN_EVENT.c.run_id == run_id) & (RUN_EVENT.c.kind == "progress")
    query = sa.select(RUN_EVENT.c.text).where(said).order_by(RUN_EVENT.c.seq.desc()).limit(1)
    return connection.execute(query).scalar_one_or_none()
