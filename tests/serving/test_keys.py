"""Who may do what: every route, every kind of caller, here and from another machine (law 13)."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.keys import revoke_key
from pipelines.store import Store
from serving import keys as serving_keys
from serving.callers import caller_of, check_routes, needs
from serving.keys import KeyRing
from serving.settings import Settings
from tests.figures import Told
from tests.serving.conftest import fresh_home
from tests.serving.keyed import ANN, Ring, new_key, new_ring, prefix_of
from tests.serving.nixtla_client import VERSIONS, nixtla
from tests.serving.running import Running, application, listening, publish, series, table
from tsformer.errors import ConfigError, UnavailableError

CALLERS = ("no key", "bad", "expired", "revoked", "reader", "forecaster", "operator")
RANK = {"reader": 1, "forecaster": 2, "operator": 3}
# Section 12 of the contract, written down once more: not what the routes say of themselves.
ANYONE = (
    "/health/live", "/health/ready", "/ping", "/v2/health/live", "/v2/health/ready",
    "/problems/{type}", "/", "/assets/{name}",
)  # fmt: skip
HERE_ANYONE = ("/docs", "/openapi.json")
FORECASTING = (
    "forecasts", "compare", "validations", "future-frames", "explanations", "anomalies", "actuals",
)  # fmt: skip
FINE_TUNING = ("finetune", "finetune/async", "finetuned_models/{id}")  # of the Nixtla client
THERE = ("192.0.2.7", 4711)  # a machine elsewhere


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory, database: Path, model: Forecaster) -> Home:
    """A home with a model and keys."""
    made = fresh_home(tmp_path_factory.mktemp("locked"), database)
    publish(made, "small", model, tmp_path_factory.mktemp("artifact") / "small")
    return made


@pytest.fixture(scope="module")
def ring(locked: Home) -> Ring:
    return new_ring(locked)


@pytest.fixture(autouse=True)
def _many_wrong_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """All callers here have one address; test_rate.py has what becomes of who tries keys."""
    monkeypatch.setattr("serving.failures.MOST", 100_000)


@pytest.fixture(scope="module")
def guarded(locked: Home, ring: Ring) -> Iterator[Running]:
    """A service with keys, which clients know by two more names."""
    assert ring  # before the service, which is open until there is a key
    settings = Settings.read(
        {
            "server": {"allowed_hosts": ["forecast.example.org", "192.0.2.1"]},
            "models": {"default": "small"},
            "limits": {"requests_per_minute": 1_000},
        }
    )
    yield from listening(application(locked, settings))


def needed(method: str, path: str) -> str:
    """The role that the contract demands of a route."""
    if method == "GET":
        return "reader"
    if path.removeprefix("/compat/nixtla/v2/") in FINE_TUNING:
        return "operator"
    if re.fullmatch(r"/v2/.*/infer|/invocations|/compat/nixtla/v2/.*", path):
        return "forecaster"
    if path.removeprefix("/v1/") in FORECASTING or path in ("/v1/jobs", "/v1/jobs/{id}/cancel"):
        return "forecaster"
    return "operator"


def expected(method: str, path: str, who: str, *, local: bool) -> int | None:
    """401, 403, or None for a caller that is let in."""
    if path in ANYONE or (local and path in HERE_ANYONE):
        return None
    if who not in RANK:
        return 401
    return None if RANK[who] >= RANK[needed(method, path)] else 403


def routes(app: FastAPI) -> list[tuple[str, str]]:
    return [
        (method, route.path)
        for route in iter_route_contexts(app.routes)
        for method in sorted(route.methods or ())
    ]


async def answers(app: FastAPI, ring: Ring, peer: tuple[str, int]) -> dict[tuple[str, ...], Any]:
    """What every caller gets on every route, asked from `peer`."""
    base = "http://localhost" if peer[0] == "127.0.0.1" else "http://192.0.2.1"
    transport = httpx.ASGITransport(app, client=peer)
    found = {}
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:
        for method, path in routes(app):
            for who in CALLERS:
                address = re.sub(r"\{\w+\}", "x", path)
                reply = await client.request(method, address, headers=ring.headers(who))
                found[method, path, who] = reply
    return found


@pytest.mark.parametrize("peer", [("127.0.0.1", 4711), THERE], ids=["here", "elsewhere"])
def test_every_route_lets_in_whom_the_contract_says(
    guarded: Running, ring: Ring, record_property: Told, peer: tuple[str, int]
) -> None:
    """S1: one forgotten route is a way in. The routes are those of the application itself."""
    local = peer != THERE
    found = asyncio.run(answers(guarded.app, ring, peer))
    wrong = {}
    for (method, path, who), reply in found.items():
        status = expected(method, path, who, local=local)
        if (reply.status_code if reply.status_code in (401, 403) else None) != status:
            wrong[method, path, who] = (reply.status_code, status)
        if status is not None:
            name = {401: "unauthenticated", 403: "forbidden"}[status]
            assert reply.json()["type"] == f"/problems/{name}"
            assert (reply.headers.get("www-authenticate") == "Bearer") == (status == 401)
    assert wrong == {}
    assert len(found) >= 10 * len(CALLERS)
    assert {*FINE_TUNING} <= {path.removeprefix("/compat/nixtla/v2/") for _, path, _ in found}
    where = "this machine" if local else "elsewhere"
    told = f"{len(found)} cells of {len(found) // len(CALLERS)} routes asked from {where}, 0 wrong"
    record_property("S1", told)


def test_a_forbidden_caller_learns_which_role_is_needed(guarded: Running, ring: Ring) -> None:
    """Without it a user cannot know which key to ask an operator for."""
    problem = guarded.post("/v1/forecasts", {}, **ring.headers("reader")).json()
    assert problem["role"] == "forecaster"
    assert "forecaster" in problem["detail"]


@pytest.mark.parametrize(
    "sent", ["Basic a2V5OmtleQ==", "Bearer", "Bearer a b", "c4nary", "Bearer c4nary"]
)
def test_what_is_no_key_is_refused_and_not_repeated(guarded: Running, sent: str) -> None:
    """Law 11: a secret in the wrong header must not come back, nor be asked for as a password."""
    reply = guarded.client.get("/v1/models", headers={"Authorization": sent})
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert "c4nary" not in reply.text


def test_the_key_is_checked_before_the_body_is_looked_at(guarded: Running, ring: Ring) -> None:
    """Nobody without a key may cost the service the parsing of 30 MiB; headers come first."""
    bad = {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}
    assert guarded.client.post("/v1/forecasts", **bad).status_code == 401
    bad["headers"] |= ring.headers("reader")
    assert guarded.client.post("/v1/forecasts", **bad).status_code == 403
    bad["headers"] |= ring.headers("forecaster")
    assert guarded.client.post("/v1/forecasts", **bad).status_code == 400
    bad["headers"] = {"x-request-timeout-ms": "soon"}
    assert (
        guarded.client.post("/v1/forecasts", **bad).json()["type"] == "/problems/malformed-header"
    )


@pytest.mark.parametrize(
    ("who", "valid", "status"), [("forecaster", True, None), ("bad", False, 401)]
)
def test_the_nixtla_client_sends_its_key(
    guarded: Running, ring: Ring, who: str, valid: bool, status: int | None
) -> None:
    """A script that asks whether its key is good gets an answer, and no traceback."""
    url = f"{guarded.client.base_url}/compat/nixtla"
    key = ring.headers(who)["Authorization"].removeprefix("Bearer ")
    with nixtla(VERSIONS[0], url, key) as client:
        assert client.get("validate_api_key") is valid
        found = client.ask("forecast", frames={"df": table(series())}, h=2, freq="h")
        assert found.get("status") == status
        if valid:
            usage = client.get("usage")
            assert usage["minute"]["used"] == usage["month"]["used"] >= 1


def test_a_forecaster_gets_forecasts(guarded: Running, ring: Ring) -> None:
    """The scheme of the header is not case-sensitive (RFC 9110, 11.1)."""
    body = {"data": table(series()), "freq": "h"}
    assert guarded.post("/v1/forecasts", body, **ring.headers("forecaster")).status_code == 200
    lower = {"Authorization": f"bearer {ring.operator}"}
    assert guarded.post("/v1/forecasts", body, **lower).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "forecast.example.org"}, 200),
        ({"Host": "FORECAST.example.org:8443"}, 200),
        ({"Host": "forecast.example.org", "Origin": "https://forecast.example.org"}, 200),
        ({"Origin": "https://forecast.example.org"}, 200),
        ({"X-Forwarded-For": "192.0.2.9"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "forecast.example.org.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
    ids=str,
)
def test_the_hosts_that_are_allowed(
    guarded: Running, ring: Ring, headers: dict[str, str], status: int
) -> None:
    """A page of another site in an operator's browser must not reach the service by a name."""
    reply = guarded.client.get("/v1/models", headers={**ring.headers("reader"), **headers})
    assert reply.status_code == status
    if status == 403:
        assert reply.json()["type"] == "/problems/host-not-allowed"


