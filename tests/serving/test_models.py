"""What can be asked for: models, versions, cards, health, and the documents about them."""

from __future__ import annotations

import asyncio
import re
from contextlib import contextmanager

import httpx
import pytest

from pipelines.home import Home
from pipelines.versions import ModelVersion
from serving.api.models import card_of
from serving.baselines import BUILT_IN as NAMED
from serving.settings import Settings
from tests.serving.running import HORIZON, Running, application, listening

BUILT_IN = sorted(NAMED)


def test_models_are_listed_with_their_baselines(service: Running) -> None:
    page = service.client.get("/v1/models").json()
    assert [item["name"] for item in page["items"]] == sorted([*BUILT_IN, "small"])
    assert page["next"] is None


def test_pages_follow_each_other(service: Running) -> None:
    first = service.client.get("/v1/models?limit=4").json()
    second = service.client.get("/v1/models", params={"limit": 4, "cursor": first["next"]}).json()
    names = [item["name"] for page in (first, second) for item in page["items"]]
    assert names == sorted([*BUILT_IN, "small"])
    assert second["next"] is None


def test_a_page_has_the_size_of_the_settings(empty: Home) -> None:
    """An operator who makes pages smaller, because answers grow too long, means this list too."""
    settings = Settings.read({"limits": {"page_size": 2, "page_size_maximum": 3}})
    with contextmanager(listening)(application(empty, settings), ready=False) as running:
        pages = [running.client.get(f"/v1/models{query}").json() for query in ("", "?limit=9")]
    assert [len(page["items"]) for page in pages] == [2, 3]


def test_a_model_has_versions_and_aliases(service: Running) -> None:
    model = service.client.get("/v1/models/small").json()
    assert [version["version"] for version in model["versions"]] == ["1"]
    champion = model["aliases"]["champion"]
    assert (champion["version"], champion["etag"]) == ("1", '"champion-1"')
    assert champion["previous"] is None
    assert champion["since"].endswith("Z")


def test_a_baseline_says_what_it_is(service: Running) -> None:
    """A leaderboard with a line that nobody can explain convinces nobody."""
    for name in BUILT_IN:
        entry = service.client.get(f"/v1/models/{name}").json()
        assert (entry["built_in"], entry["versions"]) == (True, [])
        assert entry["description"]


def test_a_card_says_what_a_client_must_know(service: Running) -> None:
    card = service.client.get("/v1/models/small/versions/1").json()
    assert (card["kind"], card["freq"], card["horizon"]) == ("patchtst", "h", HORIZON)
    assert card["quantiles"]["method"] == "conformal"
    assert card["aliases"] == ["champion"]
    assert (card["status"], card["gate"], card["coverage"], card["data"]) == ("ready", "", {}, None)


def test_a_card_names_its_data_without_their_place() -> None:
    """A path or the address of a database, with its password, is nobody's business."""
    for source, name in (("/home/ann/sales.csv", "sales.csv"), ("pg://ann:secret@db/x", "sql")):
        data = {"source": source, "targets": ["y"], "group": "all"}
        card = {"data": data, "metrics": {"mase": 0.8, "coverage": 0.79}}
        version = ModelVersion("wind", "1", "ridge", "d", "r", "now", card=card)
        found = card_of(version)
        own = {"dataset": name, "targets": ["y"], "group": "all"}
        assert found["data"] == {**own, "version": None, "window": None}  # of an older release
        assert (found["metrics"], found["coverage"]) == ({"mase": 0.8}, {"0.8": 0.79})


def test_unknown_models_are_not_found(service: Running) -> None:
    for path in ("/v1/models/nobody", "/v1/models/small/versions/9", "/problems/nothing"):
        assert service.client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/v1/models/c4nary", "GET /v1/models lists"),
        ("/v1/models/c4nary/versions/1", "GET /v1/models lists"),
        ("/v1/models/small/versions/9", "GET /v1/models/small lists"),
        ("/v1/monitors/c4nary", "GET /v1/models lists"),
        ("/v1/datasets/c4nary", "GET /v1/datasets lists"),
        ("/v1/schedules/c4nary", "GET /v1/schedules lists"),
        ("/v1/jobs/job_c4nary", "GET /v1/jobs lists"),
        ("/compat/nixtla/v2/forecast/jobs/job_c4nary", "GET /v1/jobs lists"),
        ("/v1/c4nary", "GET /openapi.json lists"),
    ],
)
def test_what_is_not_found_says_where_to_look(service: Running, path: str, where: str) -> None:
    """ "Check the name" leaves a newcomer with the name that was wrong."""
    reply = service.client.get(path)
    assert (reply.status_code, where in reply.json()["detail"]) == (404, True), reply.text
    assert "c4nary" not in reply.json()["detail"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/models/a%20b", "Up to 64 letters"),
        ("/v1/models/small/versions/v1", "such as 7"),
        ("/v1/monitors/small?version=latest", "such as 7"),
        ("/v1/monitors/small?window=a-month", "30d, 12h, 2w"),
        ("/v1/jobs/17", "such as job_"),
        ("/v1/datasets/-", "Up to 64 letters"),
        ("/v1/schedules/-", "Up to 64 letters"),
    ],
)
def test_what_an_address_may_hold_is_described(service: Running, path: str, expected: str) -> None:
    """A pattern is for programs; people learn from words and an example."""
    reply = service.client.get(path)
    assert reply.status_code == 422
    message = reply.json()["errors"][0]["message"]
    assert (expected in message, "pattern" in message) == (True, False), message


def test_live_before_ready(home: Home) -> None:
    """A balancer must not send requests to a process that has no model yet."""
    app = application(home, Settings())

    async def scenario() -> None:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/health/live")).status_code == 200
            waiting = await client.get("/health/ready")
            assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "2")
            async with app.router.lifespan_context(app), asyncio.timeout(20):
                while (await client.get("/health/ready")).status_code != 200:
                    await asyncio.sleep(0.02)

    asyncio.run(scenario())


def test_every_problem_explains_itself(service: Running) -> None:
    problem = service.client.get("/v1/models/nobody").json()
    row = service.client.get(problem["type"]).json()
    assert (row["status"], row["title"]) == (404, problem["title"])
    assert row["remedy"]


def test_the_docs_load_nothing_from_elsewhere(service: Running) -> None:
    page = service.client.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert asset.startswith("/")
        assert service.client.get(asset).status_code == 200
