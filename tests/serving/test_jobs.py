"""/v1/jobs: long work outlives its request, its server and its own process."""

from __future__ import annotations

import io
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow.ipc as ipc
import pytest

from pipelines.attempt import Teller, attempt, leave
from pipelines.claims import Claim, Result
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.jobs import Jobs
from pipelines.keys import TENANT, revoke_key
from pipelines.ledger import Ledger
from pipelines.store import Store
from pipelines.store_tables import RUN
from serving import job as job_process
from serving.accept import ARROW
from serving.runner import executor
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.keyed import ANN, Tenants, new_key, prefix_of
from tests.serving.running import Running, application, listening, publish, series, table
from tsformer.errors import UnavailableError

Run = Callable[[dict[str, Any]], dict[str, Any]]
WAIT_S = 180


def forecast(**more: Any) -> dict[str, Any]:
    data = table(series(), series(seed=1))
    spec = {"model": "small", "data": data, "freq": "h", "quantiles": [0.1, 0.9], **more}
    return {"type": "forecast", "spec": spec}


def submit(service: Running, body: dict[str, Any], **headers: str) -> dict[str, Any]:
    reply = service.post("/v1/jobs", body, **headers)
    assert reply.status_code == 202, reply.text
    job: dict[str, Any] = reply.json()
    assert reply.headers["location"] == f"/v1/jobs/{job['id']}"
    assert reply.headers["retry-after"]
    return job


def get(service: Running, job: dict[str, Any], end: str = "", **headers: str) -> httpx.Response:
    return service.client.get(f"/v1/jobs/{job['id']}{end}", headers=headers)


