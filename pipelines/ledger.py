"""The run ledger: one row a due time, claimed by one attempt at a time, finished once.

Execution is at least once; what makes that harmless is the claim (pipelines.claims) that an attempt
holds. All times are those of the database. A crash anywhere is repaired by submitting the same run
again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from pipelines import claims, run_events
from pipelines.claims import Claim, Result
from pipelines.ledger_rows import ATTEMPTS, OPEN, Run, claimable, hopeless
from pipelines.run_events import Event, EventKind
from pipelines.store import Store, now_ms
from pipelines.store_tables import RUN, SCHEDULE
from tsformer.errors import NotFoundError

LEASE_MS = 20_000
START_MS = 120_000  # from submission to claim: an interpreter, its imports, a queue of a cluster
BUSY = "another run of the schedule had not ended"
SKIPPED = f"Skipped: {BUSY}."
LOST = "Every attempt ended without a word: killed, or the machine went down."


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
        behind: Sequence[str] = ("running",),
    ) -> str | None:
        """The id of a new run for this due time, or None where it has one already.

        Where another run of the schedule is in a state of `behind`, the new one is skipped at once,
        and counted.
        """
        run_id = secrets.token_hex(6)
        now = now_ms(connection)
        busy = _is_any(connection, schedule, behind)
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
            "outcome": SKIPPED if busy else None,
        }
        if not _is_new(connection, row, key=("schedule", "due_ms")):
            return None
        run_events.append(connection, run_id, "state", "pending")
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
        if not _is_new(connection, row, key=("id",)):
            return False
        run_events.append(connection, run_id, "state", "pending")
        return True

    def cancel(self, run_id: str) -> bool:
        """Ends a run that has not ended: whoever works on it stops at its next heartbeat."""
        with self.store.begin() as connection:
            ended = (
                RUN.update()
                .where(RUN.c.id == run_id, RUN.c.state.in_(OPEN))
                .values(state="cancelled", finished_ms=now_ms(connection))
            )
            if connection.execute(ended).rowcount == 0:
                return False
            run_events.append(connection, run_id, "state", "cancelled")
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
            query = query.where(claimable(now_ms(connection))).order_by(RUN.c.created_ms)
            rows = connection.execute(query).all()
        return tuple(Run(**row._mapping) for row in rows)

    def alone_at_work(self) -> int:
        """How many runs of no schedule are worked on, or about to be."""
        alone = sa.select(sa.func.count()).where(RUN.c.schedule.is_(None))
        with self.store.read() as connection:
            now = now_ms(connection)
            held = (RUN.c.state == "running") & (RUN.c.lease_until_ms >= now)
            coming = claimable(now) & (RUN.c.submitted > RUN.c.attempt)
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
            overdue = sa.select(RUN.c.id).where(self._silent(now) | hopeless(now)).limit(1)
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
                run_events.append(connection, run_id, "state", late)
            ended = connection.execute(
                RUN.update()
                .where(hopeless(now))
                .values(state="dead", error=LOST, finished_ms=now)
                .returning(RUN.c.id)
            ).scalars()
            for run_id in ended.all():
                run_events.append(connection, run_id, "state", "dead")

    def _silent(self, now: int) -> sa.ColumnElement[bool]:
        """Submitted, and it has not begun in time."""
        late = RUN.c.submitted_ms < now - self.start_ms
        return claimable(now) & (RUN.c.submitted > RUN.c.attempt) & late

    # --- work -------------------------------------------------------------------------------

    def claim(self, run_id: str, attempt: int) -> Claim | None:
        """The right to work on `run_id` as its attempt number `attempt`, or None.

        None where the attempt is out of date, or where another run of the schedule is at work:
        then this one is skipped, and counted.
        """
        with self.store.begin() as connection:
            try:
                with connection.begin_nested():
                    return claims.take(connection, run_id, attempt, lease_ms=self.lease_ms)
            except IntegrityError:  # the index run_no_overlap
                _skip(connection, run_id)
                return None

    def beat(self, claim: Claim) -> bool:
        """Prolongs the lease; False where another attempt holds the run, so that this one stops."""
        with self.store.begin() as connection:
            return claims.prolong(connection, claim, lease_ms=self.lease_ms)

    def say(self, claim: Claim, kind: EventKind, text: str) -> bool:
        """Adds to what the run has to say; False as with `beat`."""
        with self.store.begin() as connection:
            if not claims.prolong(connection, claim, lease_ms=self.lease_ms):
                return False
            run_events.append(connection, claim.run.id, kind, text)
            return True

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
            return claims.finish(connection, claim, values)

    # --- what a run said --------------------------------------------------------------------

    def events(self, run_id: str, *, after: int = 0) -> Sequence[Event]:
        """What the run has said since event number `after`, oldest first."""
        with self.store.read() as connection:
            return run_events.since(connection, run_id, after)

    def newest_progress(self, run_id: str) -> str | None:
        """What the run has said last of how far it is."""
        with self.store.read() as connection:
            return run_events.newest_progress(connection, run_id)

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


def _is_new(connection: sa.Connection, row: Mapping[str, object], *, key: tuple[str, ...]) -> bool:
    """Inserts a run; False, and nothing is done, where there is one of the same `key`."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    inserted = dialect.insert(RUN).on_conflict_do_nothing(index_elements=key)
    return connection.execute(inserted.values(row).returning(RUN.c.id)).first() is not None


def _is_any(connection: sa.Connection, schedule: str, states: Sequence[str]) -> bool:
    query = sa.select(RUN.c.id).where(RUN.c.schedule == schedule, RUN.c.state.in_(states))
    return connection.execute(query.limit(1)).first() is not None


def _skip(connection: sa.Connection, run_id: str) -> None:
    skipped = connection.execute(
        RUN.update()
        .where(RUN.c.id == run_id, RUN.c.state == "pending")
        .values(state="skipped", finished_ms=now_ms(connection), outcome=SKIPPED)
        .returning(RUN.c.schedule)
    ).one_or_none()
    if skipped is not None:
        _count_skip(connection, run_id, skipped.schedule)


def _count_skip(connection: sa.Connection, run_id: str, schedule: str) -> None:
    connection.execute(
        SCHEDULE.update().where(SCHEDULE.c.name == schedule).values(skipped=SCHEDULE.c.skipped + 1)
    )
    run_events.append(connection, run_id, "state", f"skipped: {BUSY}")
