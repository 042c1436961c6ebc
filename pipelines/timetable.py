"""The rows of the schedules: made, paused, removed, and moved on when something is due."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from pipelines import versions
from pipelines.crashpoint import crashpoint
from pipelines.drift import Alarm, Tolerance, due_by_drift
from pipelines.jobs import order
from pipelines.ledger import Ledger
from pipelines.ledger_rows import OPEN
from pipelines.orders import UNPROMOTED, with_gate
from pipelines.schedule import Due, Schedule, due
from pipelines.store import Store, now_ms
from pipelines.store_tables import CHAMPION, DRIFT_ALARM, SCHEDULE
from tsformer.errors import ConflictError, NotFoundError


@dataclass(frozen=True, slots=True)
class Timetable:
    """The schedules of a store."""

    store: Store

    def add(self, schedule: Schedule) -> Schedule:
        """A new schedule that begins now; ConflictError where the name is taken."""
        try:
            with self.store.begin() as connection:
                now = now_ms(connection)
                row = replace(schedule, created_ms=now, anchor_ms=now)
                connection.execute(SCHEDULE.insert().values(asdict(row)))
        except IntegrityError:
            raise ConflictError(
                f"There is a schedule '{schedule.name}' already. Give this one another name, or "
                f"remove it first: tsformer schedule remove {schedule.name}."
            ) from None
        return row

    def all(self) -> tuple[Schedule, ...]:
        """Every schedule, by name."""
        with self.store.read() as connection:
            rows = connection.execute(sa.select(SCHEDULE).order_by(SCHEDULE.c.name)).all()
        return tuple(Schedule(**row._mapping) for row in rows)

    def one(self, name: str) -> Schedule:
        """The schedule called `name`; raises NotFoundError where there is none."""
        with self.store.read() as connection:
            row = connection.execute(
                sa.select(SCHEDULE).where(SCHEDULE.c.name == name)
            ).one_or_none()
        if row is None:
            known = ", ".join(schedule.name for schedule in self.all()) or "none yet"
            raise NotFoundError(f"There is no schedule '{name}'. Known: {known}.")
        return Schedule(**row._mapping)

    def pause(self, name: str) -> Schedule:
        """Nothing comes due until `resume`; a run at work goes on."""
        return self._change(name, enabled=False)

    def resume(self, name: str) -> Schedule:
        """Due times count from now on; those of the pause are neither run nor missed."""
        schedule = self.one(name)
        if schedule.enabled:
            return schedule
        with self.store.read() as connection:
            now = now_ms(connection)
        return self._change(name, enabled=True, last_due_ms=now)

    def replace(self, schedule: Schedule, *, seen: int) -> Schedule:
        """Puts `schedule` in the place of the one of its name, if that still is revision `seen`.

        Its due times count from now on. ConflictError where another was faster.
        """
        own = (
            "cron",
            "tz",
            "catch_up_s",
            "enabled",
            "job",
            "gate",
            "promotes",
            "owner",
            "experiment",
            "model",
        )
        values = {name: getattr(schedule, name) for name in own}
        with self.store.begin() as connection:
            changed = connection.execute(
                SCHEDULE.update()
                .where(SCHEDULE.c.name == schedule.name, SCHEDULE.c.rev == seen)
                .values(**values, rev=seen + 1, last_due_ms=now_ms(connection))
            )
        if changed.rowcount == 0:
            raise ConflictError(f"The schedule '{schedule.name}' has changed. Read it again.")
        return self.one(schedule.name)

    def remove(self, name: str) -> None:
        """Its runs stay in the ledger."""
        self.one(name)
        with self.store.begin() as connection:
            connection.execute(SCHEDULE.delete().where(SCHEDULE.c.name == name))

    def trigger(self, name: str, *, ledger: Ledger, reason: str) -> str:
        """A run that is due now, whatever the clock says; its id.

        It is skipped at once where another run of the schedule waits or is at work.
        """
        schedule = self.one(name)
        with self.store.begin() as connection:
            row = sa.select(SCHEDULE.c.name).where(SCHEDULE.c.name == name)
            connection.execute(row.with_for_update())  # on PostgreSQL: one run after the other
            now = now_ms(connection)
            run_id = _enter(connection, schedule, ledger, now, reason, behind=OPEN)
        if run_id is None:
            raise ConflictError(f"Another run of '{name}' began in this very millisecond.")
        return run_id

    def advance(self, schedule: Schedule, now: int, *, ledger: Ledger) -> str | None:
        """Enters what has come due at `now` into the ledger, once: the id of the run, if one is.

        The row and the step of the schedule are one transaction. Whoever reads the same schedule
        at the same time finds it moved, and does nothing.
        """
        come = self._found(schedule, now) if schedule.enabled else None
        if come is None:
            return None
        found, reason = come
        crashpoint("due")
        with self.store.begin() as connection:
            if not _step(connection, schedule, found):
                return None
            crashpoint("step")
            if found.run_ms is None:
                return None
            run_id = _enter(connection, schedule, ledger, found.run_ms, reason)
            crashpoint("entered")
        crashpoint("row")
        return run_id

    def _alarmed(self, schedule: Schedule, now: int) -> tuple[Due, str] | None:
        """What the alarm of drift about the champion of the schedule's model calls for, and why."""
        raised = sa.select(DRIFT_ALARM.c.since_ms, DRIFT_ALARM.c.reason).where(
            DRIFT_ALARM.c.model == schedule.model,
            DRIFT_ALARM.c.active,
            CHAMPION.c.model == schedule.model,
            CHAMPION.c.alias == versions.CHAMPION,
            CHAMPION.c.version == DRIFT_ALARM.c.version,
        )
        with self.store.read() as connection:
            row = connection.execute(raised).one_or_none()
        if row is None:
            return None
        found = due_by_drift(
            Alarm(True, row.since_ms, row.reason),
            last_ms=schedule.last_due_ms,
            now_ms=now,
            tolerance=Tolerance(),
        )
        if found is None:
            return None
        return Due(found.due_ms, missed=0, until_ms=found.due_ms), f"drift: {found.reason}"

    def _found(self, schedule: Schedule, now: int) -> tuple[Due, str] | None:
        """What has come due, and why."""
        if schedule.trigger == "drift":
            return self._alarmed(schedule, now)
        found = due(schedule, now)
        return None if found is None else (found, _reason(found))

    def _change(self, name: str, **values: object) -> Schedule:
        self.one(name)
        with self.store.begin() as connection:
            connection.execute(
                SCHEDULE.update()
                .where(SCHEDULE.c.name == name)
                .values(**values, rev=SCHEDULE.c.rev + 1)
            )
        return self.one(name)