def wait_for(status: int, running: Running, headers: dict[str, str]) -> float:
    """Seconds until `/v1/models` answers `status`; after 20 it fails."""
    started = time.monotonic()
    while running.client.get("/v1/models", headers=headers).status_code != status:
        assert time.monotonic() - started < 20
        time.sleep(0.02)
    return time.monotonic() - started


def test_keys_come_and_go_while_the_service_runs(
    guarded: Running, locked: Home, record_property: Told, caplog: pytest.LogCaptureFixture
) -> None:
    """S3: a leaked key that is revoked is refused within 5 s, everywhere, and kept nowhere."""
    caplog.set_level(logging.INFO)
    key = new_key(locked, "reader")
    headers = {"Authorization": f"Bearer {key}"}
    with contextmanager(listening)(application(locked, Settings()), ready=False) as other:
        both = (guarded, other)
        known = max(wait_for(200, each, headers) for each in both)
        revoke_key(Store.of(locked), prefix_of(key), who=ANN)
        started = time.monotonic()
        for each in both:
            wait_for(401, each, headers)
        refused = time.monotonic() - started
    secret = key[-43:]
    files = [path for path in locked.folder.rglob("*") if path.is_file()]
    for path in files:
        with suppress(FileNotFoundError):  # of a connection to the database that has ended
            assert secret.encode() not in path.read_bytes()
    assert secret not in caplog.text
    listing = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    assert secret not in "\n".join(listing)
    record_property(
        "S3",
        f"a new key works after {known:.2f} s, a revoked one is refused by two services after "
        f"{refused:.2f} s; 0 plaintext in {len(files)} files, the log and {len(listing)} processes",
    )
    assert refused < 25  # 5 s are promised


