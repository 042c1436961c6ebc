"""Long work: what is ordered, and how it stands."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    FailFast,
    Field,
    model_validator,
)

from serving.schemas import sample_answers, samples
from serving.schemas.fields import NAME, Answer, Levels, Name, Reference, Strict

JobType = Literal["forecast", "compare", "explain", "anomaly", "backtest", "train", "tune"]
DATASET = NAME[:-1] + r"(/[0-9a-f]{16})?$"
DatasetReference = Annotated[
    str,
    Field(
        pattern=DATASET, description="`name`, its newest version, or `name/version`, such as load."
    ),
]


JOB_ID = r"^job_[0-9a-z]{1,64}$"


class JobRequest(Strict):
    """Long work: the body of a route as `spec`, or what a backtest or a training needs."""

    model_config = samples.shown(samples.BACKTEST, samples.FORECAST_JOB)

    type: JobType
    spec: Annotated[
        dict[str, Any],
        Field(description="The body of the route, or dataset, models and h of a backtest."),
    ]


class BacktestSpec(Strict):
    """Models on the last `folds` cutoffs of a dataset, `step` rows apart, `h` rows ahead."""

    dataset: DatasetReference
    models: Annotated[list[Reference], Field(min_length=1), FailFast()]
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

    model_config = samples.shown(sample_answers.JOB)

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
