"""What is asked and answered over HTTP. Requests are strict: no coercion, no unknown member."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import polars as pl
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    PrivateAttr,
    model_validator,
)
from pydantic.config import JsonDict, JsonValue
from typing_extensions import TypeAliasType

# A column is read as the first of these forms that fits all of its cells.
Integer = Annotated[int, Field(ge=-(2**63), lt=2**63)]  # larger ones are read as numbers
Integers = TypeAliasType("Integers", Annotated[list[Integer | None], FailFast()])
Numbers = TypeAliasType("Numbers", Annotated[list[float | None], FailFast()])
Texts = TypeAliasType("Texts", Annotated[list[str | None], FailFast()])
Mixed = TypeAliasType("Mixed", Annotated[list[bool | Integer | float | str | None], FailFast()])
Column = Annotated[Integers | Numbers | Texts | Mixed, Field(union_mode="left_to_right")]

Cells = Sequence[bool | int | float | str | None] | pl.Series  # of JSON, of Arrow

NAME = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$"
VERSION = r"^[1-9][0-9]{0,8}$"
ALIAS = r"^[a-z][a-z0-9_-]{0,31}$"
REFERENCE = NAME[:-1] + r"(@[a-z][a-z0-9_-]{0,31}|/[1-9][0-9]{0,8})?$"
Reference = Annotated[
    str, Field(pattern=REFERENCE, description="`name`, `name@alias` or `name/version`.")
]


def _without_duplicates(levels: list[float]) -> list[float]:
    if len(set(levels)) < len(levels):
        raise ValueError("levels must not repeat")
    if any(round(level, 4) != level for level in levels):
        raise ValueError("levels have at most four decimals")
    return levels


Levels = Annotated[
    list[Annotated[float, Field(gt=0, lt=1)]],
    FailFast(),
    AfterValidator(_without_duplicates),
    Field(description="Quantile levels in (0, 1), at most four decimals, no duplicates."),
]


class Strict(BaseModel):
    """The door for JSON: strict types, finite numbers, known members alone."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, frozen=True, protected_namespaces=()
    )


class Columns(Strict):
    """The client's names for the three columns that every table has."""

    _places: Callable[[str], str] | None = PrivateAttr(default=None)

    id: Annotated[str, Field(min_length=1, max_length=128)] = "unique_id"
    time: Annotated[str, Field(min_length=1, max_length=128)] = "ds"
    target: Annotated[str, Field(min_length=1, max_length=128)] = "y"

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = {self.id, self.time, self.target}
        if len(names) < 3 or "mean" in names:
            raise ValueError("the three names must differ, and none may be 'mean'")
        return self

    def sent_as(self, places: Callable[[str], str]) -> Columns:
        """The same names for cells that came in another form than columns."""
        copy = self.model_copy()
        copy._places = places
        return copy

    def place(self, pointer: str | None) -> str | None:
        """Where a place in the columns stands in what was sent."""
        return pointer if pointer is None or self._places is None else self._places(pointer)


class Resample(Strict):
    """The grid on which rows are gathered before anything else, and what becomes of them."""

    freq: Annotated[str | int, Field(union_mode="left_to_right")]
    agg: Literal["mean", "sum", "last", "first", "min", "max"] = "mean"


class Options(Strict):
    """What to do with series that cannot be used as sent."""

    on_invalid: Literal["fail", "skip"] = "fail"
    fallback: Annotated[
        Literal["seasonal_naive", "linear", "none"] | None,
        Field(description="Without it, that of the service: seasonal_naive as it is shipped."),
    ] = None
    resample: Resample | None = None
    group: Annotated[
        Literal["by_id", "all"],
        Field(description="Which series a model reads side by side: those of a static group_id."),
    ] = "by_id"
    fill: Literal["none", "mask", "ffill", "linear", "zero"] = "none"
    record: Annotated[
        bool, Field(description="Keep the forecast, so that later actuals can score it.")
    ] = False


