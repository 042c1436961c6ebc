"""The job `tune`: a search that a client orders, worked on by a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest

from pipelines.home import Home
from serving.client import Client, ServiceError
from serving.settings import Settings
from tests.panels import hourly, waves
from tests.serving.running import Running, application, listening

TINY = {"patch": 12, "stride": 12, "depth": 1, "heads": 2, "width": 8, "feedforward": 8}
SPEC = {
    "kind": "patchtst", "name": "waves", "trials": 2,
    "space": {"training.learning_rate": [1e-2, 1e-4]},
    "config": {
        "window": {"context": 48, "horizon": 12}, "model": TINY, "backtest": {"stride": 12},
        "training": {"epochs": 2, "windows_per_epoch": 64},
    },
}  # fmt: skip


@pytest.fixture
def working(empty: Home) -> Iterator[tuple[Running, Client]]:
    """A service that executes jobs, and a client."""
    settings = Settings.read({"jobs": {"at_once": 1, "look_s": 0.1}})
    for running in listening(application(empty, settings), ready=False):
        with Client(str(running.client.base_url)) as client:
            yield running, client


@pytest.mark.timeout(400)
def test_a_search_gives_its_trials_and_its_best(working: tuple[Running, Client]) -> None:
    """A team without a shell on the machine can search, and forecast with what was found."""
    _, client = working
    table = hourly(waves(2, 300))
    dataset = client.upload("waves", table)
    job = client.submit("tune", {"dataset": dataset, **SPEC})
    found = job.result(seconds=300)
    rates = {trial["parameters"]["training.learning_rate"] for trial in found["trials"]}
    assert rates == {"0.01", "0.0001"}
    losses = {trial["trial"]: trial["loss"] for trial in found["trials"]}
    assert found["best"]["loss"] == min(losses.values())
    assert found["model"]["name"] == "waves"
    answer = client.forecast(pl.DataFrame(table), {"model": "waves", "freq": "h"})
    assert len(answer.table) == 2 * 12
    assert {one["type"] for one in jobs_of(client)} == {"tune"}


def jobs_of(client: Client) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.ask("GET", "/v1/jobs").json()["items"]
    return items


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"space": {"training.no_such": [1, 2]}}, "/spec/space"),
        ({"space": {}}, "/spec/space"),
        ({"trials": 0}, "/spec/trials"),
        ({"config": {"window": {"context": -1}}}, "/spec/config/window"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once(
    working: tuple[Running, Client], change: dict[str, Any], pointer: str
) -> None:
    """Not an hour later, by a process that nobody watches."""
    _, client = working
    dataset = client.upload("waves", hourly(waves(1, 100)))
    with pytest.raises(ServiceError) as refused:
        client.submit("tune", {"dataset": dataset, **SPEC, **change})
    assert refused.value.problem["errors"][0]["pointer"] == pointer
