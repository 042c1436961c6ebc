"""The loop that looks what is due. Any number of them may run, and each may die at any moment.

A run is entered into the ledger and committed, then submitted, then recorded as submitted. Whoever
finds a run that is not recorded submits it again, under the same name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipelines.crashpoint import crashpoint
from pipelines.executors import Executor
from pipelines.ledger import Ledger
from pipelines.ledger_rows import Run
from pipelines.store import now_ms
from pipelines.timetable import Timetable
from tsformer.errors import TsformerError, UnavailableError

LOOK_S = 1.0
ALONE = 1  # runs of no schedule at once: each loads a library and models of its own


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Looks at the schedules and the ledger of one store; `report` is told what it does.

    `clock` gives the milliseconds that decide what is due; without one, those of the store. Runs
    of no schedule, which clients of the service ask for, wait until fewer than `alone` are at work.
    """

    ledger: Ledger
    executor: Executor
    report: Callable[[str], None]
    clock: Callable[[], int] | None = None
    alone: int = ALONE

    def run(
        self,
        stop: threading.Event,
        *,
        every_s: float = LOOK_S,
        woken: threading.Event | None = None,
    ) -> None:
        """Looks until `stop` is set. What cannot be done now is said once, and tried again.

        `woken` ends the pause between two looks, for one that cannot wait.
        """
        said, heard = "", 0
        while not stop.is_set():
            trouble = self._try_look()
            heard = self._tell_ended(heard)
            if trouble not in ("", said):
                self.report(trouble)
            if said and not trouble:
                self.report("All is well again.")
            said = trouble
            (woken or stop).wait(every_s)
            if woken is not None:
                woken.clear()

    def look(self) -> None:
        """One look: what is due is entered, what waits is submitted, what is hopeless is ended."""
        timetable, now = Timetable(self.ledger.store), self._now()
        for schedule in timetable.all():
            run_id = timetable.advance(schedule, now, ledger=self.ledger)
            if run_id is not None and self.ledger.run(run_id).state == "skipped":
                self.report(f"{schedule.name}: skipped, since the run before is still at work.")
        self.ledger.give_up()
        troubles = [trouble for run in self._next() if (trouble := self._submit(run))]
        if troubles:
            raise UnavailableError(troubles[0])

    def _next(self) -> Iterator[Run]:
        """The runs whose turn it is."""
        waiting = self.ledger.waiting()
        alone = [run for run in waiting if run.schedule is None]
        yield from (run for run in waiting if run.schedule is not None)
        if alone:
            yield from alone[: max(0, self.alone - self.ledger.alone_at_work())]

    def _submit(self, run: Run) -> str:
        """Submits the next attempt; gives the reason where that is not possible."""
        attempt = run.attempt + 1
        try:
            self.executor.submit(run.id, attempt)
        except UnavailableError as error:
            return str(error)
        crashpoint("submit")
        self.ledger.record(run)
        crashpoint("record")
        again = f", attempt {attempt}" if attempt > 1 else ""
        self.report(f"{run.subject}: run {run.id} begins ({run.reason}){again}.")
        return ""

    def _try_look(self) -> str:
        try:
            self.look()
        except TsformerError as error:
            return str(error)
        return ""

    def _tell_ended(self, after_ms: int) -> int:
        """Says what became of runs since `after_ms`, at first from now on; gives the newest end."""
        try:
            if not after_ms:
                return self._stored_now()
            for run in self.ledger.ended(after_ms):
                why = (run.error or run.outcome or "").partition("\n")[0]
                self.report(f"{run.subject}: run {run.id} {run.state}. {why}".rstrip())
                after_ms = max(after_ms, run.finished_ms or 0)
        except UnavailableError:  # said already; the next look tells
            pass
        return after_ms

    def _now(self) -> int:
        return self._stored_now() if self.clock is None else self.clock()

    def _stored_now(self) -> int:
        with self.ledger.store.read() as connection:
            return now_ms(connection)
