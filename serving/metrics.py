"""What the service counts, for Prometheus.

All of it is known to this process: it answers the requests, and it makes the batches that go to the
replicas of the models.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from pipelines.forecast import SeriesForecast
from pipelines.live import Live
from pipelines.versions import ModelVersion, Reference

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
OTHER = "other"  # a client's own word is no label: it may be anything, and there may be millions
GONE = "disconnected"  # in place of a status: the client left before there was one
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def known_method(method: str) -> str:
    """`method`, unless it is a word of the client's own."""
    return method if method in METHODS else OTHER


class Metrics:
    """Counters since the start of this process, and where things stand when they are asked for."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "tsformer_requests", "Requests by route and status.",
            ("method", "route", "status"), registry=registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "tsformer_request_seconds", "From the headers of a request to the end of its answer.",
            ("route",), buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._waited = Histogram(
            "tsformer_queue_seconds", "How long the windows of a request waited for their batch.",
            ("model",), buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._oldest = Gauge(
            "tsformer_queue_age_seconds", "Age of the oldest request that waits for a model.",
            registry=registry,
        )  # fmt: skip
        self._batches = Histogram(
            "tsformer_batch_windows", "Windows in a batch.",
            ("model",), buckets=WINDOWS, registry=registry,
        )  # fmt: skip
        self._windows = Counter(
            "tsformer_windows", "Windows that a model answered; its rate is windows a second.",
            ("model", "version"), registry=registry,
        )  # fmt: skip
        self._versions = Gauge(
            "tsformer_model_version", "1 for the version that a reference in use means now.",
            ("model", "alias", "version"), registry=registry,
        )  # fmt: skip
        self._processes = Gauge(
            "tsformer_model_replicas", "Processes that run models and answer.", registry=registry
        )
        self._loaded = Gauge(
            "tsformer_model_loaded_replicas", "Processes that have the version in memory.",
            ("model", "version"), registry=registry,
        )  # fmt: skip
        self._series = Counter(
            "tsformer_series", "Series by what became of them.",
            ("model", "status"), registry=registry,
        )  # fmt: skip
        self._fallbacks = Counter(
            "tsformer_fallback_series", "Series that a baseline stood in for, and why.",
            ("model", "reason"), registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "tsformer_model_reload_failures", "Versions that an alias moved to and that do not serve.",
            ("model",), registry=registry,
        )  # fmt: skip
        self._stale = Gauge(
            "tsformer_registry_staleness_seconds", "Since the registry last answered.",
            registry=registry,
        )  # fmt: skip
        self._coverage = Gauge(
            "tsformer_live_coverage", "Share of the actuals in the interval that was forecast.",
            ("model", "version", "nominal"), registry=registry,
        )  # fmt: skip
        self._live = Gauge(
            "tsformer_live_error", "Error of recorded forecasts on the actuals since.",
            ("model", "version", "metric"), registry=registry,
        )  # fmt: skip

    def answered(self, method: str, route: str | None, status: int | None, seconds: float) -> None:
        """A request on `route` (None: there is no such route) is over, with `status` or without."""
        known = known_method(method)
        place, outcome = route or OTHER, GONE if status is None else str(status)
        self._requests.labels(known, place, outcome).inc()
        self._seconds.labels(place).observe(seconds)

    def waited(self, name: str, seconds: float) -> None:
        """The windows of a request waited for a batch of the model `name`."""
        self._waited.labels(name).observe(seconds)

    def batch(self, version: str, windows: int) -> None:
        """A batch of `name/version` was answered."""
        name, _, number = version.partition("/")
        self._batches.labels(name).observe(windows)
        self._windows.labels(name, number).inc(windows)

    def forecast(self, name: str, series: Iterable[SeriesForecast]) -> None:
        """The model `name` was asked for `series`."""
        entries = tuple(series)
        for status, count in Count(entry.status for entry in entries).items():
            self._series.labels(name, status).inc(count)
        reasons = Count(entry.fallback["reason"] for entry in entries if entry.fallback)
        for reason, count in reasons.items():
            self._fallbacks.labels(name, reason).inc(count)

    def refused(self, name: str) -> None:
        """A new version of the model `name` cannot serve; the one before goes on."""
        self._refused.labels(name).inc()

    def turned_out(self, name: str, versions: Iterable[Live]) -> None:
        """What became of the recorded forecasts of the model `name`; of no other version any more."""
        for gauge in (self._coverage, self._live):
            gauge.remove_by_labels({"model": name})
        for live in versions:
            for nominal, share in live.coverage.items():
                self._coverage.labels(name, live.version, nominal).set(share)
            for metric, value in live.metrics.items():
                self._live.labels(name, live.version, metric).set(value)

    def text(
        self,
        *,
        oldest_s: float,
        stale_s: float,
        versions: Mapping[Reference, ModelVersion],
        loaded: Sequence[Sequence[str]],
    ) -> bytes:
        """Everything in Prometheus's text format; `loaded` are the versions of each process."""
        self._processes.set(len(loaded))
        self._loaded.clear()
        for one, count in Count(one for each in loaded for one in each).items():
            name, _, number = one.partition("/")
            self._loaded.labels(name, number).set(count)
        self._oldest.set(oldest_s)
        self._stale.set(stale_s)
        self._versions.clear()
        for reference, version in versions.items():
            self._versions.labels(version.name, reference.alias or "", version.version).set(1)
        return generate_latest(self._registry)
