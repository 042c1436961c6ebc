"""Promotion and rollback over HTTP: whoever is second is told so, and nobody's forecast is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.audit import entries
from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.store import Store
from serving.settings import Settings
from tests.figures import Told
from tests.serving.conftest import fresh_home
from tests.serving.keyed import Ring, new_ring, prefix_of
from tests.serving.running import (
    CONTEXT,
    Running,
    application,
    forecaster,
    listening,
    publish,
    series,
    table,
)

CHAMPION = "/v1/models/wind/aliases/champion"
ROLLBACK = "/v1/models/wind/rollback"
VERSIONS = 3


@pytest.fixture(scope="module")
def stable(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with three versions of `wind`; the last was promoted last."""
    home = fresh_home(tmp_path_factory.mktemp("stable"), database)
    for seed in range(VERSIONS):
        folder = tmp_path_factory.mktemp("artifact") / "wind"
        publish(home, "wind", forecaster(seed=seed), folder)
    return home


@pytest.fixture(scope="module")
def ring(stable: Home) -> Ring:
    return new_ring(stable)


@pytest.fixture(scope="module")
def wind(stable: Home, ring: Ring) -> Iterator[Running]:
    """A service of `wind`, whose client holds an operator's key."""
    settings = Settings.read(
        {
            "models": {"default": "wind", "poll_s": 0.2},
            "limits": {"requests_per_minute": 100_000},
        }
    )
    for running in listening(application(stable, settings)):
        running.client.headers.update(ring.headers("operator"))
        yield running


def etag(wind: Running, alias: str = "champion") -> str:
    found: str = wind.client.get("/v1/models/wind").json()["aliases"][alias]["etag"]
    return found


def put(wind: Running, version: str, *, path: str = CHAMPION, **headers: str) -> httpx.Response:
    return wind.client.put(path, json={"version": version, "reason": "a test"}, headers=headers)


def test_a_promotion_moves_from_what_was_seen(wind: Running, stable: Home, ring: Ring) -> None:
    """The answer is where the next one begins, and the audit knows whose key it was."""
    before = etag(wind)
    reply = put(wind, "1", **{"If-Match": before})
    assert reply.status_code == 200, reply.text
    moved = reply.json()
    assert (moved["name"], moved["alias"], moved["version"]) == ("wind", "champion", "1")
    assert reply.headers["etag"] == moved["etag"] == etag(wind) != before
    assert moved["since"].endswith("Z")
    again = put(wind, "1", **{"If-Match": moved["etag"]})
    assert (again.status_code, again.headers["etag"]) == (200, moved["etag"])
    with Store.of(stable).read() as connection:
        last = entries(connection)[-1]
    assert (last.who, last.role) == (f"key {prefix_of(ring.operator)}", "operator")
    assert (last.what, last.subject, last.after) == ("promote", "wind@champion", "1")
    assert (last.reason, last.request_id) == ("a test", reply.headers["x-request-id"])


def test_who_saw_something_else_is_told_where_it_is_now(wind: Running) -> None:
    """Law 14, one after the other: the second decided on what is no longer so."""
    before = etag(wind)
    now = wind.client.get("/v1/models/wind").json()["aliases"]["champion"]["version"]
    other, third = (str(v) for v in range(1, VERSIONS + 1) if str(v) != now)
    assert put(wind, other, **{"If-Match": before}).status_code == 200
    late = put(wind, third, **{"If-Match": before})
    assert (late.status_code, late.json()["type"]) == (412, "/problems/precondition-failed")
    assert late.json()["etag"] == etag(wind)
    assert wind.client.get("/v1/models/wind").json()["aliases"]["champion"]["version"] == other


def test_of_two_at_once_one_moves(wind: Running, record_property: Told) -> None:
    """F19: two operators must not both believe that theirs is champion."""
    for _ in range(3):
        before = etag(wind)
        now = wind.client.get("/v1/models/wind").json()["aliases"]["champion"]["version"]
        others = [str(v) for v in range(1, VERSIONS + 1) if str(v) != now]
        barrier = threading.Barrier(len(others))

        def attempt(version: str, before: str = before, barrier: Any = barrier) -> httpx.Response:
            barrier.wait()
            return put(wind, version, **{"If-Match": before})

        with ThreadPoolExecutor(len(others)) as pool:
            replies = [*pool.map(attempt, others)]
        assert sorted(reply.status_code for reply in replies) == [200, 412]
        won = next(reply for reply in replies if reply.status_code == 200)
        assert etag(wind) == won.headers["etag"]
    record_property("F19", "3 of 3 times one of two requests got 200, the other 412")


