"""How a replica runs a model: by torch or by ONNX Runtime, and in which precision.

Whatever is faster must forecast as torch in float32 does, within a tolerance, or is not used.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from pipelines.forecaster import Forecaster
from serving.graph_model import GraphModel, graph_model
from serving.graphs import Graphs, installed
from serving.samples import distance, few, sample, whole
from tsformer import artifact
from tsformer.batch import Batch
from tsformer.errors import ConfigError, IncompatibleError, TsformerError
from tsformer.model import Model
from tsformer.runtime import Runtime

LOG = logging.getLogger(__name__)

# Root mean square difference from float32, in deviations of the context: of a forecast whose own
# error is a third of a deviation it adds 0.1 % to the mean squared error.
PRECISION_TOLERANCE = 0.01
# A graph costs about this much processor time, so a model earns one by having run as long.
EARNED_S = 10.0
# Below this a change of runtime is not worth the change.
PAYS = 1.1


@dataclass(frozen=True, slots=True)
class Runtimes:
    """How the models of a replica are run; `runtime` and `precision` as in `serving.settings.Models`.

    auto: by ONNX Runtime where it is installed, and the graph was derived before and found faster.
    One is derived beside once a model has run by torch for EARNED_S seconds, for the next time that
    its architecture is loaded: what answers once goes on as it began, since another order of sums is
    another last digit. onnx: from the first answer on.
    """

    graphs: Graphs
    runtime: str = "torch"
    precision: str = "float32"
    threads: int = 1

    def equip(self, forecaster: Forecaster, *, name: str) -> None:
        """Lets `forecaster`, which is called `name` in the log, run as is said here."""
        runtime = forecaster.runtime
        if self.precision != "float32":
            runtime = _in_precision(runtime, self.precision, name=name)
        on_cpu = runtime.device.type == "cpu" and runtime.precision == torch.float32
        if self.runtime != "torch" and on_cpu and self._can(name):
            described = artifact.description(forecaster.model, forecaster.spec)
            hot = Hot(forecaster.model, described, self, name=name)
            hot.begin()
            runtime = Runtime(hot, device="cpu")
        forecaster.runtime = runtime

    def _can(self, name: str) -> bool:
        if not installed() and self.runtime == "onnx":
            LOG.warning("%s runs by torch: the extra 'onnx' is not installed", name)
        return installed()


class Hot(Model):
    """A model that is run by ONNX Runtime if there is a graph of it, else by torch.

    A graph that fails, once it is in use, is given up, and torch answers.
    """

    _graph: GraphModel | None

    def __init__(
        self, model: Model, described: dict[str, Any], how: Runtimes, *, name: str
    ) -> None:
        super().__init__(model.shape)
        self._model, self._described, self._how, self._name = model, described, how, name
        self.register_module("_graph", None)
        self._left_s = EARNED_S

    def begin(self) -> None:
        """Takes the graph that is there; with `onnx` derives one that is not."""
        graphs, always = self._how.graphs, self._how.runtime == "onnx"
        try:
            graph = graphs.find(self._described)
            if graph is None and always:
                graph = graphs.derive(self._described)
            if graph is None:
                return
            if not always and (slow := graphs.slow(self._described)):
                raise IncompatibleError(slow)
            self._graph = graph_model(self._model, graph, threads=self._how.threads)
            LOG.info("%s runs by ONNX Runtime", self._name)
        except Exception as error:
            if not isinstance(error, TsformerError):  # a file that is damaged, say
                graphs.forget(self._described)
            self._stay(error)

    def forward(self, batch: Batch) -> Tensor:
        graph = self._graph
        if graph is not None:
            try:
                answered: Tensor = graph(batch)
                return answered
            except Exception as error:
                self._stay(error)
        begun = perf_counter()
        forecast: Tensor = self._model(batch)
        self._count(perf_counter() - begun)
        return forecast

    def _count(self, seconds: float) -> None:
        before, self._left_s = self._left_s, self._left_s - seconds
        if before > 0 >= self._left_s:
            threading.Thread(target=self._derive, name="graph", daemon=True).start()

    def _derive(self) -> None:
        """Prepares the next time that a model of this architecture is loaded."""
        graphs = self._how.graphs
        try:
            graph = graphs.derive(self._described)
            made = graph_model(self._model, graph, threads=self._how.threads)
            if (gain := gained(self._model, made)) < PAYS:
                graphs.note_slow(self._described, f"ONNX Runtime takes {1 / gain:.2f} of its time.")
            else:
                LOG.info("%s runs by ONNX Runtime when it is loaded again", self._name)
        except Exception as error:
            self._stay(error)

    def _stay(self, error: Exception) -> None:
        """Runs by torch for good; nobody who asks for a forecast notices."""
        self._graph, self._left_s = None, 0.0
        told = isinstance(error, TsformerError)
        LOG.warning("%s runs by torch: %s", self._name, error if told else repr(error)[:500])


@torch.inference_mode()
def gained(model: Model, graph: Model) -> float:
    """How many times faster `graph` forecasts a few windows than `model` does."""
    batch = whole(sample(model.shape, windows=few(model.shape, 8)))
    seconds: dict[Model, list[float]] = {model: [], graph: []}
    for _ in range(5):
        for each, taken in seconds.items():  # in turns: others use the machine too
            begun = perf_counter()
            each(batch)
            taken.append(perf_counter() - begun)
    return min(seconds[model]) / min(seconds[graph])


def _in_precision(runtime: Runtime, precision: str, *, name: str) -> Runtime:
    """The model of `runtime` in `precision`; as it was where that is too far off, or not to be had."""
    model, device = runtime.model, runtime.device
    try:
        faster = Runtime(model, device=device, precision=precision)
    except ConfigError as error:
        LOG.warning("%s runs in float32: %s", name, error)
        return runtime
    batch = sample(model.shape, windows=few(model.shape, 16))
    apart = distance(runtime.predict(batch), faster.predict(batch), batch)
    far = apart.square().mean().sqrt().item()
    if far <= PRECISION_TOLERANCE:
        return faster
    LOG.warning(
        "%s runs in float32: in %s its forecasts lie %.1e deviations away, at most %.0e are allowed",
        name, precision, far, PRECISION_TOLERANCE,
    )  # fmt: skip
    return runtime
