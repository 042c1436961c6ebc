"""Every due time is run once, whoever dies when; what was lost is found again."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from pipelines.attempt import attempt
from pipelines.claims import Claim, Result
from pipelines.executors import LocalProcesses
from pipelines.ledger import Ledger
from pipelines.ledger_rows import FINAL
from pipelines.schedule import Schedule
from pipelines.scheduler import Scheduler
from pipelines.store import Store
from pipelines.store_tables import RUN
from pipelines.timetable import Timetable
from tests.figures import Told
from tests.pipelines.disks import quick_folder
from tests.pipelines.postgres import new_database
from tests.pipelines.processes import (
    kill,
    quick,
    schedule_for_ever,
    start,
    work,
    work_until_killed,
)
from tests.waiting import wait_until
from tsformer.errors import UnavailableError

SCHEDULER_POINTS = ("due", "step", "entered", "row", "submit", "record")
JOB_POINTS = ("claim", "work", "finish", "finished")
MINUTE_MS = 60_000


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "postgresql":
        yield new_database()
        return
    with quick_folder() as folder:
        yield f"sqlite:///{folder / 'tsformer.db'}"


def minutely(ledger: Ledger, names: list[str]) -> int:
    """Schedules of a minute each; gives the time from which on they count."""
    timetable = Timetable(ledger.store)
    return max(
        timetable.add(Schedule(name, "e.yaml", "m", "interval", every_s=60)).anchor_ms
        for name in names
    )


def storm(url: str, folder: Path, *, schedules: int, rounds: int) -> tuple[Ledger, float]:
    """A due time of every schedule at each crash point, `rounds` times.

    Gives also the longest time from a start of schedulers until all was submitted or at its end.
    """
    ledger, clock, waits = quick(url), folder / "clock", list[float]()
    now = minutely(ledger, [f"s{number:02}" for number in range(schedules)])
    for _ in range(rounds):
        for point in SCHEDULER_POINTS:
            clock.write_text(str(now := now + MINUTE_MS), encoding="ascii")
            killed = three_schedulers(url, clock, scheduler_crash=point)
            wait_until(lambda killed=killed: any(process.exitcode == 9 for process in killed))
            end(killed)
            living = three_schedulers(url, clock)
            waits.append(wait_until(lambda now=now: is_submitted(ledger, now)))
            end(living)
        for point in JOB_POINTS:
            clock.write_text(str(now := now + MINUTE_MS), encoding="ascii")
            living = three_schedulers(url, clock, job_crash=point)
            wait_until(lambda now=now: is_submitted(ledger, now))
            if point in ("work", "finish"):
                wait_until(
                    lambda: not any(run.state == "pending" for run in ledger.runs(newest=50))
                )
            if point != "finished":
                lapse(ledger)  # else nobody misses the dead before their time is over
            at_end = lambda: all(run.state in FINAL for run in ledger.runs(newest=10_000))  # noqa: E731
            waits.append(wait_until(at_end))
            end(living)
    return ledger, max(waits)


def lapse(ledger: Ledger) -> None:
    """As if the time to begin, and the lease, of all first attempts were over."""
    with ledger.store.begin() as connection:
        first = RUN.c.state.in_(("pending", "running")) & (RUN.c.attempt < 2)
        values = {"submitted_ms": 0, "lease_until_ms": 0}
        connection.execute(RUN.update().where(first).values(values))


def three_schedulers(
    url: str, clock: Path, *, scheduler_crash: str = "", job_crash: str = ""
) -> list[BaseProcess]:
    return [start(schedule_for_ever, url, clock, scheduler_crash, job_crash) for _ in range(3)]


def end(processes: list[BaseProcess]) -> None:
    for process in processes:
        kill(process)


def is_submitted(ledger: Ledger, now: int) -> bool:
    """Every schedule has moved on to `now`, and nothing waits for its first attempt."""
    dealt_with = (
        s.last_due_ms is not None and s.last_due_ms > now - MINUTE_MS
        for s in Timetable(ledger.store).all()
    )
    return all(dealt_with) and not any(run.attempt == 0 for run in ledger.waiting())


def assert_every_due_time_once(ledger: Ledger, *, schedules: int, ticks: int) -> None:
    runs = ledger.runs(newest=10_000)
    timetable = Timetable(ledger.store).all()
    assert len(runs) == schedules * ticks
    assert len({(run.schedule, run.due_ms) for run in runs}) == len(runs)
    expected = {
        (s.name, s.anchor_ms + MINUTE_MS * k) for s in timetable for k in range(1, ticks + 1)
    }
    assert {(run.schedule, run.due_ms) for run in runs} == expected
    states = Counter(run.state for run in runs)
    assert set(states) <= {"succeeded", "skipped"}, states
    assert sum(s.missed for s in timetable) == 0
    assert sum(s.skipped for s in timetable) == states["skipped"]
    assert states["succeeded"] > 0.5 * len(runs), states
    assert {run.attempt for run in runs if run.state == "succeeded"} >= {1, 2}


@pytest.mark.timeout(900)  # seconds on two quiet cores, minutes on busy ones
def test_two_hundred_due_times_and_a_death_at_every_step(
    url: str, tmp_path: Path, record_property: Told
) -> None:
    """F15: no due time is lost or run twice, wherever schedulers and jobs are killed."""
    schedules = 20 if url.startswith("sqlite") else 5  # each connection to PostgreSQL is a process
    record_property("F15", stormed(url, tmp_path, schedules=schedules, rounds=1))


def test_who_cannot_wait_ends_the_pause_between_two_looks(tmp_path: Path) -> None:
    """Half a second of each job was spent waiting for the next look."""
    ledger, executor = Ledger(Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}")), Noted()
    minutely(ledger, ["s"])
    stop, woken = threading.Event(), threading.Event()
    scheduler = looking(ledger, executor)
    thread = threading.Thread(
        target=scheduler.run, args=(stop,), kwargs={"every_s": 3_600.0, "woken": woken}
    )
    woken.set()
    thread.start()
    wait_until(lambda: not woken.is_set(), 60)  # it has looked, and begins its second look
    run_id = Timetable(ledger.store).trigger("s", ledger=ledger, reason="by hand")
    woken.set()
    wait_until(lambda: (run_id, 1) in executor.submissions, 60)
    stop.set()
    woken.set()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_twenty_rounds_of_deaths(url: str, tmp_path: Path, record_property: Told) -> None:
    """F15 in full: 20 rounds of every crash point."""
    record_property("F15", stormed(url, tmp_path, schedules=3, rounds=20))


def stormed(url: str, folder: Path, *, schedules: int, rounds: int) -> str:
    """What was measured of a storm."""
    ledger, longest = storm(url, folder, schedules=schedules, rounds=rounds)
    ticks = rounds * len(SCHEDULER_POINTS + JOB_POINTS)
    assert_every_due_time_once(ledger, schedules=schedules, ticks=ticks)
    assert longest < 180
    return (
        f"{url.partition(':')[0]}: {schedules * ticks} due times, {schedules * ticks} runs, all at "
        f"their end at most {longest:.1f} s after a restart"
    )


@dataclass(frozen=True)
class Noted:
    """Somewhere that only notes what is submitted, or is out of order."""

    submissions: list[tuple[str, int]] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def submit(self, run_id: str, attempt: int) -> None:
        if self.trouble:
            raise UnavailableError(self.trouble[0])
        self.submissions.append((run_id, attempt))


def looking(ledger: Ledger, executor: Noted, said: list[str] | None = None) -> Scheduler:
    report = (lambda _: None) if said is None else said.append
    return Scheduler(ledger, executor, report=report)


def rescue(ledger: Ledger, run_id: str, number: int) -> float:
    """Looks until attempt `number` is submitted; the seconds that took."""
    executor = Noted()
    scheduler = looking(ledger, executor)

    def is_submitted() -> bool:
        scheduler.look()
        return (run_id, number) in executor.submissions

    return wait_until(is_submitted)


def wait_for_attempt(ledger: Ledger, run_id: str, number: int) -> None:
    wait_until(lambda: ledger.run(run_id).attempt == number)


def lose_and_rescue(url: str, lease_ms: int, within_s: float) -> str:
    ledger = Ledger(Store.at(url), lease_ms=lease_ms)
    minutely(ledger, ["s"])
    run_id = Timetable(ledger.store).trigger("s", ledger=ledger, reason="by hand")
    first = start(work_until_killed, url, run_id, 1, lease_ms)
    wait_for_attempt(ledger, run_id, 1)
    kill(first)
    killed = rescue(ledger, run_id, 2)
    second = start(work_until_killed, url, run_id, 2, lease_ms)
    wait_for_attempt(ledger, run_id, 2)
    assert second.pid is not None
    os.kill(second.pid, signal.SIGSTOP)
    frozen = rescue(ledger, run_id, 3)
    assert max(killed, frozen) <= within_s
    claim = ledger.claim(run_id, 3)
    assert claim is not None
    assert ledger.succeed(claim, Result(version="m/3"))
    os.kill(second.pid, signal.SIGCONT)
    second.join(60)
    assert second.exitcode == 3, "it found that it had been given up"
    run = ledger.run(run_id)
    assert (run.state, run.attempt, run.result_version) == ("succeeded", 3, "m/3")
    return (
        f"lease {lease_ms / 1000:g} s: rescued {killed:.1f} s after a kill, {frozen:.1f} s after a "
        "freeze; the frozen one changed nothing"
    )


def test_a_lost_worker_is_replaced_and_a_late_one_changes_nothing(
    url: str, record_property: Told
) -> None:
    """F16 with short leases: a killed or frozen worker costs a night's run at most one lease."""
    record_property("F16", lose_and_rescue(url, lease_ms=1_000, within_s=20))


