"""What a person types and reads: sentences, due times in the zone of the schedule, remedies."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
import yaml
from typer.testing import CliRunner

from pipelines.claims import Result
from pipelines.cli import app
from pipelines.executors import Cluster, RayJobs, check_shared, cluster_at, job_variables
from pipelines.home import Home
from pipelines.ledger import Ledger
from pipelines.ledger_rows import FINAL
from pipelines.ray_head import RayHead
from pipelines.schedule_words import seconds
from pipelines.store import Store
from pipelines.timetable import Timetable
from tests.waiting import wait_until
from tsformer.errors import ConfigError, ConflictError, NotFoundError, UnavailableError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home and a working directory with an experiment in it."""
    monkeypatch.setenv("TSFORMER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    for name in ("TSFORMER_STORE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    content = {"name": "sales", "data": {"source": "sales.csv"}, "model": {"kind": "ridge"}}
    (tmp_path / "sales.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return Home.of(os.environ)


def ledger_of(home: Home) -> Ledger:
    return Ledger(Store.of(home))


def said(*arguments: str) -> str:
    """What a command prints; an error that it raises is raised here."""
    answer = CliRunner().invoke(app, arguments, catch_exceptions=False)
    if isinstance(answer.exception, Exception):
        raise answer.exception
    return answer.output


def test_a_schedule_from_made_to_removed(home: Home, tmp_path: Path) -> None:
    """The whole life of a schedule, in words that need no manual."""
    made = said(
        *("schedule", "add", "weekly", "sales.yaml", "--cron", "30 2 * * 1"),
        *("--tz", "Europe/Berlin"),
    )
    assert "weekly: sales.yaml is retrained by cron '30 2 * * 1' in Europe/Berlin." in made
    assert re.search(r"Next run: \d{4}-\d\d-\d\d 02:30:00 CES?T\.", made)
    assert "'tsformer schedule run'" in made
    said("schedule", "add", "often", "sales.yaml", "--every", "90m", "--catch-up", "0s")
    said("schedule", "add", "alarmed", "sales.yaml", "--on-drift")
    listed = said("schedule", "list")
    assert re.search(r"alarmed +sales +on drift +on drift", listed)
    assert re.search(r"often +sales +every 90m ", listed)
    schedule = Timetable(Store.of(home)).one("weekly")
    assert schedule.experiment == str(tmp_path / "sales.yaml"), "from wherever it is run"
    assert schedule.model == "sales"
    assert "paused" in said("schedule", "pause", "weekly")
    assert "It is paused: tsformer schedule resume weekly" in said("schedule", "show", "weekly")
    assert "weekly goes on. Next run:" in said("schedule", "resume", "weekly")
    assert "removed" in said("schedule", "remove", "weekly")
    with pytest.raises(NotFoundError, match="Known: alarmed, often"):
        said("schedule", "show", "weekly")


@pytest.mark.usefixtures("home")
def test_nothing_yet_says_how_to_begin() -> None:
    """An empty table helps nobody."""
    assert "tsformer schedule add" in said("schedule", "list")
    assert "tsformer schedule trigger" in said("runs", "list")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--every", "1d", "--on-drift"),
        ("--every", "1d", "--tz", "UTC"),
        ("--cron", "0 0 * * *"),
        ("--every", "5"),
        ("--every", "0s"),
        ("--every", "1000d"),
        ("--every", "1d", "--jitter", "-1s"),
    ],
)
def test_when_is_said_in_one_way(home: Home, options: tuple[str, ...]) -> None:
    """A schedule that means something else than was typed is found out at night."""
    with pytest.raises(ConfigError):
        said("schedule", "add", "x", "sales.yaml", *options)
    assert Timetable(Store.of(home)).all() == ()


@pytest.mark.usefixtures("home")
def test_an_experiment_that_cannot_be_read_is_refused_when_it_is_scheduled() -> None:
    """Else its author learns of the typing error the next morning."""
    Path("wrong.yaml").write_text("modle: {kind: ridge}", encoding="utf-8")
    with pytest.raises(ConfigError, match="model"):
        said("schedule", "add", "x", "wrong.yaml", "--every", "1d")
    said("schedule", "add", "x", "sales.yaml", "--every", "1d")
    with pytest.raises(ConflictError, match="'x' already"):
        said("schedule", "add", "x", "sales.yaml", "--every", "1d")