@pytest.mark.parametrize(
    ("headers", "status", "type"),
    [
        ({}, 428, "precondition-required"),
        ({"If-None-Match": "*"}, 412, "precondition-failed"),
        ({"If-Match": 'W/"champion-1"'}, 412, "precondition-failed"),
        ({"If-Match": '"champion-999", "champion-998"'}, 412, "precondition-failed"),
        ({"If-Match": "champion-1"}, 400, "malformed-header"),
        ({"If-None-Match": '"champion-1"'}, 400, "malformed-header"),
        ({"If-Match": "*", "If-None-Match": "*"}, 412, "precondition-failed"),
    ],
    ids=str,
)
def test_conditions_that_do_not_hold_change_nothing(
    wind: Running, headers: dict[str, str], status: int, type: str
) -> None:
    before = etag(wind)
    reply = put(wind, "2", **headers)
    assert (reply.status_code, reply.json()["type"]) == (status, f"/problems/{type}")
    assert etag(wind) == before


def test_a_new_alias_is_made_once(wind: Running) -> None:
    path = "/v1/models/wind/aliases/shadow"
    assert put(wind, "1", path=path, **{"If-Match": "*"}).status_code == 412
    made = put(wind, "1", path=path, **{"If-None-Match": "*"})
    assert (made.status_code, made.json()["previous"]) == (200, None)
    assert put(wind, "2", path=path, **{"If-None-Match": "*"}).status_code == 412
    body = {"data": table(series()), "freq": "h", "model": "wind@shadow"}
    assert wind.post("/v1/forecasts", body).json()["model"]["version"] == "1"


def test_what_is_not_there_is_not_found(wind: Running) -> None:
    anything = {"If-Match": "*"}
    assert put(wind, "99", **anything).status_code == 404
    assert put(wind, "1", path="/v1/models/nobody/aliases/champion", **anything).status_code == 404
    assert put(wind, "1", path="/v1/models/linear/aliases/champion", **anything).status_code == 404
    for alias in ("UP", "latest", "v2"):  # the last two MLflow keeps for itself
        reply = put(wind, "1", path=f"/v1/models/wind/aliases/{alias}", **anything)
        assert reply.status_code == 422
    assert "latest" in reply.json()["detail"]
    assert "latest" not in wind.client.get("/v1/models/wind").text
    body = {"from_version": "1"}
    assert wind.post("/v1/models/nobody/rollback", body).status_code == 404
    reply = wind.post(ROLLBACK, {"alias": "nowhere", **body})
    assert (reply.status_code, reply.json()["type"]) == (404, "/problems/not-found")


def test_what_the_gate_refused_needs_an_override_with_a_reason(wind: Running, stable: Home) -> None:
    """A refusal that a script can pass by accident protects nobody."""
    Registry(stable).annotate("wind/3", "It is worse.", passed=False)
    put(wind, "1", **{"If-Match": "*"})
    refused = put(wind, "3", **{"If-Match": "*"})
    assert (refused.status_code, refused.json()["type"]) == (409, "/problems/wrong-state")
    assert "It is worse." in refused.json()["detail"]
    assert '"override": true' in refused.json()["detail"]
    other = {"path": "/v1/models/wind/aliases/live", "If-None-Match": "*"}
    assert put(wind, "3", **other).status_code == 409  # whatever is asked for by an alias
    silent = {"version": "3", "override": True}
    reply = wind.client.put(CHAMPION, json=silent, headers={"If-Match": "*"})
    assert (reply.status_code, reply.json()["errors"][0]["pointer"]) == (422, "/reason")
    said = silent | {"reason": "The data of the gate were wrong."}
    reply = wind.client.put(CHAMPION, json=said, headers={"If-Match": "*"})
    assert reply.status_code == 200, reply.text
    card = wind.client.get("/v1/models/wind/versions/3").json()
    assert (card["gate"], card["gate_reason"]) == ("refused", "It is worse.")
    assert wind.client.get("/v1/models/wind/versions/1").json()["gate_reason"] == ""
    Registry(stable).annotate("wind/3", "It is better.", passed=True)


