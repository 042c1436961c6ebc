"""Fine-tuning by the Nixtla client: jobs of this service, and models that are listed and removed."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import job
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.recipe import Recipe
from pipelines.registry import Registry
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.nixtla_client import VERSIONS, Nixtla, nixtla
from tests.serving.running import Running, application, listening, publish, series, stamps, table
from tsformer.batch import Shape
from tsformer.errors import UnavailableError
from tsformer.models.patchtst import PatchTSTSpec
from tsformer.models.ridge import RidgeSpec

PREFIX = "/compat/nixtla/v2"
ROWS = 400
CONTEXT, HORIZON = 48, 12


def base(until: str) -> Forecaster:
    """A network that has seen the rows before `until`."""
    torch.manual_seed(3)
    spec = PatchTSTSpec(width=16, heads=2, feedforward=16, depth=1)
    seen = round(datetime.fromisoformat(f"{until}+00:00").timestamp() * 1e6)
    recipe = Recipe("h", 24, CONTEXT, CONTEXT, HORIZON, trained_until=seen, fitted_until=seen)
    model = spec.build(Shape(context=CONTEXT, horizon=HORIZON))
    return Forecaster(model, spec=spec, recipe=recipe, device="cpu")


@pytest.fixture(scope="module")
def home(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The default model, one that has seen everything, and one without weights to begin with."""
    made = fresh_home(tmp_path_factory.mktemp("tuned"), database)
    ridge = Forecaster(
        RidgeSpec().build(Shape(context=CONTEXT, horizon=HORIZON)),
        spec=RidgeSpec(),
        recipe=replace(base("2026-01-02").recipe),
        device="cpu",
    )
    for name, one in (
        ("small", base("2026-01-02")),
        ("late", base("2027-01-01")),
        ("line", ridge),
    ):
        publish(made, name, one, tmp_path_factory.mktemp("artifact") / name)
    return made


@pytest.fixture(scope="module")
def service(home: Home) -> Iterator[Running]:
    """The application, which leaves jobs to the test."""
    patch = pytest.MonkeyPatch()
    patch.setenv("TSFORMER_HOME", str(home.folder))  # where the jobs look
    settings = {"models": {"default": "small", "poll_s": 0.2}, "jobs": {"at_once": 0}}
    yield from listening(application(home, Settings.read(settings)))
    patch.undo()


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[Nixtla]:
    with nixtla(VERSIONS[0], f"{service.client.base_url}/compat/nixtla") as running:
        yield running


def rows() -> dict[str, Any]:
    return table(series(ROWS), series(ROWS, seed=1))


def body(**changes: Any) -> dict[str, Any]:
    own = {"y": series(ROWS), "sizes": [ROWS], "start_datetime": stamps(1)}
    return {"series": own, "model": "timegpt-1", "freq": "h", "finetune_depth": 5, **changes}


def work_on_the_next(service: Running) -> threading.Thread:
    """Works on the first job that waits, as its own process would, while the caller waits."""

    def found() -> None:
        while True:
            items = service.client.get("/v1/jobs").json()["items"]
            waiting = [each["id"] for each in items if each["state"] == "pending"]
            if waiting:
                job.main([waiting[0].removeprefix("job_"), "1"])
                return
            time.sleep(0.1)

    thread = threading.Thread(target=found, daemon=True)
    thread.start()
    return thread


