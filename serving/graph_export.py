"""A model as an ONNX graph without its weights, derived from our own code.

A program of its own: the exporter takes seconds of Python, which would hold up the forecasts of
the process that asks, and some 500 MB.

    python -m serving.graph_export FILE    the model's description comes as a line of standard input
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from serving.samples import sample
from tsformer import artifact
from tsformer.batch import Batch
from tsformer.model import Model

# Which axes of a field are of any length: windows, and variates.
AXES: dict[str, tuple[int, ...]] = {
    "past": (0, 2),
    "observed": (0, 2),
    "known": (0,),
    "covariates": (0,),
    "static": (0, 1),
    "lagged": (0, 2),
    "series": (0, 1),
}
WEIGHT = "model."
# Of the sample that is traced: a size of 1, or one that something else has, would be a constant.
WINDOWS, VARIATES = 5, 3


class Asked(nn.Module):
    """A model as a function of the tensors of a batch, in the order of `names`."""

    def __init__(self, model: Model, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        given: dict[str, Any] = dict(zip(self.names, tensors, strict=True))
        forecast: Tensor = self.model(Batch(**given))
        return forecast


def export(model: Model) -> bytes:
    """The graph of `model`, whose inputs are called as the fields of a batch.

    Before it stands a line with the names of its weights, in JSON. They are called so in the state
    of the model and, after WEIGHT, in the graph; whoever runs it must give them.
    """
    batch = sample(replace(model.shape, variates=VARIATES), windows=WINDOWS)
    given = {f.name: getattr(batch, f.name) for f in fields(batch)}
    given = {name: tensor for name, tensor in given.items() if tensor is not None}
    lengths = (torch.export.Dim("windows"), torch.export.Dim("variates"))
    axes = [dict(zip(AXES[name], lengths, strict=False)) for name in given]
    traced = torch.export.export(
        Asked(model.eval(), tuple(given)),
        tuple(given.values()),
        dynamic_shapes=(tuple(axes),),
        strict=False,
    )
    made = torch.onnx.export(traced, input_names=[*given], optimize=False, verbose=False)
    assert made is not None
    return _without_weights(made.model, model.state_dict())


def _without_weights(graph: Any, weights: Mapping[str, Tensor]) -> bytes:
    """A line with the names of the weights that `graph` needs, in JSON, and the graph itself."""
    import onnx_ir

    found = graph.graph.initializers
    needed = [name for name in weights if WEIGHT + name in found]
    for name in needed:
        known = found[WEIGHT + name].const_value
        found[WEIGHT + name].const_value = onnx_ir.ExternalTensor(
            "weights", None, None, known.dtype, shape=known.shape, name=WEIGHT + name
        )
    for (
        node
    ) in graph.graph.all_nodes():  # where in our code it comes from: three quarters of the file
        node.metadata_props.clear()
    graph_bytes: bytes = onnx_ir.to_proto(graph).SerializeToString()
    return json.dumps(needed).encode() + b"\n" + graph_bytes


def main(path: Path) -> None:
    """Writes the graph of the model that standard input describes; ends when its parent does.

    Where the model cannot be exported, the line before the graph is `null`, and why comes after it.
    """
    os.nice(10)  # forecasts go first
    described = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    model, _ = artifact.build(described, where="standard input")
    try:
        graph = export(model)
    except (MemoryError, OSError):
        raise  # it may do another time
    except Exception as error:  # whatever it is, it would be so again
        graph = f"null\n{error}"[:500].encode()
    path.write_bytes(graph)


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):  # nothing more is said: it is closed when nobody waits
        pass
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