@pytest.mark.faults
def test_a_lost_worker_is_replaced_within_thirty_seconds(url: str, record_property: Told) -> None:
    """F16 with the leases of production: 20 s, rescued within 30 s."""
    record_property("F16", lose_and_rescue(url, lease_ms=20_000, within_s=30))


def test_a_worker_that_always_dies_is_given_up(tmp_path: Path, record_property: Told) -> None:
    """F16: a fit that needs more memory than there is must not be started until the end of days."""
    url = f"sqlite:///{tmp_path / 'tsformer.db'}"
    ledger = Ledger(Store.at(url), lease_ms=200)
    minutely(ledger, ["s"])
    run_id = Timetable(ledger.store).trigger("s", ledger=ledger, reason="by hand")
    for number in (1, 2, 3):
        rescue(ledger, run_id, number)
        dying = start(work, url, run_id, number, "work")
        dying.join()
        assert dying.exitcode == 9
        with ledger.store.begin() as connection:  # as if its lease were over
            connection.execute(RUN.update().values(lease_until_ms=0))
    executor = Noted()
    looking(ledger, executor).look()
    assert executor.submissions == []
    run = ledger.run(run_id)
    assert (run.state, run.attempt) == ("dead", 3)
    record_property("F16", f"{run.state} after {run.attempt} attempts")


