"""Idempotency-Key: what is sent twice is done once, and answered twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import Request, Response

from pipelines.repeats import Kept, Slot, keep, release, take
from pipelines.store import Store
from pipelines.store_tables import REPEAT
from serving.batcher import OverloadedError
from serving.callers import OPEN
from serving.problems import Problem
from serving.repeats import GOING, once
from tests.pipelines.postgres import new_database
from tests.serving.keyed import Tenants
from tests.serving.running import Running

DAY_MS = 86_400_000
SLOT = Slot("abc", "/v1/jobs", "k")


def value(y: float, name: str = "once") -> dict[str, object]:
    return {"data": {"unique_id": [name], "ds": ["2026-01-01"], "y": [y]}}


def send(service: Running, body: object, key: str) -> httpx.Response:
    return service.client.post("/v1/actuals", json=body, headers={"Idempotency-Key": key})


def test_a_repeat_is_answered_and_not_done(service: Running) -> None:
    """A client whose connection broke cannot know whether it was heard: it must be able to ask."""
    first = send(service, value(1.0), "feed-1")
    assert first.json()["inserted"] == 1
    assert "idempotency-replayed" not in first.headers
    again = send(service, value(1.0), '"feed-1"')  # quotes are optional
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.content) == (200, first.content)
    assert send(service, value(1.0), "feed-2").json()["unchanged"] == 1


def test_another_body_under_the_same_key_is_refused(service: Running) -> None:
    """A key that a script forgot to change must not swallow the second day of values."""
    send(service, value(1.0), "reused")
    reply = send(service, value(2.0), "reused")
    assert (reply.status_code, reply.json()["type"]) == (422, "/problems/idempotency-key-reused")


def test_a_refusal_is_not_kept(service: Running) -> None:
    """Whoever repairs the request sends it under the same key."""
    assert send(service, {"data": {}}, "mended").status_code == 422
    assert send(service, value(1.0, "mended"), "mended").status_code == 200


async def ask(service: Running, key: str, work: Callable[[str], Awaitable[Response]]) -> Response:
    """The answer to a request under `key` whose route does `work`."""
    headers = [(b"idempotency-key", key.encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "headers": headers}
    return await once(
        Request({**scope, "app": service.app, "state": {"caller": OPEN}}), b"{}", work
    )


async def done(_token: str) -> Response:
    return Response(b"{}", 202)


@pytest.mark.parametrize(
    "error", [OverloadedError("full"), MemoryError(), TimeoutError(), KeyError()], ids=repr
)
def test_whatever_a_request_failed_by_the_next_is_heard(service: Running, error: Exception) -> None:
    """A client that is told to repeat in two seconds must not hear for two minutes that it still runs."""

    async def failing(_token: str) -> Response:
        raise error

    with pytest.raises(type(error)):
        asyncio.run(ask(service, repr(error), failing))
    assert asyncio.run(ask(service, repr(error), done)).status_code == 202


def test_what_the_deadline_breaks_off_is_answered_to_the_next(service: Running) -> None:
    """Its thread commits all the same: whoever repeats must get that, not wait for nobody."""

    async def scenario() -> None:
        begun, going = asyncio.Event(), asyncio.Event()

        async def slow(_token: str) -> Response:
            begun.set()
            await going.wait()
            return Response(b"first", 202, {"location": "/v1/jobs/job_1"})

        first = asyncio.create_task(ask(service, "broken-off", slow))
        await begun.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        with pytest.raises(Problem) as caught:
            await ask(service, "broken-off", done)
        assert caught.value.type == "idempotency-in-progress"
        going.set()
        await asyncio.gather(*GOING)
        again = await ask(service, "broken-off", done)
        assert (again.body, again.status_code) == (b"first", 202)
        assert (again.headers["location"], again.headers["idempotency-replayed"]) == (
            "/v1/jobs/job_1", "true",
        )  # fmt: skip

    asyncio.run(scenario())


@pytest.mark.parametrize("key", ["", "a b", "x" * 129])
def test_a_key_is_visible_characters(service: Running, key: str) -> None:
    """A key that proxies fold or cut would make strangers of repeats."""
    reply = send(service, value(1.0), key)
    assert reply.json()["type"] == "/problems/malformed-header"


def test_keys_of_two_callers_do_not_meet(tenants: Tenants) -> None:
    """One tenant's key must not give another the answer to its request."""
    for tenant in ("ads", "shop"):
        reply = tenants.ask(
            "POST", "/v1/actuals", tenant=tenant, json=value(1.0), headers={"Idempotency-Key": "x"}
        )
        assert reply.json()["inserted"] == 1


def test_50_repeats_at_once_are_done_once(service: Running) -> None:
    """Law 14. A client that lost patience 50 times must not have 50 resources."""

    def one(_: int) -> httpx.Response:
        return send(service, value(3.0, "many"), "many")

    with ThreadPoolExecutor(50) as pool:
        replies = [*pool.map(one, range(50))]
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) <= {200, 409}
    done = [r for r in replies if r.is_success and "idempotency-replayed" not in r.headers]
    assert len(done) == 1
    print(
        f"50 repeats: 1 done, {statuses.count(200) - 1} replayed, {statuses.count(409)} in progress"
    )
    waiting = [reply for reply in replies if reply.status_code == 409]
    assert all(reply.headers["retry-after"] == "1" for reply in waiting)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: object) -> Store:
    if request.param == "sqlite":
        return Store.at(f"sqlite:///{tmp_path}/tsformer.db")
    return Store.at(new_database())


def test_the_turns_of_requests(store: Store) -> None:
    """Whoever comes while the first works waits; whoever comes after gets its answer."""
    first = take(store, SLOT, "body", lives_ms=DAY_MS)
    assert first.state == "new"
    assert take(store, SLOT, "body", lives_ms=DAY_MS).state == "busy"
    assert take(store, SLOT, "other", lives_ms=DAY_MS).state == "other"
    assert take(store, Slot("def", "/v1/jobs", "k"), "body", lives_ms=DAY_MS).state == "new"
    kept = Kept(201, {"location": "/x"}, b"{}")
    keep(store, SLOT, kept)
    release(store, SLOT)  # of what is done nothing is forgotten
    assert take(store, SLOT, "body", lives_ms=DAY_MS).kept == kept
    assert take(store, SLOT, "body", lives_ms=0).state == "new"  # a day later


def test_a_first_request_that_died_hands_its_name_on(store: Store) -> None:
    """It may have made its resource before it died: the next one must name it the same."""
    first = take(store, SLOT, "body", lives_ms=DAY_MS)
    with store.begin() as connection:
        connection.execute(REPEAT.update().values(held_until_ms=1))
    second = take(store, SLOT, "body", lives_ms=DAY_MS)
    assert (second.state, second.token) == ("new", first.token)
