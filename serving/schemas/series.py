"""The series of a request, and what may be done with them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    FailFast,
    Field,
    PlainValidator,
    model_validator,
)

from serving.schemas.fields import STEP, Freq, Levels, Strict, TimeZone
from serving.schemas.tables import (
    Ahead,
    Attributes,
    Beside,
    Cell,
    Column,
    Columns,
    Histories,
    History,
    Integer,
    Table,
    read_record,
)


class Resample(Strict):
    """The grid on which rows are gathered before anything else, and what becomes of them."""

    freq: Annotated[str | int, Field(union_mode="left_to_right", description=STEP)]
    agg: Literal["mean", "sum", "last", "first", "min", "max"] = "mean"


class Options(Strict):
    """What to do with series that cannot be used as sent."""

    on_invalid: Literal["fail", "skip"] = "fail"
    fallback: Annotated[
        Literal["seasonal_naive", "linear", "none"] | None,
        Field(description="Without it, that of the service: seasonal_naive as it is shipped."),
    ] = None
    resample: Annotated[
        Resample | None, Field(description='As {"freq": "D", "agg": "sum"}: by days.')
    ] = None
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


class OneSeries(Strict):
    """A series by itself. Its stamps are `ds`, or follow from `start` and `freq`."""

    unique_id: Annotated[Integer | str | None, Field(description="Optional for one series.")] = None
    start: Integer | str | None = None
    ds: Column | None = None
    y: History
    covariates: Histories = Field(default_factory=dict)
    future: Annotated[Beside, Field(description="The steps after the series, in order.")] = Field(
        default_factory=dict
    )
    static: Annotated[
        dict[str, Cell], PlainValidator(read_record, json_schema_input_type=dict[str, Cell])
    ] = Field(default_factory=dict)

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
    future: Ahead = Field(default_factory=dict)
    static: Attributes = Field(default_factory=dict)
    series: Annotated[
        list[OneSeries], FailFast(), Field(description="In place of data, future and static.")
    ] = Field(default_factory=list)
    columns: Columns = Columns()
    h: Annotated[
        int | None, Field(ge=1, description="Steps ahead. Default: the trained horizon.")
    ] = None
    freq: Freq = None
    tz: TimeZone = None
    quantiles: Levels = Field(default_factory=list)
