"""What is asked and answered about actuals, monitors, datasets, jobs and schedules."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

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
                },
                {
                    "type": "backtest",
                    "spec": {
                        "dataset": "m4-hourly",
                        "models": ["patchtst", "linear"],
                        "h": 48,
                        "folds": 4,
                    },
                },
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


class TuneSpec(Strict):
    """A search of `space` for a model of `kind`; the best is published as `name`."""

    dataset: DatasetReference
    kind: Annotated[str, Field(min_length=1, max_length=64)]
    name: Name
    space: Annotated[
        dict[str, Any], Field(min_length=1, description="As `search.space` of an experiment.")
    ]
    trials: Annotated[int, Field(ge=1, le=1_000)] = 16
    max_seconds: Annotated[int | None, Field(ge=1, description="Of the search alone.")] = None
    config: dict[str, Any] = Field(default_factory=dict)


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


# --- schedules ------------------------------------------------------------------------------------

SCHEDULED: JsonDict = {
    "name": "weekly-load",
    "cron": "30 2 * * 1",
    "tz": "Europe/Berlin",
    "enabled": True,
    "catch_up_hours": 24,
    "job": {
        "type": "train",
        "spec": {
            "dataset": "load",
            "kind": "patchtst",
            "name": "load",
            "mode": "warm_start",
            "parent": "load@champion",
        },
    },
    "gate": {
        "metric": "mase",
        "folds": 4,
        "must_beat": ["champion", "seasonal_naive"],
        "alpha": 0.05,
        "min_coverage": {"0.8": 0.75},
    },
    "on_pass": {"promote": "champion"},
}
LEVEL = re.compile(r"0\.[0-9]{1,4}")


class GateRequest(Strict):
    """What a candidate must show; the rules of docs/gate.md hold besides.

    It always must beat the champion, seasonal naive and the best line, on `folds` cutoffs at least
    that do not overlap: 4, which is what the test of the gate takes.
    """

    metric: Literal["mse_scaled", "mae_scaled", "mae", "rmse", "mase", "rmsse", "wql"] | None = None
    folds: Annotated[int, Field(ge=1, le=4)] = 4
    must_beat: list[Literal["champion", "seasonal_naive", "linear"]] = Field(default_factory=list)
    alpha: Annotated[float | None, Field(gt=0, le=0.5)] = None
    min_coverage: Annotated[
        dict[str, float], Field(description='The least coverage of one interval: {"0.8": 0.75}.')
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for share, least in self.min_coverage.items():
            if len(self.min_coverage) > 1 or not LEVEL.fullmatch(share):
                raise ValueError("min_coverage names one interval, such as 0.8")
            if not 0 <= least <= float(share):
                raise ValueError("an interval cannot be asked to cover more than it says")
        return self


class OnPass(Strict):
    """What becomes of a candidate that the gate lets through."""

    promote: Literal["champion"] = "champion"


class ScheduleRequest(Strict):
    """A job that is done again and again, by the wall clock of a zone."""

    model_config = ConfigDict(json_schema_extra={"examples": [SCHEDULED]})

    name: Name
    cron: Annotated[str, Field(min_length=1, max_length=128)]
    tz: Annotated[str, Field(min_length=1, max_length=64)]
    enabled: bool = True
    catch_up_hours: Annotated[int, Field(ge=0, le=8_784)] = 24
    job: JobRequest
    gate: GateRequest | None = None
    on_pass: OnPass | None = None


class ScheduleAnswer(Answer):
    """A schedule; `cron` and `job.spec` are null or short for one that the command line made."""

    id: str
    name: str
    trigger: str
    cron: str | None
    tz: str | None
    enabled: bool
    catch_up_hours: float
    job: dict[str, Any]
    gate: dict[str, Any] | None
    on_pass: dict[str, Any] | None
    next_due_at: str | None
    missed: int
    skipped: int
    created_at: str
    etag: str


class SchedulePage(Answer):
    """Schedules by name; `next` is the cursor of the following page."""

    items: list[ScheduleAnswer]
    next: str | None


class RunAnswer(Answer):
    """A run of a schedule; `verdict` is what the gate said, or what else came of it."""

    id: str
    schedule: str
    state: Literal["pending", "running", "succeeded", "failed", "dead", "skipped", "cancelled"]
    reason: str
    due_at: str
    attempt: int
    started_at: str | None
    finished_at: str | None
    verdict: str | None
    version: str | None
    job: str | None


class RunPage(Answer):
    """Runs, newest first; `next` is the cursor of the following page."""

    items: list[RunAnswer]
    next: str | None
