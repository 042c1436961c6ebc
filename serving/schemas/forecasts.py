"""What is asked of models: forecasts, comparisons, explanations, anomalies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    ConfigDict,
    FailFast,
    Field,
)
from pydantic.config import JsonDict, JsonValue

from serving.schemas.fields import Reference, Strict
from serving.schemas.series import CompareOptions, Options, Series

_DAYS: list[JsonValue] = ["2026-03-26", "2026-03-27", "2026-03-28"]


_DATA: JsonDict = {"unique_id": ["a", "a", "a"], "ds": _DAYS, "y": [10.0, None, 12.5]}


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
