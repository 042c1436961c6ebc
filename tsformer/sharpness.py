"""Sharpness-aware minimisation: step by the gradient of the worst place nearby.

Foret et al., arXiv 2010.01412 (ICLR 2021), equation 2 and algorithm 1. With the gradient g1 of a
batch at the weights w, the weights move uphill by rho g1 / |g1|, the gradient g2 of the same batch
is taken there, the weights go back, and the optimiser steps by g2. |g1| is one 2-norm over all
weights. Two passes a step, so about twice the time.

What the paper leaves open: the second pass draws the dropout masks of the first, since both are to
see one function; buffers, such as the statistics of a batch norm, keep what the first pass made of
them; the weights come back as copies, bit by bit, whatever becomes of the second pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def gradient_norm(parameters: Iterable[nn.Parameter]) -> float:
    """The 2-norm over all gradients of `parameters` together."""
    return float(get_total_norm([p.grad for p in parameters if p.grad is not None]))


@contextmanager
def uphill(
    model: nn.Module, *, parameters: Iterable[nn.Parameter], factor: float
) -> Iterator[None]:
    """`model` with `factor` times their gradient added to `parameters`; afterwards as it was.

    What is not among them stays, whatever gradient an earlier training left on it. Gradients are
    left alone, both ways.
    """
    moved = [(p, p.grad) for p in parameters if p.grad is not None]
    tensors = [*(parameter for parameter, _ in moved), *model.buffers()]
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        with torch.no_grad():
            for parameter, gradient in moved:
                parameter.add_(gradient, alpha=factor)
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)


def random_state(device: torch.device) -> Tensor:
    """What dropout on `device` will draw next."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(state: Tensor, *, device: torch.device) -> None:
    """Makes dropout on `device` draw what followed `state`."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
