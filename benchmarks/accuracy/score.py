"""Errors of a model over windows: all of them, and those that a loader would have left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pipelines.windows import Floats, PanelWindows
from tsformer.errors import DataError, DivergedError
from tsformer.runtime import Runtime

WINDOWS_AT_A_TIME = 256  # 256 windows of 512 + 720 steps of 21 variates are 26 MB


@dataclass(frozen=True, slots=True)
class Errors:
    """Sums over horizon and variates of each window `[window]`, and how many targets they are of."""

    square: Floats
    absolute: Floats
    targets: Floats

    def mean(self, windows: int | None = None) -> dict[str, float | int]:
        """MSE and MAE over the first `windows`, or all: sums, so that no batch weighs more."""
        count = len(self.targets) if windows is None else windows
        targets = float(self.targets[:count].sum())
        if not targets:
            raise DataError(f"The first {count} windows have no observed target to score.")
        mse, mae = (float(part[:count].sum()) / targets for part in (self.square, self.absolute))
        return {"windows": count, "mse": mse, "mae": mae}

    def without_last_batch(self, batch: int) -> dict[str, float | int]:
        """What a loader with `drop_last` prints: the last windows, fewer than a batch, are lost."""
        return {"batch": batch, **self.mean(len(self.targets) // batch * batch)}


def errors(runtime: Runtime, windows: PanelWindows) -> Errors:
    """The errors of the point forecast; DivergedError where a forecast is not finite."""
    sums = []
    for index in torch.arange(len(windows)).split(WINDOWS_AT_A_TIME):
        batch, target = windows.batch(index)
        forecast = runtime.predict(batch)[..., windows.shape.point].double()
        if not bool(forecast.isfinite().all()):
            raise DivergedError("A forecast is not finite.")
        error = torch.where(target.observed, forecast - target.values.double(), 0)
        parts = (error.square(), error.abs(), target.observed.double())
        sums.append(np.stack([part.sum((1, 2)).numpy() for part in parts]))  # [3, window]
    return Errors(*np.concatenate(sums, axis=1))
