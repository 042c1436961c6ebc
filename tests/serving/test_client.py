"""The client against a real service: frames of three libraries, refusals, waits and repeats."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipelines.home import Home
from serving import job as job_process
from serving.client import Client, Job, ServiceError
from tests.serving.keyed import Tenants
from tests.serving.running import CONTEXT, HORIZON, Running, series, table
from tsformer.errors import ConfigError, DataError, UnavailableError

ASKED = {"freq": "h", "quantiles": [0.1, 0.9]}


@pytest.fixture
def client(service: Running) -> Iterator[Client]:
    with Client(str(service.client.base_url)) as made:
        yield made


def rows() -> dict[str, list[Any]]:
    return table(series(seed=1), series(seed=2))


@pytest.mark.parametrize(
    "make", [pl.DataFrame, lambda t: pl.DataFrame(t).to_pandas(), pa.table], ids=["polars", "pandas", "arrow"]
)  # fmt: skip
def test_a_frame_comes_back_in_its_own_library(service: Running, client: Client, make: Any) -> None:
    """Whoever works in pandas must not learn another library for a forecast."""
    sent = make(rows())
    answer = client.forecast(sent, ASKED)
    assert type(answer.table) is type(sent)
    found = pl.DataFrame(answer.table if make is not pa.table else pl.from_arrow(answer.table))
    plain = service.post("/v1/forecasts", {"data": rows(), **ASKED}).json()
    assert found.columns == ["unique_id", "ds", "mean", "q0.1", "q0.9"]
    assert len(found) == 2 * HORIZON
    assert found["q0.9"].to_list() == plain["forecast"]["q0.9"]
    assert answer.members["model"] == plain["model"]
    assert len(answer.series) == 2


def test_models_are_compared_and_odd_points_found(client: Client) -> None:
    data = rows()
    data["y"][-1] = 1_000.0
    sent = pl.DataFrame(data)
    compared = client.compare(sent, {**ASKED, "models": ["small"], "options": {"holdout": 12}})
    assert {row["model"]["name"] for row in compared.members["leaderboard"]} >= {"small"}
    assert {"model", "mean"} <= {*compared.table.columns}
    found = client.anomalies(sent.head(CONTEXT + CONTEXT), {"freq": "h", "detect": {"last": 4}})
    assert found.table.filter(pl.col("y") == 1_000)["anomaly"].to_list() == [True]


def test_what_is_refused_is_said_in_the_words_of_the_service(client: Client) -> None:
    """With the place, so that nobody reads a JSON document to find a typing error."""
    data = rows()
    data["ds"][17] = data["ds"][16]
    with pytest.raises(
        ServiceError, match=r"422 .*\n- /data/ds/17 \(series s0\): Same time stamp"
    ) as refused:
        client.forecast(pl.DataFrame(data), ASKED)
    assert refused.value.problem["type"] == "/problems/invalid-data"
    with pytest.raises(ServiceError, match="404"):
        client.forecast(pl.DataFrame(rows()), {"model": "nobody"})
    with pytest.raises(DataError, match=r"must be a data frame of polars or pandas .* got a dict"):
        client.forecast(rows())


def test_what_is_made_is_made_once_and_found_again(tenants: Tenants) -> None:
    """A dataset, its actuals and a job on it, each with the key of the client."""
    url, key = str(tenants.running.client.base_url), tenants.keys["shop", "operator"]
    with Client(url, key=key) as client:
        assert "small" in [one["name"] for one in client.models()]
        name = client.upload("sales", pl.DataFrame(rows()))
        assert client.upload("sales", pl.DataFrame(rows())) == name
        got = client.actuals(pl.DataFrame(rows()))
        assert got["received"] == got["inserted"] == 2 * CONTEXT
        job = client.submit("forecast", {"dataset": name, "h": 4})
        assert job.state()["state"] == "pending"
        with pytest.raises(UnavailableError, match=r"is pending after 0 s\. It goes on"):
            job.wait(seconds=0)
        job.cancel()
        assert Job(client, job.id).wait()["state"] == "cancelled"
        with pytest.raises(ServiceError, match="409"):
            job.result()
    with Client(url) as stranger, pytest.raises(ServiceError, match="401"):
        stranger.forecast(pl.DataFrame(rows()))


def test_a_job_that_failed_says_why_however_it_is_asked(
    client: Client, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for a frame must not be told that there is no result, and search the log for it."""
    monkeypatch.setenv("TSFORMER_HOME", str(home.folder))
    data = rows()
    data["ds"][17] = data["ds"][16]
    job = client.submit("forecast", {"model": "small", "data": data, **ASKED})
    job_process.main([job.state()["run_id"], "1"])
    for ask in (job.result, lambda: job.table(pl.DataFrame())):
        with pytest.raises(ServiceError, match=r"422 .*\n- /.*: Same time stamp") as failed:
            ask()
        assert failed.value.problem["type"] == "/problems/invalid-data"


# --- a service that has a bad day -------------------------------------------------------------------


@contextmanager
def answering(*statuses: int, wait: str = "") -> Iterator[tuple[str, list[Request]]]:
    """A server that answers these statuses, one after the other, and then 200."""
    seen: list[Request] = []

    async def answer(request: Request) -> Response:
        seen.append(request)
        status = statuses[len(seen) - 1] if len(seen) <= len(statuses) else 200
        headers = {"Retry-After": wait} if wait else {}
        return JSONResponse({"items": [{"name": "a"}], "next": None}, status, headers)

    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=[Route("/v1/models", answer)]), port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", seen
    server.should_exit = True
    thread.join()


def test_a_busy_service_is_asked_again() -> None:
    """A model that loads, a rate that is used up, an ingress that dies: a script must not end by it."""
    with answering(503, 429, 502) as (url, seen), Client(url) as client:
        assert [one["name"] for one in client.models()] == ["a"]
        assert len(seen) == 4


def test_what_does_not_pass_is_not_asked_again() -> None:
    with answering(500) as (url, seen), Client(url) as client:
        with pytest.raises(ServiceError, match=r"^500"):
            [*client.models()]
        assert len(seen) == 1


def test_a_day_is_not_waited_for() -> None:
    """A proxy in maintenance may say so; a script that sleeps until tomorrow looks like a hung one."""
    with answering(503, wait="86400") as (url, seen), Client(url) as client:
        with pytest.raises(ServiceError, match=r"^503"):
            [*client.models()]
        assert len(seen) == 1
    with pytest.raises(ConfigError, match="attempts must be at least 1, got 0"):
        Client(url, attempts=0)


def test_nobody_there_is_one_sentence() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with Client(url, attempts=2) as client, pytest.raises(UnavailableError) as nobody:
            [*client.models()]
    assert str(nobody.value) == f"{url} does not answer (ConnectError; asked 2 times)."
