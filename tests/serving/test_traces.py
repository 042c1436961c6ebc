"""Traces at a collector that speaks the real protocol: where a slow request spent its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipelines.home import Home
from serving.settings import Settings
from serving.traces import Traces
from tests.serving.running import application, forecaster, listening, publish, series, table
from tsformer.errors import ConfigError

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collected() -> Iterator[tuple[str, list[Span]]]:
    """An OTLP collector: its address, and the spans that came."""
    spans: list[Span] = []

    async def take(request: Request) -> Response:
        sent = ExportTraceServiceRequest.FromString(await request.body())
        spans.extend(s for r in sent.resource_spans for scope in r.scope_spans for s in scope.spans)
        return Response(media_type="application/x-protobuf")

    app = Starlette(routes=[Route("/v1/traces", take, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", spans
    server.should_exit = True
    thread.join()


def test_a_request_is_a_trace_with_its_wait_and_its_model(
    empty: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    collected: tuple[str, list[Span]],
) -> None:  # fmt: skip
    """Of a slow forecast the caller's own trace must say whether it waited or was computed."""
    endpoint, spans = collected
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    publish(empty, "m", forecaster(seed=1), tmp_path / "m")
    app = application(empty, Settings.read({"jobs": {"at_once": 0}}))
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine-1"}
    body = {"data": table(series(), ids=["c4nary"]), "freq": "h"}
    for running in listening(app):
        assert running.post("/v1/forecasts", body, **headers).status_code == 200
        assert running.client.get("/v1/models/c4nary", headers=headers).status_code == 404
    own = [span for span in spans if span.trace_id.hex() == TRACE]
    by_name = {span.name: span for span in own}
    request = by_name["POST /v1/forecasts"]
    assert request.parent_span_id.hex() == PARENT
    assert {s.name for s in own if s.parent_span_id == request.span_id} == {"queue", "model"}
    assert request.start_time_unix_nano <= by_name["queue"].start_time_unix_nano + 1_000_000
    known = {a.key: a.value for a in request.attributes}
    assert known["http.response.status_code"].int_value == 200
    assert known["tsformer.request_id"].string_value == "mine-1"
    assert "GET /v1/models/{name}" in by_name
    assert "c4nary" not in str(spans)


def test_traces_that_nothing_sends_are_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after the incident for which they were wanted."""
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigError, match=r"pip install 'tsformer\[tracing\]'"):
        Traces.of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"})
