"""/v1/schedules: jobs by the clock, changed only by who has seen them, apart by tenant."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from pipelines.executors import Executor
from pipelines.home import Home
from pipelines.jobs import Jobs
from pipelines.ledger import Ledger
from pipelines.orders import UNPROMOTED
from pipelines.schedule import Schedule
from pipelines.scheduler import Scheduler
from pipelines.store import Store, now_ms
from pipelines.store_tables import SCHEDULE
from pipelines.timetable import Timetable
from serving import job as job_process
from tests.serving.keyed import Tenants
from tests.serving.running import Running, series, table


def order(called: str, **more: Any) -> dict[str, Any]:
    spec = {"model": "small", "dataset": "clock", "h": 3}
    body = {
        "name": called, "cron": "30 2 * * 1", "tz": "Europe/Berlin",
        "job": {"type": "forecast", "spec": spec},
    }  # fmt: skip
    return {**body, **more}


def training(called: str, **more: Any) -> dict[str, Any]:
    spec = {"dataset": "clock", "kind": "ridge", "name": "load"}
    return order(called, job={"type": "train", "spec": spec}, **more)


@pytest.fixture(scope="module")
def clocked(service: Running) -> Running:
    """The service with a dataset that schedules speak of."""
    service.post("/v1/datasets", {"name": "clock", "freq": "h", "data": table(series())})
    return service


@pytest.fixture(scope="module")
def both(tenants: Tenants) -> Tenants:
    """Two tenants, each with the dataset."""
    for tenant in ("ads", "shop"):
        body = {"name": "clock", "freq": "h", "data": table(series())}
        tenants.ask("POST", "/v1/datasets", tenant=tenant, json=body)
    return tenants


def made(service: Running, body: dict[str, Any]) -> dict[str, Any]:
    reply = service.post("/v1/schedules", body)
    assert reply.status_code == 201, reply.text
    told: dict[str, Any] = reply.json()
    assert (reply.headers["location"], reply.headers["etag"]) == (
        f"/v1/schedules/{told['id']}", told["etag"],
    )  # fmt: skip
    return told


def patch(service: Running, id: str, body: object, **headers: str) -> httpx.Response:
    return service.client.patch(f"/v1/schedules/{id}", json=body, headers=headers)


class Nowhere(Executor):
    """Takes runs and begins none."""

    def submit(self, run_id: str, attempt: int) -> None: ...


def test_a_schedule_from_order_to_end(clocked: Running) -> None:
    """What was ordered is what is shown, until it is removed."""
    told = made(clocked, order("nightly"))
    assert told["job"] == order("nightly")["job"]  # the dataset as it will be then
    assert told["next_due_at"].endswith(("T00:30:00.000Z", "T01:30:00.000Z"))
    reply = clocked.client.get("/v1/schedules/nightly")
    assert (reply.json(), reply.headers["etag"]) == (told, told["etag"])
    listed = clocked.client.get("/v1/schedules").json()["items"]
    assert told in listed
    again = clocked.post("/v1/schedules", order("nightly"))
    assert (again.status_code, again.json()["type"]) == (409, "/problems/wrong-state")
    assert clocked.client.delete("/v1/schedules/nightly").status_code == 204
    assert clocked.client.get("/v1/schedules/nightly").status_code == 404


def test_a_patch_changes_what_it_names(clocked: Running) -> None:
    """RFC 7396: what is not named stays, null takes away."""
    told = made(clocked, training("patched", gate={"metric": "mase", "alpha": 0.01}))
    reply = patch(
        clocked,
        "patched",
        {"cron": "0 4 * * *", "gate": {"alpha": None}},
        **{"If-Match": told["etag"]},
    )
    after = reply.json()
    assert (reply.status_code, after["cron"], after["gate"]) == (
        200,
        "0 4 * * *",
        {"metric": "mase"},
    )
    assert (after["tz"], after["job"]) == (told["tz"], told["job"])
    paused = patch(clocked, "patched", {"enabled": False}, **{"If-Match": after["etag"]}).json()
    assert (paused["enabled"], paused["next_due_at"]) == (False, None)


def test_two_patches_with_one_etag(clocked: Running) -> None:
    """Law 14: of two people who change the same schedule one must learn of the other."""
    told = made(clocked, order("raced"))
    assert (
        patch(clocked, "raced", {"tz": "UTC"}).json()["type"] == "/problems/precondition-required"
    )

    def one(hour: int) -> httpx.Response:
        return patch(clocked, "raced", {"cron": f"0 {hour} * * *"}, **{"If-Match": told["etag"]})

    with ThreadPoolExecutor(2) as pool:
        replies = [*pool.map(one, (1, 2))]
    assert sorted(reply.status_code for reply in replies) == [200, 412]
    late = next(reply for reply in replies if reply.status_code == 412).json()
    assert late["etag"] == clocked.client.get("/v1/schedules/raced").json()["etag"]


@pytest.mark.parametrize(
    ("change", "status", "pointer"),
    [
        ({"cron": "61 * * * *"}, 422, "/cron"),
        ({"cron": "0 0 30 2 *"}, 422, "/cron"),
        ({"cron": "zone * * * *"}, 422, "/cron"),
        ({"tz": "Mars/Base"}, 422, "/tz"),
        ({"tz": "+01:00"}, 422, "/tz"),
        ({"tz": "Mars/Base", "cron": "61 * * * *"}, 422, "/tz"),
        ({"name": "a/b"}, 422, "/name"),
        ({"job": {"type": "forecast", "spec": {"dataset": "none", "model": "small"}}}, 404,
         "/job/spec/dataset"),
        ({"job": {"type": "forecast", "spec": {"dataset": "clock"}}}, 422, "/job/spec"),
        ({"job": {"type": "dance", "spec": {}}}, 422, "/job/type"),
        ({"job": {"type": "tune", "spec": {}}}, 422, "/job/spec"),
        ({"gate": {"metric": "mase"}}, 422, "/gate"),
        ({"on_pass": {"promote": "champion"}}, 422, "/on_pass"),
        ({"catch_up_hours": -1}, 422, "/catch_up_hours"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_done_by_the_clock(
    clocked: Running, change: dict[str, Any], status: int, pointer: str
) -> None:
    """Nobody is there at 02:30: what is wrong must be said when it is ordered."""
    reply = clocked.post("/v1/schedules", order("wrong", **change))
    assert reply.status_code == status, reply.text
    assert reply.json()["errors"][0]["pointer"] == pointer


def test_what_a_training_must_show(clocked: Running) -> None:
    """A gate that is asked for and not possible must not be dropped in silence."""
    gate = {
        "metric": "mase", "folds": 4, "must_beat": ["champion", "seasonal_naive"], "alpha": 0.05,
        "min_coverage": {"0.8": 0.75},
    }  # fmt: skip
    told = made(clocked, training("gated", gate=gate, on_pass={"promote": "champion"}))
    assert (told["gate"], told["on_pass"]) == (gate, {"promote": "champion"})
    for wrong in ({"folds": 5}, {"min_coverage": {"0.8": 0.9}}, {"metric": "luck"}):
        assert clocked.post("/v1/schedules", training("no", gate=wrong)).status_code == 422


def test_a_candidate_that_nobody_wants_promoted_stays_one(clocked: Running, home: Home) -> None:
    """It was answered as if it were, and the training promoted what passed."""
    told = made(clocked, training("watched"))
    assert told["on_pass"] == {"promote": "champion"}
    left = patch(clocked, "watched", {"on_pass": None}, **{"If-Match": told["etag"]}).json()
    assert (left["on_pass"], clocked.client.get("/v1/schedules/watched").json()) == (None, left)
    still = patch(clocked, "watched", {"enabled": True}, **{"If-Match": left["etag"]}).json()
    assert still["on_pass"] is None
    run = clocked.client.post("/v1/schedules/watched/trigger").json()
    jobs = Jobs.of(home, Store.of(home))
    assert jobs.asked(run["id"])[0][UNPROMOTED]
    again = {"on_pass": {"promote": "champion"}}
    after = patch(clocked, "watched", again, **{"If-Match": still["etag"]}).json()
    assert after["on_pass"] == again["on_pass"]
    assert made(clocked, training("asked", on_pass=None))["on_pass"] is None
    assert made(clocked, order("plain", on_pass=None))["on_pass"] is None


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"on_pass": {"promote": "champion"}}, "/on_pass"),
        ({"job": {"type": "compare"}}, "/job"),
        ({"job": {"type": "forecast", "spec": {"h": 0}}}, "/job/spec/h"),
        ({"job": {"spec": {"model": None}}}, "/job/spec"),
    ],
    ids=str,
)
def test_a_change_is_refused_where_it_was_sent(
    clocked: Running, change: dict[str, Any], pointer: str
) -> None:
    """A place in what was there before is none in the patch."""
    told = made(clocked, order(f"at{len(str(change))}"))
    reply = patch(clocked, told["id"], change, **{"If-Match": told["etag"]})
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, pointer)


def test_what_is_answered_can_be_sent(clocked: Running) -> None:
    """Hours were told as 24.0, and refused in this form."""
    told = made(clocked, training("round", catch_up_hours=24))
    assert type(told["catch_up_hours"]) is int
    (listed,) = [one for one in clocked.client.get("/v1/schedules").json()["items"]
                 if one["id"] == "round"]  # fmt: skip
    assert type(listed["catch_up_hours"]) is int
    names = ("cron", "tz", "enabled", "catch_up_hours", "job", "gate", "on_pass")
    sent = {name: told[name] for name in names}
    assert patch(clocked, "round", sent, **{"If-Match": told["etag"]}).status_code == 200


def test_a_run_now_and_what_came_of_it(
    clocked: Running, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A team tries its schedule in the morning rather than waiting for the night."""
    made(clocked, order("tried"))
    reply = clocked.client.post("/v1/schedules/tried/trigger", headers={"Idempotency-Key": "t-1"})
    run = reply.json()
    assert (reply.status_code, run["state"], run["reason"]) == (202, "pending", "by hand")
    again = clocked.client.post("/v1/schedules/tried/trigger", headers={"Idempotency-Key": "t-1"})
    assert again.json()["id"] == run["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    other = clocked.post("/v1/schedules/tried/trigger", {}, **{"Idempotency-Key": "t-1"})
    assert other.json()["type"] == "/problems/idempotency-key-reused"
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # of curl -d ''
    blank = clocked.client.post("/v1/schedules/none/trigger", content=b" ", headers=form)
    assert blank.status_code == 404, "what it is called is nothing to refuse"
    wrong = clocked.post("/v1/schedules/tried/trigger", {"at": "now"})
    assert (wrong.status_code, wrong.json()["errors"][0]["pointer"]) == (422, "")
    monkeypatch.setenv("TSFORMER_HOME", str(home.folder))
    job_process.main([run["id"], "1"])
    (told,) = clocked.client.get("/v1/schedules/tried/runs").json()["items"]
    assert (told["id"], told["state"]) == (run["id"], "succeeded")
    result = clocked.client.get(f"{told['job']}/result").json()
    assert len(result["forecast"]["mean"]) == 3
    assert clocked.client.get("/v1/schedules/none/runs").status_code == 404


def test_three_runs_by_hand_at_once_are_one(clocked: Running) -> None:
    """All three were told that they wait, and the last of them ran."""
    made(clocked, order("hasty"))
    runs = [clocked.client.post("/v1/schedules/hasty/trigger").json() for _ in range(3)]
    assert [run["state"] for run in runs] == ["pending", "skipped", "skipped"]
    assert [run["verdict"] for run in runs] == [
        None, *["Skipped: another run of the schedule had not ended."] * 2,
    ]  # fmt: skip
    listed = clocked.client.get("/v1/schedules/hasty/runs").json()["items"]
    assert listed == runs[::-1]
    assert clocked.client.get("/v1/schedules/hasty").json()["skipped"] == 2


def test_a_due_time_makes_one_run_of_the_job(clocked: Running, home: Home) -> None:
    """The clock does what a person would: one run a due time, with the job that was ordered."""
    made(clocked, training("due", cron="* * * * *", gate={"metric": "mae"}))
    store = Store.of(home)
    with store.begin() as connection:
        due = SCHEDULE.c.name == "due"
        ago = now_ms(connection) - 90_000
        connection.execute(SCHEDULE.update().where(due).values(anchor_ms=ago))
    scheduler = Scheduler(Ledger(store), Nowhere(), report=lambda _: None)
    scheduler.look()
    scheduler.look()
    (run,) = clocked.client.get("/v1/schedules/due/runs").json()["items"]
    assert run["reason"].startswith(("due", "catching up"))
    spec, job = Jobs.of(home, store).asked(run["id"])
    assert (job.run.kind, job.tenant, spec["dataset"]) == ("train", "default", "clock")
    assert spec["config"]["gate"] == {"metric": "mae"}
    clocked.client.delete("/v1/schedules/due")


def test_one_made_by_the_command_line_is_seen(clocked: Running, home: Home) -> None:
    """Both ways lead to one timetable; its files stay its own."""
    Timetable(Store.of(home)).add(
        Schedule("by-hand", "/etc/sales.yaml", "sales", "interval", every_s=3600)
    )
    told = clocked.client.get("/v1/schedules/by-hand")
    assert (told.json()["trigger"], told.json()["cron"]) == ("interval", None)
    assert "/etc" not in told.text
    etag = told.json()["etag"]
    refused = patch(clocked, "by-hand", {"cron": "0 1 * * *"}, **{"If-Match": etag})
    assert refused.json()["type"] == "/problems/wrong-state"


def test_tenants_and_roles(both: Tenants) -> None:
    """Two teams may both have a schedule 'nightly', and neither sees or stops the other's."""
    for tenant in ("ads", "shop"):
        reply = both.ask("POST", "/v1/schedules", tenant=tenant, json=order("nightly"))
        assert reply.status_code == 201
    assert both.ask("POST", "/v1/schedules", json=order("x"), role="forecaster").status_code == 403
    assert both.ask("GET", "/v1/schedules/nightly", role="reader").status_code == 200
    mine = [one["name"] for one in both.ask("GET", "/v1/schedules").json()["items"]]
    assert mine.count("nightly") == 1
    assert both.ask("DELETE", "/v1/schedules/nightly").status_code == 204
    assert both.ask("GET", "/v1/schedules/nightly", tenant="shop").status_code == 200
    for path in ("/trigger", ""):
        method = "POST" if path else "DELETE"
        assert both.ask(method, f"/v1/schedules/nightly{path}").status_code == 404


def test_a_number_too_long_for_an_integer_is_one_in_a_schedule(clocked: Running) -> None:
    """It was stored, and the schedule could never be read again."""
    data = table([10**20 + value for value in range(100)])
    job = {"type": "forecast", "spec": {"model": "small", "data": data, "freq": "h"}}
    told = made(clocked, order("long", job=job))
    found = clocked.client.get(f"/v1/schedules/{told['id']}").json()
    assert found["job"]["spec"]["data"]["y"][0] == 1e20
    change = {"job": {"spec": {"freq": 10**20}}}
    headers = {"If-Match": told["etag"]}
    assert patch(clocked, told["id"], change, **headers).status_code == 422


def test_a_run_that_was_skipped_says_why_as_a_job_too(clocked: Running) -> None:
    """Cancelled by nobody and for nothing: its owner would look for who did it."""
    made(clocked, order("crowded"))
    first, second = (clocked.client.post("/v1/schedules/crowded/trigger").json() for _ in range(2))
    job = clocked.client.get(second["job"]).json()
    assert (first["state"], job["state"]) == ("pending", "cancelled")
    assert job["error"]["detail"] == second["verdict"]
    told = clocked.client.get(f"{second['job']}/result").json()["detail"]
    assert told == f"The job has no result: it was cancelled. GET {second['job']} says why."


def test_a_change_advises_what_a_change_can_be_sent_with(clocked: Running) -> None:
    """A schedule is made by POST: to change one that is not there makes no sense."""
    made(clocked, order("bare"))
    problem = patch(clocked, "bare", {"enabled": False}).json()
    assert (problem["status"], problem["detail"]) == (
        428, "Send If-Match with the etag that was read.",
    )  # fmt: skip


def test_what_the_clock_expects_is_shown_by_an_example(clocked: Running) -> None:
    for change, example in (
        ({"cron": "daily"}, "30 2 * * 1 for Mondays"),
        ({"tz": "Mars/Base"}, "Europe/Berlin"),
    ):
        told = clocked.post("/v1/schedules", order("shown", **change)).json()["errors"][0]
        assert example in told["message"]
        assert "Mars" not in told["message"]