def test_times_as_people_write_them() -> None:
    """1d is a day; a bare number could be anything."""
    times = [seconds(text, option="--every") for text in ("45s", "15m", "6h", "1d", " 2 h ")]
    assert times == [45, 900, 21_600, 86_400, 7_200]


def test_a_run_can_be_followed_and_read_again(home: Home) -> None:
    """Whoever comes in the morning wants to know what happened and why."""
    said("schedule", "add", "often", "sales.yaml", "--every", "1d")
    triggered = said("schedule", "trigger", "often")
    run_id = re.search(r"run (\w{12})\.", triggered)[1]  # type: ignore[index]
    ledger = ledger_of(home)
    claim = ledger.claim(run_id, 1)
    assert claim is not None
    assert "skipped, since another run of it waits" in said("schedule", "trigger", "often")

    def work() -> None:
        for number in range(3):
            time.sleep(0.1)
            ledger.say(claim, "progress", f"epoch {number}")
        ledger.say(claim, "log", "ridge [sic] is the champion now.")
        ledger.succeed(claim, Result("", "", "sales/4", "ridge [sic] is the champion now."))

    worker = threading.Thread(target=work)
    worker.start()
    followed = said("runs", "follow", run_id)
    worker.join()
    words = [line.partition("  ")[2] for line in followed.splitlines()]
    expected = ["pending", "running", "epoch 0", "epoch 1", "epoch 2"]
    assert words == [*expected, "ridge [sic] is the champion now.", "succeeded"]
    shown = said("runs", "show", run_id)
    assert "It made sales/4." in shown
    assert "epoch" not in shown
    assert re.search(
        r"succeeded +sales/4 +ridge \[sic\] is the champion now\.", said("runs", "list")
    )
    assert "1 skipped" in said("schedule", "show", "often")


def test_a_failed_run_says_why_and_gives_a_status(home: Home) -> None:
    """A script that waits for a run must see that it failed."""
    said("schedule", "add", "often", "sales.yaml", "--every", "1d")
    run_id = re.search(r"run (\w{12})\.", said("schedule", "trigger", "often"))[1]  # type: ignore[index]
    ledger = ledger_of(home)
    claim = ledger.claim(run_id, 1)
    assert claim is not None
    ledger.fail(claim, "The table is gone.")
    answer = CliRunner().invoke(app, ["runs", "follow", run_id])
    assert answer.exit_code == 1
    assert "Error: The table is gone." in answer.output
    assert "The table is gone." in said("runs", "list", "--schedule", "often")


def test_the_scheduler_runs_what_is_due_and_ends_on_ctrl_c(home: Home) -> None:
    """The plain way, without Ray: from the terminal to the ledger and back."""
    said("schedule", "add", "often", "sales.yaml", "--every", "1d")
    said("schedule", "trigger", "often")
    program = "from pipelines.cli import main; main()"
    scheduler = subprocess.Popen(
        [sys.executable, "-c", program, "schedule", "run", "--on", "processes"],
        stdout=subprocess.PIPE,
    )
    ledger = ledger_of(home)
    wait_until(lambda: all(run.state in FINAL for run in ledger.runs()))
    (run,) = ledger.runs()
    assert run.state == "failed", "there is no sales.csv"
    assert run.error is not None
    assert "sales.csv" in run.error
    scheduler.send_signal(signal.SIGINT)
    output, _ = scheduler.communicate(timeout=30)
    assert scheduler.returncode == 0
    assert f"often: run {run.id} begins (by hand)." in output.decode()
    assert "The scheduler has ended." in output.decode()


# --- Ray ------------------------------------------------------------------------------------------


