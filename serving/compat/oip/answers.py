"""From forecasts to tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from serving.compat.oip.schemas import InferRequest
from serving.compat.oip.tensors import Sent, packed
from serving.compat.undated import calendar_warnings
from serving.forecasting import Forecasted
from serving.problems import Item, Problem
from serving.scoring import numbers

Floats32 = NDArray[np.float32]
OPTIONS = orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class Inferred:
    """An answer: the JSON, and the bytes behind it, if any."""

    json: bytes
    binary: bytes


@dataclass(frozen=True, slots=True)
class _Output:
    values: Floats32 | list[str]
    shape: tuple[int, ...]
    parameters: dict[str, Any]

    @property
    def datatype(self) -> str:
        return "BYTES" if isinstance(self.values, list) else "FP32"

    @property
    def bytes(self) -> bytes:
        if isinstance(self.values, list):
            return packed(self.values)
        return self.values.astype("<f4").tobytes()


def check_outputs(asked: InferRequest) -> None:
    """Raises `invalid-request` for an output that there will not be, and for one named twice."""
    names = [output.name for output in asked.outputs]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise _invalid("This output is named twice.", f"/outputs/{place}")
        if name == "quantiles" and not asked.parameters.quantiles.strip():
            message = "Name the levels in parameters.quantiles, such as 0.1,0.5,0.9."
            raise _invalid(message, f"/outputs/{place}")


def inferred(sent: Sent, name: str, done: Forecasted) -> Inferred:
    """The forecasts of the model `name` for `sent` as tensors with the leading axes of its input."""
    asked, outputs = sent.asked, _outputs(sent.numbers["y"].shape[:-1], done)
    whole = asked.parameters.binary_data_output
    binary = {output.name for output in asked.outputs if output.parameters.binary_data}
    names: list[str] = [output.name for output in asked.outputs]
    listed, behind = [], []
    for each in names or outputs:
        output = outputs[each]
        told: dict[str, Any] = {"name": each, "datatype": output.datatype, "shape": output.shape}
        parameters = dict(output.parameters)
        if whole or each in binary:
            behind.append(output.bytes)
            parameters["binary_data_size"] = len(behind[-1])
        else:
            values = output.values
            told["data"] = values if isinstance(values, list) else values.ravel()
        listed.append({**told, "parameters": parameters} if parameters else told)
    version = done.found.model.version
    members = {
        "model_name": name,
        **({} if version is None else {"model_version": version}),
        **({} if asked.id is None else {"id": asked.id}),
        "parameters": _told(done),
        "outputs": listed,
    }
    return Inferred(orjson.dumps(members, option=OPTIONS), b"".join(behind))


def _outputs(axes: tuple[int, ...], done: Forecasted) -> dict[str, _Output]:
    levels = sorted(done.asked.quantiles)
    values = numbers(done.found, done.panel.ids, levels)
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)  # [series, horizon, 1 + level]
    if not np.isfinite(single).all():
        message = "A forecast is too large for FP32. Send the series in a larger unit."
        raise Problem("model-output-invalid", message)
    steps = values.shape[1]
    status = [entry["status"] for entry in done.entries()]
    found = {"mean": _Output(single[..., 0], (*axes, steps), {})}
    if levels:
        said = {"levels": ",".join(f"{level:g}" for level in levels)}
        found["quantiles"] = _Output(single[..., 1:], (*axes, steps, len(levels)), said)
    found["status"] = _Output(status, axes, {})
    return found


def _told(done: Forecasted) -> dict[str, str | int]:
    """What is worth knowing of the answer: how it was reached, and the codes of all warnings."""
    entries = done.entries()
    warnings = (*done.data.report.all_warnings, *done.found.forecast.warnings)
    codes = {warning.code for warning in warnings}
    codes |= {warning["code"] for warning in calendar_warnings(done)}
    return {
        "freq": str(done.panel.frequency),
        "methods": ",".join(sorted({entry["method"] for entry in entries})),
        "fallback_series": sum(entry["fallback"] is not None for entry in entries),
        "warnings": ",".join(sorted(codes)),
    }


def _invalid(message: str, pointer: str) -> Problem:
    return Problem("invalid-request", "An output is not as specified.", [Item(message, pointer)])