@pytest.fixture
def run(service: Running, home: Home, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Submits a job and works on it in this process, as its own process would."""
    monkeypatch.setenv("TSFORMER_HOME", str(home.folder))

    def work(body: dict[str, Any]) -> dict[str, Any]:
        job = submit(service, body)
        assert (job["state"], job["progress"]) == ("pending", None)
        job_process.main([job["run_id"], "1"])
        found: dict[str, Any] = get(service, job).json()
        return found

    return work


def test_a_job_answers_as_its_route_does(service: Running, run: Run) -> None:
    """Whoever moves a request that grew too large into a job must get the same numbers."""
    body = forecast()
    job = run(body)
    assert (job["state"], job["error"]) == ("succeeded", None)
    assert job["progress"] == {"done": 1, "total": 1, "unit": "answers"}
    kept, now = (
        get(service, job, "/result").json(),
        service.post("/v1/forecasts", body["spec"]).json(),
    )
    for told in (kept, now):
        del told["id"], told["timing_ms"]
    assert kept == now


@pytest.mark.parametrize("fallback", ["none", "linear"])
def test_a_job_goes_by_the_settings_of_its_service(
    home: Home, monkeypatch: pytest.MonkeyPatch, fallback: str
) -> None:
    """A job must not fall back where the operator forbade it, nor refuse what the route takes."""
    settings = Settings.read(
        {
            "models": {"default": "small"},
            "defaults": {"fallback": fallback},
            "limits": {"quantiles": 22},
            "jobs": {"at_once": 0},
        }
    )
    levels = np.linspace(0.1, 0.9, 22).round(3).tolist()  # one more than by default
    spec = forecast(data=table(series(12)), quantiles=levels)["spec"]
    for name, value in (executor(home, {}, settings).environment or {}).items():
        monkeypatch.setenv(name, value)
    with contextmanager(listening)(application(home, settings)) as running:
        now = running.post("/v1/forecasts", spec).json()
        job = submit(running, {"type": "forecast", "spec": spec})
        job_process.main([job["run_id"], "1"])
        if fallback == "none":
            assert get(running, job).json()["error"]["type"] == now["type"]
            assert now["type"] == "/problems/insufficient-history"
        else:
            kept = get(running, job, "/result").json()
            assert (kept["forecast"], kept["series"]) == (now["forecast"], now["series"])
            assert kept["series"][0]["fallback"]["model"] == "linear"


def test_a_result_in_arrow_is_that_of_the_route(service: Running, run: Run) -> None:
    """Frames of ten thousand series are read as Arrow, also when a job made them."""
    body = forecast(tz="Europe/Berlin")
    kept = get(service, run(body), "/result", accept=ARROW)
    assert kept.headers["content-type"] == ARROW
    now = service.post("/v1/forecasts", body["spec"], accept=ARROW)
    assert streams(kept.content) == streams(now.content)
    compared = {"type": "compare", "spec": {**body["spec"], "models": ["small"], "h": 4}}
    del compared["spec"]["model"]
    kept = get(service, run(compared), "/result", accept=ARROW)
    now = service.post("/v1/compare", compared["spec"], accept=ARROW)
    mine, theirs = streams(kept.content), streams(now.content)
    assert mine[1] == theirs[1]
    assert mine[0].column_names == theirs[0].column_names
    for name in ("ds", "mean", "q0.1"):
        assert mine[0][name] == theirs[0][name]
    assert str(mine[0]["ds"].type) == "timestamp[us, tz=Europe/Berlin]"


def test_a_result_without_a_table_is_json_to_whoever_takes_it(service: Running, run: Run) -> None:
    service.post("/v1/datasets", {"name": "forms", "freq": "h", "data": table(series())})
    job = run({"type": "backtest", "spec": {"dataset": "forms", "models": ["small"], "h": 4}})
    assert job["state"] == "succeeded", job
    either = get(service, job, "/result", accept=f"{ARROW}, application/json;q=0.5")
    assert either.headers["content-type"] == "application/json"
    assert get(service, job, "/result", accept=ARROW).status_code == 406


@pytest.mark.parametrize(
    ("spec", "pointer"),
    [
        ({"data": {"ds": ["2026-01-01", "2026-01-01"], "y": [1.0, 2.0]}}, "/spec/data/ds/1"),
        ({"data": table(series()), "model": "nobody"}, "/spec/model"),
        (
            {"dataset": "places", "static": {"unique_id": ["s0"], "group_id": [0.5]}},
            "/spec/static/group_id/0",
        ),
        ({"dataset": "places", "options": {"fallback": "none"}}, "/spec/dataset"),
    ],
)
def test_a_job_that_fails_points_into_what_was_sent(
    service: Running, run: Run, spec: dict[str, Any], pointer: str
) -> None:
    service.post("/v1/datasets", {"name": "places", "freq": "h", "data": table([1.0] * 5)})
    given = {} if "dataset" in spec else {"freq": "h"}
    job = run({"type": "forecast", "spec": {"model": "small", **given, **spec}})
    assert [item["pointer"] for item in job["error"]["errors"]] == [pointer], job["error"]


@pytest.mark.parametrize("rows", [False, True], ids=["columns", "records"])
def test_tables_beside_a_dataset_are_read_as_those_of_a_request(
    service: Running, run: Run, rows: bool
) -> None:
    """Whole and decimal numbers in one column were a defect, and late members were left out."""
    data = table(series(), series(seed=1))
    service.post("/v1/datasets", {"name": "beside", "freq": "h", "data": data})
    static: Any = {"unique_id": ["s0", "s1"], "size": [1, 1.5], "city": [None, "x"]}
    if rows:
        static = [{"unique_id": "s0", "size": 1}, {"unique_id": "s1", "size": 1.5, "city": "x"}]
    spec = {"model": "small", "dataset": "beside", "static": static}
    job = run({"type": "forecast", "spec": spec})
    assert job["state"] == "succeeded", job
    told = get(service, job, "/result").json()
    now = service.post(
        "/v1/forecasts", {"data": data, "freq": "h", "model": "small", "static": static}
    ).json()
    assert (told["forecast"], told["warnings"]) == (now["forecast"], now["warnings"])


def streams(content: bytes) -> list[Any]:
    source, found = io.BytesIO(content), []
    while source.tell() < len(content):
        found.append(ipc.open_stream(source).read_all().replace_schema_metadata(None))
    return found


def test_a_stored_dataset_takes_the_place_of_data(service: Running, run: Run) -> None:
    """A table that is there already need not be sent again, and a job keeps to its version."""
    data = table(series(), series(seed=1))
    made = service.post("/v1/datasets", {"name": "jobs", "freq": "h", "data": data}).json()
    job = run({"type": "forecast", "spec": {"model": "small", "dataset": "jobs", "h": 3}})
    assert job["state"] == "succeeded", job
    kept = get(service, job, "/result").json()
    now = service.post("/v1/forecasts", {"data": data, "freq": "h", "h": 3}).json()
    assert kept["forecast"] == now["forecast"]
    by_version = f"jobs/{made['version']}"
    anomaly = {"model": "small", "dataset": by_version, "detect": {"level": 80, "last": 5}}
    assert run({"type": "anomaly", "spec": anomaly})["state"] == "succeeded"
    told = run({"type": "explain", "spec": {"model": "small", "dataset": "jobs"}})
    assert (
        told["error"]["type"] == "/problems/model-incompatible"
    )  # read, and answered by its route
    for reference in ("none", "jobs/0123456789abcdef"):
        problem = service.post(
            "/v1/jobs", {"type": "forecast", "spec": {"dataset": reference}}
        ).json()
        assert (problem["status"], problem["errors"][0]["pointer"]) == (404, "/spec/dataset")


def test_forecasts_of_jobs_are_scored_by_actuals(service: Running, run: Run) -> None:
    """What a nightly job gives out is what people act on: it is recorded without being asked."""
    data = table(series(), ids=["by-job"])
    assert run(forecast(data=data))["state"] == "succeeded"
    truth = {"unique_id": ["by-job"], "ds": ["2026-01-05T00:00:00"], "y": [1.0]}
    assert service.post("/v1/actuals", {"data": truth}).json()["matched"] == 1


def test_a_number_too_long_for_an_integer_is_one_in_a_job_too(service: Running, run: Run) -> None:
    """The spec is kept and written again, where no such integer can stand."""
    data = table([10**20 + value for value in range(400)])
    spec = {"model": "small", "data": data, "freq": "h"}
    job = run({"type": "forecast", "spec": spec})
    now = service.post("/v1/forecasts", spec).json()
    assert get(service, job, "/result").json()["forecast"] == now["forecast"]
    seed = {"type": "backtest", "spec": {"dataset": "x", "models": ["small"], "h": 10**30}}
    assert service.post("/v1/jobs", seed).json()["errors"][0]["pointer"] == "/spec/h"


def test_a_backtest_is_worked_by_hand(service: Running, run: Run) -> None:
    """The leaderboard over folds decides what a team uses: it must follow its definitions."""
    y = series(200)
    data = table(y)
    service.post("/v1/datasets", {"name": "back", "freq": "h", "data": data})
    models = ["small", "last_value"]
    spec = {"dataset": "back", "models": models, "h": 6, "folds": 5, "quantiles": [0.1, 0.9]}
    job = run({"type": "backtest", "spec": spec})
    assert job["state"] == "succeeded", job
    assert job["progress"] == {"done": 15, "total": 15, "unit": "folds"}
    told = get(service, job, "/result").json()
    rows = {row["model"]["name"]: row for row in told["leaderboard"]}
    assert [row["rank"] for row in told["leaderboard"]] == [1, 2, 3]
    cuts = [len(y) - 6 * (5 - fold) for fold in range(5)]
    truth = np.array([y[cut : cut + 6] for cut in cuts])
    naive = np.array([y[cut - 24 : cut - 18] for cut in cuts])
    mine = np.array(
        [
            service.post(
                "/v1/forecasts",
                {"data": {k: v[:cut] for k, v in data.items()}, "freq": "h", "h": 6},
            ).json()["forecast"]["mean"]
            for cut in cuts
        ]
    )
    scale = np.abs(np.array(y[24 : cuts[0]]) - np.array(y[: cuts[0] - 24])).mean()
    last = np.array([[y[cut - 1]] * 6 for cut in cuts])
    for name, values in (("small", mine), ("seasonal_naive", naive), ("last_value", last)):
        metrics = rows[name]["metrics"]
        assert metrics["mae"] == pytest.approx(np.abs(truth - values).mean())
        assert metrics["mase"] == pytest.approx(np.abs(truth - values).mean() / scale)
        assert rows[name]["scope"] == {"series": 1, "folds": 5, "h": 6, "points": 30}
    low, high = rows["small"]["ci95"]["mase"]
    assert low < rows["small"]["metrics"]["mase"] < high
    assert rows["small"]["significance"]["versus"] == "seasonal_naive"
    assert len(told["folds"]) == 5
    assert set(rows["small"]["coverage"]) == {"0.8"}


def test_what_a_job_failed_by_is_a_problem(service: Running, run: Run) -> None:
    """Nobody sits at a terminal: the job itself must say what is wrong, and where."""
    data = table(series())
    data["ds"][5] = data["ds"][4]
    job = run(forecast(data=data))
    assert job["state"] == "failed"
    assert job["error"]["type"] == "/problems/invalid-data"
    assert job["error"]["errors"][0]["code"] == "duplicate_timestamp"
    reply = get(service, job, "/result")
    assert (reply.status_code, reply.json()["type"]) == (409, "/problems/wrong-state")
    assert reply.json()["detail"] == (
        f"The job has no result: it failed. GET /v1/jobs/{job['id']} says why."
    )
    assert run(forecast(model="none"))["error"]["type"] == "/problems/not-found"


def test_an_outage_is_not_blamed_on_the_data(service: Running, home: Home) -> None:
    """Its owner would look for a fault that is not there; where the registry is, is not for clients."""
    job = submit(service, forecast())

    def train(_claim: Claim, _teller: Teller) -> Result:
        raise UnavailableError("The registry at http://10.0.0.7:5000 does not answer.")

    ledger = Ledger(Store.of(home))
    assert attempt(ledger, job["run_id"], 1, train, lost=leave) == "failed"
    error = get(service, job).json()["error"]
    assert (error["type"], error["status"]) == ("/problems/not-ready", 503)
    assert "Submit the job again" in error["detail"]
    assert "10.0.0.7" not in error["detail"]
    assert "10.0.0.7" in (ledger.run(job["run_id"]).error or "")  # for `tsformer runs show`


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [
        ({"type": "forecast"}, 422, ""),
        ({"type": "dance", "spec": {}}, 422, "/type"),
        ({"type": "tune", "spec": {}}, 422, "/spec"),
        ({"type": "forecast", "spec": {"h": 0, "data": {}}}, 422, "/spec/h"),
        ({"type": "forecast", "spec": {"h": 5_000, "data": {}}}, 422, "/spec/h"),
        ({"type": "forecast", "spec": {"c4nary": 1, "data": {}}}, 422, "/spec"),
        ({"type": "forecast", "spec": {"dataset": "a", "data": {}}}, 404, "/spec/dataset"),
        ({"type": "backtest", "spec": {"dataset": "x", "models": []}}, 422, "/spec/models"),
        ({"type": "train", "spec": {"dataset": "x"}}, 422, "/spec"),
    ],
    ids=str,
)
def test_what_is_no_job_is_refused_at_once(
    service: Running, body: dict[str, Any], status: int, pointer: str
) -> None:
    """A typing error must be said now, not after an hour in a queue."""
    reply = service.post("/v1/jobs", body)
    assert reply.status_code == status, reply.text
    assert reply.json()["errors"][0]["pointer"] == pointer
    assert "c4nary" not in reply.text


def test_a_body_is_read_as_strictly_as_elsewhere(service: Running) -> None:
    """Law 10: the detour through a job must not be a way around the checks of a body."""
    for sent, type in (
        (b'{"type": "forecast", "type": "compare", "spec": {}}', "invalid-request"),
        (b'{"type": "forecast", "spec": {"h": 1, "h": 2, "data": {}}}', "invalid-request"),
        (b'{"type": "forecast", "spec": {"data": {"y": [NaN]}}}', "malformed-body"),
        (b'{"type": "forecast", "spec": ' + b"[" * 50 + b"]" * 50 + b"}", "malformed-body"),
        (b"[]", "invalid-request"),
        (b"", "malformed-body"),
    ):
        headers = {"Content-Type": "application/json"}
        reply = service.client.post("/v1/jobs", content=sent, headers=headers)
        assert reply.json()["type"] == f"/problems/{type}", sent


def test_50_submissions_under_one_key_are_one_job(service: Running) -> None:
    """Law 14: an hour of work must not be done 50 times because a connection was slow."""

    def one(_: int) -> httpx.Response:
        return service.post("/v1/jobs", forecast(), **{"Idempotency-Key": "job-50"})

    before = len(service.client.get("/v1/jobs", params={"limit": 1000}).json()["items"])
    with ThreadPoolExecutor(50) as pool:
        replies = [*pool.map(one, range(50))]
    assert {reply.status_code for reply in replies} <= {202, 409}
    assert len({reply.json()["id"] for reply in replies if reply.status_code == 202}) == 1
    after = service.client.get("/v1/jobs", params={"limit": 1000}).json()["items"]
    assert len(after) == before + 1


def test_a_result_is_kept_for_its_time(service: Running, run: Run, home: Home) -> None:
    """A disk that fills with old results ends the service for everybody; 410 says why it is gone."""
    job = run(forecast())
    with Store.of(home).begin() as connection:
        old = RUN.update().where(RUN.c.id == job["run_id"])
        connection.execute(old.values(finished_ms=RUN.c.finished_ms - 8 * 86_400_000))
    reply = get(service, job, "/result")
    assert (reply.status_code, reply.json()["type"]) == (410, "/problems/result-expired")


def test_events_tell_what_happened_in_order(service: Running, run: Run) -> None:
    """A page that shows a job must be able to go on after a broken connection."""
    job = run(forecast())
    text = get(service, job, "/events", accept="text/event-stream").text
    found = [
        dict(line.split(": ", 1) for line in part.split("\n")) for part in text.split("\n\n")[:-1]
    ]
    assert [int(one["id"]) for one in found] == [*range(1, len(found) + 1)]
    states = [json.loads(one["data"])["state"] for one in found if one["event"] == "state"]
    assert states == ["pending", "running", "succeeded"]
    progress = [json.loads(one["data"]) for one in found if one["event"] == "progress"]
    assert (progress[-1]["done"], progress[-1]["total"]) == (1, 1)
    rest = get(service, job, "/events", **{"Last-Event-ID": found[-2]["id"]}).text
    assert rest.startswith(f"id: {found[-1]['id']}\n")
    assert get(service, job, "/events", **{"Last-Event-ID": "x"}).status_code == 400


def ended(home: Home, kind: str, result: bytes) -> str:
    """A job of this kind that had that result; gives its name."""
    jobs, run_id = Jobs.of(home, Store.of(home)), secrets.token_hex(8)
    jobs.submit(run_id, kind, {}, tenant=TENANT, owner="")
    claim = jobs.ledger.claim(run_id, 1)
    assert claim is not None
    jobs.keep(run_id, result)
    assert jobs.ledger.succeed(claim, Result())
    return f"job_{run_id}"


def test_large_results_do_not_take_the_memory_of_the_service(empty: Home) -> None:
    """Of what a hundred clients fetch at once no more is held than the operator allows."""
    limits = {"bodies_in_flight_mib": 1, "body_arrow_mib": 1}
    app = application(empty, Settings.read({"limits": limits, "jobs": {"at_once": 0}}))
    small, middle, large = ({"mean": [0.5] * count} for count in (9, 400_000, 9_000_000))
    with contextmanager(listening)(app, ready=False) as running:
        ask, bodies = running.client.get, running.app.state.service.bodies
        for kind, path, told in (
            ("forecast", "/v1/jobs/{}/result", lambda reply: reply.json()),
            ("nixtla", "/compat/nixtla/v2/forecast/jobs/{}", lambda reply: reply.json()["result"]),
        ):
            for result in (small, middle, large):  # the last two are streamed
                name = ended(empty, kind, json.dumps(result).encode())
                reply = ask(path.format(name))
                assert (reply.status_code, told(reply)) == (200, result)
                assert int(reply.headers["content-length"]) == len(reply.content)
        name = ended(empty, "forecast", json.dumps(middle).encode())
        reply = ask(f"/v1/jobs/{name}/result", headers={"accept": ARROW})
        assert reply.status_code == 406
        either = {"accept": f"{ARROW}, application/json;q=0.5"}
        assert ask(f"/v1/jobs/{name}/result", headers=either).json() == middle
        while bodies.held:  # until the service has seen that the last answer is out
            time.sleep(0.01)


def test_results_are_cleared_where_no_job_is_executed(empty: Home) -> None:
    """A service whose jobs a scheduler elsewhere works on has the same disk, which fills."""
    name = ended(empty, "forecast", b"{}").removeprefix("job_")
    jobs = Jobs.of(empty, Store.of(empty))
    with jobs.ledger.store.begin() as connection:
        connection.execute(RUN.update().values(finished_ms=1))
    app = application(empty, Settings.read({"jobs": {"at_once": 0}}))
    with contextmanager(listening)(app, ready=False):
        started = time.monotonic()
        while jobs.result(name) is not None:
            assert time.monotonic() - started < WAIT_S
            time.sleep(0.05)


def test_streams_of_events_are_bounded_and_end_with_their_key(empty: Home) -> None:
    """Each asks the store twice a second: a thousand would take it from everybody else."""
    key, other = new_key(empty, "reader"), new_key(empty, "forecaster")
    mine, theirs = ({"Authorization": f"Bearer {one}"} for one in (key, other))
    settings = {"limits": {"concurrent_requests": 1}, "jobs": {"at_once": 0}}
    app = application(empty, Settings.read(settings))
    with contextmanager(listening)(app, ready=False) as running:
        spec = {"model": "seasonal_naive", "data": table(series())}
        job = submit(running, {"type": "forecast", "spec": spec}, **theirs)
        path = f"/v1/jobs/{job['id']}/events"
        with running.client.stream("GET", path, headers=mine):
            refused = running.client.get(path, headers=mine)
            assert (refused.status_code, refused.json()["limit"]) == (429, "concurrent_requests")
            assert get(running, job, **mine).status_code == 200
            with running.client.stream("GET", path, headers=theirs) as another:
                assert another.status_code == 200
        while True:  # until the service has seen that the first is gone
            with running.client.stream("GET", path, headers=mine) as stream:
                if stream.status_code == 429:
                    continue
                lines = stream.iter_lines()
                assert next(lines) == "id: 1"
                revoke_key(Store.of(empty), prefix_of(key), who=ANN)
                assert next((line for line in lines if line.startswith(":")), None) is None
            break
        assert get(running, job, **mine).status_code == 401


def test_a_job_that_waits_is_cancelled(service: Running, home: Home) -> None:
    """A mistake must be stopped before it costs an hour; twice is as good as once."""
    job = submit(service, forecast())
    first = service.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert (first.status_code, first.json()["state"]) == (202, "cancelled")
    assert service.client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 200
    assert Ledger(Store.of(home)).claim(job["run_id"], 1) is None
    told = get(service, job, "/result").json()
    assert told["type"] == "/problems/wrong-state"
    assert told["detail"] == "The job has no result: it was cancelled."


def test_tenants_and_roles(tenants: Tenants) -> None:
    """Section 12: another tenant's job does not exist; a forecaster ends its own jobs alone."""
    mine = tenants.ask("POST", "/v1/jobs", json=forecast(), role="forecaster").json()["id"]
    boss = tenants.ask("POST", "/v1/jobs", json=forecast()).json()["id"]
    for path in ("", "/result", "/events"):
        assert tenants.ask("GET", f"/v1/jobs/{mine}{path}", tenant="shop").status_code == 404
    assert tenants.ask("POST", f"/v1/jobs/{mine}/cancel", tenant="shop").status_code == 404
    theirs = tenants.ask("GET", "/v1/jobs?limit=1000", tenant="shop").json()["items"]
    assert not {mine, boss} & {one["id"] for one in theirs}
    assert tenants.ask("GET", f"/v1/jobs/{mine}", role="reader").status_code == 200
    assert tenants.ask("POST", f"/v1/jobs/{boss}/cancel", role="forecaster").status_code == 403
    assert tenants.ask("POST", f"/v1/jobs/{mine}/cancel", role="forecaster").status_code == 202
    assert tenants.ask("POST", f"/v1/jobs/{boss}/cancel").status_code == 202
    train = {"type": "train", "spec": {"dataset": "d", "kind": "ridge", "name": "m"}}
    assert tenants.ask("POST", "/v1/jobs", json=train, role="forecaster").status_code == 403
    assert tenants.ask("POST", "/v1/jobs", json=train).status_code == 404  # no such dataset


def test_who_executes_jobs_looks_at_once(service: Running) -> None:
    """A forecast of two seconds must not wait another one for its turn."""
    woken = service.app.state.service.woken
    woken.clear()
    job = submit(service, forecast())
    assert woken.is_set()
    service.client.post(f"/v1/jobs/{job['id']}/cancel")


def test_pages(tenants: Tenants) -> None:
    """Newest first, and every job once, however many there are."""
    made = [
        tenants.ask("POST", "/v1/jobs", tenant="shop", json=forecast()).json()["id"]
        for _ in range(3)
    ]
    names, cursor = [], ""
    while cursor is not None:
        page = tenants.ask("GET", f"/v1/jobs?limit=1&cursor={cursor}", tenant="shop").json()
        names += [one["id"] for one in page["items"]]
        cursor = page["next"]
    assert [name for name in names if name in made] == made[::-1]
    assert tenants.ask("GET", "/v1/jobs?cursor=x").status_code == 422


def test_a_key_may_have_so_many_jobs_waiting(empty: Home) -> None:
    """One script in a loop must not keep everybody else's jobs from their turn."""
    settings = {"limits": {"queued_jobs_per_key": 2, "job_points": 600}, "jobs": {"at_once": 0}}
    app = application(empty, Settings.read(settings))
    with contextmanager(listening)(app, ready=False) as running:
        body = {"type": "forecast", "spec": {"model": "seasonal_naive", "data": table(series())}}
        assert [running.post("/v1/jobs", body).status_code for _ in range(3)] == [202, 202, 429]
        refused = running.post("/v1/jobs", body)
        assert refused.json()["limit"] == "queued_jobs_per_key"
        assert refused.headers["retry-after"]
        large = {**body, "spec": {**body["spec"], "data": table(series(), series(), series())}}
        reply = running.post("/v1/jobs", large)
        assert (reply.status_code, reply.json()["limit"]) == (413, "job_points")


@pytest.fixture(scope="module")
def narrow(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose jobs may have 99 numbers, and a dataset of two series of four rows."""
    made = fresh_home(tmp_path_factory.mktemp("narrow"), database)
    settings = Settings.read({"limits": {"job_points": 99}, "jobs": {"at_once": 0}})
    for running in listening(application(made, settings), ready=False):
        data = table(series(4), series(4))
        running.post("/v1/datasets", {"name": "short", "freq": "h", "data": data})
        yield running


LEVELS = [round(0.05 * n, 2) for n in range(1, 20)]
BOUND: dict[str, tuple[dict[str, Any], int]] = {
    "forecast": ({"model": "drift", "h": 25, "quantiles": [0.1, 0.9]}, 150),
    "explain": ({"model": "drift", "h": 50}, 100),
    "compare": ({"h": 17, "models": ["last_value", "drift", "linear"]}, 136),
    "anomaly": ({"model": "drift", "detect": {"last": 10**9}, "quantiles": LEVELS}, 160),
    "backtest": ({"h": 10, "folds": 3, "models": ["last_value"]}, 120),
}


@pytest.mark.parametrize("kind", BOUND)
def test_what_a_job_would_answer_is_counted_as_well(narrow: Running, kind: str) -> None:
    """A body of a quarter of a megabyte may stand for a billion numbers: 11,000 rows, 4,096 steps."""
    spec, actual = BOUND[kind]
    data = table(series(4), series(4))
    ways: list[dict[str, Any]] = [{"dataset": "short"}]
    if kind != "backtest":
        rows = [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
        each = [{"unique_id": name, "start": "2026-01-01", "y": series(4)} for name in "ab"]
        ways += [{"freq": "h", **way} for way in ({"data": data}, {"data": rows}, {"series": each})]
    for way in ways:
        reply = narrow.post("/v1/jobs", {"type": kind, "spec": {**way, **spec}})
        told = reply.json()
        assert (reply.status_code, told["limit"], told["actual"]) == (413, "job_points", actual)
        smaller = {**way, **spec, **({"detect": {"last": 1}} if kind == "anomaly" else {"h": 1})}
        assert narrow.post("/v1/jobs", {"type": kind, "spec": smaller}).status_code == 202


def test_a_horizon_that_the_model_chooses_is_counted_before_it_works(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much a job answers is not always known when it is asked for; it must fail, not fill a machine."""
    limits = {"job_points": 300, "output_values": 10}
    settings = Settings.read(
        {"models": {"default": "small"}, "limits": limits, "jobs": {"at_once": 0}}
    )
    for name, value in (executor(home, {}, settings).environment or {}).items():
        monkeypatch.setenv(name, value)
    spec = forecast(data=table(series()), quantiles=LEVELS)["spec"]
    with contextmanager(listening)(application(home, settings)) as running:
        job = submit(running, {"type": "forecast", "spec": spec})
        job_process.main([job["run_id"], "1"])
        error = get(running, job).json()["error"]
        assert (error["status"], error["limit"], error["actual"]) == (413, "job_points", 480)
        assert "jobs" not in error
        job = submit(running, {"type": "forecast", "spec": {**spec, "quantiles": [0.1]}})
        job_process.main([job["run_id"], "1"])
        assert get(running, job).json()["state"] == "succeeded"  # whatever a request may answer


def test_a_table_that_grew_is_counted_when_its_schedule_is_due(
    narrow: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was small when it was ordered may be large in a year, and nobody asks for it anew."""
    home = narrow.app.state.service.library.shelf.registry.home
    settings = narrow.app.state.service.settings
    for name, value in (executor(home, {}, settings).environment or {}).items():
        monkeypatch.setenv(name, value)
    few, many = (table(*[series(2)] * count) for count in (1, 8))
    narrow.post("/v1/datasets", {"name": "grows", "freq": "h", "data": few})
    spec = {"dataset": "grows", "models": ["last_value"], "h": 1, "folds": 8}
    body = {"name": "each", "cron": "0 1 * * *", "tz": "UTC"}
    job = {"type": "backtest", "spec": spec}
    assert narrow.post("/v1/schedules", {**body, "job": job}).status_code == 201
    narrow.post("/v1/datasets", {"name": "grows", "freq": "h", "data": many})
    run_id = narrow.client.post("/v1/schedules/each/trigger").json()["id"]
    job_process.main([run_id, "1"])
    error = narrow.client.get(f"/v1/jobs/job_{run_id}").json()["error"]
    assert (error["status"], error["limit"]) == (413, "job_points"), error


# --- with processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def working(
    tmp_path_factory: pytest.TempPathFactory, model: Forecaster, database: Path
) -> Iterator[tuple[Running, Home]]:
    """A service that executes jobs."""
    made = fresh_home(tmp_path_factory.mktemp("working"), database)
    publish(made, "small", model, tmp_path_factory.mktemp("artifact") / "small")
    settings = Settings.read(
        {"models": {"default": "small"}, "jobs": {"at_once": 1, "look_s": 0.1}}
    )
    for running in listening(application(made, settings)):
        yield running, made


def wait_for(service: Running, job: dict[str, Any], *states: str) -> dict[str, Any]:
    started = time.monotonic()
    while True:
        found: dict[str, Any] = get(service, job).json()
        if found["state"] in states:
            return found
        assert time.monotonic() - started < WAIT_S, found
        time.sleep(0.05)


def process_of(job: dict[str, Any]) -> psutil.Process:
    """The process that works on a job."""
    started = time.monotonic()
    while time.monotonic() - started < WAIT_S:
        for process in psutil.Process().children():
            if job["run_id"] in process.cmdline():
                return process
        time.sleep(0.05)
    raise AssertionError("no process")


def test_a_killed_process_is_followed_by_another(working: tuple[Running, Home]) -> None:
    """Out of memory at night: the work is done all the same, and the job says how often it took."""
    service, home = working
    job = submit(service, forecast())
    victim = process_of(job)
    wait_for(service, job, "running")
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    with Store.of(home).begin() as connection:  # its lease is over at once, not in 20 s
        lost = (RUN.c.id == job["run_id"]) & (RUN.c.state == "running")
        connection.execute(RUN.update().where(lost).values(lease_until_ms=1))
    done = wait_for(service, job, "succeeded", "failed")
    assert (done["state"], done["attempt"]) == ("succeeded", 2)
    assert get(service, job, "/result").status_code == 200
