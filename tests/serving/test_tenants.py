"""Two tenants of one service: what is one's own the other can neither see, nor guess, nor touch."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np

from tests.figures import Told
from tests.serving.keyed import Tenants
from tests.serving.running import series, table

CANARY = "c4nary-of-ads"
PROBES = 250


def owned(tenants: Tenants) -> list[tuple[str, str]]:
    """What `ads` has: each way to reach for it, as method and path."""
    data = {"freq": "h", "data": table(series(), ids=[CANARY])}
    made = tenants.ask("POST", "/v1/datasets", json={"name": CANARY, **data})
    assert made.status_code == 201, made.text
    spec = {"model": "small", "dataset": CANARY, "h": 3}
    clock = {"cron": "30 2 * * 1", "tz": "UTC", "job": {"type": "forecast", "spec": spec}}
    reply = tenants.ask("POST", "/v1/schedules", json={"name": CANARY, **clock})
    assert reply.status_code == 201, reply.text
    job = tenants.ask(
        "POST", "/v1/jobs", json={"type": "forecast", "spec": {"model": "small", **data}}
    )
    assert job.status_code == 202, job.text
    recorded = {**data, "h": 2, "options": {"record": True}}
    assert tenants.ask("POST", "/v1/forecasts", json=recorded).status_code == 200
    at, scheduled = f"/v1/jobs/{job.json()['id']}", f"/v1/schedules/{CANARY}"
    return [
        ("GET", f"/v1/datasets/{CANARY}"),
        *(("GET", f"{at}{end}") for end in ("", "/result", "/events")),
        ("POST", f"{at}/cancel"),
        *(("GET", f"{scheduled}{end}") for end in ("", "/runs")),
        ("POST", f"{scheduled}/trigger"),
        ("DELETE", scheduled),
        ("PATCH", scheduled),
    ]


def kept(tenants: Tenants, known: list[tuple[str, str]]) -> dict[str, Any]:
    """What `ads` sees of its dataset, its job, which waits as none is run here, and its schedule."""
    ends = ("/result", "/events")  # of a job that waits there is none yet, and no end of the other
    seen = {path: tenants.ask("GET", path) for method, path in known
            if method == "GET" and not path.endswith(ends)}  # fmt: skip
    assert {reply.status_code for reply in seen.values()} == {200}
    return {path: reply.json() for path, reply in seen.items()}


def named(reply: httpx.Response) -> set[str]:
    """The ids or names of what a list has."""
    return {item.get("id") or item["name"] for item in reply.json()["items"]}


LISTINGS = ("/v1/datasets", "/v1/jobs", "/v1/schedules", "/v1/jobs?state=pending")


def test_one_tenant_sees_and_touches_nothing_of_another(
    tenants: Tenants, record_property: Told
) -> None:
    """S2: not by a name, an id, a list, a filter, nor by what an error says."""
    own = {path: named(tenants.ask("GET", path, tenant="shop")) for path in LISTINGS}
    known, asked = owned(tenants), 0
    before = kept(tenants, known)
    for method, path in known:
        stranger = path.replace(CANARY, "nobody-s").replace("/job_", "/job_0")
        replies = [
            tenants.ask(method, each, tenant="shop", headers={"If-Match": '"x"'}, **body(method))
            for each in (path, stranger)
        ]
        told = [
            (reply.status_code, reply.json()["type"], reply.json()["detail"]) for reply in replies
        ]
        assert told[0][:2] == told[1][:2] == (404, "/problems/not-found"), (method, path, told)
        assert CANARY not in replies[0].text.replace(path, "")  # but for what was asked
        asked += 2
    for listing in LISTINGS:
        for end in ("", f"{'&' if '?' in listing else '?'}cursor={CANARY[:-1]}"):
            reply = tenants.ask("GET", f"{listing}{end}", tenant="shop")
            made_up = bool(end) and "jobs" in listing  # their cursor is no name
            assert reply.status_code == (422 if made_up else 200), reply.text
            assert made_up or named(reply) <= own[listing]
            assert CANARY not in reply.text
            asked += 1
    uses = {"dataset": CANARY, "kind": "ridge", "name": "load"}
    reply = tenants.ask("POST", "/v1/jobs", tenant="shop", json={"type": "train", "spec": uses})
    assert reply.status_code == 404
    for _ in range(PROBES):
        for kind in ("datasets", "schedules", "jobs"):
            name = f"job_{secrets.token_hex(12)}" if kind == "jobs" else secrets.token_hex(8)
            assert tenants.ask("GET", f"/v1/{kind}/{name}", tenant="shop").status_code == 404
            asked += 1
    assert kept(tenants, known) == before
    record_property(
        "S2",
        f"{asked + 1} probes: 404 or an empty list, 0 leaks; 0 of {len(before)} resources changed",
    )


def body(method: str) -> dict[str, Any]:
    return {"json": {"paused": True}} if method == "PATCH" else {}


def test_a_forecast_does_not_depend_on_who_else_asks(
    tenants: Tenants, record_property: Told
) -> None:
    """S2: numbers that change with a stranger's requests would tell of them."""

    def ask(tenant: str, seed: int) -> list[float]:
        sent = {"data": table(series(seed=seed)), "freq": "h"}
        reply = tenants.ask("POST", "/v1/forecasts", tenant=tenant, json=sent)
        mean: list[float] = reply.json()["forecast"]["mean"]
        return mean

    alone = [ask("shop", seed) for seed in range(8)]
    with ThreadPoolExecutor(16) as pool:
        strangers = [pool.submit(ask, "ads", seed) for seed in range(100, 116)]
        among = list(pool.map(lambda seed: ask("shop", seed), range(8)))
    assert all(one.result() for one in strangers)
    same = sum(one == other for one, other in zip(alone, among, strict=True))
    gap = float(np.abs(np.array(alone) / np.array(among) - 1).max())
    record_property(
        "S2", f"alone or among another tenant's: {same} of 8 bit-identical, at most {gap:.0e} apart"
    )
    assert gap <= 1e-5
