"""How a network is trained, as values."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tsformer import settings
from tsformer.descent import OPTIMIZERS
from tsformer.errors import nearest, unlike
from tsformer.losses import LOSSES
from tsformer.precision import PRECISIONS
from tsformer.schedules import SCHEDULES


@dataclass(frozen=True, slots=True)
class Training:
    """How a network is trained; the only home of these defaults.

    - `batch_size`: windows in an optimiser step, all variates of a window together.
    - `windows_per_epoch`: as many, drawn without replacement each epoch; 0 means all.
    - `variate_share`: the share of the variates, drawn anew for each step and at least one, that a
      step sees and is scored on (iTransformer's efficient training, arXiv 2310.06625, section 4.3);
      validation always has all of them.
    - `warmup`: the share of all steps in which `onecycle` and `cosine` rise.
    - `patience`: epochs without an improvement by more than `min_delta` before stopping; 0 means
      that all epochs run. The best weights are kept in either case.
    - `gradient_clip`: the largest global 2-norm of the gradient; 0 means no limit.
    - `sharpness`: the radius, in the 2-norm over all weights, of sharpness-aware minimisation
      (see `tsformer.sharpness`), which takes twice the time; 0 means none.
    - `precision`: `auto` is bfloat16 on a GPU and float32 on a CPU.
    """

    epochs: int = 10
    batch_size: int = 64
    windows_per_epoch: int = 0
    variate_share: float = 1.0
    loss: str = "mse"
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "onecycle"
    warmup: float = 0.3
    patience: int = 0
    min_delta: float = 0.0
    gradient_clip: float = 0.0
    sharpness: float = 0.0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        _known("loss", self.loss, LOSSES)
        _known("optimizer", self.optimizer, OPTIMIZERS)
        _known("schedule", self.schedule, SCHEDULES)
        _known("precision", self.precision, PRECISIONS)
        _at_least(1, epochs=self.epochs, batch_size=self.batch_size)
        _at_least(0, windows_per_epoch=self.windows_per_epoch, patience=self.patience)
        _at_least(0, seed=self.seed, weight_decay=self.weight_decay)
        _at_least(0, min_delta=self.min_delta, gradient_clip=self.gradient_clip)
        _at_least(0, sharpness=self.sharpness)
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise unlike("training: learning_rate must be positive", self.learning_rate)
        if not 0 < self.variate_share <= 1:
            raise unlike(
                "training: variate_share is a share, above 0 and at most 1", self.variate_share
            )
        if not 0 <= self.warmup < 1:
            raise unlike("training: warmup is a share, 0 to below 1", self.warmup)

    def steps_per_epoch(self, windows: int) -> int:
        """Optimiser steps in an epoch, where there are `windows` to train on."""
        return math.ceil(min(self.windows_per_epoch or windows, windows) / self.batch_size)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, where: str = "training") -> Training:
        """The training that `mapping` describes; unknown keys and wrong types are refused."""
        return settings.from_mapping(cls, mapping, where=where)


def _known(key: str, value: str, table: Collection[str]) -> None:
    if value not in table:
        hint = nearest(value, table)
        raise unlike(f"training: {key} must be one of {', '.join(table)}", repr(value), hint)


def _at_least(least: float, **values: float) -> None:
    for key, value in values.items():
        if not (value >= least and math.isfinite(value)):
            raise unlike(f"training: {key} must be at least {least} and finite", value)
