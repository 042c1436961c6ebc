"""The job `train`: a stored dataset becomes a version, and what the gate said is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.home import Home
from serving.runner import executor
from serving.settings import Settings
from tests.serving.running import Running, application, listening, series, stamps, table


@pytest.fixture
def service(empty: Home) -> Iterator[Running]:
    """A service without a model, which leaves jobs to the test."""
    settings = Settings.read({"jobs": {"at_once": 0}})
    yield from listening(application(empty, settings), ready=False)


def test_a_dataset_becomes_a_model_that_answers(service: Running, empty: Home) -> None:
    """The whole way without a shell: upload, train, ask; columns and gaps as they were stored."""
    data = table(series(400), series(400, seed=1))
    del data["ds"][50], data["y"][50], data["unique_id"][50]  # a gap, which is stored as one
    stored = service.post("/v1/datasets", {"name": "lessons", "freq": "h", "data": data}).json()
    config = {"window": {"context": 48, "horizon": 12}, "backtest": {"stride": 12}}
    spec = {"dataset": "lessons", "kind": "ridge", "name": "taught", "config": config}
    job = service.post("/v1/jobs", {"type": "train", "spec": spec}).json()
    ran = executor(empty, os.environ, Settings())
    command = [sys.executable, *ran.command[1:], job["run_id"], "1"]
    done = subprocess.run(command, env=ran.environment, capture_output=True, text=True, timeout=200)
    told = service.client.get(f"/v1/jobs/{job['id']}").json()
    assert (told["state"], told["error"]) == ("succeeded", None), done.stderr
    result = service.client.get(f"/v1/jobs/{job['id']}/result").json()
    assert result["model"]["name"] == "taught"
    assert result["metrics"]["mase"] > 0
    assert result["verdict"]
    card = service.client.get(f"/v1/models/taught/versions/{result['model']['version']}").json()
    told = card["data"]
    assert (told["dataset"], told["version"]) == ("lessons", stored["version"])
    first, *_, last = stamps(320)  # the test part, the last fifth, has scored it alone
    assert told["window"] == {"start": first, "end": last}
    asked = {"model": f"taught/{result['model']['version']}", "data": table(series()), "freq": "h"}
    assert service.post("/v1/forecasts", asked).json()["series"][0]["method"] == "direct"
    events = service.client.get(f"/v1/jobs/{job['id']}/events").text
    assert str(empty.folder) not in events
    assert "tsformer" not in events  # whoever speaks HTTP has no command line


def test_a_schedule_without_on_pass_leaves_its_candidate(service: Running, empty: Home) -> None:
    """Who wants to look before anybody is served by a model had it promoted by night."""
    data = table(series(400), series(400, seed=1))
    service.post("/v1/datasets", {"name": "looked", "freq": "h", "data": data})
    config = {"window": {"context": 48, "horizon": 12}, "backtest": {"stride": 12}}
    spec = {"dataset": "looked", "kind": "ridge", "name": "seen", "config": config}
    order = {"name": "look", "cron": "0 2 * * *", "tz": "UTC", "on_pass": None}
    reply = service.post("/v1/schedules", {**order, "job": {"type": "train", "spec": spec}})
    assert reply.status_code == 201, reply.text
    run = service.client.post("/v1/schedules/look/trigger").json()
    ran = executor(empty, os.environ, Settings())
    command = [sys.executable, *ran.command[1:], run["id"], "1"]
    done = subprocess.run(command, env=ran.environment, capture_output=True, text=True, timeout=200)
    (told,) = service.client.get("/v1/schedules/look/runs").json()["items"]
    assert told["state"] == "succeeded", done.stderr
    assert "could be, but is not to be promoted" in told["verdict"]
    assert [*service.client.get("/v1/models/seen").json()["aliases"]] == ["candidate"]


def test_a_training_that_cannot_be_is_refused(service: Running) -> None:
    """An hour in a queue for a typing error: each section is checked when it is ordered."""
    service.post("/v1/datasets", {"name": "wrong", "freq": "h", "data": table(series())})
    for change, pointer in (
        ({"kind": "crystal"}, "/spec/kind"),
        ({"name": "linear"}, "/spec/name"),
        ({"config": {"window": {"context": 0}}}, "/spec/config/window"),
        ({"config": {"training": {"epoch": 3}}}, "/spec/config/training"),
        ({"config": {"data": {"source": "/etc/passwd"}}}, "/spec/config/data"),
        ({"config": {"search": {}}}, "/spec/config"),
        ({"mode": "warm_start"}, "/spec"),
        ({"config": {"window": {"context": 48, "horizon": 20}}}, "/spec/config/window"),
        ({}, "/spec/dataset"),  # 96 rows have no window of 336 + 96
    ):
        spec = {"dataset": "wrong", "kind": "ridge", "name": "m", **change}
        reply = service.post("/v1/jobs", {"type": "train", "spec": spec})
        assert reply.status_code == 422, reply.text
        assert reply.json()["errors"][0]["pointer"] == pointer, change


CANARY = "c4nary-7d1f"


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"kind": "rigde"}, "/spec/kind", "Did you mean 'ridge'? Kinds: "),
        ({"kind": CANARY}, "/spec/kind", "Kinds: autoregression, "),
        ({"name": "linear"}, "/spec/name", "Give the model another."),
        (
            {"config": {"window": {"kontext": 56}}}, "/spec/config/window",
            "A key here is not known. Did you mean 'context'? Known: conformal, context, ",
        ),
        ({"config": {"window": {CANARY: 56}}}, "/spec/config/window", "Known: conformal, context, "),
        ({"config": {"window": {"context": CANARY}}}, "/spec/config/window",
         "'context' must be a whole number."),
        ({"config": {"window": {"context": 0}}}, "/spec/config/window",
         "'context' must be at least 1 step."),
        ({"config": {"window": {"features": [CANARY]}}}, "/spec/config/window", "Known: "),
        ({"config": {"window": {"features": [f"holidays:{CANARY}"]}}}, "/spec/config/window",
         "(holidays:US)"),
        ({"config": {"window": {"features": [f"hour:{CANARY}"]}}}, "/spec/config/window",
         "takes no argument."),
        ({"config": {"window": {"lags": [3]}}}, "/spec/config/window", "every lag must be at least 96"),
        ({"config": {"training": {"loss": CANARY}}}, "/spec/config/training", "must be one of "),
        ({"config": {"data": {"fill": CANARY}}}, "/spec/config/data", "must be none, mask or zero."),
        ({"config": {"data": {"categories": [CANARY]}}}, "/spec/config/data", "Name it in 'known'"),
        ({"config": {"data": {"past": [CANARY]}}}, "/spec/config/data", "or leave them out."),
        ({"config": {"data": {CANARY: 1}}}, "/spec/config/data", "are none of known, past, "),
        ({"config": {"baselines": [CANARY]}}, "/spec/config/baselines", "Kinds: "),
        ({"config": {"gate": {"metric": CANARY}}}, "/spec/config/gate", "must be one of "),
        ({"config": {"backtest": {"coverage": 2.0}}}, "/spec/config/backtest",
         "must lie between 0 and 1."),
        ({"kind": "patchtst", "config": {"model": {"dropout": 1}}}, "/spec/config/model",
         "dropout must be in [0, 1)."),
        ({"config": {"training": {"epochs": 0}, "window": {"context": 0}}}, "/spec/config/training",
         "epochs must be at least 1"),  # the words are of the place that is pointed to
        ({"space": {f"model.{CANARY}": [1, 2]}}, "/spec/space", "Known: "),
        ({"space": {"training.epochs": [CANARY, 2]}}, "/spec/space", "'epochs' must be a whole number."),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_with_a_training_is_told_in_our_words(
    service: Running, change: dict[str, Any], pointer: str, words: str
) -> None:
    """ "Not as the guide says" sent a newcomer to 600 lines for one letter."""
    service.post("/v1/datasets", {"name": "named", "freq": "h", "data": table(series())})
    kind = "tune" if "space" in change else "train"
    spec = {"dataset": "named", "kind": "ridge", "name": "m", **change}
    reply = service.post("/v1/jobs", {"type": kind, "spec": spec})
    (item,) = reply.json()["errors"]
    assert (reply.status_code, item["pointer"]) == (422, pointer), reply.text
    assert words in item["message"]
    assert CANARY not in reply.text
    assert "got " not in reply.text
