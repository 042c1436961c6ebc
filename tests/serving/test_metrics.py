"""What a person on call sees: numbers that move when something happens, and nothing of the clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.home import Home
from pipelines.live import Live
from pipelines.registry import Registry
from serving.library import Library, Shelf
from serving.live_scores import look
from serving.metrics import Metrics
from tests.serving.running import CONTEXT, HORIZON, Running, series, stamps, table

Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


def numbers(service: Running) -> Numbers:
    """Every sample of /metrics."""
    reply = service.client.get("/metrics")
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def gained(before: Numbers, after: Numbers, name: str, **labels: str) -> float:
    key = (name, frozenset(labels.items()))
    return after[key] - before.get(key, 0.0)


def test_a_forecast_is_counted_where_it_went(service: Running) -> None:
    """Else nobody could tell a slow model from a long queue, or from small batches."""
    before = numbers(service)
    body = {"data": table(series(), series(seed=1), series(seed=2)), "freq": "h", "h": HORIZON}
    assert service.post("/v1/forecasts", body).status_code == 200
    after = numbers(service)
    route = "/v1/forecasts"
    counted = {"method": "POST", "route": route, "status": "200"}
    assert gained(before, after, "tsformer_requests_total", **counted) == 1
    assert gained(before, after, "tsformer_request_seconds_count", route=route) == 1
    assert gained(before, after, "tsformer_queue_seconds_count", model="small") == 1
    assert gained(before, after, "tsformer_batch_windows_count", model="small") == 1
    assert gained(before, after, "tsformer_batch_windows_sum", model="small") == 3
    assert gained(before, after, "tsformer_windows_total", model="small", version="1") == 3
    assert gained(before, after, "tsformer_series_total", model="small", status="ok") == 3
    version = {"model": "small", "alias": "champion", "version": "1"}
    assert after["tsformer_model_version", frozenset(version.items())] == 1
    assert after["tsformer_queue_age_seconds", frozenset()] == 0


def test_a_fallback_is_counted_with_its_reason(service: Running) -> None:
    """A model that fails in silence behind its baseline must show on a dashboard."""
    before = numbers(service)
    body = {"data": table(series(5)), "freq": "h"}
    assert service.post("/v1/forecasts", body).status_code == 200
    found = {"model": "small", "reason": "insufficient_history"}
    assert gained(before, numbers(service), "tsformer_fallback_series_total", **found) == 1


def test_refusals_are_counted_and_no_word_of_a_client_is_a_label(service: Running) -> None:
    """Law 11, and a scanner that asks a million addresses must not make a million series."""
    before = numbers(service)
    assert service.client.get("/c4nary").status_code == 404
    assert service.client.request("PROPFIND", "/v1/models").status_code == 405
    assert service.client.get("/v1/models/c4nary").status_code == 404
    assert service.client.get("/v1/models", headers={"Host": "c4nary"}).status_code == 403
    after = numbers(service)
    nowhere = {"method": "GET", "route": "other", "status": "404"}
    assert gained(before, after, "tsformer_requests_total", **nowhere) == 1
    named = {"method": "GET", "route": "/v1/models/{name}", "status": "404"}
    assert gained(before, after, "tsformer_requests_total", **named) == 1
    wrong = {"method": "other", "route": "/v1/models", "status": "405"}
    assert gained(before, after, "tsformer_requests_total", **wrong) == 1
    text = service.client.get("/metrics").text
    assert "c4nary" not in text
    assert "PROPFIND" not in text


def test_a_client_that_leaves_is_no_success(service: Running) -> None:
    """Clients that give up are the first sign of a service that is too slow."""
    before = numbers(service)
    headers = {"content-type": "application/json"}

    def broken() -> Iterator[bytes]:
        yield b"{"
        raise KeyError

    with pytest.raises(KeyError):
        service.client.post("/v1/forecasts", content=broken(), headers=headers)
    left = {"method": "POST", "route": "/v1/forecasts", "status": "disconnected"}
    key = ("tsformer_requests_total", frozenset(left.items()))
    for _ in range(200):
        if numbers(service).get(key, 0) > before.get(key, 0):
            return
    raise AssertionError("a client that left was not counted")


def test_live_coverage_is_that_of_the_monitor(service: Running) -> None:
    """Intervals that have become too narrow must ring before somebody plans by them."""
    body = {
        "data": table(series(), ids=["live"]), "freq": "h", "h": HORIZON,
        "quantiles": [0.1, 0.9], "options": {"record": True},
    }  # fmt: skip
    assert service.post("/v1/forecasts", body).status_code == 200
    ds = stamps(CONTEXT + HORIZON)[CONTEXT:]
    truth = {"unique_id": ["live"] * HORIZON, "ds": ds, "y": series(HORIZON, seed=3)}
    assert service.post("/v1/actuals", {"data": truth}).status_code == 200
    running = service.app.state.service
    asyncio.run(look(running.library, running.metrics))
    (version,) = service.client.get("/v1/monitors/small").json()["versions"]
    found, named = numbers(service), {"model": "small", "version": "1"}
    coverage = found["tsformer_live_coverage", frozenset({**named, "nominal": "0.8"}.items())]
    error = found["tsformer_live_error", frozenset({**named, "metric": "mae"}.items())]
    assert coverage == pytest.approx(version["coverage"]["0.8"])
    assert error == pytest.approx(version["metrics"]["mae"])
    assert found["tsformer_registry_staleness_seconds", frozenset()] < 60
    running.metrics.turned_out("small", [])  # a version that is gone must not ring for ever
    assert not [name for name, _ in numbers(service) if name.startswith("tsformer_live")]


def test_the_live_scores_of_a_model_that_is_no_longer_in_use_are_told_no_more(home: Home) -> None:
    """A model that was taken away would ring at night until the service is started again."""
    metrics = Metrics()
    metrics.turned_out("gone", [Live("1", 9, 1, 0, {"mae": 0.5}, {"0.8": 0.2})])
    assert b'tsformer_live_error{metric="mae",model="gone",version="1"} 0.5' in metrics.text()

    async def prepare(_: str) -> None:
        pass

    async def scenario() -> None:
        books = Library(Shelf(Registry(home), capacity=1), default="small", prepare=prepare)
        await books.resolve(None)
        assert await look(books, metrics, before={"gone", "small"}) == {"small"}

    asyncio.run(scenario())
    assert b'"gone"' not in metrics.text()