@pytest.mark.faults  # 20 s on two quiet cores, minutes on a busy machine: Ray starts eight processes
@pytest.mark.timeout(600)
def test_a_run_is_a_job_of_a_cluster_that_comes_and_goes(home: Home) -> None:
    """One command must be enough: the cluster is started, guarded by a token, and ended."""
    said("schedule", "add", "often", "sales.yaml", "--every", "1d")
    said("schedule", "trigger", "often")
    ledger, head = ledger_of(home), RayHead(home.folder)
    (run,) = ledger.runs()
    with head.needed():
        cluster = head.cluster()
        assert head.cluster() == cluster, "another scheduler finds the same"
        found = head.head()
        assert found is not None
        assert cluster.address.startswith("http://127.0.0.1:")
        assert stat.S_IMODE((head.folder / "token").stat().st_mode) == 0o600
        assert httpx.get(f"{cluster.address}/api/jobs/").status_code == 401
        jobs = RayJobs(head.cluster, job_variables(home))
        wait_until(lambda: takes(jobs, run.id))
        jobs.submit(run.id, 1)
        wrong = RayJobs(lambda: Cluster(cluster.address, "guessed"), {})
        with pytest.raises(UnavailableError, match="wants a token"):
            wrong.submit(run.id, 2)
        wait_until(lambda: ledger.run(run.id).state in FINAL)
        headers = {"Authorization": f"Bearer {cluster.token}"}
        known = httpx.get(f"{cluster.address}/api/jobs/", headers=headers).json()
        assert [job["submission_id"] for job in known if job["submission_id"]] == [f"{run.id}-1"]
    ended = ledger.run(run.id)
    assert (ended.state, ended.attempt) == ("failed", 1)
    assert "sales.csv" in str(ended.error)
    wait_until(lambda: head.head() is None and is_gone(found.keeper))


def takes(jobs: RayJobs, run_id: str) -> bool:
    """As a scheduler submits: a cluster that has just begun may ask to try again."""
    try:
        jobs.submit(run_id, 1)
    except UnavailableError:
        return False
    return True


def is_gone(pid: int) -> bool:
    """Whether the process has ended, though nobody may have asked how."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_a_cluster_that_is_away_is_one_sentence() -> None:
    """The log of a night must say what was missing."""
    jobs = RayJobs(lambda: Cluster("http://127.0.0.1:1"), {})
    with pytest.raises(UnavailableError, match=r"cluster at http://127\.0\.0\.1:1 does not answer"):
        jobs.submit("abc", 1)


def test_where_runs_go(tmp_path: Path) -> None:
    """A cluster of other machines cannot read this machine's files, nor must it know passwords."""
    for address in ("nowhere", "http://", "http://ray:x", "http://[ray", "ftp://ray"):
        with pytest.raises(ConfigError, match="no place for runs"):
            cluster_at(address, {})
    (tmp_path / "token").write_text("secret\n", encoding="utf-8")
    far = cluster_at("https://ray.example:8265/", {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")})
    assert far == Cluster("https://ray.example:8265", "secret", "python")
    alone = Home.of({"TSFORMER_HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match="TSFORMER_STORE and MLFLOW_TRACKING_URI"):
        check_shared(far, alone)
    check_shared(cluster_at("http://127.0.0.1:8265", {}), alone)
    team = Home(tmp_path, "https://mlflow.example", "postgresql://ann:secret@db/team")
    check_shared(far, team)
    assert job_variables(team) == {
        "TSFORMER_HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": "https://mlflow.example",
    }


def test_a_disk_without_room_for_a_cluster_is_one_sentence(tmp_path: Path) -> None:
    """A scheduler that ends with a traceback in the night submits nothing when there is room."""
    (tmp_path / "ray").write_text("no folder", encoding="ascii")
    with pytest.raises(UnavailableError, match="Ray does not start on this machine"):
        RayHead(tmp_path).cluster()


def test_a_cluster_whose_keeper_is_gone_is_none(tmp_path: Path) -> None:
    """After a power cut the file is still there, and its number may be another process by now."""
    head = RayHead(tmp_path)
    with head.needed():
        for keeper in (os.getpid(), 2**22 + 1):
            content = {"address": "http://127.0.0.1:1", "keeper": keeper}
            (head.folder / "head.json").write_text(json.dumps(content), encoding="utf-8")
            assert head.head() is None
