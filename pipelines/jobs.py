"""Jobs: runs of the ledger that clients of the service ask for, apart by tenant.

What a job is to do stands in the store, so whichever process takes it up finds it; what came of it
is a file in the home, until its time is over.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipelines.home import Home
from pipelines.ledger import Ledger
from pipelines.ledger_rows import Run
from pipelines.store import Store, now_ms
from pipelines.store_tables import JOB, RUN
from tsformer.checkpoint import Folder
from tsformer.errors import NotFoundError

FOLDER, RESULT = "results", "result.json"
DAY_MS = 86_400_000
TUNED = "train"  # jobs whose spec says for ever how a model was fine-tuned (pipelines.finetuned)
FORGOTTEN = zlib.compress(b"{}")  # the spec of a job that is over


@dataclass(frozen=True, slots=True)
class Job:
    """A run with who asked for it; `problem` is what it failed by, as JSON."""

    run: Run
    tenant: str
    owner: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Jobs:
    """The jobs of a home."""

    home: Home
    ledger: Ledger

    @staticmethod
    def of(home: Home, store: Store) -> Jobs:
        """The jobs of `home`."""
        return Jobs(home, Ledger(store))

    # --- asking -----------------------------------------------------------------------------

    def submit(
        self, run_id: str, kind: str, spec: Mapping[str, Any], *, tenant: str, owner: str
    ) -> Job:
        """Enters a job, once for each `run_id`; it is durable when this is done."""
        about = str(spec.get("dataset") or spec.get("model") or "")
        with self.ledger.store.begin() as connection:
            if self.ledger.enter_alone(
                connection, run_id, kind=kind, about=about, reason="a client asked for it"
            ):
                order(connection, run_id, spec, tenant=tenant, owner=owner)
        return self.one(run_id, tenant=tenant)

    def waiting(self, owner: str) -> int:
        """How many jobs of one key have not ended."""
        query = (
            sa.select(sa.func.count())
            .select_from(JOB.join(RUN, RUN.c.id == JOB.c.run_id))
            .where(JOB.c.owner == owner, RUN.c.state.in_(("pending", "running")))
        )
        with self.ledger.store.read() as connection:
            return int(connection.execute(query).scalar_one())

    def one(self, run_id: str, *, tenant: str) -> Job:
        """A job of `tenant`; NotFoundError where it has none of this name."""
        found = self._select(tenant, RUN.c.id == run_id, at_most=1)
        if not found:
            raise NotFoundError(f"There is no job '{run_id}'.")
        return found[0]

    def newest(
        self, tenant: str, *, before: tuple[int, str] | None, at_most: int
    ) -> tuple[Job, ...]:
        """Jobs, newest first, of those that were made before the one `before` was."""
        where: sa.ColumnElement[bool] = sa.true()
        if before is not None:
            created_ms, run_id = before
            same = (RUN.c.created_ms == created_ms) & (RUN.c.id < run_id)
            where = (RUN.c.created_ms < created_ms) | same
        return self._select(tenant, where, at_most=at_most)

    def _select(
        self, tenant: str, where: sa.ColumnElement[bool], *, at_most: int
    ) -> tuple[Job, ...]:
        query = (
            sa.select(RUN, JOB.c.tenant, JOB.c.owner, JOB.c.problem)
            .join(JOB, RUN.c.id == JOB.c.run_id)
            .where(JOB.c.tenant == tenant, where)
            .order_by(RUN.c.created_ms.desc(), RUN.c.id.desc())
            .limit(at_most)
        )
        names = [column.name for column in RUN.columns]
        with self.ledger.store.read() as connection:
            rows = connection.execute(query).all()
        return tuple(
            Job(Run(**{n: row._mapping[n] for n in names}), row.tenant, row.owner, row.problem)
            for row in rows
        )

    # --- doing ------------------------------------------------------------------------------

    def asked(self, run_id: str) -> tuple[dict[str, Any], Job]:
        """What a job is to do, and for whom."""
        query = sa.select(JOB.c.tenant, JOB.c.spec).where(JOB.c.run_id == run_id)
        with self.ledger.store.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFoundError(f"The run '{run_id}' is no job.")
        spec: dict[str, Any] = json.loads(zlib.decompress(row.spec))
        return spec, self.one(run_id, tenant=row.tenant)

    def fail(self, run_id: str, problem: Mapping[str, Any]) -> None:
        """Keeps what a client is told of a job that is about to fail."""
        with self.ledger.store.begin() as connection:
            told = JOB.update().where(JOB.c.run_id == run_id)
            connection.execute(told.values(problem=json.dumps(dict(problem))))

    # --- results ----------------------------------------------------------------------------

    def keep(self, run_id: str, result: bytes) -> None:
        """Writes the result of a job, whole or not at all."""
        Folder(self._folder(run_id)).write(RESULT, result)

    def result(self, run_id: str) -> Path | None:
        """The result of a job; None where it is not there any more."""
        path = self._folder(run_id) / RESULT
        return path if path.is_file() else None

    def clear(self, *, days: int) -> int:
        """Removes results of jobs that ended more than `days` ago; gives how many.

        What they were to do goes as well: it may hold a whole table.
        """
        self._forget(days)
        count = 0
        for run_id in self._ended(days):
            if self.result(run_id) is not None:
                Folder(self._folder(run_id)).remove(RESULT)
                count += 1
        return count

    def is_over(self, job: Job, *, days: int) -> bool:
        """Whether the result of an ended job is past its time."""
        return self.is_older(job, milliseconds=days * DAY_MS)

    def is_older(self, job: Job, *, milliseconds: int) -> bool:
        """Whether a job ended longer ago than that."""
        with self.ledger.store.read() as connection:
            return (job.run.finished_ms or 0) < now_ms(connection) - milliseconds

    def _ended(self, days: int) -> list[str]:
        with self.ledger.store.read() as connection:
            query = sa.select(RUN.c.id).join(JOB, RUN.c.id == JOB.c.run_id)
            over = RUN.c.finished_ms < now_ms(connection) - days * DAY_MS
            return [*connection.execute(query.where(over)).scalars()]

    def _forget(self, days: int) -> None:
        with self.ledger.store.begin() as connection:
            over = RUN.c.finished_ms < now_ms(connection) - days * DAY_MS
            old = sa.select(RUN.c.id).where(over, RUN.c.kind != TUNED)
            held = JOB.c.run_id.in_(old) & (JOB.c.spec != FORGOTTEN)
            connection.execute(JOB.update().where(held).values(spec=FORGOTTEN))

    def _folder(self, run_id: str) -> Path:
        return self.home.folder / FOLDER / run_id


def order(
    connection: sa.Connection, run_id: str, spec: Mapping[str, Any], *, tenant: str, owner: str
) -> None:
    """What a run is to do, in the transaction that enters it."""
    packed = zlib.compress(json.dumps(dict(spec)).encode(), level=1)
    row = {"run_id": run_id, "tenant": tenant, "owner": owner, "spec": packed}
    connection.execute(JOB.insert().values(row))
