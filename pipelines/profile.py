"""What the series of a table were like when a version was trained: the measure of later drift.

Of each series its windows of some steps are described by three numbers, and of these the middle
and the usual range are kept. A later window is strange by how far it lies from that middle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

from pipelines.panel import Panel

Floats = NDArray[np.float64]

PROFILE_FILE = "profile.safetensors"
LEVEL, SCALE, MISSING = range(3)  # columns of what describes a window
LEAST_STEPS = 24  # of a window; fewer are described by chance
WINDOWS = 64  # of a series, spread over its history
LEAST_WINDOWS = 3  # side by side; a shorter history has no usual range
TRIMMED = 0.1  # of the values at each end, before their mean is taken
LEAST_SEEN = 0.25  # of the steps of a window, else it has no level and no scale
USUAL = (0.05, 0.95)  # quantiles of the windows of a history between which is usual
# Few windows show less than the range they come from. With this, of 100 series that nothing happened
# to at most 5 are beyond the limit, from 3 windows of history on; random walks aside.
FEW_WINDOWS = 4.0
# Smaller changes are of no account, however steady the history: shares of its own scale, a
# twentieth of it, a tenth of the steps.
LEAST_RANGE = (0.05, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Profile:
    """A row a series, by its id as text.

    `usual` and `half_range` are `[series, 3]`: level, log of the scale, share of missing steps in
    windows of `window` steps; NaN where the history is too short to tell. `seasonal_error`
    `[series]` is what MASE divides by. `tz` is the zone of the stamps, or a fixed offset, or "".
    """

    ids: tuple[str, ...]
    window: int
    tz: str
    usual: Floats
    half_range: Floats
    seasonal_error: Floats

    @staticmethod
    def of(panel: Panel, *, season: int, horizon: int, seasonal_error: Floats) -> Profile:
        """The profile of the series of `panel`, in windows of whole seasons."""
        window = -(-max(horizon, LEAST_STEPS) // season) * season
        usual = np.full((len(panel.ids), 3), np.nan)
        half_range = usual.copy()
        for row, (start, stop) in enumerate(
            zip(panel.offsets[:-1], panel.offsets[1:], strict=True)
        ):
            if stop - start >= LEAST_WINDOWS * window:
                values = panel.target[start:stop]
                usual[row], half_range[row] = _range(values, window)
        ids = tuple(map(str, panel.ids))
        return Profile(ids, window, panel.tz or "", usual, half_range, seasonal_error)

    @property
    def places(self) -> Mapping[str, int]:
        """The row of each series."""
        return {name: row for row, name in enumerate(self.ids)}

    def save(self, path: Path) -> None:
        """Writes the profile as safetensors, with the ids beside the numbers."""
        about = json.dumps({"ids": self.ids, "window": self.window, "tz": self.tz})
        numbers = {
            "usual": self.usual,
            "half_range": self.half_range,
            "seasonal_error": self.seasonal_error,
        }
        save_file(numbers, path, metadata={"about": about})  # one key: several have no order

    @staticmethod
    def load(path: Path) -> Profile:
        """The profile that `save` wrote."""
        with safe_open(path, framework="numpy") as stored:
            about = json.loads(stored.metadata()["about"])
            return Profile(
                ids=tuple(about["ids"]),
                window=about["window"],
                tz=about["tz"],
                usual=stored.get_tensor("usual"),
                half_range=stored.get_tensor("half_range"),
                seasonal_error=stored.get_tensor("seasonal_error"),
            )


def described(windows: Floats) -> Floats:
    """Level, log of the scale and share of missing steps of windows `[..., step]`, `[..., 3]`.

    The level is a trimmed mean, which also moves where most values are 0; the scale is the mean
    distance from it. Both are NaN where too few steps were seen.
    """
    steps = windows.shape[-1]
    ordered = np.sort(windows, axis=-1)  # NaN comes last
    seen = (~np.isnan(windows)).sum(axis=-1)
    cut = np.floor(TRIMMED * seen).astype(int)
    rank = np.arange(steps)
    kept = (rank >= cut[..., None]) & (rank < (seen - cut)[..., None])
    few = seen < np.maximum(LEAST_SEEN * steps, 3)
    level = np.where(kept, ordered, 0.0).sum(axis=-1) / np.maximum(kept.sum(axis=-1), 1)
    distance = np.abs(np.nan_to_num(ordered - level[..., None]))
    scale = distance.sum(axis=-1) / np.maximum(seen, 1)
    rounding = np.finfo(np.float64).eps * np.maximum(np.abs(level), np.finfo(np.float64).tiny)
    log_scale = np.log(np.maximum(scale, rounding))
    level, log_scale = (np.where(few, np.nan, part) for part in (level, log_scale))
    return np.stack([level, log_scale, 1 - seen / steps], axis=-1)


def _range(values: Floats, window: int) -> tuple[Floats, Floats]:
    """The middle and half of the usual range of the windows of a series."""
    last = len(values) - window
    starts = np.unique(np.linspace(0, last, min(WINDOWS, last + 1)).round().astype(int))
    found = described(sliding_window_view(values, window)[starts])
    known = found[~np.isnan(found[:, LEVEL])]
    if len(known) < LEAST_WINDOWS:
        return np.full(3, np.nan), np.full(3, np.nan)
    usual = np.median(known, axis=0)
    low, high = np.quantile(known, USUAL, axis=0)
    half = (high - low) / 2 * (1 + FEW_WINDOWS * window / len(values))
    least = np.array(LEAST_RANGE)
    least[LEVEL] *= np.exp(usual[SCALE])
    return usual, np.maximum(half, least)
