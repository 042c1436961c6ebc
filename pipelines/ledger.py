"""The run ledger: one row a due time, claimed by one attempt at a time, finished once.

Execution is at least once; what makes that harmless is here. An attempt holds a lease, which its
heartbeats prolong, and a fence, a number that the next attempt raises: whatever an attempt writes
names its fence, so one that was given up and comes back changes nothing. All times are those of
the database. A crash anywhere is repaired by submitting the same run again.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from pipelines.crashpoint import crashpoint
from pipelines.store import RUN, RUN_EVENT, SCHEDULE, Store, now_ms
from tsformer.errors import NotFoundError

ATTEMPTS = 3
LEASE_MS = 20_000
START_MS = 120_000  # from submission to claim: an interpreter, its imports, a queue of a cluster
FINAL = ("succeeded", "failed", "dead", "skipped", "cancelled")
LOST = "Every attempt ended without a word: killed, or the machine went down."

EventKind = Literal["state", "progress", "log"]


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


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a run had to say, numbered from 1."""

    seq: int
    at_ms: int
    kind: str
    text: str


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


@dataclass(frozen=True, slots=True)
class Ledger:
    """The runs of a store. A lease that no heartbeat prolongs ends after `lease_ms`."""

    store: Store
    lease_ms: int = LEASE_MS
    start_ms: int = START_MS

    # --- rows -------------------------------------------------------------------------------

    def enter(
        self,
        connection: sa.Connection,
        schedule: str,
        *,
        experiment: str,
        due_ms: int,
        reason: str,
        kind: str = "retrain",
    ) -> str | None:
        """The id of a new run for this due time, or None where it has one already.

        Where the run before is still at work, the new one is skipped at once, and counted.
        """
        run_id = secrets.token_hex(6)
        now = now_ms(connection)
        busy = _is_running(connection, schedule)
        row = {
            "id": run_id,
            "schedule": schedule,
            "kind": kind,
            "experiment": experiment,
            "reason": reason,
            "due_ms": due_ms,
            "state": "skipped" if busy else "pending",
            "created_ms": now,
            "finished_ms": now if busy else None,
        }
        inserted = _insert(connection).values(row).returning(RUN.c.id)
        if connection.execute(inserted).one_or_none() is None:
            return None
        _event(connection, run_id, "state", "pending")
        if busy:
            _count_skip(connection, run_id, schedule)
        return run_id

    def enter_alone(
        self, connection: sa.Connection, run_id: str, *, kind: str, about: str, reason: str
    ) -> bool:
        """A new run of no schedule, which is due now; False where it is there already."""
        now = now_ms(connection)
        row = {
            "id": run_id, "kind": kind, "experiment": about, "reason": reason,
            "due_ms": now, "created_ms": now,
        }  # fmt: skip
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        inserted = dialect.insert(RUN).on_conflict_do_nothing(index_elements=["id"])
        if connection.execute(inserted.values(row).returning(RUN.c.id)).one_or_none() is None:
            return False
        _event(connection, run_id, "state", "pending")
        return True

    def cancel(self, run_id: str) -> bool:
        """Ends a run that has not ended: whoever works on it stops at its next heartbeat."""
        with self.store.begin() as connection:
            ended = (
                RUN.update()
                .where(RUN.c.id == run_id, RUN.c.state.in_(("pending", "running")))
                .values(state="cancelled", finished_ms=now_ms(connection))
            )
            if connection.execute(ended).rowcount == 0:
                return False
            _event(connection, run_id, "state", "cancelled")
            return True

    def runs(
        self, schedule: str | None = None, *, newest: int = 20, before_ms: int | None = None
    ) -> tuple[Run, ...]:
        """The newest runs, newest first, of one schedule or of all, due before an instant."""
        query = sa.select(RUN).order_by(RUN.c.due_ms.desc(), RUN.c.created_ms.desc()).limit(newest)
        if schedule is not None:
            query = query.where(RUN.c.schedule == schedule)
        if before_ms is not None:
            query = query.where(RUN.c.due_ms < before_ms)
        with self.store.read() as connection:
            return tuple(Run(**row._mapping) for row in connection.execute(query))

    def run(self, run_id: str) -> Run:
        """One run; raises NotFoundError where there is none."""
        with self.store.read() as connection:
            row = connection.execute(sa.select(RUN).where(RUN.c.id == run_id)).one_or_none()
        if row is None:
            raise NotFoundError(f"There is no run '{run_id}'. `tsformer runs list` shows the runs.")
        return Run(**row._mapping)

    def ended(self, after_ms: int) -> tuple[Run, ...]:
        """The runs that have ended since `after_ms`, oldest first; not the skipped."""
        query = sa.select(RUN).where(RUN.c.finished_ms > after_ms, RUN.c.state != "skipped")
        with self.store.read() as connection:
            rows = connection.execute(query.order_by(RUN.c.finished_ms)).all()
        return tuple(Run(**row._mapping) for row in rows)

    # --- submission -------------------------------------------------------------------------

    def waiting(self) -> tuple[Run, ...]:
        """Runs whose next attempt is to be submitted: new ones, and those whose worker is lost."""
        query = sa.select(RUN).where(RUN.c.attempt < ATTEMPTS, RUN.c.submitted <= RUN.c.attempt)
        with self.store.read() as connection:
            claimable = query.where(_claimable(now_ms(connection))).order_by(RUN.c.created_ms)
            rows = connection.execute(claimable).all()
        return tuple(Run(**row._mapping) for row in rows)

    def alone_at_work(self) -> int:
        """How many runs of no schedule are worked on, or about to be."""
        alone = sa.select(sa.func.count()).where(RUN.c.schedule.is_(None))
        with self.store.read() as connection:
            now = now_ms(connection)
            held = (RUN.c.state == "running") & (RUN.c.lease_until_ms >= now)
            coming = _claimable(now) & (RUN.c.submitted > RUN.c.attempt)
            return int(connection.execute(alone.where(held | coming)).scalar_one())

    def record(self, run: Run) -> None:
        """Its next attempt was submitted: it has START_MS to begin."""
        with self.store.begin() as connection:
            connection.execute(
                RUN.update()
                .where(RUN.c.id == run.id, RUN.c.submitted <= run.attempt)
                .values(submitted=run.attempt + 1, submitted_ms=now_ms(connection))
            )

    def give_up(self) -> None:
        """Counts attempts that never began; ends runs that have had all their attempts."""
        with self.store.read() as connection:
            now = now_ms(connection)
            overdue = sa.select(RUN.c.id).where(self._silent(now) | _hopeless(now)).limit(1)
            if connection.execute(overdue).first() is None:
                return
        with self.store.begin() as connection:
            now = now_ms(connection)
            silent = connection.execute(
                RUN.update()
                .where(self._silent(now))
                .values(attempt=RUN.c.attempt + 1)
                .returning(RUN.c.id, RUN.c.attempt)
            ).all()
            for run_id, attempt in silent:
                late = f"attempt {attempt} did not begin within {self.start_ms // 1000} s"
                _event(connection, run_id, "state", late)
            ended = connection.execute(
                RUN.update()
                .where(_hopeless(now))
                .values(state="dead", error=LOST, finished_ms=now)
                .returning(RUN.c.id)
            ).scalars()
            for run_id in ended.all():
                _event(connection, run_id, "state", "dead")

    def _silent(self, now: int) -> sa.ColumnElement[bool]:
        """Submitted, and it has not begun in time."""
        late = RUN.c.submitted_ms < now - self.start_ms
        return _claimable(now) & (RUN.c.submitted > RUN.c.attempt) & late

    # --- work -------------------------------------------------------------------------------

    def claim(self, run_id: str, attempt: int) -> Claim | None:
        """The right to work on `run_id` as its attempt number `attempt`, or None.

        None where the attempt is out of date, or where another run of the schedule is at work:
        then this one is skipped, and counted.
        """
        with self.store.begin() as connection:
            try:
                with connection.begin_nested():
                    return self._claim(connection, run_id, attempt)
            except IntegrityError:  # the index run_no_overlap
                _skip(connection, run_id)
                return None

    def _claim(self, connection: sa.Connection, run_id: str, attempt: int) -> Claim | None:
        now = now_ms(connection)
        row = connection.execute(
            RUN.update()
            .where(
                RUN.c.id == run_id,
                RUN.c.attempt == attempt - 1,
                RUN.c.attempt < ATTEMPTS,
                _claimable(now),
            )
            .values(
                state="running",
                attempt=RUN.c.attempt + 1,
                fence=RUN.c.fence + 1,
                submitted=attempt,  # whoever submitted it may have died before saying so
                heartbeat_ms=now,
                lease_until_ms=now + self.lease_ms,
                started_ms=sa.func.coalesce(RUN.c.started_ms, now),
            )
            .returning(*RUN.c)
        ).one_or_none()
        if row is None:
            return None
        crashpoint("claim")
        run = Run(**row._mapping)
        again = f"attempt {attempt}: the one before was lost"
        _event(connection, run_id, "state", "running" if attempt == 1 else again)
        return Claim(run, attempt, run.fence)

    def beat(self, claim: Claim) -> bool:
        """Prolongs the lease; False where another attempt holds the run, so that this one stops."""
        with self.store.begin() as connection:
            return self._beat(connection, claim)

    def say(self, claim: Claim, kind: EventKind, text: str) -> bool:
        """Adds to what the run has to say; False as with `beat`."""
        with self.store.begin() as connection:
            if not self._beat(connection, claim):
                return False
            _event(connection, claim.run.id, kind, text)
            return True

    def _beat(self, connection: sa.Connection, claim: Claim) -> bool:
        now = now_ms(connection)
        beat = _held(claim).values(heartbeat_ms=now, lease_until_ms=now + self.lease_ms)
        return connection.execute(beat).rowcount == 1

    def succeed(self, claim: Claim, result: Result) -> bool:
        """Ends the run well; False as with `beat`: then nothing was written."""
        values = {
            "state": "succeeded",
            "input_sha256": result.input_sha256,
            "input_columns": result.input_columns,
            "result_version": result.version,
            "outcome": result.outcome,
        }
        return self._finish(claim, values)

    def fail(self, claim: Claim, error: str) -> bool:
        """Ends the run with a reason; False as with `beat`: then nothing was written."""
        return self._finish(claim, {"state": "failed", "error": error})

    def _finish(self, claim: Claim, values: dict[str, str | None]) -> bool:
        with self.store.begin() as connection:
            ended = _held(claim).values(**values, finished_ms=now_ms(connection))
            if connection.execute(ended).rowcount == 0:
                return False
            _event(connection, claim.run.id, "state", str(values["state"]))
            return True

    # --- what a run said --------------------------------------------------------------------

    def events(self, run_id: str, *, after: int = 0) -> Sequence[Event]:
        """What the run has said since event number `after`, oldest first."""
        columns = (RUN_EVENT.c.seq, RUN_EVENT.c.at_ms, RUN_EVENT.c.kind, RUN_EVENT.c.text)
        query = (
            sa.select(*columns)
            .where(RUN_EVENT.c.run_id == run_id, RUN_EVENT.c.seq > after)
            .order_by(RUN_EVENT.c.seq)
        )
        with self.store.read() as connection:
            return [Event(**row._mapping) for row in connection.execute(query)]

    def newest_progress(self, run_id: str) -> str | None:
        """What the run has said last of how far it is."""
        said = (RUN_EVENT.c.run_id == run_id) & (RUN_EVENT.c.kind == "progress")
        query = sa.select(RUN_EVENT.c.text).where(said).order_by(RUN_EVENT.c.seq.desc()).limit(1)
        with self.store.read() as connection:
            return connection.execute(query).scalar_one_or_none()

    def last_success(self, run: Run) -> Run | None:
        """The newest run of the same schedule and experiment that succeeded before."""
        query = (
            sa.select(RUN)
            .where(RUN.c.schedule == run.schedule, RUN.c.experiment == run.experiment)
            .where(RUN.c.state == "succeeded", RUN.c.id != run.id)
            .order_by(RUN.c.due_ms.desc())
            .limit(1)
        )
        with self.store.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else Run(**row._mapping)


