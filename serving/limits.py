"""Sizes that a request may have; the section `limits` of configs/serve.yaml."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache

from pipelines.schema import LONGEST_ID
from serving.problems import Item, Problem, too_large
from tsformer.errors import ConfigError

MIB = 1024 * 1024
NUMBER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a request may hold, a key may ask and a service does at a time."""

    body_json_mib: int = 32
    body_arrow_mib: int = 256
    bodies_in_flight_mib: int = 1_024
    body_seconds: int = 30
    body_seconds_arrow: int = 120
    series_per_request: int = 10_000
    points_per_series: int = 100_000
    variates_per_group: int = 2_048
    horizon: int = 4_096
    quantiles: int = 21
    compare_models: int = 8
    input_values: int = 10_000_000
    input_values_arrow: int = 64_000_000
    output_values: int = 5_000_000
    output_values_arrow: int = 50_000_000
    explanation_values: int = 2_000_000
    fits_per_request: int = 300  # of ets and theta: some 0.02 s each
    sarimax_per_request: int = 20  # 0.04 s each where the season is 7, 0.6 s of 24, 2 s of 52
    id_length: int = 128
    columns: int = 512
    json_depth: int = 32
    deadline_ms: int = 30_000
    queue_per_model: int = 256
    requests_in_flight: int = 512  # of one ingress, which answers some hundreds a second
    requests_per_minute: int = 600
    concurrent_requests: int = 32
    job_points: int = 100_000_000
    queued_jobs_per_key: int = 100
    result_days: int = 7
    idempotency_hours: int = 24
    errors_listed: int = 20
    warnings_listed: int = 100
    page_size: int = 100
    page_size_maximum: int = 1_000

    def __post_init__(self) -> None:
        for each in fields(self):
            if (value := getattr(self, each.name)) < 1:
                raise ConfigError(f"limits: '{each.name}' must be at least 1, got {value}.")
        if self.id_length > LONGEST_ID:
            raise ConfigError(
                f"limits: 'id_length' must be at most {LONGEST_ID}, as long as any id can be, got "
                f"{self.id_length}."
            )

    def page(self, asked: int | None) -> int:
        """How many items a page has of which `asked` are wanted."""
        return min(asked or self.page_size, self.page_size_maximum)

    @lru_cache(maxsize=16)  # noqa: B019 - four of the one that a service has
    def of_forms(self, *, arrow_in: bool, arrow_out: bool) -> Limits:
        """The limits of a request and an answer that are JSON or Arrow."""
        return replace(
            self,
            body_seconds=self.body_seconds_arrow if arrow_in else self.body_seconds,
            input_values=self.input_values_arrow if arrow_in else self.input_values,
            output_values=self.output_values_arrow if arrow_out else self.output_values,
        )

    def of_ingress(self, ingresses: int) -> Limits:
        """The share of one of several ingresses in what a key and a node may have."""
        bodies = self.bodies_in_flight_mib  # room for the largest that may come, in any case
        least = {"bodies_in_flight_mib": min(bodies, max(self.body_json_mib, self.body_arrow_mib))}
        shared = ("bodies_in_flight_mib", "requests_per_minute", "concurrent_requests")
        return replace(
            self,
            **{each: max(least.get(each, 1), getattr(self, each) // ingresses) for each in shared},
        )

    def check_size(self, *, series: int, values: int) -> None:
        """Raises the problem `too-large` if the data are more than a request may hold."""
        self._check("series_per_request", self.series_per_request, series)
        self._check("input_values", self.input_values, values)

    def check_length(self, points: int) -> None:
        """Raises the problem `too-large` if a series is longer than `points_per_series`."""
        self._check("points_per_series", self.points_per_series, points)

    def check_output(self, values: int) -> None:
        """Raises the problem `too-large` if an answer would hold more than `output_values`."""
        self._check("output_values", self.output_values, values)

    def check_explanation(self, values: int) -> None:
        """Raises the problem `too-large` if an explanation would hold more than its limit."""
        self._check("explanation_values", self.explanation_values, values)

    def _check(self, name: str, maximum: int, actual: int) -> None:
        if actual > maximum:
            raise too_large(name, maximum=maximum, actual=actual)

    def check_name_lengths(self, columns: Iterable[str], pointer: str) -> None:
        """Raises the problem `invalid-request` if the name of a column is longer than `id_length`."""
        if max(map(len, columns), default=0) > self.id_length:
            message = f"Names of columns have at most {self.id_length} characters."
            raise Problem("invalid-request", message, [Item(message, pointer)])

    def check_count(self, name: str, pointer: str, *, count: int, maximum: int) -> None:
        """Raises the problem `invalid-request` if a field has more items than `maximum`."""
        if count > maximum:
            message = f"At most {maximum}; the limit is called {name}."
            raise Problem("invalid-request", f"{pointer} is too long.", [Item(message, pointer)])
