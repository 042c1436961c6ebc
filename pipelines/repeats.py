"""Requests that create something, sent again under one key: one resource, one answer."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipelines.store import Store, now_ms
from pipelines.store_tables import REPEAT

HELD_MS = 120_000  # a first request that has not ended by then has died


@dataclass(frozen=True, slots=True)
class Slot:
    """What makes two requests the same: who asks, where, and under which key."""

    caller: str
    path: str
    key: str

    def where(self) -> sa.ColumnElement[bool]:
        """The row of this slot."""
        columns = REPEAT.c
        return (
            (columns.caller == self.caller)
            & (columns.path == self.path)
            & (columns.key == self.key)
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it was given."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Turn:
    """What a request is to do: the work (`new`), wait (`busy`), answer `kept`, or refuse (`other`).

    `token` is the same for all turns of a slot: what is named after it is made once, even where
    the first request died in the middle of its work.
    """

    state: Literal["new", "busy", "done", "other"]
    token: str = ""
    kept: Kept | None = None


def take(store: Store, slot: Slot, body_sha256: str, *, lives_ms: int) -> Turn:
    """The turn of a request; rows older than `lives_ms` are forgotten."""
    with store.begin() as connection:
        now = now_ms(connection)
        connection.execute(REPEAT.delete().where(REPEAT.c.created_ms <= now - lives_ms))
        token = secrets.token_hex(10)
        row = {
            "caller": slot.caller, "path": slot.path, "key": slot.key, "token": token,
            "body_sha256": body_sha256, "created_ms": now, "held_until_ms": now + HELD_MS,
        }  # fmt: skip
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        insert = dialect.insert(REPEAT).on_conflict_do_nothing().returning(REPEAT.c.token)
        if connection.execute(insert.values(row)).one_or_none() is not None:
            return Turn("new", token)
        found = connection.execute(sa.select(REPEAT).where(slot.where()).with_for_update()).one()
        if found.body_sha256 != body_sha256:
            return Turn("other")
        if found.status is not None:
            return Turn(
                "done", found.token, Kept(found.status, json.loads(found.headers), found.body)
            )
        if found.held_until_ms > now:
            return Turn("busy")
        held = REPEAT.update().where(slot.where()).values(held_until_ms=now + HELD_MS)
        connection.execute(held)
        return Turn("new", found.token)


def keep(store: Store, slot: Slot, kept: Kept) -> None:
    """The answer that every later request of the slot gets."""
    with store.begin() as connection:
        values = {
            "status": kept.status,
            "headers": json.dumps(dict(kept.headers)),
            "body": kept.body,
        }
        connection.execute(REPEAT.update().where(slot.where()).values(values))


def release(store: Store, slot: Slot) -> None:
    """Forgets a request that was refused: the next one may do better."""
    with store.begin() as connection:
        connection.execute(REPEAT.delete().where(slot.where(), REPEAT.c.status.is_(None)))
