"""What is drawn in an epoch, and from what: the seed and the number of the epoch alone.

So a run that is resumed needs no stored random state, and the caller's is never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator, Tensor

from tsformer.ranks import Ranks


@contextmanager
def seeded(seed: int, epoch: int, *, device: torch.device) -> Iterator[None]:
    """Torch's random state for one epoch; afterwards the caller's is as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        _seed(seed, epoch, device=device)
        yield


def part_ways(seed: int, epoch: int, *, ranks: Ranks, device: torch.device) -> Generator:
    """What draws the same on all ranks from now on; torch's own random state no longer does."""
    if ranks.alone:
        return torch.default_generator
    shared = Generator()
    shared.set_state(torch.get_rng_state())
    _seed(seed, epoch, 1 + ranks.rank, device=device)
    return shared


def some(count: int, *, share: float, chance: Generator) -> Tensor | None:
    """The numbers of a random `share` of `count`, in order and at least one; None for all."""
    kept = max(1, round(share * count))
    return None if kept == count else torch.randperm(count, generator=chance)[:kept].sort().values


def _seed(*numbers: int, device: torch.device) -> None:
    state = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(state)
