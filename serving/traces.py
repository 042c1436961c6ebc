"""Traces of requests by OpenTelemetry, where OTEL_EXPORTER_OTLP_ENDPOINT names who collects them.

    pip install 'tsformer[tracing]'
    OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 tsformer serve

A span for each request, under the trace of its `traceparent`, and in it one for the wait and one for
the model of each question. No span holds a client's own words but its request id and `tracestate`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import INVALID_SPAN, NoOpTracer, Span, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tsformer.errors import ConfigError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
NAME = "tsformer"
PARENT = TraceContextTextMapPropagator()


class Traces:
    """Where spans go: to nobody without a `provider`."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer: Tracer = provider.get_tracer(NAME) if provider else NoOpTracer()

    @staticmethod
    def of(environment: Mapping[str, str]) -> Traces:
        """Those that the environment asks for; ConfigError where what sends them is missing."""
        endpoint = next((name for name in ENDPOINTS if environment.get(name)), None)
        if endpoint is None:
            return Traces()
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            raise ConfigError(
                f"{endpoint} asks for traces, and nothing here sends them: "
                "pip install 'tsformer[tracing]', or unset it."
            ) from None
        named = environment.get("OTEL_SERVICE_NAME", NAME)
        provider = TracerProvider(resource=Resource.create({"service.name": named}))
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return Traces(provider)

    @contextmanager
    def request(self, headers: Mapping[str, str], *, request_id: str) -> Iterator[Span]:
        """The span of a request, under that of its `traceparent`."""
        if self._provider is None:
            yield INVALID_SPAN
            return
        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        with self._tracer.start_as_current_span(
            "request",
            context=PARENT.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"tsformer.request_id": request_id},
            record_exception=False,  # its words may quote what a client sent
            set_status_on_exception=False,
        ) as span:
            yield span

    def past(
        self, name: str, attributes: Mapping[str, str | int], *, ago_s: float, seconds: float
    ) -> None:
        """A span within the current request that began `ago_s` ago and took `seconds`."""
        if self._provider is None:
            return
        start = time.time_ns() - int(ago_s * 1e9)
        span = self._tracer.start_span(name, start_time=start, attributes=attributes)
        span.end(start + int(seconds * 1e9))

    def end(self) -> None:
        """Sends what is left."""
        if self._provider is not None:
            self._provider.shutdown()


def finish(span: Span, *, method: str, route: str | None, status: int | None) -> None:
    """What is known of a request at its end."""
    span.update_name(f"{method} {route}" if route else method)
    known = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
    }
    span.set_attributes({name: value for name, value in known.items() if value is not None})
    if status is not None and status >= 500:
        span.set_status(StatusCode.ERROR)