def test_a_model_is_tuned_listed_asked_and_removed(
    service: Running, client: Nixtla, home: Home
) -> None:
    """The script of a user of the client, from fine-tuning to clearing up."""
    worker = work_on_the_next(service)
    args = {"freq": "h", "finetune_steps": 3, "finetune_loss": "mae"}  # and the client's depth, 1
    assert client.get("finetune", rows(), output_model_id="mine", **args) == "mine"
    worker.join()
    assert client.get("finetune", rows(), output_model_id="mine", **args) == "mine"  # the same job
    (made,) = service.client.get("/v1/jobs").json()["items"]
    assert (made["type"], made["progress"]["total"]) == ("train", 3)
    told = service.client.get(f"{PREFIX}/finetune/jobs/{made['id']}").json()
    assert (told["status"], told["result"]) == ("succeeded", {"finetuned_model_id": "mine"})

    (one,) = client.get("finetuned_models")
    assert one == client.get("finetuned_model", finetuned_model_id="mine")
    assert {name: one[name] for name in ("id", "steps", "depth", "loss", "base_model_id")} == {
        "id": "mine", "steps": 3, "depth": 5, "loss": "mae", "base_model_id": "small/1",
    }  # fmt: skip
    found = client.get("forecast", rows(), h=4, freq="h", finetuned_model_id="mine")
    version = service.client.get("/v1/models/mine").json()["aliases"]["champion"]["version"]
    made_of = Registry(home).describe(f"mine/{version}")
    assert (made_of.kind, made_of.card["parent"]) == ("patchtst", "small/1")
    asked = {"data": rows(), "h": 4, "freq": "h", "model": f"mine/{version}"}
    wanted = service.post("/v1/forecasts", asked).json()["forecast"]["mean"]
    assert found["TimeGPT"] == pytest.approx(wanted, abs=1e-5)
    before = client.get("forecast", rows(), h=4, freq="h")["TimeGPT"]
    assert found["TimeGPT"] != pytest.approx(before, abs=1e-3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.entries.withdraw", _away)
        assert client.get("delete_finetuned_model", finetuned_model_id="mine") is False
    assert client.get("delete_finetuned_model", finetuned_model_id="mine") is True  # it goes on
    assert service.client.get("/v1/models/mine").json()["versions"] == []
    assert client.get("finetuned_models") == []
    assert client.get("delete_finetuned_model", finetuned_model_id="mine") is False
    for method, more in (("finetuned_model", {}), ("forecast", {"h": 4, "freq": "h"})):
        frames = {"df": rows()} if more else {}
        gone = client.ask(method, frames=frames, finetuned_model_id="mine", **more)
        assert gone["status"] == 404, gone
    assert service.post("/v1/forecasts", asked).status_code == 404
    again = client.get("jobs.finetune", rows(), output_model_id="mine", **args)
    assert again != made["id"]  # whose model is gone
    assert service.client.post(f"{PREFIX}/async/jobs/{again}/cancel").status_code == 202


def _away(*_arguments: Any) -> None:
    raise UnavailableError("MLflow is away")


def test_the_repeat_joins_the_job_that_runs(service: Running) -> None:
    """After 504 the client sends the same body again: that must not train a second model."""
    sent, hurry = body(output_model_id="twice"), {"x-request-timeout-ms": "1500"}
    for _ in range(2):
        reply = service.post(f"{PREFIX}/finetune", sent, **hurry)
        assert (reply.status_code, reply.json()["type"]) == (504, "/problems/deadline-exceeded")
    jobs = service.client.get("/v1/jobs").json()["items"]
    (mine,) = [each["id"] for each in jobs if each["state"] == "pending"]
    submitted = service.post(f"{PREFIX}/finetune/async", sent)
    assert (submitted.status_code, submitted.json()["job_id"]) == (202, mine)
    other = service.post(f"{PREFIX}/finetune/async", {**sent, "finetune_steps": 11}).json()
    assert other["job_id"] != mine
    for name in (mine, other["job_id"]):
        service.client.post(f"{PREFIX}/async/jobs/{name}/cancel")


def test_a_model_that_has_seen_the_test_part_is_not_tuned(service: Running, client: Nixtla) -> None:
    """Its scores would be too good; the client hears it at once, and does not try again."""
    worker = work_on_the_next(service)
    found = client.ask("finetune", frames={"df": rows()}, freq="h", finetune_depth=5, model="late")
    worker.join()
    assert (found["status"], found["problem"]["type"]) == (422, "/problems/invalid-data")
    assert "has seen rows until" in found["problem"]["detail"]


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "too deep": ({"finetune_depth": 6}, 422, "/finetune_depth"),
    "a loss of others": ({"finetune_loss": "smape"}, 422, "/finetune_loss"),
    "no steps": ({"finetune_steps": 0}, 422, "/finetune_steps"),
    "too many steps": ({"finetune_steps": 10_001}, 422, "/finetune_steps"),
    "a rule": ({"model": "seasonal_naive"}, 422, "/model"),
    "an equation": ({"model": "line"}, 422, "/model"),
    "nobody": ({"model": "nobody"}, 404, "/model"),
    "nobody tuned": ({"finetuned_model_id": "nobody"}, 404, "/finetuned_model_id"),
    "another step": ({"freq": "D"}, 422, "/freq"),
    "the name of a model": ({"output_model_id": "small"}, 422, "/output_model_id"),
    "the name of a baseline": ({"output_model_id": "linear"}, 422, "/output_model_id"),
    "no name": ({"output_model_id": "../x"}, 422, "/output_model_id"),
    "no starts": ({"series": {"y": series(ROWS), "sizes": [ROWS]}}, 422, "/series"),
    "covariates": (
        {"series": {"y": [1.0], "sizes": [1], "X": [[1.0]]}}, 422, "/series",
    ),
    "other sizes": (
        {"series": {"y": [1.0], "sizes": [2], "start_datetime": stamps(1)}}, 422, "/series/sizes",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "status", "pointer"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused_by_name(
    service: Running, changes: dict[str, Any], status: int, pointer: str
) -> None:
    """A wish that is left aside in silence would be found out by its forecasts."""
    for path in ("finetune", "finetune/async"):
        reply = service.post(f"{PREFIX}/{path}", body(**changes))
        assert reply.status_code == status, reply.text
        assert reply.json()["errors"][0]["pointer"] == pointer
    options = {"job_options": {"timeout_seconds": 9}}
    timed = service.post(f"{PREFIX}/finetune/async", body(**options))
    assert timed.json()["errors"][0]["pointer"] == "/job_options/timeout_seconds"


def test_what_was_not_fine_tuned_is_not_removed_here(service: Running) -> None:
    """A typing error must not take the model away that everybody is served by."""
    assert service.client.delete(f"{PREFIX}/finetuned_models/small").status_code == 404
    assert service.client.get(f"{PREFIX}/finetuned_models/small").status_code == 404
    assert service.client.get("/v1/models/small").status_code == 200


def test_no_request_waits_for_the_disk_of_another(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the body is: a disk takes as long, and the loop answers nobody meanwhile."""
    loops, fsync = list[bool](), os.fsync

    def watched(file: int) -> None:
        loops.append(has_loop())
        fsync(file)

    monkeypatch.setattr(os, "fsync", watched)
    reply = service.post(f"{PREFIX}/finetune/async", body(finetune_steps=1, output_model_id="disk"))
    assert reply.status_code == 202, reply.text
    assert loops
    assert not any(loops)
    cancelled = service.client.post(f"{PREFIX}/async/jobs/{reply.json()['job_id']}/cancel")
    assert cancelled.status_code == 202


def has_loop() -> bool:
    """Whether a loop of events runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