def _claimable(now: int) -> sa.ColumnElement[bool]:
    """Nobody holds it: it has not begun, or its lease is over."""
    lost = (RUN.c.state == "running") & (RUN.c.lease_until_ms < now)
    return (RUN.c.state == "pending") | lost


def _hopeless(now: int) -> sa.ColumnElement[bool]:
    """Nobody holds it, and nobody may any more."""
    return _claimable(now) & (RUN.c.attempt >= ATTEMPTS)


def _held(claim: Claim) -> sa.Update:
    """An update of the run as far as `claim` still holds it."""
    return RUN.update().where(
        RUN.c.id == claim.run.id, RUN.c.fence == claim.fence, RUN.c.state == "running"
    )


def _insert(connection: sa.Connection) -> sqlite.Insert | postgresql.Insert:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(RUN).on_conflict_do_nothing(constraint="run_due")
    return sqlite.insert(RUN).on_conflict_do_nothing(index_elements=["schedule", "due_ms"])


def _is_running(connection: sa.Connection, schedule: str) -> bool:
    query = sa.select(RUN.c.id).where(RUN.c.schedule == schedule, RUN.c.state == "running")
    return connection.execute(query.limit(1)).first() is not None


def _skip(connection: sa.Connection, run_id: str) -> None:
    skipped = connection.execute(
        RUN.update()
        .where(RUN.c.id == run_id, RUN.c.state == "pending")
        .values(state="skipped", finished_ms=now_ms(connection))
        .returning(RUN.c.schedule)
    ).one_or_none()
    if skipped is not None:
        _count_skip(connection, run_id, skipped.schedule)


def _count_skip(connection: sa.Connection, run_id: str, schedule: str) -> None:
    connection.execute(
        SCHEDULE.update().where(SCHEDULE.c.name == schedule).values(skipped=SCHEDULE.c.skipped + 1)
    )
    _event(connection, run_id, "state", "skipped: the run before was still at work")


def _event(connection: sa.Connection, run_id: str, kind: EventKind, text: str) -> None:
    """Appends an event. The lock of the run's row gives writers on PostgreSQL their turns."""
    connection.execute(sa.select(RUN.c.id).where(RUN.c.id == run_id).with_for_update())
    last = sa.select(sa.func.coalesce(sa.func.max(RUN_EVENT.c.seq), 0) + 1)
    number = connection.execute(last.where(RUN_EVENT.c.run_id == run_id)).scalar_one()
    connection.execute(
        RUN_EVENT.insert().values(
            run_id=run_id, seq=number, at_ms=now_ms(connection), kind=kind, text=text
        )
    )
