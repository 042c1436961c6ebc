"""What models answer. These describe what the routes send and are not used to build it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from serving.schemas import sample_answers, samples
from serving.schemas.fields import Answer, Warned


class ModelName(Answer):
    """Which model version answered; `version` is null for the built-in baselines."""

    name: str
    version: str | None
    alias: str | None
    run_id: str | None


class Fallback(Answer):
    """The baseline that stands in for the model, and why."""

    model: str
    reason: Literal["insufficient_history", "model_error", "nonfinite_output"]


class SeriesAnswer(Answer):
    """How one requested series was answered."""

    unique_id: str | int
    status: Literal["ok", "insufficient_history", "invalid", "model_failed"]
    rows: int
    method: Literal["direct", "prefix", "rollout", "fallback", "none"]
    blocks: int
    rows_used: int
    padded: int
    context_end: str | int | None
    fallback: Fallback | None


class FallbackCount(Answer):
    """How many series a baseline stood in for."""

    mode: str
    series: int


class ForecastAnswer(Answer):
    """Forecasts in columns, and one entry a requested series, in the order of the request."""

    model_config = samples.shown(sample_answers.FORECAST)

    id: str
    model: ModelName
    h: int
    freq: str | int | None
    tz: str | None
    forecast: dict[str, list[Any]]
    series: list[SeriesAnswer]
    warnings: list[Warned]
    warnings_truncated: bool
    fallback: FallbackCount
    timing_ms: dict[str, float]


class ExplainAnswer(ForecastAnswer):
    """The forecast, and what the model read, in columns; tables that it does not have are absent.

    - `variables`: unique_id, role (static, encoder, decoder), variable, importance.
    - `attention`: unique_id, step, lag, weight.
    - `variate_attention`: group_id, from, to, weight.
    """

    model_config = samples.shown(sample_answers.EXPLANATION)

    variables: dict[str, list[Any]] | None = None
    attention: dict[str, list[Any]] | None = None
    variate_attention: dict[str, list[Any]] | None = None


class AnomalyAnswer(Answer):
    """The judged points in columns, series after series, and one entry a requested series.

    `forecast` holds the client's id, time and target, `mean`, `lo`, `hi`, quantiles if asked for,
    `anomaly` (null where the value is missing) and `score`, the signed distance from the mean in
    half-widths (null where the interval has no width).
    """

    id: str
    model: ModelName
    freq: str | int | None
    tz: str | None
    detect: dict[str, float]
    forecast: dict[str, list[Any]]
    series: list[SeriesAnswer]
    warnings: list[Warned]
    warnings_truncated: bool
    fallback: FallbackCount
    timing_ms: dict[str, float]


class ModelForecast(Answer):
    """One model's forecasts, aligned to `index`; null where it has none.

    `reference` is what the request calls the model.
    """

    reference: str
    model: ModelName
    columns: dict[str, list[float | None]]
    series: list[SeriesAnswer]
    fallback: FallbackCount


class CompareAnswer(Answer):
    """The forecasts side by side, and a leaderboard if actuals were held out."""

    index: dict[str, list[Any]]
    actuals: list[float | None] | None
    forecasts: list[ModelForecast]
    tz: str | None
    leaderboard: Annotated[list[dict[str, Any]], Field(examples=[[sample_answers.LEADERBOARD_ROW]])]
    warnings: list[Warned]
    warnings_truncated: bool


class CheckedSeries(Answer):
    """A series of a request, and all that forbids its forecast."""

    unique_id: str | int
    rows: int
    status: Literal["ok", "insufficient_history", "invalid", "model_failed"]
    errors: list[dict[str, Any]]


class Sync(Answer):
    """Whether the request can be answered at once; else the limit that it is beyond."""

    allowed: bool
    limit: str | None


class ValidationAnswer(Answer):
    """What is wrong with the data of a request; `errors` are those of no single series."""

    valid: bool
    freq: str | int | None
    tz: str | None
    series: list[CheckedSeries]
    errors: list[dict[str, Any]]
    warnings: list[Warned]
    warnings_truncated: bool
    sync: Sync


class FramesAnswer(Answer):
    """The table `future` that a forecast needs, the covariates null."""

    h: int
    freq: str | int | None
    tz: str | None
    future: dict[str, list[Any]]
    warnings: list[Warned]
    warnings_truncated: bool


class ProblemAnswer(Answer):
    """RFC 9457: what is wrong, where, and what to do."""

    model_config = samples.shown(sample_answers.PROBLEM)

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[dict[str, Any]]
    error_count: int
    truncated: bool
