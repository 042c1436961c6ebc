"""A model whose forward pass ONNX Runtime computes, with the weights of the one it was made of."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from serving.graph_export import WEIGHT
from serving.samples import distance, few, sample
from tsformer.batch import Batch
from tsformer.errors import IncompatibleError
from tsformer.model import Model

# Of a context's deviation: what two orders of the same float32 sums may differ by.
TOLERANCE = 1e-5
WINDOWS = (1, 5, 16)  # of the samples that must agree


class GraphModel(Model):
    """The graph of `model` (see `serving.graph_export`), on one device: the CPU."""

    def __init__(self, model: Model, graph: bytes, *, threads: int) -> None:
        super().__init__(model.shape)
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors
        names, _, plain = graph.partition(b"\n")
        weights, needed = model.state_dict(), json.loads(names)
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[n].numpy()) for n in needed]
        options.add_external_initializers([WEIGHT + name for name in needed], values)
        self._session = onnxruntime.InferenceSession(
            plain, options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {each.name: NUMPY[each.type] for each in self._session.get_inputs()}

    def forward(self, batch: Batch) -> Tensor:
        given = {
            name: getattr(batch, name).numpy().astype(kind, copy=False)
            for name, kind in self._inputs.items()
        }
        return torch.from_numpy(self._session.run(None, given)[0])


NUMPY = {
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(bool)": "bool",
    "tensor(int64)": "int64",
}


@torch.inference_mode()
def graph_model(model: Model, graph: bytes, *, threads: int) -> GraphModel:
    """The model of `graph`; IncompatibleError where it does not forecast as `model` does."""
    made = GraphModel(model, graph, threads=threads)
    for seed, windows in enumerate(sorted({few(model.shape, count) for count in WINDOWS})):
        batch = sample(model.shape, windows=windows, seed=seed)
        apart = distance(model(batch), made(batch), batch).max().item()
        if not apart <= TOLERANCE:  # nor NaN
            raise IncompatibleError(
                f"the graph's forecasts lie {apart:.1e} deviations from those of torch, at most "
                f"{TOLERANCE:.0e} are allowed."
            )
    return made
