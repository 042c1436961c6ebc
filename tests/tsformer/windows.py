"""Windows and models small enough to reason about, for the tests of training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tsformer.batch import Batch, Shape, Target
from tsformer.model import Model


class ArrayWindows:
    """Given pairs of context and horizon; satisfies `tsformer.batch.Windows`."""

    def __init__(self, past: Tensor, future: Tensor, observed: Tensor | None = None) -> None:
        self.past = past  # [window, time, variate]
        self.future = future  # [window, horizon, variate]
        self.observed = torch.ones_like(future, dtype=torch.bool) if observed is None else observed

    @property
    def shape(self) -> Shape:
        return Shape(self.past.shape[1], self.future.shape[1], variates=self.past.shape[2])

    def __len__(self) -> int:
        return len(self.past)

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        past = self.past[index]
        known = Batch(past=past, observed=torch.ones_like(past, dtype=torch.bool))
        return known, Target(self.future[index], self.observed[index])


def linear_windows(
    count: int, *, shape: Shape, noise: float = 0.1, seed: int = 0, map_seed: int = 7
) -> ArrayWindows:
    """Windows whose horizon is one fixed linear map of the context, plus noise."""
    chance = torch.Generator().manual_seed(seed)
    weight = torch.randn(
        shape.horizon, shape.context, generator=torch.Generator().manual_seed(map_seed)
    )
    past = torch.randn(count, shape.context, shape.variates, generator=chance)
    clean = weight @ past  # [window, horizon, variate]
    return ArrayWindows(past, clean + noise * torch.randn(clean.shape, generator=chance))


class LinearMap(Model):
    """One linear map with a bias, shared by all variates."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.map = nn.Linear(shape.context, shape.horizon)

    def forward(self, batch: Batch) -> Tensor:
        forecast: Tensor = self.map(batch.past.mT)  # [batch, variate, horizon]
        return forecast.mT.unsqueeze(-1)


class Noisy(Model):
    """All that makes resuming hard: batch statistics, dropout, and more than one layer."""

    def __init__(self, shape: Shape, *, dropout: float = 0.3, width: int = 8) -> None:
        super().__init__(shape)
        self.read = nn.Linear(shape.context, width)
        self.norm = nn.BatchNorm1d(width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, shape.horizon)

    def forward(self, batch: Batch) -> Tensor:
        width: Tensor = self.read(batch.past.mT)  # [batch, variate, width]
        normed = self.norm(width.flatten(0, 1)).view_as(width)
        forecast: Tensor = self.head(self.dropout(normed.relu()))
        return forecast.mT.unsqueeze(-1)  # [batch, horizon, variate, level]


class Persistence(Model):
    """Repeats the last value: a model without parameters."""

    def forward(self, batch: Batch) -> Tensor:
        return batch.past[:, -1:, :, None].repeat(1, self.shape.horizon, 1, 1)
