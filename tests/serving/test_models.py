"""What can be asked for: models, versions, cards, health, and the documents about them."""

from __future__ import annotations

import asyncio
import re

import httpx
from fastapi.routing import iter_route_contexts

from pipelines.home import Home
from serving.settings import Settings
from tests.serving.running import HORIZON, Running, application

ANSWERING = ("/v1/forecasts", "/v1/compare", "/v1/anomalies", "/compat/nixtla/v2")  # at once


def test_models_are_listed_with_their_baselines(service: Running) -> None:
    page = service.client.get("/v1/models").json()
    assert [item["name"] for item in page["items"]] == ["seasonal_naive", "small"]
    assert page["next"] is None


def test_pages_follow_each_other(service: Running) -> None:
    first = service.client.get("/v1/models?limit=1").json()
    second = service.client.get("/v1/models", params={"limit": 1, "cursor": first["next"]}).json()
    names = [item["name"] for page in (first, second) for item in page["items"]]
    assert names == ["seasonal_naive", "small"]
    assert second["next"] is None


def test_a_model_has_versions_and_aliases(service: Running) -> None:
    model = service.client.get("/v1/models/small").json()
    assert [version["version"] for version in model["versions"]] == ["1"]
    assert model["aliases"] == {"champion": {"version": "1"}}


def test_a_card_says_what_a_client_must_know(service: Running) -> None:
    card = service.client.get("/v1/models/small/versions/1").json()
    assert (card["kind"], card["freq"], card["horizon"]) == ("patchtst", "h", HORIZON)
    assert card["quantiles"]["method"] == "conformal"
    assert card["aliases"] == ["champion"]


def test_unknown_models_are_not_found(service: Running) -> None:
    for path in ("/v1/models/nobody", "/v1/models/small/versions/9", "/problems/nothing"):
        assert service.client.get(path).status_code == 404


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


def test_openapi_describes_every_route_and_its_examples_pass(service: Running) -> None:
    api = service.client.get("/openapi.json").json()
    assert api["openapi"].startswith("3.1")
    routes = {
        route.path for route in iter_route_contexts(service.app.routes) if route.include_in_schema
    }
    assert set(api["paths"]) == routes
    schemas = api["components"]["schemas"]
    tried = 0
    for path, operations in api["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        name = content.get("application/json", {}).get("schema", {}).get("$ref", "").split("/")[-1]
        if name and path.startswith(ANSWERING):
            for example in schemas[name]["examples"]:
                named = {} if "models" in example else {"model": "seasonal_naive"}
                reply = service.post(path, {**example, **named})
                assert reply.status_code == 200, (path, reply.text)
                tried += 1
    assert tried >= len(ANSWERING)
    used = set(re.findall(r"#/components/schemas/(\w+)", str(api)))
    assert used <= set(schemas)


def test_the_docs_load_nothing_from_elsewhere(service: Running) -> None:
    page = service.client.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'self'")
    for asset in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert asset.startswith("/")
        assert service.client.get(asset).status_code == 200
