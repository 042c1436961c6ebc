"""The JSON of /invocations: a body is exactly one of four forms."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import FailFast, Field, RootModel, model_validator
from pydantic.config import JsonDict

from serving.schemas import samples
from serving.schemas.fields import Answer, Levels, Reference, Strict
from serving.schemas.series import Options
from serving.schemas.tables import Columns

Frequency = Annotated[
    str | int | None, Field(description="Default: that of the data or the model.")
]
Horizon = Annotated[int | None, Field(ge=1, description="Default: the trained horizon.")]
Cell = Annotated[Any, Field(description="Numbers; null and a bare NaN are missing.")]


# --- a data frame ---------------------------------------------------------------------------------


class FrameParameters(Strict):
    """What is wanted of the series of a data frame; `future` says that their last rows are ahead."""

    model: Reference | None = None
    h: Horizon = None
    freq: Frequency = None
    tz: Annotated[str | None, Field(max_length=64)] = None
    quantiles: Levels = Field(default_factory=list)
    columns: Columns = Columns()
    options: Options = Options()
    static: Annotated[Any, Field(description="A table, as records or as columns.")] = None
    future: Literal["trailing_null"] | None = None


class Split(Strict):
    """A data frame by rows, as `DataFrame.to_dict(orient="split")` gives it."""

    columns: Annotated[list[str], FailFast()]
    data: Any
    index: Any = None


class SplitBody(Strict):
    """What MLflow's client makes of a data frame."""

    dataframe_split: Split
    params: FrameParameters = FrameParameters()


class RecordsBody(Strict):
    """A data frame as an object a row."""

    dataframe_records: Any
    params: FrameParameters = FrameParameters()


# --- series -----------------------------------------------------------------------------------


class Instance(Strict):
    """A series as DeepAR has it: `cat` are attributes, `dynamic_feat` reach over the horizon."""

    start: Annotated[str, Field(max_length=64)]
    target: Cell
    cat: Annotated[list[int], FailFast()] = Field(default_factory=list)
    dynamic_feat: Any = None


class Configuration(Strict):
    """Which numbers are wanted; no samples are drawn, so `num_samples` changes nothing."""

    output_types: Annotated[
        list[Literal["mean", "quantiles"]] | None, Field(min_length=1), FailFast()
    ] = None
    quantiles: Annotated[list[str] | None, FailFast()] = None
    num_samples: Annotated[int, Field(ge=1)] = 100


class InstancesBody(Strict):
    """Series for the default model at its own step and horizon."""

    instances: Annotated[list[Instance], Field(min_length=1), FailFast()]
    configuration: Configuration = Configuration()


class Item(Strict):
    """A series with covariates by name."""

    target: Cell
    item_id: Annotated[str | int | None, Field(union_mode="left_to_right")] = None
    start: Annotated[str | None, Field(max_length=64)] = None
    past_covariates: dict[str, Any] = Field(default_factory=dict)
    future_covariates: dict[str, Any] = Field(default_factory=dict)


class ItemParameters(Strict):
    """What is wanted of series that came as `inputs`."""

    prediction_length: Horizon = None
    quantile_levels: Levels = Field(default_factory=list)
    freq: Frequency = None


class InputsBody(Strict):
    """Series for the default model; MLflow's client calls the parameters `params`."""

    inputs: Annotated[list[Item], Field(min_length=1), FailFast()]
    parameters: ItemParameters | None = None
    params: ItemParameters | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.parameters is not None and self.params is not None:
            raise ValueError("give parameters or params")
        return self


# --- samples ------------------------------------------------------------------------------------

_DAILY: JsonDict = {"freq": "D", "tz": samples.ZONE}
_ROWS = [("a", day, y) for day, y in zip(samples.DATES, samples.VALUES, strict=True)]
SPLIT: JsonDict = {
    "dataframe_split": {"columns": ["unique_id", "ds", "y"], "data": [[*row] for row in _ROWS]},
    "params": {"model": "patchtst", "h": 3, "quantiles": [0.1, 0.9], **_DAILY},
}
RECORDS: JsonDict = {  # of which the last two are ahead
    "dataframe_records": [
        *({"unique_id": name, "ds": day, "y": y} for name, day, y in _ROWS),
        {"unique_id": "a", "ds": "2026-03-29", "y": None},
        {"unique_id": "a", "ds": "2026-03-30", "y": None},
    ],
    "params": {"h": 2, "future": "trailing_null", **_DAILY},
}
INSTANCES: JsonDict = {
    "instances": [{"start": "2026-03-01", "target": ["NaN", *samples.VALUES[1:]]}],
    "configuration": {"output_types": ["mean", "quantiles"], "quantiles": ["0.1", "0.9"]},
}
INPUTS: JsonDict = {
    "inputs": [{"target": samples.VALUES, "item_id": "a", "start": "2026-03-01"}],
    "parameters": {"prediction_length": 2, "quantile_levels": [0.1, 0.9], "freq": "D"},
}
TABLE = "".join(f"{name},{day},{'' if y is None else y}\n" for name, day, y in _ROWS)
CSV_TABLE = f"unique_id,ds,y\n{TABLE}"


class Invocation(RootModel[SplitBody | RecordsBody | InstancesBody | InputsBody]):
    """Series in one of four forms; missing numbers may be a bare NaN."""

    model_config = samples.shown(SPLIT, RECORDS, INSTANCES, INPUTS)


class Predictions(Answer):
    """A row a step, or an object a series, as the form of the request has it.

    `metadata` is the answer of /v1/forecasts without its table.
    """

    predictions: list[dict[str, Any]]
    metadata: dict[str, Any]
