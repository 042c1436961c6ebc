"""A model that reads series side by side: one that does not fit must not cost the others theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.course import Course
from pipelines.covariates import Covariate, Inputs
from pipelines.forecaster import Forecaster, Recipe
from serving import answers
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.running import Running, application, listening, publish, series, table
from tsformer.batch import Shape
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.ridge import RidgeSpec

CONTEXT, HORIZON = 48, 4
SKIP = {"on_invalid": "skip"}


def forecaster(spec: Any, *, horizon: int, inputs: Inputs = Inputs(), joint: bool) -> Forecaster:  # noqa: B008
    torch.manual_seed(2)
    shape = Shape(context=CONTEXT, horizon=horizon, past=(0,) * len(inputs.past))
    recipe = Recipe("h", 24, CONTEXT, 24, horizon, inputs, joint)
    return Forecaster(spec.build(shape), spec=spec, recipe=recipe, device="cpu")


@pytest.fixture(scope="module")
def groups(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    home = fresh_home(tmp_path_factory.mktemp("groups"), database)
    spec = ITransformerSpec(width=16, heads=2, feedforward=16, depth=1)
    rain = Inputs(past=(Covariate("rain"),))
    made = {
        "group": forecaster(spec, horizon=HORIZON, joint=True),
        "rainy": forecaster(spec, horizon=HORIZON, inputs=rain, joint=True),
        "step": forecaster(RidgeSpec(), horizon=1, joint=False),
    }
    for name, one in made.items():
        publish(home, name, one, tmp_path_factory.mktemp("artifact") / name)
    yield from listening(application(home, Settings.read({"models": {"default": "group"}})))


def rows(*lengths: int) -> dict[str, Any]:
    return table(*(series(length, seed=seed) for seed, length in enumerate(lengths)))


@pytest.mark.parametrize("odd", [0, 1, 2])
@pytest.mark.parametrize("path", ["/v1/forecasts", "/v1/compare"])
def test_a_series_that_ends_apart_is_skipped_alone(groups: Running, odd: int, path: str) -> None:
    """Even the first, with which the others were compared."""
    lengths = [CONTEXT - (place == odd) for place in range(3)]
    body: dict[str, Any] = {"data": rows(*lengths), "freq": "h", "h": HORIZON, "options": SKIP}
    body |= {"models": ["group"]} if path.endswith("compare") else {}
    reply = groups.post(path, body)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    entries = (answer["forecasts"][0] if "forecasts" in answer else answer)["series"]
    assert [e["status"] for e in entries] == ["invalid" if n == odd else "ok" for n in range(3)]
    assert [error["code"] for error in entries[odd]["errors"]] == ["group_misaligned"]
    reduced = [w["unique_id"] for w in answer["warnings"] if w["code"] == "group_reduced"]
    assert reduced == [f"s{n}" for n in range(3) if n != odd]
    if path.endswith("forecasts"):
        kept = [i for i, name in enumerate(body["data"]["unique_id"]) if name != f"s{odd}"]
        alone = {name: [cells[i] for i in kept] for name, cells in body["data"].items()}
        other = groups.post(path, {"data": alone, "freq": "h", "h": HORIZON}).json()
        assert answer["forecast"] == other["forecast"]
        assert "group_reduced" not in [w["code"] for w in other["warnings"]]


def test_a_series_that_ends_apart_is_named(groups: Running) -> None:
    reply = groups.post("/v1/forecasts", {"data": rows(CONTEXT, CONTEXT - 1), "freq": "h"})
    assert (reply.status_code, reply.json()["type"]) == (422, "/problems/invalid-data")
    assert reply.json()["errors"][0]["code"] == "group_misaligned"


def test_series_with_covariates_of_their_own_are_skipped_alone(groups: Running) -> None:
    data = rows(CONTEXT, CONTEXT, CONTEXT)
    data["rain"] = [1.0] * (2 * CONTEXT) + [2.0] * CONTEXT
    body = {"data": data, "freq": "h", "model": "rainy", "options": SKIP}
    reply = groups.post("/v1/forecasts", body)
    assert reply.status_code == 200, reply.text
    assert [entry["status"] for entry in reply.json()["series"]] == ["ok", "ok", "invalid"]


@pytest.mark.parametrize("bad", ["short", "invalid"])
def test_a_window_without_a_member_says_so(groups: Running, bad: str) -> None:
    """Its numbers are not those of the whole group, however the member fell out."""
    data = rows(CONTEXT, CONTEXT, CONTEXT)
    if bad == "invalid":
        data["ds"][1] = data["ds"][0]
    else:
        data = {name: cells[CONTEXT - 5 :] for name, cells in data.items()}
    answer = groups.post("/v1/forecasts", {"data": data, "freq": "h", "options": SKIP}).json()
    warned = [w["unique_id"] for w in answer["warnings"] if w["code"] == "group_reduced"]
    assert warned == ["s1", "s2"]


def test_a_forecast_is_no_endless_chain(groups: Running) -> None:
    """4,096 calls of a model, each after the one before it, would outlast every deadline."""
    data = rows(CONTEXT)
    body = {"data": data, "freq": "h", "model": "step", "h": 1_001}
    problem = groups.post("/v1/forecasts", body).json()
    assert (problem["status"], problem["type"]) == (422, "/problems/invalid-request")
    assert problem["errors"][0]["pointer"] == "/h"
    assert "1,000 steps" in problem["errors"][0]["message"]
    assert groups.post("/v1/forecasts", body | {"h": 2}).json()["h"] == 2


def test_the_questions_of_a_large_body_leave_the_loop_free(
    groups: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of ten thousand series would hold every other request while it is laid out."""
    loops: list[object] = []
    question = Course.question

    def seen(*arguments: Any) -> Any:
        loops.append(asyncio._get_running_loop())
        return question(*arguments)

    monkeypatch.setattr(Course, "question", seen)
    monkeypatch.setattr(answers, "MIB", 0)
    groups.post("/v1/forecasts", {"data": rows(CONTEXT), "freq": "h", "model": "step", "h": 2})
    assert loops == [None, None]
