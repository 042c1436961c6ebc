"""Tables that are kept under a name."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import (
    Field,
    model_validator,
)

from serving.schemas import samples
from serving.schemas.fields import Answer, Freq, Name, Strict, TimeZone
from serving.schemas.tables import Attributes, Columns, Table

FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.(csv|parquet)$"


class DatasetRequest(Strict):
    """A table to keep under a name. Missing rows stay missing; `null` in `y` is missing too."""

    model_config = samples.shown(
        samples.HOURLY, samples.LOAD, {"name": "sales", "file": "sales.parquet"}
    )

    name: Name
    data: Table = Field(default_factory=dict)
    file: Annotated[
        str | None,
        Field(
            pattern=FILE,
            description="Instead of data: a file of the configured folder, such as load.parquet.",
        ),
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