class CompareOptions(Options):
    """Options of a comparison: the last `holdout` rows of each series are kept back and scored."""

    holdout: Annotated[int, Field(ge=0)] = 0
    baselines: bool = True


Cell = bool | Integer | float | str | None
Record = dict[str, Cell]
Columnar = TypeAliasType("Columnar", Annotated[dict[str, Column], FailFast()])
Records = TypeAliasType("Records", Annotated[list[Annotated[Record, FailFast()]], FailFast()])
AnyTable = Annotated[
    Columnar | Records,
    Field(
        union_mode="left_to_right",
        description="Columns of one length, or records; an absent member of a record is null.",
    ),
]

Table = Annotated[
    dict[str, Column],
    FailFast(),
    Field(description="Columns of one length: `unique_id` (optional), `ds`, `y`."),
]

Ahead = Annotated[
    dict[str, Column],
    FailFast(),
    Field(description="Covariates known over the horizon: exactly `h` rows a series."),
]

Attributes = Annotated[
    dict[str, Column],
    FailFast(),
    Field(description="Attributes of the series: one row each, `unique_id` (optional) first."),
]

_DAYS: list[JsonValue] = ["2026-03-26", "2026-03-27", "2026-03-28"]
_DATA: JsonDict = {"unique_id": ["a", "a", "a"], "ds": _DAYS, "y": [10.0, None, 12.5]}


class OneSeries(Strict):
    """A series by itself. Its stamps are `ds`, or follow from `start` and `freq`."""

    unique_id: Annotated[Integer | str | None, Field(description="Optional for one series.")] = None
    start: Integer | str | None = None
    ds: Column | None = None
    y: Column
    covariates: Annotated[dict[str, Column], FailFast()] = {}
    future: Annotated[
        dict[str, Column], FailFast(), Field(description="The steps after the series, in order.")
    ] = {}
    static: Annotated[dict[str, Cell], FailFast()] = {}

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.start is None) == (self.ds is None):
            raise ValueError("give either start or ds")
        if not self.y:
            raise ValueError("y has no value")
        return self


class Series(Strict):
    """The series of a request, and what is wanted of them."""

    dated: ClassVar[bool] = True  # whether the stamps say something of the calendar

    data: Table
    future: Ahead = {}
    static: Attributes = {}
    series: Annotated[
        list[OneSeries], FailFast(), Field(description="In place of data, future and static.")
    ] = []
    columns: Columns = Columns()
    h: Annotated[int | None, Field(ge=1, description="Default: the trained horizon.")] = None
    freq: Annotated[str | int | None, Field(union_mode="left_to_right")] = None
    tz: Annotated[str | None, Field(max_length=64, description="IANA name.")] = None
    quantiles: Levels = []


class ForecastRequest(Series):
    """Several series in one columnar table, and what is wanted of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "h": 3,
                    "freq": "D",
                    "tz": "Europe/Berlin",
                    "quantiles": [0.1, 0.9],
                    "data": _DATA,
                    "options": {"on_invalid": "skip", "fallback": "seasonal_naive"},
                },
                {
                    "h": 2,
                    "freq": "h",
                    "series": [
                        {
                            "unique_id": "OT",
                            "start": "2026-01-01T00:00:00",
                            "y": [30.5, 27.8, 27.8, 25.0],
                            "static": {"group_id": "t1"},
                        }
                    ],
                },
                {"h": 2, "data": [{"ds": day, "y": 1.5} for day in _DAYS]},
            ]
        }
    )

    model: Reference | None = None
    options: Options = Options()


class CompareRequest(Series):
    """The same series for several models side by side."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "models": ["seasonal_naive"],
                    "h": 1,
                    "freq": "D",
                    "data": _DATA,
                    "options": {"holdout": 1},
                }
            ]
        }
    )

    models: Annotated[list[Reference], Field(min_length=1), FailFast()]
    options: CompareOptions = CompareOptions()


class Explain(Strict):
    """Whether shares are those of each series, or their mean over the request."""

    aggregate: Literal["series", "request"] = "series"


