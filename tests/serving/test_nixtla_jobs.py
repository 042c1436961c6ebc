"""Tasks that the Nixtla client submits: jobs of this service, with the answers of its routes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.home import Home
from pipelines.store import Store
from pipelines.store_tables import RUN
from serving import job as job_process
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.nixtla_client import VERSIONS, Nixtla, nixtla
from tests.serving.running import Running, application, listening, series, table

PREFIX = "/compat/nixtla"


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[Nixtla]:
    with nixtla(VERSIONS[0], f"{service.client.base_url}{PREFIX}") as running:
        yield running


@pytest.fixture
def worked(home: Home, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Works on a job in this process, as its own process would."""
    monkeypatch.setenv("TSFORMER_HOME", str(home.folder))
    return lambda name: job_process.main([name.removeprefix("job_"), "1"])


@pytest.fixture(scope="module")
def narrow(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service whose jobs may have 299 numbers."""
    made = fresh_home(tmp_path_factory.mktemp("narrow"), database)
    settings = Settings.read({"limits": {"job_points": 299}, "jobs": {"at_once": 0}})
    yield from listening(application(made, settings), ready=False)


def rows() -> dict[str, Any]:
    return table(series(150), series(150, seed=1))


TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "forecast": ("forecast", {"h": 30, "level": [80]}),
    "cross_validation": ("cross_validation", {"h": 4, "n_windows": 2}),
    "detect_anomalies": ("detect_anomalies_online", {"h": 2, "detection_size": 4, "level": 90}),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_job_gives_what_the_call_gives(
    service: Running, client: Nixtla, worked: Any, task: str
) -> None:
    """Who submits the same work must get the same numbers, later."""
    method, args = TASKS[task]
    name = client.get(f"jobs.{task}", rows(), freq="h", **args)
    kind = "anomaly_detection" if task == "detect_anomalies" else task
    place = f"{PREFIX}/v2/{kind}/jobs/{name}"
    assert service.client.get(place).json() == {
        "job_id": name, "status": "pending", "result": None, "error": None,
    }  # fmt: skip
    worked(name)
    found = client.get("job.wait", id=name, poll_interval=0.1, poll_timeout=20)
    assert found == client.get(method, rows(), freq="h", **args)
    assert service.client.get(f"/v1/jobs/{name}").json()["type"] == "nixtla"
    assert name in {job["id"] for job in service.client.get("/v1/jobs").json()["items"]}


def test_the_whole_history_comes_without_a_detection_size(service: Running, worked: Any) -> None:
    """Both kinds of detection are submitted under one name."""
    data = rows()
    body = {"series": {"y": data["y"], "sizes": [150, 150]}, "freq": "h", "level": 90}
    reply = service.post(f"{PREFIX}/v2/anomaly_detection/async", body)
    assert (reply.status_code, reply.json()["status"]) == (202, "pending")
    worked(reply.json()["job_id"])
    told = service.client.get(f"{PREFIX}/v2/anomaly_detection/jobs/{reply.json()['job_id']}").json()
    now = service.post(f"{PREFIX}/v2/anomaly_detection", body).json()
    assert told["result"]["mean"] == now["mean"]


def test_what_cannot_be_written_again_is_not_kept(service: Running) -> None:
    """The body of a job is stored: a number that JSON has no word for was a defect."""
    data = rows()
    body = {"series": {"y": data["y"], "sizes": [150, 150]}, "freq": "h", "h": 2}
    text = json.dumps({**body, "model_parameters": {"a": 0}}).replace('"a": 0', '"a": 1e999')
    headers = {"content-type": "application/json"}
    reply = service.client.post(f"{PREFIX}/v2/forecast/async", content=text, headers=headers)
    assert reply.status_code == 400
    assert service.post(f"{PREFIX}/v2/forecast/async", body).status_code == 202


@pytest.mark.parametrize(
    ("task", "body", "actual"),
    [
        ("forecast", {"h": 300}, 300),
        ("forecast", {"h": 100, "level": [80, 90]}, 500),
        ("cross_validation", {"h": 3, "n_windows": 100}, 300),
        ("anomaly_detection", {}, 450),
        ("anomaly_detection", {"level": 99}, 450),
        ("anomaly_detection", {"h": 1, "detection_size": 100, "level": 99}, 300),
        ("forecast", {"h": 1, "series": {"y": series(300), "sizes": [300]}}, 300),
    ],
    ids=str,
)
def test_a_job_has_the_size_of_the_settings(
    narrow: Running, task: str, body: dict[str, Any], actual: int
) -> None:
    """A few bytes that stand for gigabytes must be refused, not found out by a machine at its end."""
    sent = {"series": {"y": series(150), "sizes": [150]}, "freq": "h", "model": "last_value"}
    reply = narrow.post(f"{PREFIX}/v2/{task}/async", {**sent, **body})
    told = reply.json()
    assert (reply.status_code, told["limit"], told["actual"]) == (413, "job_points", actual)


def test_a_result_is_over_for_this_client_too(service: Running, worked: Any, home: Home) -> None:
    """What /v1/jobs does not give out any more must not be there by another door."""
    sent = {"series": {"y": series(150), "sizes": [150]}, "h": 2, "freq": "h"}
    name = service.post(f"{PREFIX}/v2/forecast/async", sent).json()["job_id"]
    worked(name)
    places = (f"{PREFIX}/v2/forecast/jobs/{name}", f"/v1/jobs/{name}/result")
    assert [service.client.get(place).status_code for place in places] == [200, 200]
    with Store.of(home).begin() as connection:
        old = RUN.update().where(RUN.c.id == name.removeprefix("job_"))
        connection.execute(old.values(finished_ms=RUN.c.finished_ms - 8 * 86_400_000))
    replies = [service.client.get(place).json() for place in places]
    assert [reply["type"] for reply in replies] == ["/problems/result-expired"] * 2


def test_a_job_that_fails_says_why(service: Running, client: Nixtla, worked: Any) -> None:
    """The problem is that of the route; it is not found out by waiting for ever."""
    name = client.get("jobs.forecast", rows(), freq="h", h=2, level=[99.9])
    worked(name)
    found = client.ask("job.wait", id=name, poll_interval=0.1, poll_timeout=20)
    assert "model-incompatible" in found["error"]
    told = service.client.get(f"{PREFIX}/v2/forecast/jobs/{name}").json()
    assert (told["status"], told["error"]["status"]) == ("failed", 422)
    assert told["error"]["errors"][0]["pointer"] == "/level"


def test_a_time_limit_is_kept(
    service: Running, worked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that may take a second must not hold its place for an hour."""
    body = {
        "series": {"y": series(150), "sizes": [150]}, "h": 2, "freq": "h",
        "job_options": {"timeout_seconds": 1},
    }  # fmt: skip
    name = service.post(f"{PREFIX}/v2/forecast/async", body).json()["job_id"]
    monkeypatch.setattr("serving.host.Host.answer", _hang)
    started = time.monotonic()
    worked(name)
    assert time.monotonic() - started < 20
    told = service.client.get(f"{PREFIX}/v2/forecast/jobs/{name}").json()
    assert told["error"]["type"] == "/problems/deadline-exceeded"


async def _hang(*_arguments: Any, **_options: Any) -> None:
    await asyncio.sleep(60)


def test_a_cancelled_job_is_over(service: Running, client: Nixtla) -> None:
    """404 and 409 mean to the client that there is nothing to cancel."""
    name = client.get("jobs.forecast", rows(), freq="h", h=2)
    assert "result" in client.ask("job.cancel", id=name)
    told = service.client.get(f"{PREFIX}/v2/forecast/jobs/{name}").json()
    assert (told["status"], told["result"], told["error"]) == ("cancelled", None, None)
    place = f"{PREFIX}/v2/async/jobs/job_nobody/cancel"
    assert service.client.post(place).status_code == 404


@pytest.mark.parametrize("task", ["simulate", "explain", "execute_step"])
def test_tasks_that_are_not_served_are_not_there(service: Running, task: str) -> None:
    """The client must hear at once that there is nothing to wait for."""
    assert service.post(f"{PREFIX}/v2/{task}/async", {}).status_code == 404
    assert service.client.get(f"{PREFIX}/v2/{task}/jobs/job_x").status_code == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [({"model": "nobody"}, 404), ({"finetune_steps": 1}, 422), ({"h": 0}, 422), ({"x": 1}, 422)],
    ids=str,
)
def test_what_cannot_be_worked_on_is_not_taken(
    service: Running, body: dict[str, Any], status: int
) -> None:
    """A typing error must not be found out by a job."""
    sent = {"series": {"y": series(150), "sizes": [150]}, "h": 2, "freq": "h", **body}
    assert service.post(f"{PREFIX}/v2/forecast/async", sent).status_code == status
