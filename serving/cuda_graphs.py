"""CUDA graphs: forward passes over few windows, which a GPU repeats without Python between its kernels.

A pass over few windows takes a GPU less time than Python takes to launch its kernels one by one. So at
load a pass of each size is captured, from pinned memory to pinned memory, and a smaller batch is padded
to the next size. A graph is used where it forecasts as the model itself does, and is faster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from serving.samples import distance, sample
from tsformer.batch import Batch
from tsformer.errors import IncompatibleError, TsformerError
from tsformer.runtime import Runtime

LOG = logging.getLogger(__name__)
SIZES = (1, 2, 4, 8, 16, 32, 64)  # windows of a pass; more keep a GPU busy by themselves
WARM_UP = 3  # passes before one is captured: libraries set themselves up in the first ones
TURNS = 5  # of a comparison
# In deviations of the context, as between two orders of the same sums: in float32, and in half precision.
TOLERANCE, HALF_TOLERANCE = 1e-5, 0.01
PAYS = 1.1  # times as fast; less is not worth the memory of a graph
Work = Callable[[], None]
NAMES = tuple(field.name for field in fields(Batch))


class Capture(Protocol):
    def __call__(self, work: Work, /) -> Work:
        """A function that does again what `work` does, with the same buffers."""
        ...


def cuda_graph(work: Work) -> Work:
    """Captures the kernels that `work` launches; the function launches them at once, and waits.

    Only what this thread does is captured, so another model may work meanwhile.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):  # which is left even where the capture fails
        for _ in range(WARM_UP):
            work()
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            work()

    def replay() -> None:
        graph.replay()
        torch.cuda.current_stream().synchronize()

    return replay


class Pass:
    """A pass over a fixed number of windows, with the buffers that it reads and writes."""

    def __init__(self, runtime: Runtime, *, windows: int, capture: Capture) -> None:
        self._runtime = runtime
        batch = sample(runtime.model.shape, windows=windows)
        said = runtime.predict(batch)
        self._pinned = runtime.device.type == "cuda"
        self._given = {name: self._buffer(getattr(batch, name)) for name in NAMES}
        self._said = torch.empty_like(said, pin_memory=self._pinned)
        self._replay = capture(self._work)

    def takes(self, batch: Batch) -> bool:
        """Whether `batch` has no more windows, and those are of this form."""
        return len(batch) <= len(self._said) and all(
            _form(getattr(batch, name)) == _form(given) for name, given in self._given.items()
        )

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Tensor:
        """The forecast of a batch that this takes, on the CPU."""
        for name, given in self._given.items():
            if given is not None:
                given[: len(batch)].copy_(getattr(batch, name))
        self._replay()
        return self._said[: len(batch)].to(batch.past.dtype, copy=True)

    @torch.inference_mode()
    def _work(self) -> None:
        batch = Batch(**self._given).to(self._runtime.device)
        self._said.copy_(self._runtime.run(batch), non_blocking=True)

    def _buffer(self, like: Tensor | None) -> Any:  # what a Batch takes for a field
        if like is None:
            return None
        buffer = torch.empty(like.shape, dtype=like.dtype, pin_memory=self._pinned)
        return buffer.copy_(like)


def _form(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape[1:])


class GraphedRuntime(Runtime):
    """A runtime that answers batches of few windows by the smallest of `passes` that takes them."""

    def __init__(self, plain: Runtime, passes: Sequence[Pass]) -> None:
        precision = str(plain.precision).removeprefix("torch.")
        super().__init__(plain.model, device=plain.device, precision=precision)
        self.micro_batch = plain.micro_batch
        self._passes = passes

    def predict(self, batch: Batch) -> Tensor:
        """See `Runtime.predict`."""
        found = next((one for one in self._passes if one.takes(batch)), None)
        return super().predict(batch) if found is None or not len(batch) else found(batch)


def graphed(runtime: Runtime, *, name: str, capture: Capture = cuda_graph) -> Runtime:
    """`runtime` with a pass for each of SIZES at which it pays; as it was where none can be had."""
    passes: list[Pass] = []
    try:
        for windows in SIZES:
            if windows * runtime.model.shape.variates > runtime.micro_batch:
                break
            made = Pass(runtime, windows=windows, capture=capture)
            check(made, runtime, windows=windows)
            if gained(made, runtime, windows=windows) >= PAYS:
                passes.append(made)
    except Exception as error:  # a model that asks a GPU for its values, or too little memory
        told = error if isinstance(error, TsformerError) else repr(error)[:500]
        LOG.warning("%s runs without CUDA graphs: %s", name, told)
        return runtime
    if not passes:
        return runtime
    LOG.info("%s has %s CUDA graphs", name, len(passes))
    return GraphedRuntime(runtime, passes)


def check(made: Pass, runtime: Runtime, *, windows: int) -> None:
    """Raises IncompatibleError where `made` does not forecast as `runtime` does, one after the other."""
    exact = runtime.precision == torch.float32
    for seed, count in enumerate((windows, (windows + 1) // 2, windows), start=1):
        batch = sample(runtime.model.shape, windows=count, seed=seed)
        apart = distance(runtime.predict(batch), made(batch), batch)
        far = (apart.max() if exact else apart.square().mean().sqrt()).item()
        if not far <= (TOLERANCE if exact else HALF_TOLERANCE):  # nor NaN
            raise IncompatibleError(
                f"the forecasts of {count} windows lie {far:.1e} deviations from those without one."
            )


def gained(made: Pass, runtime: Runtime, *, windows: int) -> float:
    """How many times faster `made` forecasts so many windows than `runtime` does."""
    batch = sample(runtime.model.shape, windows=windows)
    contenders: tuple[Callable[[Batch], Tensor], ...] = (runtime.predict, made)
    seconds: list[list[float]] = [[], []]
    for _ in range(TURNS):
        for each, taken in zip(contenders, seconds, strict=True):  # in turns: others may work too
            begun = perf_counter()
            each(batch)
            taken.append(perf_counter() - begun)
    return min(seconds[0]) / min(seconds[1])
