"""One attempt at a time works on a run, and an attempt that was given up changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest
import sqlalchemy as sa

from pipelines.claims import Claim, Result
from pipelines.ledger import Ledger
from pipelines.ledger_rows import ATTEMPTS
from pipelines.schedule import Schedule
from pipelines.store import Store
from pipelines.store_tables import RUN
from pipelines.timetable import Timetable
from tests.figures import Told
from tests.pipelines.disks import quick_folder
from tests.pipelines.postgres import new_database
from tests.pipelines.processes import CONTEXT, start
from tsformer.errors import ConflictError, NotFoundError


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "postgresql":
        yield new_database()
        return
    with quick_folder() as folder:
        yield f"sqlite:///{folder / 'tsformer.db'}"


@pytest.fixture
def ledger(url: str) -> Ledger:
    ledger = Ledger(Store.at(url))
    Timetable(ledger.store).add(Schedule("s", "e.yaml", "m", "interval", every_s=60))
    return ledger


def enter(ledger: Ledger, due_ms: int) -> str | None:
    with ledger.store.begin() as connection:
        return ledger.enter(connection, "s", experiment="e.yaml", due_ms=due_ms, reason="due")


def entered(ledger: Ledger, due_ms: int = 1) -> str:
    run_id = enter(ledger, due_ms)
    assert run_id is not None
    return run_id


def claimed(ledger: Ledger, run_id: str, attempt: int = 1) -> Claim:
    claim = ledger.claim(run_id, attempt)
    assert claim is not None
    return claim


def lapse(ledger: Ledger, run_id: str) -> None:
    """As if its lease, and the time to begin, were over."""
    with ledger.store.begin() as connection:
        values = {"lease_until_ms": 0, "submitted_ms": 0}
        connection.execute(RUN.update().where(RUN.c.id == run_id).values(values))


def states(ledger: Ledger, run_id: str) -> list[str]:
    return [event.text for event in ledger.events(run_id) if event.kind == "state"]


def skips(ledger: Ledger) -> int:
    return Timetable(ledger.store).one("s").skipped


def test_a_due_time_has_one_row(ledger: Ledger) -> None:
    """Two schedulers that see the same due time must not train twice."""
    assert enter(ledger, 1) is not None
    assert enter(ledger, 1) is None
    assert len(ledger.runs("s")) == 1


def test_a_run_from_due_to_done(ledger: Ledger) -> None:
    """What a person reads in `runs show` is what happened, in order."""
    run_id = entered(ledger)
    assert [run.id for run in ledger.waiting()] == [run_id]
    ledger.record(ledger.run(run_id))
    assert ledger.waiting() == ()
    claim = claimed(ledger, run_id)
    assert ledger.say(claim, "progress", "epoch 1 of 3")
    assert ledger.succeed(claim, Result("abc", version="m/7"))
    run = ledger.run(run_id)
    assert (run.state, run.attempt, run.result_version) == ("succeeded", 1, "m/7")
    assert run.started_ms is not None
    assert run.finished_ms is not None
    assert run.finished_ms >= run.started_ms >= run.created_ms
    said = [(event.seq, event.text) for event in ledger.events(run_id)]
    assert said == [(1, "pending"), (2, "running"), (3, "epoch 1 of 3"), (4, "succeeded")]
    assert [event.text for event in ledger.events(run_id, after=3)] == ["succeeded"]


def test_an_attempt_is_claimed_once(ledger: Ledger) -> None:
    """A submission that came twice must not work twice."""
    run_id = entered(ledger)
    claimed(ledger, run_id)
    assert ledger.claim(run_id, 1) is None
    assert ledger.claim(run_id, 2) is None, "the lease holds"


def test_a_late_write_changes_nothing(ledger: Ledger) -> None:
    """A worker that was presumed dead and comes back must not overwrite what its successor did."""
    run_id = entered(ledger)
    old = claimed(ledger, run_id)
    lapse(ledger, run_id)
    assert [run.id for run in ledger.waiting()] == [run_id]
    new = claimed(ledger, run_id, attempt=2)
    assert not ledger.beat(old)
    assert not ledger.say(old, "log", "I am back")
    assert not ledger.succeed(old, Result(version="m/1"))
    assert ledger.fail(new, "no rows")
    assert not ledger.succeed(old, Result(version="m/1"))
    run = ledger.run(run_id)
    assert (run.state, run.result_version, run.error) == ("failed", None, "no rows")
    again = "attempt 2: the one before was lost"
    assert states(ledger, run_id) == ["pending", "running", again, "failed"]


def test_an_attempt_that_never_began_is_named(ledger: Ledger) -> None:
    """A person who sees two attempts in the morning wants to know what became of the first."""
    run_id = entered(ledger)
    ledger.record(ledger.run(run_id))
    lapse(ledger, run_id)
    ledger.give_up()
    assert states(ledger, run_id) == ["pending", "attempt 1 did not begin within 120 s"]
    claimed(ledger, run_id, attempt=2)


def test_a_heartbeat_keeps_the_lease(ledger: Ledger) -> None:
    """A fit of an hour must not be given to a second worker after 20 seconds."""
    run_id = entered(ledger)
    claim = claimed(ledger, run_id)
    ledger.record(ledger.run(run_id))
    lapse(ledger, run_id)
    assert ledger.beat(claim)
    assert ledger.waiting() == ()
    assert ledger.claim(run_id, 2) is None


def test_three_attempts_then_dead(ledger: Ledger) -> None:
    """A job that kills its process must not be started for ever."""
    run_id = entered(ledger)
    for attempt in range(1, ATTEMPTS + 1):
        ledger.give_up()
        assert [run.attempt for run in ledger.waiting()] == [attempt - 1]
        claimed(ledger, run_id, attempt)
        lapse(ledger, run_id)
    assert ledger.claim(run_id, ATTEMPTS + 1) is None
    ledger.give_up()
    run = ledger.run(run_id)
    assert (run.state, run.attempt) == ("dead", ATTEMPTS)
    assert run.error is not None
    assert ledger.waiting() == ()
    assert states(ledger, run_id)[-1] == "dead"


def test_a_submission_that_never_begins_counts_as_an_attempt(ledger: Ledger) -> None:
    """A process that dies before it says a word must not leave its run pending for ever."""
    run_id = entered(ledger)
    for attempt in range(ATTEMPTS):
        ledger.record(ledger.run(run_id))
        ledger.give_up()
        assert ledger.run(run_id).attempt == attempt, "it still has time to begin"
        lapse(ledger, run_id)
        ledger.give_up()
    assert ledger.run(run_id).state == "dead"


def test_an_old_submission_that_begins_late_is_refused(ledger: Ledger) -> None:
    """A process of yesterday that wakes up must not work beside that of today."""
    run_id = entered(ledger)
    ledger.record(ledger.run(run_id))
    lapse(ledger, run_id)
    ledger.give_up()
    assert ledger.claim(run_id, 1) is None
    assert claimed(ledger, run_id, 2).fence == 1


def test_runs_of_a_schedule_never_overlap(ledger: Ledger, record_property: Told) -> None:
    """F17: two fits of one model at once would fight for the machine and for the alias."""
    first, second = entered(ledger, 1), entered(ledger, 2)
    claim = claimed(ledger, first)
    assert ledger.claim(second, 1) is None
    third, fourth = entered(ledger, 3), entered(ledger, 4)
    assert [ledger.run(run).state for run in (first, second, third, fourth)] == [
        *("running", "skipped", "skipped", "skipped"),
    ]
    assert skips(ledger) == 3
    assert states(ledger, second)[-1] == "skipped: another run of the schedule had not ended"
    for run_id in (second, third):
        why = ledger.run(run_id).outcome
        assert why == "Skipped: another run of the schedule had not ended."
    assert ledger.succeed(claim, Result())
    claimed(ledger, entered(ledger, 5))
    assert skips(ledger) == 3
    record_property("F17", "a run over 3 intervals: 1 at work, 3 skips counted")


def triggered(ledger: Ledger) -> str | None:
    """A run by hand; None where another began in this very millisecond."""
    try:
        return Timetable(ledger.store).trigger("s", ledger=ledger, reason="by hand")
    except ConflictError:
        return None


def test_of_runs_by_hand_the_first_is_done(ledger: Ledger) -> None:
    """Of three clicks all began, the last one ran, and the first was told of a run before."""
    with ThreadPoolExecutor(4) as pool:
        made = [each for each in pool.map(lambda _: triggered(ledger), range(8)) if each]
    runs = sorted((ledger.run(each) for each in made), key=lambda run: run.due_ms)
    assert [run.state for run in runs] == ["pending"] + ["skipped"] * (len(made) - 1)
    assert skips(ledger) == len(made) - 1 > 0
    first = runs[0].id
    assert [run.id for run in ledger.waiting()] == [first]
    assert ledger.succeed(claimed(ledger, first), Result())
    again = triggered(ledger)
    assert again is not None
    claimed(ledger, again)


def test_a_due_time_is_not_lost_to_a_run_that_waits(ledger: Ledger) -> None:
    """A run that waits may never begin: what the clock calls for does not give way to it."""
    assert triggered(ledger) is not None
    assert ledger.run(entered(ledger)).state == "pending"


def test_other_schedules_run_beside(ledger: Ledger) -> None:
    """One long fit must not stop all others."""
    timetable = Timetable(ledger.store)
    timetable.add(Schedule("t", "e.yaml", "m", "interval", every_s=60))
    claimed(ledger, entered(ledger))
    other = timetable.trigger("t", ledger=ledger, reason="by hand")
    claimed(ledger, other)


def race(url: str, run_id: str, ready: Connection) -> None:
    """Claims when told to, and says whether it got the run."""
    ledger = Ledger(Store.at(url))
    ready.send(True)
    ready.recv()
    ready.send(ledger.claim(run_id, 1) is not None)


def test_of_many_claims_at_once_one_wins(ledger: Ledger, url: str) -> None:
    """Three schedulers may submit one run at the same moment."""
    run_id = entered(ledger)
    pipes = [CONTEXT.Pipe() for _ in range(4)]
    racers = [start(race, url, run_id, theirs) for _, theirs in pipes]
    for ours, _ in pipes:
        assert ours.recv()
    for ours, _ in pipes:
        ours.send(True)
    assert sum(ours.recv() for ours, _ in pipes) == 1
    for racer in racers:
        racer.join()
    assert ledger.run(run_id).attempt == 1


def test_the_last_success_is_the_newest_one(ledger: Ledger) -> None:
    """A failed run must not make its data count as learnt."""
    for due_ms, digest in ((1, "a"), (2, "b")):
        assert ledger.succeed(claimed(ledger, entered(ledger, due_ms)), Result(digest))
    assert ledger.fail(claimed(ledger, entered(ledger, 3)), "no rows")
    last = ledger.last_success(ledger.run(entered(ledger, 4)))
    assert last is not None
    assert last.input_sha256 == "b"


def test_the_timetable(ledger: Ledger) -> None:
    """A name is unique, a pause stops the clock, and what came due in it is not caught up."""
    timetable = Timetable(ledger.store)
    schedule = timetable.one("s")
    with pytest.raises(ConflictError, match="'s' already"):
        timetable.add(schedule)
    with pytest.raises(NotFoundError, match="Known: s"):
        timetable.one("other")
    stale = timetable.one("s")
    assert not timetable.pause("s").enabled
    late = schedule.anchor_ms + 600_000
    assert timetable.advance(stale, late, ledger=ledger) is None, "paused since it was read"
    resumed = timetable.resume("s")
    assert resumed.enabled
    assert resumed.last_due_ms is not None
    assert timetable.advance(resumed, resumed.last_due_ms + 1, ledger=ledger) is None
    timetable.remove("s")
    assert timetable.all() == ()


def test_a_schedule_moves_on_once(ledger: Ledger) -> None:
    """Two schedulers that read the same row count the missed times once."""
    timetable = Timetable(ledger.store)
    read = timetable.one("s")
    now = read.anchor_ms + 600_000
    assert timetable.advance(read, now, ledger=ledger) is not None
    assert timetable.advance(read, now, ledger=ledger) is None
    assert timetable.advance(timetable.one("s"), now, ledger=ledger) is None
    run = ledger.runs("s")[0]
    assert (run.due_ms, run.reason) == (now, "catching up: 9 due times were missed")
    assert timetable.one("s").missed == 9


def test_a_run_nobody_knows(ledger: Ledger) -> None:
    """A typing error gets the remedy, not an empty page."""
    with pytest.raises(NotFoundError, match="tsformer runs list"):
        ledger.run("nothing")
    with ledger.store.read() as connection:
        assert connection.execute(sa.select(RUN)).all() == []