def test_the_first_key_closes_an_open_service(empty: Home) -> None:
    """Who makes a key believes the service guarded; revoking it must not open it again."""
    app = application(empty, Settings())

    async def scenario() -> None:
        transport = httpx.ASGITransport(app)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
            app.router.lifespan_context(app),
            asyncio.timeout(20),
        ):
            await until(client, 200)
            key = new_key(empty, "reader")
            await until(client, 401)
            revoke_key(Store.of(empty), prefix_of(key), who=ANN)
            await asyncio.sleep(1.5 * serving_keys.POLL_S)
            assert (await client.get("/v1/models")).status_code == 401

    async def until(client: httpx.AsyncClient, status: int) -> None:
        while (await client.get("/v1/models")).status_code != status:
            await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_an_open_service_is_open_to_this_machine_alone(service: Running) -> None:
    """However it was bound: another machine needs a key, and is told how one is made."""

    async def scenario() -> httpx.Response:
        transport = httpx.ASGITransport(service.app, client=THERE)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/v1/models")

    reply = asyncio.run(scenario())
    assert reply.status_code == 401
    assert "tsformer keys add" in reply.json()["detail"]
    foreign = service.client.get("/v1/models", headers={"Host": "evil.example"})
    assert "tsformer keys add" in foreign.json()["detail"]


def test_without_the_store_nobody_is_let_in(
    guarded: Running, ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is gone must not leave revoked keys valid for ever: it fails closed."""
    monkeypatch.setattr("serving.keys.STALE_S", 0.0)
    reply = guarded.client.get("/v1/models", headers=ring.headers("operator"))
    assert (reply.status_code, reply.json()["type"]) == (503, "/problems/not-ready")
    assert guarded.client.get("/health/live").status_code == 200
    assert guarded.client.get("/health/ready").status_code == 503


def test_a_store_that_is_away_for_a_moment_locks_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F22: a database that restarts must cost no forecast; afterwards keys change as before."""
    monkeypatch.setattr("serving.keys.POLL_S", 0.01)
    home = Home.of({"TSFORMER_HOME": str(tmp_path)})
    key = new_key(home, "reader")
    store, asked = Store.of(home), []

    def reach() -> Store:
        asked.append(True)
        if 2 <= len(asked) < 5:
            raise UnavailableError("away")
        return store

    async def scenario() -> None:
        ring = KeyRing(reach)
        watching = asyncio.create_task(ring.watch())
        async with asyncio.timeout(20):
            while len(asked) < 4:
                await asyncio.sleep(0.001)
            assert ring.state(key)[1] == "valid"
            revoke_key(store, prefix_of(key), who=ANN)
            while ring.state(key)[1] != "revoked":
                await asyncio.sleep(0.001)
        watching.cancel()

    asyncio.run(scenario())


class Body(BaseModel):
    """What a careless route declares."""

    text: str


def careless(request: Request) -> None:
    """A route that forgot to say who may call it."""


def eager(body: Body) -> None:
    """A route whose body is read before the key is checked."""


def test_a_route_that_forgets_its_role_does_not_start() -> None:
    """S1: a new route without a declaration would be open to all."""
    silent, reading = FastAPI(openapi_url=None), FastAPI(openapi_url=None)
    router = APIRouter(prefix="/v1")
    router.add_api_route("/new", careless, methods=["POST"])
    silent.include_router(router)
    with pytest.raises(ConfigError, match=r"/v1/new must declare"):
        check_routes(silent)
    reading.add_api_route("/new", eager, methods=["POST"], dependencies=[needs("operator")])
    with pytest.raises(ConfigError, match=r"/new declares its body"):
        check_routes(reading)
    with pytest.raises(ConfigError, match="must declare"):
        check_routes(FastAPI())  # its own /docs and /openapi.json


def test_a_route_knows_its_caller(locked: Home, ring: Ring) -> None:
    """Jobs and data sets belong to a tenant: the route must know whose request it answers."""
    app = application(locked, Settings())
    seen = []

    async def who(request: Request) -> None:
        seen.append(caller_of(request))

    app.add_api_route("/who", who, methods=["GET"], dependencies=[needs("reader")])

    async def scenario() -> None:
        transport = httpx.ASGITransport(app)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
            app.router.lifespan_context(app),
            asyncio.timeout(20),
        ):
            while (await client.get("/who", headers=ring.headers("forecaster"))).status_code != 200:
                await asyncio.sleep(0.02)

    asyncio.run(scenario())
    assert [(each.prefix, each.role, each.tenant) for each in seen] == [
        (prefix_of(ring.forecaster), "forecaster", "ads")
    ]
