"""What the service counts, for Prometheus.

All of it is known to this process: it answers the requests, and it makes the batches that go to the
replicas of the models.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import generate_latest

from pipelines.forecast import SeriesForecast
from pipelines.live import Live
from pipelines.versions import ModelVersion, Reference
from serving.alarms import Alarms

METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})
OTHER = "other"  # a client's own word is no label: it may be anything, and there may be millions
GONE = "disconnected"  # in place of a status: the client left before there was one
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def known_method(method: str) -> str:
    """`method`, unless it is a word of the client's own."""
    return method if method in METHODS else OTHER


class Standing:
    """Where things stand at the moment that somebody asks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        self._oldest = gauge(
            "tsformer_queue_age_seconds", "Age of the oldest request that a model has not answered."
        )
        self._stale = gauge(
            "tsformer_registry_staleness_seconds", "Since the registry last answered."
        )
        self._versions = gauge(
            "tsformer_model_version", "1 for the version that a reference in use means now.",
            ("model", "alias", "version"),
        )  # fmt: skip
        self._processes = gauge("tsformer_model_replicas", "Processes that run models and answer.")
        self._loaded = gauge(
            "tsformer_model_loaded_replicas", "Processes that have the version in memory.",
            ("model", "version"),
        )  # fmt: skip

    def set(
        self,
        *,
        oldest_s: float,
        stale_s: float,
        versions: Mapping[Reference, ModelVersion],
        loaded: Sequence[Sequence[str]],
    ) -> None:
        """`loaded` are the versions of each process."""
        self._oldest.set(oldest_s)
        self._stale.set(stale_s)
        self._versions.clear()
        for reference, version in versions.items():
            self._versions.labels(version.name, reference.alias or "", version.version).set(1)
        self._processes.set(len(loaded))
        self._loaded.clear()
        for one, count in Count(one for each in loaded for one in each).items():
            name, _, number = one.partition("/")
            self._loaded.labels(name, number).set(count)


class Metrics:
    """Counters since the start of this process, and where things stand when they are asked for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self.standing = Standing(self._registry)
        counter = partial(Counter, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        self._requests = counter(
            "tsformer_requests", "Requests by route and status.", ("method", "route", "status")
        )
        self._seconds = histogram(
            "tsformer_request_seconds", "From the headers of a request to the end of its answer.",
            ("route",), buckets=SECONDS,
        )  # fmt: skip
        self._waited = histogram(
            "tsformer_queue_seconds", "How long the windows of a request waited for their batch.",
            ("model",), buckets=SECONDS,
        )  # fmt: skip
        self._batches = histogram(
            "tsformer_batch_windows", "Windows in a batch.", ("model",), buckets=WINDOWS
        )
        self._windows = counter(
            "tsformer_windows", "Windows that a model answered; its rate is windows a second.",
            ("model", "version"),
        )  # fmt: skip
        self._series = counter(
            "tsformer_series", "Series by what became of them.", ("model", "status")
        )
        self._fallbacks = counter(
            "tsformer_fallback_series", "Series that a baseline stood in for, and why.",
            ("model", "reason"),
        )  # fmt: skip
        self._alarms = Alarms()
        self._alarm = gauge(
            "tsformer_fallback_alarm", "1 where a model failed on many series in five minutes.",
            ("model",),
        )  # fmt: skip
        self._refused = counter(
            "tsformer_model_reload_failures", "Versions that an alias moved to and that do not serve.",
            ("model",),
        )  # fmt: skip
        self._coverage = gauge(
            "tsformer_live_coverage", "Share of the actuals in the interval that was forecast.",
            ("model", "version", "nominal"),
        )  # fmt: skip
        self._live = gauge(
            "tsformer_live_error", "Error of recorded forecasts on the actuals since.",
            ("model", "version", "metric"),
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
        statuses = Count(entry.status for entry in entries)
        for status, count in statuses.items():
            self._series.labels(name, status).inc(count)
        self._alarms.count(name, series=len(entries), failed=statuses["model_failed"])
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

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        for name, rings in self._alarms.ringing().items():
            self._alarm.labels(name).set(rings)
        return generate_latest(self._registry)
