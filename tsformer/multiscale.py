"""The level of a series as an input: NuTime's embedding of numbers of any magnitude.

"NuTime: Numerically Multi-Scaled Embedding for Large-Scale Time-Series Pretraining",
arXiv 2310.07402 (TMLR 2024), section 3.2. Instance normalisation forgets at what level a window
lies; here its mean and deviation stand beside the normalised shape of every patch.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tsformer.batch import Batch
from tsformer.model import Model
from tsformer.scale import Scaling, location_scale

# The scales of the released checkpoint: nine powers of ten.
SCALES = tuple(10.0**power for power in range(-4, 5))

# Keeps the logarithm of 0, and the weight of a scale that is met exactly, finite: the official
# code's number for both.
EPSILON = 1e-6


def nearness(values: Tensor, scales: Tensor) -> Tensor:
    """How much each of `scales` counts for each of `values`: `[..., scale]`, of sum 1.

    1 / |log(|value| / scale)|, normalised (equation 3): the scale next to the magnitude leads.
    """
    ratio = values.abs().unsqueeze(-1) / scales
    weight = 1 / ((ratio + EPSILON).log().abs() + EPSILON)
    return weight / weight.sum(-1, keepdim=True)


class MultiScaledEmbedding(nn.Module):
    """Numbers `[...]` as vectors `[..., width]`, whatever their magnitude.

    Each scale k has a map LN(w x/k + b) without weights in the norm, and the vectors are averaged
    by `nearness`. Deviation: the norm is taken of the same vector divided by max(|x/k|, 1), which
    it ignores but for its epsilon, so that nothing overflows.
    """

    scales: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(len(SCALES), width).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(len(SCALES), width).uniform_(-1, 1))
        scales = torch.tensor(SCALES, dtype=torch.float64)
        self.register_buffer("scales", scales, persistent=False)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, values: Tensor) -> Tensor:
        values = values.double()  # a level far from zero has more digits than float32
        ratio = (values.unsqueeze(-1) / self.scales).unsqueeze(-1)  # [..., scale, 1]
        largest = ratio.abs().clamp(min=1)
        slope, offset = (ratio / largest).to(self.weight), (1 / largest).to(self.weight)
        vectors = self.norm(slope * self.weight + offset * self.bias)  # [..., scale, width]
        share = nearness(values, self.scales).to(vectors)
        return (share.unsqueeze(-2) @ vectors).squeeze(-2)


class LevelledEmbedding(nn.Module):
    """Patches as tokens of shape, level and deviation.

    Deviation: in the paper each patch is normalised by itself and has a mean and a deviation of
    its own, which suits what it classifies. What is forecast or filled in here lies relative to
    the window, and where a patch lies there must not be lost: so the patch comes normalised by
    its window, and level and deviation are those of the window.
    """

    def __init__(self, patch: int, *, width: int, level_width: int) -> None:
        super().__init__()
        self.shape = nn.Linear(patch, width)
        self.level = MultiScaledEmbedding(level_width)
        self.mix = nn.Linear(2 * level_width, width, bias=False)

    def forward(self, patches: Tensor, unit: Tensor) -> Tensor:
        """Tokens `[row, patch, width]` of window-normalised `patches` `[row, patch, step]`.

        `unit` `[row, 2]` is the level and the deviation of their windows.
        """
        level = self.mix(self.level(unit).flatten(1))  # [row, width]
        return self.shape(patches) + level.unsqueeze(1)


class Levelled(Model):
    """`inner`, which is told the level and the deviation of every window beside the window.

    They go along as the two static columns of the batch, in the place of any others.
    """

    def __init__(self, inner: Model) -> None:
        super().__init__(inner.shape)
        self.inner = inner

    def forward(self, batch: Batch) -> Tensor:
        unit = Scaling(*location_scale(batch.past, batch.observed))
        return self.inner(replace(batch, static=levels(unit)))


def levels(unit: Scaling) -> Tensor:
    """The statistics of `unit` as static columns `[batch, variate, 2]`."""
    return torch.cat((unit.location, unit.scale), 1).mT
