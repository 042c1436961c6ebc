"""What the Nixtla client sends, from 0.7.3 to 0.9.0, and what it is answered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, FailFast, Field
from pydantic.config import JsonDict, JsonValue

from serving.schemas import samples
from serving.schemas.answers import ModelName
from serving.schemas.fields import NAME, Answer, Reference, Strict, Warned
from serving.schemas.tables import Column

Count = Annotated[int, Field(ge=1, lt=2**31)]
Numbers = Annotated[list[float | None], FailFast()]
_SERIES: JsonDict = {
    "y": samples.VALUES,
    "sizes": [samples.DAYS],
    "X": None,
    "start_datetime": ["2026-03-01T00:00:00"],
}
_COMMON: JsonDict = {
    "model": "seasonal_naive",
    "freq": "D",
    "clean_ex_first": True,
    "finetune_steps": 0,
    "finetune_depth": 1,
    "finetune_loss": "default",
    "finetuned_model_id": None,
    "multivariate": False,
}


def _in_hundredths(level: float) -> float:
    if round(level, 2) != level:
        raise ValueError("levels have at most two decimals")
    return level


Level = Annotated[
    float,
    Field(ge=0, lt=100, description="Percent of an interval: 80, not 0.8."),
    AfterValidator(_in_hundredths),
]


def _example(**own: JsonValue) -> ConfigDict:
    return samples.shown({"series": _SERIES, **_COMMON, **own})


class History(Strict):
    """Series one behind the other: `sizes` says how long each is; `X` has a row a covariate."""

    y: Annotated[Numbers, Field(min_length=1)]
    sizes: Annotated[list[Count], Field(min_length=1), FailFast()]
    X: Annotated[list[Column] | None, FailFast()] = None
    start_datetime: Annotated[list[str] | None, FailFast()] = None
    categorical_exog: Annotated[list[int] | None, FailFast()] = None


class HistoryAndFuture(History):
    """With `X_future`: a row for each covariate known ahead, the first rows of `X`."""

    X_future: Annotated[list[Column] | None, FailFast()] = None


class Asked(Strict):
    """What every task says; the members about fine-tuning and cleaning change nothing here."""

    series: History
    model: Annotated[Reference | None, Field(description="timegpt-* mean the default model.")] = (
        None
    )
    freq: Annotated[str, Field(max_length=64)]
    clean_ex_first: bool = True
    finetune_steps: Annotated[
        int, Field(ge=0, description="0: fine-tuning is a task of its own.")
    ] = 0
    finetune_depth: int = 1
    finetune_loss: str = "default"
    finetuned_model_id: Reference | None = None
    multivariate: bool = False
    model_parameters: dict[str, Any] | None = None
    feature_contributions: bool = False
    feature_contributions_type: str | None = None

    @property
    def hist_rows(self) -> list[int] | None:
        """The rows of `X` that are known in the past alone; None where the model's card says it."""
        return None


class NixtlaForecastRequest(Asked):
    """`v2/forecast`."""

    model_config = _example(h=2, level=[80])

    series: HistoryAndFuture
    h: Count
    level: Annotated[list[Level] | None, FailFast()] = None

    @property
    def hist_rows(self) -> list[int] | None:
        """See `Asked.hist_rows`: those behind the rows of `X_future`."""
        return [*range(len(self.series.X_future or ()), len(self.series.X or ()))]


class Windowed(Asked):
    """What tasks over several windows share."""

    h: Count
    step_size: Count | None = None
    refit: bool = False
    hist_exog: Annotated[list[Annotated[int, Field(ge=0)]] | None, FailFast()] = None

    @property
    def hist_rows(self) -> list[int] | None:
        """See `Asked.hist_rows`."""
        return self.hist_exog or []


class NixtlaCrossValidationRequest(Windowed):
    """`v2/cross_validation`; with `full_history` the service chooses the windows."""

    model_config = _example(h=1, n_windows=2, step_size=1, level=None, hist_exog=None, refit=False)

    n_windows: Count = 1
    level: Annotated[list[Level] | None, FailFast()] = None
    full_history: bool = False


class NixtlaAnomalyRequest(Asked):
    """`v2/anomaly_detection`: all points that have enough history before them."""

    model_config = _example(level=99)

    level: Level = 99


class NixtlaOnlineRequest(Windowed):
    """`v2/online_anomaly_detection`: the last `detection_size` points of each series."""

    model_config = _example(
        h=1, step_size=1, detection_size=1, threshold_method="univariate", level=99, hist_exog=None
    )

    detection_size: Count
    threshold_method: Literal["univariate", "multivariate"] = "univariate"
    level: Level = 99


