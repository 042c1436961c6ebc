"""What is drawn in an epoch, and from what: the seed and the number of the epoch alone.

So a run that is resumed needs no stored random state, and the caller's is never touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from tsformer.ranks import Ranks

Uints = NDArray[np.uint64]

# Windows of which a permutation is drawn as a whole, eight bytes each. Of more it is computed.
WRITTEN_DOWN = 2**24
ROUNDS = 6  # of a Feistel network; from four on nothing tells it from a random permutation


def shuffled(count: int, *, kept: int, parts: int) -> Iterator[Tensor]:
    """The first `kept` of `count` numbers in random order, in `parts` of (nearly) equal size.

    Everything that is drawn is drawn at once, from torch's random state.
    """
    if count <= WRITTEN_DOWN:
        return iter(torch.randperm(count)[:kept].tensor_split(parts))
    keys = torch.randint(2**62, (ROUNDS,)).numpy().astype(np.uint64)
    edges = [kept * part // parts for part in range(parts + 1)]
    return (torch.from_numpy(_permuted(a, b, count, keys)) for a, b in pairwise(edges))


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


def _permuted(start: int, stop: int, count: int, keys: Uints) -> NDArray[np.int64]:
    """Where a random permutation of `count` numbers puts those from `start` to `stop`.

    A Feistel network permutes the numbers of an even count of bits, and what falls outside of
    `count` goes through it again (Black & Rogaway, CT-RSA 2002): no memory but that of the answer.
    """
    half = np.uint64((max(2, (count - 1).bit_length()) + 1) // 2)
    places = np.arange(start, stop, dtype=np.uint64)
    outside = np.ones(len(places), dtype=np.bool_)
    while outside.any():
        places[outside] = _mixed(places[outside], half, keys)
        outside = places >= count
    return places.astype(np.int64)


def _mixed(numbers: Uints, half: np.uint64, keys: Uints) -> Uints:
    """One pass of `numbers` of 2 * `half` bits through the network."""
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & low
    for key in keys:
        noise = (right + key) * np.uint64(0x9E3779B97F4A7C15)  # splitmix64's constants
        noise = (noise ^ (noise >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        left, right = right, left ^ ((noise ^ (noise >> np.uint64(27))) >> np.uint64(20) & low)
    return (left << half) | right


def _seed(*numbers: int, device: torch.device) -> None:
    state = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(state)
