"""The JSON of an inference request and of its answer, in the words of the protocol."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.config import JsonDict

from serving.schemas import samples
from serving.schemas.fields import Answer, Strict

TEXT = 128  # characters of an id of a request
_Y: JsonDict = {
    "name": "y",
    "shape": [1, samples.DAYS],
    "datatype": "FP32",
    "data": samples.DAILY["y"],
}
PLAIN: JsonDict = {"inputs": [_Y], "parameters": {"h": 2}}
NAMED: JsonDict = {
    "id": "42",
    "inputs": [
        _Y,
        {"name": "unique_id", "shape": [1], "datatype": "BYTES", "data": ["a"]},
        {"name": "start", "shape": [1], "datatype": "BYTES", "data": ["2026-03-01"]},
    ],
    "outputs": [{"name": "mean"}, {"name": "quantiles"}, {"name": "status"}],
    "parameters": {
        "h": 3,
        "freq": "D",
        "tz": samples.ZONE,
        "quantiles": "0.1,0.5,0.9",
        "fallback": "seasonal_naive",
    },
}


class Binary(Strict):
    """Where a tensor has its data: in so many bytes after the JSON."""

    binary_data_size: Annotated[int, Field(ge=0)]


class InputTensor(Strict):
    """A tensor of the request: `data` in row-major order, flat or nested, or bytes after the JSON."""

    name: Literal["y", "x_past", "x_future", "unique_id", "start"]
    shape: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=3)]
    datatype: Literal["FP32", "FP64", "BYTES"]
    parameters: Binary | None = None
    data: Any = None


class Form(Strict):
    """Whether an output is wanted as bytes after the JSON."""

    binary_data: bool = False


class OutputTensor(Strict):
    """A tensor that is wanted."""

    name: Literal["mean", "quantiles", "status"]
    parameters: Form = Form()


Outputs = Annotated[list[OutputTensor], Field(max_length=3, description="All where none is named.")]


class Parameters(Strict):
    """What is wanted of the series, and in which form all outputs come."""

    h: Annotated[int | None, Field(ge=1)] = None
    freq: str | int | None = None
    tz: Annotated[str | None, Field(max_length=64)] = None
    quantiles: Annotated[str, Field(max_length=512, description="Such as 0.1,0.5,0.9.")] = ""
    fallback: str | None = None
    binary_data_output: bool = False


class InferRequest(Strict):
    """Series as tensors."""

    model_config = samples.shown(PLAIN, NAMED)

    id: Annotated[str | None, Field(max_length=TEXT)] = None
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=5)]
    outputs: Outputs = Field(default_factory=list)
    parameters: Parameters = Parameters()


# --- answers; they describe what the routes send ------------------------------------------------


class AnsweredTensor(Answer):
    """A tensor of the answer; its data are `data`, or bytes after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferAnswer(Answer):
    """Forecasts as tensors; `parameters` say what is worth knowing of them."""

    model_name: str
    model_version: str | None = None
    id: str | None = None
    parameters: dict[str, Any]
    outputs: list[AnsweredTensor]


class TensorMetadata(Answer):
    """A tensor that a model takes or gives; -1 is any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Answer):
    """A model as the protocol describes it."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(Answer):
    """The server as the protocol describes it."""

    name: str
    version: str
    extensions: list[str]
