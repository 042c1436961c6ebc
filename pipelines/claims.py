"""Claims: one attempt at a time works on a run, and what it writes holds only as long as it does.

An attempt holds a lease, which its heartbeats prolong, and a fence, a number that the next attempt
raises: whatever an attempt writes names its fence, so one that was given up and comes back changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from pipelines.crashpoint import crashpoint
from pipelines.ledger_rows import ATTEMPTS, Run, claimable
from pipelines.run_events import append
from pipelines.store import now_ms
from pipelines.store_tables import RUN


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run: what it read, the version it made, and a sentence."""

    input_sha256: str = ""
    input_columns: str = ""
    version: str | None = None
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right of one attempt to work on a run, as long as nobody else has raised the fence."""

    run: Run
    attempt: int
    fence: int


def take(connection: sa.Connection, run_id: str, attempt: int, *, lease_ms: int) -> Claim | None:
    """The claim of `run_id` by its attempt number `attempt`; None where that is out of date."""
    now = now_ms(connection)
    row = connection.execute(
        RUN.update()
        .where(
            RUN.c.id == run_id,
            RUN.c.attempt == attempt - 1,
            RUN.c.attempt < ATTEMPTS,
            claimable(now),
        )
        .values(
            state="running",
            attempt=RUN.c.attempt + 1,
            fence=RUN.c.fence + 1,
            submitted=attempt,  # whoever submitted it may have died before saying so
            heartbeat_ms=now,
            lease_until_ms=now + lease_ms,
            started_ms=sa.func.coalesce(RUN.c.started_ms, now),
        )
        .returning(*RUN.c)
    ).one_or_none()
    if row is None:
        return None
    crashpoint("claim")
    run = Run(**row._mapping)
    again = f"attempt {attempt}: the one before was lost"
    append(connection, run_id, "state", "running" if attempt == 1 else again)
    return Claim(run, attempt, run.fence)


def prolong(connection: sa.Connection, claim: Claim, *, lease_ms: int) -> bool:
    """A sign of life; False where another attempt holds the run."""
    now = now_ms(connection)
    beat = _held(claim).values(heartbeat_ms=now, lease_until_ms=now + lease_ms)
    return connection.execute(beat).rowcount == 1


def finish(connection: sa.Connection, claim: Claim, values: dict[str, str | None]) -> bool:
    """Ends the run with `values`, its state among them; False where another attempt holds it."""
    ended = _held(claim).values(**values, finished_ms=now_ms(connection))
    if connection.execute(ended).rowcount == 0:
        return False
    append(connection, claim.run.id, "state", str(values["state"]))
    return True


def _held(claim: Claim) -> sa.Update:
    """An update of the run as far as `claim` still holds it."""
    return RUN.update().where(
        RUN.c.id == claim.run.id, RUN.c.fence == claim.fence, RUN.c.state == "running"
    )
