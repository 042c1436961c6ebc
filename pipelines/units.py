"""The unit a model was trained in, for the few models that know one.

Models under instance scaling have no unit. Linear, NLinear and DLinear read training deviations
of each series (arXiv 2205.13504 trains on z-scored data), so a forecaster of theirs keeps the
mean and deviation of every series it has seen; an unseen series brings those of its context.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.windows import mean_std
from tsformer.batch import Batch

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Unit:
    """Mean and deviation `[batch, 1, variate]` in which a batch is read."""

    mean: Tensor
    std: Tensor

    def standardised(self, batch: Batch) -> Batch:
        """The batch in training deviations; what is missing stays 0."""
        past = torch.where(batch.observed, (batch.past - self.mean) / self.std, 0)
        lagged = batch.lagged
        if lagged is not None:
            lagged = (lagged - self.mean[..., None]) / self.std[..., None]
        return replace(batch, past=past, lagged=lagged)

    def undo(self, forecast: Tensor) -> Tensor:
        """A forecast `[batch, horizon, variate, level]` in the unit of the data."""
        return forecast * self.std[..., None] + self.mean[..., None]


@dataclass(frozen=True, slots=True)
class Units:
    """Mean and deviation of each series that was seen in training, by its id as text.

    A CSV file says "7" where a request says 7; both name the same series.
    """

    known: dict[str, tuple[float, float]]

    def of(self, ids: Sequence[str | int], past: Floats) -> Floats:
        """Mean and deviation `[series, 2]` of `ids` with contexts `past` `[series, time]`."""
        rows = [self.known.get(str(name)) or _own(row) for name, row in zip(ids, past, strict=True)]
        return np.array(rows, dtype=np.float64).reshape(len(rows), 2)

    def text(self) -> str:
        """The units as JSON: a list of `[id, mean, deviation]`."""
        return json.dumps([[name, *unit] for name, unit in self.known.items()])

    @staticmethod
    def of_text(text: str) -> Units:
        """The units that `text` made."""
        return Units({str(name): (mean, std) for name, mean, std in json.loads(text)})


def _own(context: Floats) -> tuple[float, float]:
    mean, std = mean_std(np.where(np.isfinite(context), context, np.nan))
    return float(mean), float(std)
