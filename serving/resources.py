"""What is asked and answered about actuals, monitors, datasets, jobs and schedules."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from serving.schemas import (
    _DATA,
    NAME,
    Answer,
    Attributes,
    Columns,
    Levels,
    Reference,
    Strict,
    Table,
)

TimeZone = Annotated[str | None, Field(max_length=64, description="IANA name.")]


# --- actuals and monitors -------------------------------------------------------------------------


class ActualsRequest(Strict):
    """What really happened: a value a series and time; `null` values are left out."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"data": _DATA, "tz": "Europe/Berlin"}]}
    )

    data: Table
    columns: Columns = Columns()
    tz: TimeZone = None


class ActualsAnswer(Answer):
    """What became of the values; `matched` are those of which a recorded forecast speaks."""

    received: int
    inserted: int
    replaced: int
    unchanged: int
    matched: int


class DriftAnswer(Answer):
    """A series that is not what it was: a score of 1 is the limit."""

    unique_id: str
    kind: str
    since: str
    score: float


class ConditionAnswer(Answer):
    """One version: its recorded forecasts that have come true, and its drift.

    `judged_series` is null where drift cannot be known: the version is gone or has no profile.
    """

    version: str
    points: int
    series: int
    fallbacks: int
    metrics: dict[str, float]
    coverage: dict[str, float]
    judged_series: int | None
    drift: list[DriftAnswer]


class MonitorAnswer(Answer):
    """A model in the actuals after one stamp up to another; no versions without any actuals."""

    model: str
    after: str | None
    until: str | None
    versions: list[ConditionAnswer]


# --- datasets -------------------------------------------------------------------------------------

Name = Annotated[str, Field(pattern=NAME)]
Freq = Annotated[str | int | None, Field(union_mode="left_to_right")]
FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.(csv|parquet)$"


class DatasetRequest(Strict):
    """A table to keep under a name. Missing rows stay missing; `null` in `y` is missing too."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "load", "freq": "D", "data": _DATA}]}
    )

    name: Name
    data: Table = Field(default_factory=dict)
    file: Annotated[
        str | None,
        Field(pattern=FILE, description="Instead of data: a file of the configured folder."),
    ] = None
    static: Attributes = Field(default_factory=dict)
    columns: Columns = Columns()
    freq: Freq = None
    tz: TimeZone = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.data and self.file is not None:
            raise ValueError("give either data or file")
        return self


class DatasetAnswer(Answer):
    """A version of a dataset, by the hash of its content."""

    name: str
    version: str
    freq: str
    tz: str | None
    rows: int
    series: int
    columns: dict[str, str]
    static_columns: dict[str, str]
    roles: dict[str, str | None]
    created_at: str


class DatasetVersions(DatasetAnswer):
    """The newest version, and all there are, newest first."""

    versions: list[dict[str, Any]]


class DatasetPage(Answer):
    """The newest versions by name; `next` is the cursor of the following page."""

    items: list[DatasetAnswer]
    next: str | None


# --- jobs -----------------------------------------------------------------------------------------

JobType = Literal["forecast", "compare", "explain", "anomaly", "backtest", "train", "tune"]
DATASET = NAME[:-1] + r"(/[0-9a-f]{16})?$"
DatasetReference = Annotated[
    str, Field(pattern=DATASET, description="`name`, its newest version, or `name/version`.")
]
JOB_ID = r"^job_[0-9a-z]{1,64}$"


class JobRequest(Strict):
    """Long work: the body of a route as `spec`, or what a backtest or a training needs."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "forecast",
                    "spec": {"model": "seasonal_naive", "h": 3, "freq": "D", "data": _DATA},
                }
            ]
        }
    )

    type: JobType
    spec: dict[str, Any]


class BacktestSpec(Strict):
    """Models on the last `folds` cutoffs of a dataset, `step` rows apart, `h` rows ahead."""

    dataset: DatasetReference
    models: Annotated[list[Reference], Field(min_length=1)]
    h: Annotated[int, Field(ge=1)]
    folds: Annotated[int, Field(ge=1, le=1_000)] = 1
    step: Annotated[int | None, Field(ge=1, description="Default: h.")] = None
    quantiles: Levels = Field(default_factory=list)


class TrainSpec(Strict):
    """A model of `kind`, published as `name`; `config` has the sections of an experiment."""

    dataset: DatasetReference
    kind: Annotated[str, Field(min_length=1, max_length=64)]
    name: Name
    config: dict[str, Any] = Field(default_factory=dict)
    mode: Literal["full", "warm_start"] = "full"
    parent: Reference | None = None

    @model_validator(mode="after")
    def _begins(self) -> Self:
        if (self.mode == "warm_start") != (self.parent is not None):
            raise ValueError("warm_start needs a parent, and full has none")
        return self


class Progress(Answer):
    """How far a job is; `total` is null where nobody knows."""

    done: int
    total: int | None
    unit: str


class JobAnswer(Answer):
    """A job as it stands; `error` is a problem document."""

    id: str
    type: JobType | Literal["nixtla"]  # what its client submitted
    state: Literal["pending", "running", "succeeded", "failed", "cancelled"]
    attempt: int
    run_id: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    progress: Progress | None
    error: dict[str, Any] | None
    links: dict[str, str]


class JobPage(Answer):
    """Jobs, newest first; `next` is the cursor of the following page."""

    items: list[JobAnswer]
    next: str | None
