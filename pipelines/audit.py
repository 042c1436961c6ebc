"""Audit: who changed what, when and why. Rows are only ever added, each with the hash of the one
before, so that a row that was altered or taken out later is found and named.

What the chain cannot show by itself: rows cut off at its end, or all of it written anew, by someone
who may write to the database. `faults` finds that too when it is told a hash that was noted before.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import sqlalchemy as sa

from pipelines.store import now_ms
from pipelines.store_tables import AUDIT
from tsformer.errors import ConfigError

FIRST = "0" * 64  # the hash before the first row
PROMOTE = "promote:"  # and a model: the role of who may do nothing else


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: a person, a schedule or a key, in a role."""

    name: str
    role: str = "operator"
    request_id: str | None = None

    @classmethod
    def promoting(cls, model: str, name: str) -> Self:
        """A job that nobody watches: all it may do is promote versions of `model` by the gate."""
        return cls(name, role=f"{PROMOTE}{model}")

    def check(self, what: str, model: str) -> None:
        """Raises ConfigError where this actor may not do `what` (promote, override, rollback)."""
        if self.role.startswith(PROMOTE) and (what, self.role) != ("promote", f"{PROMOTE}{model}"):
            raise ConfigError(
                f"{self.name} may {self.role} and nothing else, so no {what} of {model}. An "
                "operator may do that."
            )

    @staticmethod
    def here() -> Actor:
        """The user that this process belongs to."""
        try:
            return Actor(getpass.getuser())
        except (KeyError, OSError):  # a container's user has no name
            return Actor(f"uid {os.getuid()}")


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to which `subject`, and why."""

    what: str
    subject: str
    before: str | None = None
    after: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the audit; `at_ms` is by the clock of the database."""

    seq: int
    at_ms: int
    who: str
    role: str
    what: str
    subject: str
    before: str | None
    after: str | None
    reason: str | None
    request_id: str | None
    previous_hash: str
    hash: str = ""

    def digest(self) -> str:
        """The SHA-256 of everything but `hash`."""
        content = {name: value for name, value in asdict(self).items() if name != "hash"}
        text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def append(connection: sa.Connection, change: Change, who: Actor) -> Entry:
    """Adds `change` in the caller's transaction: both are kept, or neither. Make it its last step."""
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time by itself
        connection.exec_driver_sql("LOCK TABLE audit IN SHARE ROW EXCLUSIVE MODE")
    newest = sa.select(AUDIT.c.seq, AUDIT.c.hash).order_by(AUDIT.c.seq.desc()).limit(1)
    last = connection.execute(newest).one_or_none()
    entry = Entry(
        seq=1 if last is None else last.seq + 1,
        at_ms=now_ms(connection),
        who=who.name,
        role=who.role,
        request_id=who.request_id,
        previous_hash=FIRST if last is None else last.hash,
        **asdict(change),
    )
    connection.execute(AUDIT.insert().values({**asdict(entry), "hash": entry.digest()}))
    return entry


def entries(connection: sa.Connection) -> tuple[Entry, ...]:
    """All rows, oldest first."""
    rows = connection.execute(sa.select(AUDIT).order_by(AUDIT.c.seq)).mappings()
    return tuple(Entry(**row) for row in rows)


def faults(chain: Sequence[Entry], *, noted: str | None = None) -> tuple[str, ...]:
    """What was done to the rows from outside, a sentence each; `noted` is a hash of before."""
    found: list[str] = []
    expected, previous, sound = 1, FIRST, True
    for entry in chain:
        found += [f"Row {seq} is missing." for seq in range(expected, entry.seq)]
        if entry.seq == expected and entry.previous_hash != previous and sound:
            found.append(f"Row {entry.seq - 1} was altered.")
        sound = entry.digest() == entry.hash
        if not sound:
            found.append(f"Row {entry.seq} was altered.")
        expected, previous = entry.seq + 1, entry.hash
    if noted is not None and noted not in {entry.hash for entry in chain}:
        found.append(
            "The row with the noted hash is missing: the end was cut off, or all replaced."
        )
    return tuple(found)