def test_a_rollback_that_is_sent_twice_moves_once(wind: Running, record_property: Told) -> None:
    """F19: a repeated click must not bring back what was left for good reason."""
    put(wind, "1", **{"If-Match": "*"})
    put(wind, "2", **{"If-Match": "*"})
    body = {"alias": "champion", "from_version": "2", "reason": "too high"}
    with ThreadPoolExecutor(4) as pool:
        replies = [*pool.map(lambda _: wind.post(ROLLBACK, body), range(4))]
    assert sorted(reply.status_code for reply in replies) == [200, 409, 409, 409]
    record_property("F19", "one of 4 rollbacks at once got 200, three 409")
    done = next(reply for reply in replies if reply.status_code == 200)
    assert (done.json()["version"], done.headers["etag"]) == ("1", etag(wind))
    other = wind.post(ROLLBACK, body | {"from_version": "1"})
    assert (other.status_code, other.json()["type"]) == (409, "/problems/wrong-state")
    assert "PUT /v1/models/wind/aliases/champion" in other.json()["detail"]
    assert "tsformer" not in other.json()["detail"]  # whoever speaks HTTP has no command line


def test_an_alias_that_is_not_there_is_set_over_http(wind: Running) -> None:
    body = {"data": table(series()), "freq": "h", "model": "wind@nowhere"}
    reply = wind.post("/v1/forecasts", body)
    assert reply.status_code == 404
    assert "It has @" in reply.json()["detail"]
    assert "PUT /v1/models/wind/aliases/nowhere" in reply.json()["detail"]
    assert "tsformer" not in reply.text


def test_who_may_move_an_alias(wind: Running, ring: Ring) -> None:
    for who, status in (("reader", 403), ("forecaster", 403), ("bad", 401)):
        assert put(wind, "1", **ring.headers(who)).status_code == status
        assert wind.post(ROLLBACK, {}, **ring.headers(who)).status_code == status


def test_an_alias_that_was_moved_by_hand_has_a_new_etag(wind: Running, stable: Home) -> None:
    """Who works in MLflow's page must not be overrun by who saw the old state."""
    put(wind, "1", **{"If-Match": "*"})
    before = etag(wind)
    with Registry(stable).link.writing() as client:
        client.set_registered_model_alias("wind", "champion", "2")
    model = wind.client.get("/v1/models/wind").json()
    assert model["aliases"]["champion"]["version"] == "2"
    assert model["aliases"]["champion"]["etag"] != before
    assert put(wind, "3", **{"If-Match": before}).status_code == 412


def test_promotions_under_load_lose_no_request(wind: Running) -> None:
    """Laws 9 and 14: each answer names one version, is that version's, and follows within seconds."""
    body = {"data": table(series(CONTEXT)), "freq": "h", "h": 4}
    expected = {
        str(v): wind.post("/v1/forecasts", body | {"model": f"wind/{v}"}).json()["forecast"]["mean"]
        for v in range(1, VERSIONS + 1)
    }
    seen: list[tuple[str, list[float]]] = []
    failed: list[str] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            reply = wind.post("/v1/forecasts", body)
            if reply.status_code != 200:
                failed.append(reply.text)
                return
            answer = reply.json()
            seen.append((answer["model"]["version"], answer["forecast"]["mean"]))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    slowest = 0.0
    try:
        for move in range(6):
            version = str(1 + move % VERSIONS)
            started = time.monotonic()
            assert put(wind, version, **{"If-Match": "*"}).status_code == 200
            while wind.post("/v1/forecasts", body).json()["model"]["version"] != version:
                assert time.monotonic() - started < 20
                time.sleep(0.02)
            slowest = max(slowest, time.monotonic() - started)
    finally:
        done.set()
        for asker in askers:
            asker.join()
    assert failed == []
    assert {version for version, _ in seen} == set(expected)
    for version, mean in seen:
        assert mean == pytest.approx(expected[version], rel=1e-5)
    print(
        f"{len(seen)} forecasts over 6 moves, none lost; a move was followed after {slowest:.2f} s"
    )
