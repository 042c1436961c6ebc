"""Batch normalisation of tokens, whose statistics are those of the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tsformer.ranks import ALONE, Ranks


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the features of tokens; statistics over all rows and tokens.

    The official code transposes to `[row, width, token]` and back for the same numbers. Where
    several `ranks` share a batch, the statistics are over the tokens of all of them, as if one had
    them all; torch's own SyncBatchNorm does the same on GPUs alone.
    """

    ranks: Ranks = ALONE

    def forward(self, tokens: Tensor) -> Tensor:
        flat = tokens.flatten(0, 1)  # [row * token, width]
        alone = self.ranks.alone or not self.training
        normal = super().forward(flat) if alone else self._shared(flat)
        return normal.view_as(tokens)  # [row, token, width]

    def _shared(self, flat: Tensor) -> Tensor:
        normal, mean, variance, count = _Shared.apply(
            flat, self.weight, self.bias, self.eps, self.ranks
        )
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean, self.momentum or 0.0)
        self.running_var.lerp_(unbiased, self.momentum or 0.0)
        shared: Tensor = normal
        return shared


def share_statistics(model: nn.Module, ranks: Ranks) -> None:
    """From now on `ranks` share the batches that train `model`."""
    for module in model.modules():
        if isinstance(module, TokenBatchNorm):
            module.ranks = ranks


class _Shared(torch.autograd.Function):
    """Normalised tokens `[token, width]` of one rank, by the statistics of all.

    Ioffe & Szegedy, arXiv 1502.03167, algorithm 1 and the gradients after it; the ranks' means and
    variances are put together by Chan, Golub & LeVeque (1983), which loses no digits where the
    mean is large.
    """

    @staticmethod
    def forward(
        context: Any, flat: Tensor, weight: Tensor, bias: Tensor, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        values, width = flat.float(), flat.shape[1]
        own = (values.mean(0), values.var(0, correction=0), values.new_tensor([len(values)]))
        every = ranks.gathered(torch.cat(own))  # [rank, 2 * width + 1]
        means, variances, counts = every.split([width, width, 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        inverse = (variance + eps).rsqrt()
        normal = (values - mean).mul_(inverse)
        context.save_for_backward(normal, weight, inverse, count)
        context.ranks = ranks
        context.mark_non_differentiable(mean, variance, count)
        return torch.addcmul(bias, normal, weight).to(flat.dtype), mean, variance, count

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        normal, weight, inverse, count = context.saved_tensors
        gradient = gradients[0].float()
        own = torch.stack([(gradient * normal).sum(0), gradient.sum(0)])
        along, level = context.ranks.gathered(own).sum(0) / count
        inward = (gradient - level).sub_(normal * along).mul_(weight * inverse)
        # those of weight and bias are summed over the ranks later, with all others
        return inward.to(gradients[0].dtype), own[0], own[1], None, None