def test_a_defect_ends_the_run_and_leaves_its_traceback(tmp_path: Path) -> None:
    """A mistake of ours must not look like a lost machine, and must be there to be reported."""
    ledger = quick(f"sqlite:///{tmp_path / 'tsformer.db'}")
    minutely(ledger, ["s"])
    run_id = Timetable(ledger.store).trigger("s", ledger=ledger, reason="by hand")

    def broken(*_: object) -> Result:
        raise KeyError("nobody thought of this")

    assert attempt(ledger, run_id, 1, broken, lost=lambda: None) == "failed"
    run = ledger.run(run_id)
    assert (run.state, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert "defect of tsformer (KeyError: 'nobody thought of this')" in run.error
    assert "Traceback" not in run.error
    assert any("Traceback" in event.text for event in ledger.events(run_id))
    assert attempt(ledger, run_id, 2, broken, lost=lambda: None) == "nothing to do"


@dataclass(frozen=True, slots=True)
class Slow(Ledger):
    """A ledger whose answer to the end of a run takes longer than several heartbeats."""

    def succeed(self, claim: Claim, result: Result) -> bool:
        ended = super(Slow, self).succeed(claim, result)
        time.sleep(0.2)
        return ended


def test_a_run_that_has_ended_is_not_taken_for_lost(tmp_path: Path) -> None:
    """A run that succeeded would stand in Ray's list as failed, and blame another attempt."""
    url = f"sqlite:///{tmp_path / 'tsformer.db'}"
    minutely(quick(url), ["s"])
    ledger, lost = Slow(Store.at(url)), list[str]()
    run_id = Timetable(ledger.store).trigger("s", ledger=ledger, reason="by hand")
    ending = attempt(
        ledger, run_id, 1, lambda *_: Result(), lost=lambda: lost.append(run_id), every_s=0.01
    )
    assert (ending, ledger.run(run_id).state, lost) == ("succeeded", "succeeded", [])


def test_trouble_is_said_once_and_nothing_is_lost(tmp_path: Path) -> None:
    """A cluster that is away for an hour must not fill the log, nor lose the night's run."""
    ledger = quick(f"sqlite:///{tmp_path / 'tsformer.db'}")
    minutely(ledger, ["s"])
    run_id = Timetable(ledger.store).trigger("s", ledger=ledger, reason="by hand")
    executor, said, stop = Noted(trouble=["The cluster is away."]), list[str](), threading.Event()
    thread = threading.Thread(
        target=looking(ledger, executor, said).run, args=(stop,), kwargs={"every_s": 0.01}
    )
    thread.start()
    wait_until(lambda: bool(said))
    time.sleep(0.1)
    executor.trouble.clear()
    wait_until(lambda: len(said) == 3)
    stop.set()
    thread.join()
    assert said == [
        "The cluster is away.",
        f"s: run {run_id} begins (by hand).",
        "All is well again.",
    ]
    assert executor.submissions == [(run_id, 1)]


def test_what_became_of_a_run_is_said(tmp_path: Path) -> None:
    """Who watches the scheduler must not see runs that begin and never end."""
    ledger = quick(f"sqlite:///{tmp_path / 'tsformer.db'}")
    minutely(ledger, ["s"])
    said, stop = list[str](), threading.Event()
    thread = threading.Thread(
        target=looking(ledger, Noted(), said).run, args=(stop,), kwargs={"every_s": 0.01}
    )
    thread.start()
    for outcome in ("succeeded", "failed"):
        run_id = Timetable(ledger.store).trigger("s", ledger=ledger, reason="by hand")
        wait_until(lambda run_id=run_id: f"s: run {run_id} begins (by hand)." in said)
        claim = ledger.claim(run_id, 1)
        assert claim is not None
        if outcome == "succeeded":
            ledger.succeed(claim, Result(outcome="The champion stays."))
        else:
            ledger.fail(claim, "There is no column 'sold'.")
        why = {"succeeded": "The champion stays.", "failed": "There is no column 'sold'."}[outcome]
        told = f"s: run {run_id} {outcome}. {why}"
        wait_until(lambda told=told: told in said)
    stop.set()
    thread.join()
    assert len(said) == 4


def test_one_submission_is_one_process(tmp_path: Path) -> None:
    """Two schedulers that submit the same attempt must not start two fits."""
    script = "import sys; print(*sys.argv[1:], flush=True)"
    executors = [
        LocalProcesses(tmp_path / "runs", (sys.executable, "-S", "-c", script)) for _ in range(2)
    ]
    for executor in executors:
        executor.submit("abc", 1)
        executor.submit("abc", 2)
    logs = [tmp_path / "runs" / f"abc-{number}.log" for number in (1, 2)]
    wait_until(lambda: all(log.stat().st_size for log in logs))
    assert [log.read_text() for log in logs] == ["abc 1\n", "abc 2\n"]
    assert {stat.S_IMODE(log.stat().st_mode) for log in logs} == {0o600}


def test_a_program_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    """A broken installation must be named in the scheduler's log, and costs no attempt."""
    for _ in range(2):
        with pytest.raises(UnavailableError, match="nothing cannot be started"):
            LocalProcesses(tmp_path, (str(tmp_path / "nothing"),)).submit("abc", 1)