class ExplainRequest(ForecastRequest):
    """The series of a forecast, and how what was read from them is told."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"h": 3, "freq": "D", "data": _DATA, "explain": {"aggregate": "request"}}]
        }
    )

    explain: Explain = Explain()


class Detect(Strict):
    """Which points are judged: the last ones of each series, each by a forecast from before it."""

    level: Annotated[
        float, Field(ge=0, lt=100, description="Percent of the values within the interval.")
    ] = 99
    last: Annotated[int, Field(ge=1, lt=2**31, description="Points of each series.")]
    h: Annotated[int, Field(ge=1, description="Points that are forecast at a time.")] = 1


class AnomalyRequest(ForecastRequest):
    """The series of a forecast, and which of their points are judged; `h` and `future` are not read."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "model": "seasonal_naive",
                    "freq": "D",
                    "data": _DATA,
                    "detect": {"level": 99, "last": 1, "h": 1},
                }
            ]
        }
    )

    detect: Detect


class AliasRequest(Strict):
    """The version that an alias is to be on."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": "8", "reason": "It is better on weekends."}]}
    )

    version: Annotated[str, Field(pattern=VERSION)]
    reason: Annotated[str, Field(max_length=1_000)] = ""
    override: Annotated[
        bool, Field(description="Promote a version that the gate refused; needs a reason.")
    ] = False


class RollbackRequest(Strict):
    """The alias that goes back, from the version that it is believed to be on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"alias": "champion", "from_version": "8", "reason": "Too high."}]
        }
    )

    alias: Annotated[str, Field(pattern=ALIAS)] = "champion"
    from_version: Annotated[str, Field(pattern=VERSION)]
    reason: Annotated[str, Field(max_length=1_000)] = ""


# --- answers; they describe what the routes send and are not used to build it -----------------


class Answer(BaseModel):
    """A part of an answer; clients must ignore members they do not know."""

    model_config = ConfigDict(protected_namespaces=())


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


class Warned(Answer):
    """Something worth knowing about the data or the answer."""

    code: str
    unique_id: str | int | None
    count: int
    message: str


class FallbackCount(Answer):
    """How many series a baseline stood in for."""

    mode: str
    series: int


class ForecastAnswer(Answer):
    """Forecasts in columns, and one entry a requested series, in the order of the request."""

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
    leaderboard: list[dict[str, Any]]
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


class TrainedOn(Answer):
    """The data of a version: their name, and what was read of them."""

    dataset: str
    targets: list[str]
    group: str


class Card(Answer):
    """A model version; `gate` is passed, refused, or empty for one that was not judged."""

    name: str
    version: str
    aliases: list[str]
    run_id: str | None
    kind: str
    freq: str
    context: int
    min_context: int
    horizon: int
    cross_series: bool
    accepts_missing: bool
    point: Literal["mean", "median"]
    quantiles: dict[str, Any]
    covariates: dict[str, list[str]]
    features: list[str]
    lags: list[int]
    metrics: dict[str, float]
    coverage: dict[str, float]
    data: TrainedOn | None
    gate: str
    created_at: str | None
    status: str


class ListedVersion(Answer):
    """A version in a list."""

    version: str
    kind: str
    created_at: str | None


class Alias(Answer):
    """Where an alias stands; `previous` is what a rollback restores."""

    version: str
    etag: str
    since: str
    previous: str | None


class AliasAnswer(Alias):
    """Where an alias stands after it was moved."""

    name: str
    alias: str


class ModelEntry(Answer):
    """A model: its versions, newest first, and its aliases."""

    name: str
    built_in: bool
    description: str
    versions: list[ListedVersion]
    aliases: dict[str, Alias]


class ModelPage(Answer):
    """A page of models; `next` is the cursor of the following one."""

    items: list[ModelEntry]
    next: str | None


class ProblemAnswer(Answer):
    """RFC 9457: what is wrong, where, and what to do."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[dict[str, Any]]
    error_count: int
    truncated: bool
