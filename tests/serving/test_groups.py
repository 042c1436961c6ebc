"""A model that reads series side by side: one that does not fit must not cost the others theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from pipelines.course import Course
from pipelines.covariates import Covariate, Inputs
from pipelines.forecaster import Forecaster
from pipelines.recipe import Recipe
from serving import threads
from serving.settings import Settings
from tests.serving.conftest import fresh_home
from tests.serving.running import Running, application, listening, publish, series, table
from tsformer.batch import Shape
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.ridge import RidgeSpec

CONTEXT, HORIZON = 48, 4
TOGETHER = {"group": "all"}
SKIP = {"on_invalid": "skip", "group": "all"}


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
        body = {"data": alone, "freq": "h", "h": HORIZON, "options": TOGETHER}
        other = groups.post(path, body).json()
        assert answer["forecast"] == other["forecast"]
        assert "group_reduced" not in [w["code"] for w in other["warnings"]]


def test_a_series_that_ends_apart_is_named(groups: Running) -> None:
    body = {"data": rows(CONTEXT, CONTEXT - 1), "freq": "h", "options": TOGETHER}
    reply = groups.post("/v1/forecasts", body)
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


def test_any_horizon_is_served_whatever_the_trained_one(groups: Running) -> None:
    """Law 12: a model of one step is called again for each."""
    body = {"data": rows(CONTEXT), "freq": "h", "model": "step", "h": 1_001}
    answer = groups.post("/v1/forecasts", body).json()
    assert (answer["h"], len(answer["forecast"]["mean"])) == (1_001, 1_001)


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
    monkeypatch.setattr(threads, "MIB", 0)
    groups.post("/v1/forecasts", {"data": rows(CONTEXT), "freq": "h", "model": "step", "h": 2})
    assert loops == [None, None]


def named_groups(*names: object) -> dict[str, Any]:
    return {"unique_id": [f"s{n}" for n in range(len(names))], "group_id": [*names]}


def test_groups_are_the_windows_of_a_request(groups: Running) -> None:
    """Law 3, for groups: alone, in any order and beside others a group has the same numbers."""
    data = rows(*[CONTEXT] * 6)
    static = named_groups("x", "y", "x", None, "y", "x")
    body = {"data": data, "static": static, "freq": "h", "quantiles": []}
    whole = groups.post("/v1/forecasts", body)
    assert whole.status_code == 200, whole.text
    answer = whole.json()
    assert [w["code"] for w in answer["warnings"]] == []
    means = dict(zip(zip(*columns(answer), strict=True), answer["forecast"]["mean"], strict=True))
    assert answer["forecast"]["unique_id"] == [f"s{n}" for n in range(6) for _ in range(HORIZON)]
    for members in ([0, 2, 5], [1, 4], [3]):
        kept = [i for i, name in enumerate(data["unique_id"]) if int(name[1:]) in members]
        alone = {name: [cells[i] for i in kept] for name, cells in data.items()}
        one = {"data": alone, "freq": "h", "options": TOGETHER}
        found = groups.post("/v1/forecasts", one).json()
        expected = [means[key] for key in zip(*columns(found), strict=True)]
        np.testing.assert_allclose(found["forecast"]["mean"], expected, rtol=1e-5)


def columns(answer: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    return answer["forecast"]["unique_id"], answer["forecast"]["ds"]


def test_series_without_a_group_are_forecast_alone(groups: Running) -> None:
    """Who sends ten series for ten forecasts must not get them mixed."""
    data = rows(CONTEXT, CONTEXT - 3)
    both = groups.post("/v1/forecasts", {"data": data, "freq": "h"}).json()
    alone = {name: cells[CONTEXT:] for name, cells in data.items()}
    one = groups.post("/v1/forecasts", {"data": alone, "freq": "h"}).json()
    np.testing.assert_allclose(
        both["forecast"]["mean"][HORIZON:], one["forecast"]["mean"], rtol=1e-5
    )


def test_a_group_that_lost_a_member_is_the_only_one_that_says_so(groups: Running) -> None:
    """A bad series changes nothing outside its group."""
    data, static = rows(*[CONTEXT] * 5), named_groups("x", "y", "x", "y", "y")
    body = {"data": data, "static": static, "freq": "h", "options": {"on_invalid": "skip"}}
    first = groups.post("/v1/forecasts", body).json()
    data["ds"][1] = data["ds"][0]
    answer = groups.post("/v1/forecasts", body).json()
    assert [e["status"] for e in answer["series"]] == ["invalid", "ok", "ok", "ok", "ok"]
    assert [w["unique_id"] for w in answer["warnings"] if w["code"] == "group_reduced"] == ["s2"]
    y = slice(3 * HORIZON, None)
    np.testing.assert_allclose(
        answer["forecast"]["mean"][2 * HORIZON :], first["forecast"]["mean"][y], rtol=1e-5
    )


def test_groups_in_the_series_form(groups: Running) -> None:
    """The sample of the contract: two variates of one transformer."""
    found = [
        {"unique_id": name, "start": "2026-01-01T00:00:00", "y": series(CONTEXT, seed=seed),
         "static": {"group_id": "t1"}}
        for seed, name in enumerate(("HUFL", "OT"))
    ]  # fmt: skip
    answer = groups.post("/v1/forecasts", {"freq": "h", "series": found}).json()
    data = table(series(CONTEXT), series(CONTEXT, seed=1), ids=["HUFL", "OT"])
    body = {"data": data, "freq": "h", "options": TOGETHER}
    assert answer["forecast"] == groups.post("/v1/forecasts", body).json()["forecast"]


def test_a_series_in_two_groups_is_named(groups: Running) -> None:
    static = {"unique_id": ["s0", "s0"], "group_id": ["x", "y"]}
    body = {"data": rows(CONTEXT), "static": static, "freq": "h"}
    error = groups.post("/v1/forecasts", body).json()["errors"][0]
    assert (error["code"], error["pointer"]) == ("static_conflict", "/static/unique_id/1")


def test_a_group_has_a_largest_size(groups: Running) -> None:
    """Attention costs the square of the members."""
    own = groups.app.state.service
    limits = replace(own.settings.limits, variates_per_group=2)
    small = replace(own, settings=replace(own.settings, limits=limits))
    three, two = (
        {"data": rows(*[CONTEXT] * members), "freq": "h", "options": TOGETHER} for members in (3, 2)
    )
    with patch.object(groups.app.state, "service", small):  # monkeypatch would end by deleting it
        problem = groups.post("/v1/forecasts", three).json()
        assert groups.post("/v1/forecasts", two).status_code == 200
    told = (problem["status"], problem["limit"], problem["actual"])
    assert told == (413, "variates_per_group", 3)
    assert groups.post("/v1/forecasts", three).status_code == 200
