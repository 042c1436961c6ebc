"""What is asked of models: forecasts, comparisons, explanations, anomalies."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    FailFast,
    Field,
)

from serving.schemas import samples
from serving.schemas.fields import Reference, Strict
from serving.schemas.series import CompareOptions, Options, Series


class ForecastRequest(Series):
    """Several series in one columnar table, and what is wanted of them."""

    model_config = samples.shown(
        samples.RECORDED, samples.UNIVARIATE, samples.COVARIATES, samples.GROUP
    )

    model: Reference | None = None
    options: Options = Options()


class CompareRequest(Series):
    """The same series for several models side by side."""

    model_config = samples.shown(samples.COMPARED)

    models: Annotated[list[Reference], Field(min_length=1), FailFast()]
    options: CompareOptions = CompareOptions()


class Explain(Strict):
    """Whether shares are those of each series, or their mean over the request."""

    aggregate: Literal["series", "request"] = "series"


class ExplainRequest(ForecastRequest):
    """The series of a forecast, and how what was read from them is told."""

    model_config = samples.shown(
        {**samples.GROUP, "explain": {"aggregate": "series"}},
        {**samples.COVARIATES, "explain": {"aggregate": "request"}},
    )

    explain: Explain = Explain()


def _percent(level: float) -> float:
    if 0 < level < 1:
        raise ValueError("A level between 0 and 1 is less than one percent")
    return level


class Detect(Strict):
    """Which points are judged: the last ones of each series, each by a forecast from before it."""

    level: Annotated[
        float,
        Field(ge=0, lt=100, description="Percent of the values within the interval: 99, not 0.99."),
        AfterValidator(_percent),
    ] = 99
    last: Annotated[int, Field(ge=1, lt=2**31, description="Points of each series.")]
    h: Annotated[int, Field(ge=1, description="Points that are forecast at a time.")] = 1


class AnomalyRequest(ForecastRequest):
    """The series of a forecast, and which of their points are judged; `h` and `future` are not read."""

    model_config = samples.shown(samples.WATCHED)

    detect: Annotated[
        Detect,
        Field(description='As {"last": 48, "level": 99}: the last 48 points of each series.'),
    ]
