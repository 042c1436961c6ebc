"""What is asked and answered about actuals, monitors, datasets, jobs and schedules."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from serving.schemas import _DATA, NAME, Answer, Attributes, Columns, Strict, Table

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
