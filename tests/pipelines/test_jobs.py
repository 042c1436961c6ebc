"""Jobs and datasets in the store, on both databases: entered once, apart by tenant, ended once."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from pipelines.claims import Result
from pipelines.datasets import Datasets, Table
from pipelines.home import Home
from pipelines.jobs import Jobs
from pipelines.schedule import Schedule
from pipelines.scheduler import Scheduler
from pipelines.store import Store
from pipelines.store_tables import RUN
from pipelines.timetable import Timetable
from tests.pipelines.postgres import new_database
from tsformer.errors import ConflictError, NotFoundError


@pytest.fixture(params=["sqlite", "postgresql"])
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Jobs:
    url = new_database() if request.param == "postgresql" else ""
    home = Home.of({"TSFORMER_HOME": str(tmp_path), "TSFORMER_STORE": url})
    return Jobs.of(home, Store.of(home))


class Noted:
    """An executor that begins nothing and notes what it was given."""

    def __init__(self) -> None:
        self.submitted: list[str] = []

    def submit(self, run_id: str, attempt: int) -> None:
        self.submitted.append(f"{run_id}-{attempt}")


def test_a_job_from_order_to_result(jobs: Jobs) -> None:
    """The same order twice is one job; what it is to do, and for whom, outlives the service."""
    for _ in range(2):
        jobs.submit("a1", "forecast", {"h": 3}, tenant="ads", owner="key")
    assert jobs.waiting("key") == 1
    spec, job = jobs.asked("a1")
    assert (spec, job.tenant, job.owner, job.run.state) == ({"h": 3}, "ads", "key", "pending")
    with pytest.raises(NotFoundError):
        jobs.one("a1", tenant="shop")
    claim = jobs.ledger.claim("a1", 1)
    assert claim is not None
    jobs.ledger.say(claim, "progress", "1 of 3 folds")
    assert jobs.ledger.newest_progress("a1") == "1 of 3 folds"
    jobs.keep("a1", b"{}")
    assert jobs.ledger.succeed(claim, Result())
    assert not jobs.ledger.cancel("a1")
    assert (jobs.waiting("key"), jobs.clear(days=1)) == (0, 0)
    with jobs.ledger.store.begin() as connection:
        connection.execute(RUN.update().values(finished_ms=1))
    assert jobs.is_over(jobs.one("a1", tenant="ads"), days=7)
    assert (jobs.clear(days=7), jobs.result("a1")) == (1, None)


def test_the_body_of_a_job_that_is_over_is_forgotten(jobs: Jobs) -> None:
    """A service that takes a table of a megabyte each minute would fill its store in a month."""
    spec = {"data": {"y": [1.0] * 9}}
    for run_id, kind in (("old", "forecast"), ("tuned", "train"), ("new", "forecast")):
        jobs.submit(run_id, kind, spec, tenant="ads", owner="key")
        if run_id != "new":
            assert jobs.ledger.cancel(run_id)
    with jobs.ledger.store.begin() as connection:
        ended = RUN.c.finished_ms.is_not(None)
        connection.execute(RUN.update().where(ended).values(finished_ms=1))
    assert jobs.clear(days=7) == 0  # none had a result
    assert [jobs.asked(run_id)[0] for run_id in ("old", "tuned", "new")] == [{}, spec, spec]


def test_a_cancelled_job_loses_its_worker(jobs: Jobs) -> None:
    """Whoever works on it must learn so by its next heartbeat, and write nothing."""
    jobs.submit("b1", "forecast", {}, tenant="ads", owner="key")
    claim = jobs.ledger.claim("b1", 1)
    assert claim is not None
    assert jobs.ledger.cancel("b1")
    assert not jobs.ledger.beat(claim)
    assert not jobs.ledger.succeed(claim, Result())
    assert jobs.one("b1", tenant="ads").run.state == "cancelled"
    assert jobs.ledger.claim("b1", 2) is None


def test_jobs_wait_for_their_turn(jobs: Jobs) -> None:
    """A hundred jobs at once would take the memory of the service; the first come are first."""
    for number in range(3):
        jobs.submit(f"c{number}", "forecast", {}, tenant="ads", owner="key")
    noted = Noted()
    scheduler = Scheduler(jobs.ledger, noted, report=lambda _: None, alone=1)
    scheduler.look()
    scheduler.look()
    assert noted.submitted == ["c0-1"]
    claim = jobs.ledger.claim("c0", 1)
    scheduler.look()
    assert (claim is not None, noted.submitted) == (True, ["c0-1"])
    jobs.ledger.cancel("c0")
    scheduler.look()
    assert noted.submitted == ["c0-1", "c1-1"]
    page = jobs.newest("ads", before=None, at_most=2)
    rest = jobs.newest("ads", before=(page[-1].run.created_ms, page[-1].run.id), at_most=9)
    assert {job.run.id for job in (*page, *rest)} == {"c0", "c1", "c2"}
    assert len(page) + len(rest) == 3


def test_a_schedule_orders_a_job(jobs: Jobs) -> None:
    """A tenant's schedule makes the tenant's job; of two changes of one revision one is refused."""
    timetable = Timetable(jobs.ledger.store)
    ordered = '{"type": "train", "spec": {"name": "load", "config": {"window": {"context": 9}}}}'
    made = timetable.add(
        Schedule("ads:nightly", "d", "load", "cron", cron="0 2 * * *", tz="UTC", job=ordered,
                 owner="key", gate='{"alpha": 0.01}')
    )  # fmt: skip
    run_id = timetable.trigger(made.name, ledger=jobs.ledger, reason="by hand")
    spec, job = jobs.asked(run_id)
    assert (job.tenant, job.run.kind, job.run.schedule) == ("ads", "train", "ads:nightly")
    assert spec["config"] == {"window": {"context": 9}, "gate": {"significance": 0.01}}
    assert timetable.replace(made, seen=0).rev == 1
    with pytest.raises(ConflictError):
        timetable.replace(made, seen=0)


def test_datasets_are_kept_by_content(jobs: Jobs) -> None:
    """Columns in another order are the same table; a value that differs makes a version."""
    mine = Datasets(jobs.home, jobs.ledger.store, "ads")
    frame = pl.DataFrame({"ds": [0, 1, 2], "y": [1.0, None, 3.0]})
    table = Table(frame, None, None, "ds", "y", "1", None, 1)
    made, new = mine.add("load", table, who="key")
    assert new
    same = Table(frame.select("y", "ds"), None, None, "ds", "y", "1", None, 1)
    assert mine.add("load", same, who="key") == (made, False)
    other = Table(frame.fill_null(2.0), None, None, "ds", "y", "1", None, 1)
    assert mine.add("load", other, who="key")[1]
    assert len(mine.versions("load")) == 2
    assert mine.read(made).data.equals(frame)
    with pytest.raises(NotFoundError):
        Datasets(jobs.home, jobs.ledger.store, "shop").one("load")


def test_attributes_are_joined_for_a_training(jobs: Jobs) -> None:
    """A model that reads the city of a shop must find it in its table."""
    mine = Datasets(jobs.home, jobs.ledger.store, "ads")
    frame = pl.DataFrame({"unique_id": ["a", "b"], "ds": [0, 0], "y": [1.0, 2.0]})
    cities = pl.DataFrame({"unique_id": ["b", "a"], "city": ["Ulm", "Bonn"]})
    table = Table(frame, cities, "unique_id", "ds", "y", "1", None, 2)
    made, _ = mine.add("shops", table, who="key")
    joined = pl.read_parquet(mine.training_file(made)).sort("unique_id")
    assert joined["city"].to_list() == ["Bonn", "Ulm"]
