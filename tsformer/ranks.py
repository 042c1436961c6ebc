"""Processes that train one model together, each on its share of every batch of windows.

Data parallelism by torch.distributed: gloo between CPUs, nccl between GPUs. Whoever starts the
processes initialises its default group; `Ranks.here()` is the place of this process in it. What is
reduced comes back bit by bit the same to all, so all take the same steps and the same decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from tsformer.errors import UnavailableError

BUCKET = 2**23  # numbers reduced at once: 32 MiB, beyond which a larger message is not faster


@dataclass(frozen=True, slots=True)
class Ranks:
    """The number of this process among the `size` that train together; alone by default."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def here() -> Ranks:
        """This process in torch's default group; alone where none is initialised."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return Ranks()
        return Ranks(distributed.get_rank(), distributed.get_world_size())

    @property
    def alone(self) -> bool:
        """Whether there is nobody to share with."""
        return self.size == 1

    def share(self, index: Tensor) -> Tensor:
        """The part of `index` that this rank works on; all parts are of (nearly) equal size."""
        return index if self.alone else index.tensor_split(self.size)[self.rank]

    def sums(self, *values: float) -> list[float]:
        """Each of `values` summed over the ranks, in float64."""
        if self.alone:
            return [*values]
        summed = torch.tensor(values, dtype=torch.float64, device=_device())
        distributed.all_reduce(summed)
        return [float(value) for value in summed]

    def whole(self, loss: Tensor, observed: Tensor) -> tuple[float, Tensor]:
        """The loss over the windows of all ranks, and what this rank differentiates of it.

        `loss` is a mean over what is `observed` in the share of this rank. Ranks weigh as many as
        their observed targets, not the same each, so the gradients of all sum to the gradient of
        the mean over all.
        """
        if self.alone:
            return float(loss.detach()), loss
        count = int(observed.sum())
        total, counted = self.sums(float(loss.detach()) * count, count)
        return total / max(counted, 1), loss * (count / max(counted, 1))

    def sum_in_place(self, tensors: Iterable[Tensor]) -> None:
        """Sums each of `tensors` over the ranks, many of them at once."""
        for bucket in [] if self.alone else _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            distributed.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Gives all ranks the `tensors` of the first."""
        for tensor in [] if self.alone else tensors:
            distributed.broadcast(tensor, src=0)

    def from_first(self, read: Callable[[], bytes | None]) -> bytes | None:
        """What `read` gives on the first rank, for all."""
        if self.alone:
            return read()
        data = read() if self.rank == 0 else None
        (length,) = self.sums(-1 if data is None and self.rank == 0 else len(data or b""))
        if length < 0:
            return None
        message = torch.empty(int(length), dtype=torch.uint8)
        if data is not None:
            message = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        message = message.to(_device())
        distributed.broadcast(message, src=0)
        return message.cpu().numpy().tobytes()

    def on_first(self, work: Callable[[], None]) -> None:
        """Does `work` on the first rank alone; an UnavailableError there is raised by all."""
        failure: UnavailableError | None = None
        if self.rank == 0:
            try:
                work()
            except UnavailableError as error:
                failure = error
        (failed,) = self.sums(failure is not None)
        if failed:
            raise failure or UnavailableError("The first process could not go on; it says why.")

    def gathered(self, values: Tensor) -> Tensor:
        """`values` of every rank `[rank, ...]`."""
        every = values.new_zeros(self.size, *values.shape)
        every[self.rank] = values
        self.sum_in_place([every])
        return every


ALONE = Ranks()


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """`tensors` in their order, as many together as `BUCKET` allows and are of one type."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size + tensor.numel() > BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def _device() -> torch.device:
    """Where the group of this process reduces: nccl knows the memory of the current GPU alone."""
    return torch.device("cuda" if "nccl" in distributed.get_backend() else "cpu")