class Lessons(Strict):
    """Series one behind the other, and where each of them starts."""

    y: Annotated[Numbers, Field(min_length=1)]
    sizes: Annotated[list[Count], Field(min_length=1), FailFast()]
    start_datetime: Annotated[list[str] | None, FailFast()] = None


class NixtlaFinetuneRequest(Strict):
    """`v2/finetune`: all weights of a model go on learning, and are a model of their own."""

    model_config = samples.shown(
        {
            "series": {
                "y": samples.LESSONS,
                "sizes": [len(samples.LESSONS)],
                "start_datetime": ["2025-12-07"],
            },
            "model": "patchtst",
            "freq": "D",
            "finetune_steps": 10,
            "output_model_id": "mine",
        }
    )

    series: Lessons
    model: Annotated[Reference | None, Field(description="timegpt-* mean the default model.")] = (
        None
    )
    freq: Annotated[str, Field(max_length=64)]
    finetune_steps: Annotated[
        int, Field(ge=1, le=10_000, description="Steps of the optimiser, of 64 windows each.")
    ] = 10
    finetune_depth: Annotated[
        int, Field(ge=1, le=5, description="Any: all weights are fitted, which is called 5.")
    ] = 5
    finetune_loss: Annotated[
        str, Field(max_length=32, description="default; mae and mse for a model without quantiles.")
    ] = "default"
    output_model_id: Annotated[
        str | None, Field(pattern=NAME, description="Its name; made up where there is none.")
    ] = None
    finetuned_model_id: Reference | None = None


class JobOptions(Strict):
    """`timeout_seconds`: after which a job has failed."""

    timeout_seconds: Count | None = None


# --- answers --------------------------------------------------------------------------------------

Bounds = Annotated[
    dict[str, list[float]], Field(description="lo-L and hi-L of each level, as mean is.")
]


class NixtlaAnswer(Answer):
    """Forecasts one behind the other, and what every answer of this service says of them."""

    mean: list[float]
    intervals: Bounds | None
    weights_x: None
    model: ModelName
    fallback: dict[str, Any]
    warnings: list[Warned]
    warnings_truncated: bool


class NixtlaForecastAnswer(NixtlaAnswer):
    """`h` values a series."""

    feature_contributions: None


class NixtlaCrossValidationAnswer(NixtlaForecastAnswer):
    """`sizes` values a series; `idxs` are their places in `y`."""

    idxs: list[int]
    sizes: list[int]


class NixtlaAnomalyAnswer(NixtlaAnswer):
    """The last `sizes` values of each series."""

    sizes: list[int]
    anomaly: list[bool]


class NixtlaOnlineAnswer(NixtlaAnomalyAnswer):
    """Scores are distances from the mean in half-widths of the interval."""

    idxs: list[int]
    anomaly_score: list[float | None]
    accumulated_anomaly_score: list[float | None]


class Submitted(Answer):
    """A job that was taken on."""

    job_id: str
    status: Literal["pending", "running", "succeeded", "failed", "cancelled"]


class SubmittedJob(Submitted):
    """A job as it stands; `error` is a problem document."""

    result: dict[str, Any] | None
    error: dict[str, Any] | None


class FinetunedId(Answer):
    """The name of a model that was fine-tuned."""

    finetuned_model_id: str


class FinetunedModel(Answer):
    """A fine-tuned model: `base_model_id` is the version that its weights began with."""

    id: str
    created_at: str
    created_by: str
    base_model_id: str
    steps: int
    depth: int
    loss: str
    model: str
    freq: str


class FinetunedModels(Answer):
    """The fine-tuned models of the tenant, newest first."""

    finetuned_models: list[FinetunedModel]


class Detail(Answer):
    """What the client shows."""

    detail: str


class Used(Answer):
    """How much of a limit is used; the limit 0 means none."""

    limit: int
    used: int


class Usage(Answer):
    """Requests of the key that this process counted."""

    minute: Used
    month: Used


class ListedModel(Answer):
    """A name that can be asked for."""

    name: str


class ListedModels(Answer):
    """All names and `name@alias`."""

    models: list[ListedModel]


class Sizes(Answer):
    """How much history a model reads, and how far it forecasts at a time."""

    input_size: int
    horizon: int


class ModelParameters(Answer):
    """What the client asks before it cuts the history."""

    detail: Sizes
