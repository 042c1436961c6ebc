"""Rows of the ledger: a run as a value, and what says that it may be worked on."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from pipelines.store_tables import RUN

ATTEMPTS = 3
OPEN = ("pending", "running")
FINAL = ("succeeded", "failed", "dead", "skipped", "cancelled")


@dataclass(frozen=True, slots=True)
class Run:
    """A row of the ledger."""

    id: str
    schedule: str | None
    kind: str
    experiment: str
    reason: str
    due_ms: int
    state: str
    attempt: int
    fence: int
    submitted: int
    submitted_ms: int | None
    lease_until_ms: int | None
    heartbeat_ms: int | None
    input_sha256: str | None
    input_columns: str | None
    result_version: str | None
    outcome: str | None
    error: str | None
    created_ms: int
    started_ms: int | None
    finished_ms: int | None

    @property
    def subject(self) -> str:
        """What a person calls it by: its schedule, or what kind of job it is."""
        return self.schedule or f"{self.kind} job"


def claimable(now: int) -> sa.ColumnElement[bool]:
    """Nobody holds it: it has not begun, or its lease is over."""
    lost = (RUN.c.state == "running") & (RUN.c.lease_until_ms < now)
    return (RUN.c.state == "pending") | lost


def hopeless(now: int) -> sa.ColumnElement[bool]:
    """Nobody holds it, and nobody may any more."""
    return claimable(now) & (RUN.c.attempt >= ATTEMPTS)