def _enter(
    connection: sa.Connection,
    schedule: Schedule,
    ledger: Ledger,
    due_ms: int,
    reason: str,
    *,
    behind: Sequence[str] = ("running",),
) -> str | None:
    """A run of the schedule, with the job that it orders."""
    run_id = ledger.enter(
        connection,
        schedule.name,
        experiment=schedule.experiment,
        due_ms=due_ms,
        reason=reason,
        kind=schedule.kind,
        behind=behind,
    )
    if run_id is not None and schedule.job is not None:
        spec = json.loads(schedule.job)["spec"]
        if schedule.gate is not None:
            spec = with_gate(spec, json.loads(schedule.gate))
        if not schedule.promotes:
            spec = {**spec, UNPROMOTED: True}
        order(connection, run_id, spec, tenant=schedule.tenant, owner=schedule.owner or "")
    return run_id


def _step(connection: sa.Connection, schedule: Schedule, found: Due) -> bool:
    """Moves the schedule on, if it is still as it was read."""
    seen = SCHEDULE.c.last_due_ms.is_not_distinct_from(schedule.last_due_ms)
    moved = connection.execute(
        SCHEDULE.update()
        .where(SCHEDULE.c.name == schedule.name, SCHEDULE.c.rev == schedule.rev, seen)
        .values(last_due_ms=found.until_ms, missed=SCHEDULE.c.missed + found.missed)
    )
    return moved.rowcount == 1


def _reason(found: Due) -> str:
    if not found.missed:
        return "due"
    times = "time was" if found.missed == 1 else "times were"
    return f"catching up: {found.missed} due {times} missed"
