"""Series that share a window: they become its variates, side by side."""

from __future__ import annotations

import numpy as np

from pipelines.panel import Panel
from pipelines.query import Floats32, Query
from tsformer.errors import DataError, Fault


def in_windows(alone: Query, panel: Panel, context: int, width: int) -> Query:
    """The series, each a window of `alone`, of which `width` after each other share one."""
    if width == 1 or not len(alone):
        return alone
    if width == len(alone):
        return _joined(alone, panel, context)
    return Query.stack(
        [
            _joined(
                alone[first : first + width], panel.take([*range(first, first + width)]), context
            )
            for first in range(0, len(alone), width)
        ]
    )


def _joined(alone: Query, panel: Panel, context: int) -> Query:
    """The series as the variates of one window; they share one grid and its covariates."""
    last = [name for name, end in zip(panel.ids, panel.ends, strict=True) if end != panel.ends[0]]
    if last:
        message = (
            f"It does not end when {panel.ids[0]} does. Series of one window end together: cut them "
            "to their last common stamp, or forecast them with a model that reads one at a time."
        )
        faults = [Fault("group_misaligned", message, series=name) for name in last]
        raise DataError("The series of one window do not end together.", faults)
    return Query(
        past=_side_by_side(alone.past, 2),
        known=_shared(alone.known, panel, context),
        covariates=_shared(alone.covariates, panel, context),
        static=None if alone.static is None else _side_by_side(alone.static, 1),
        series=None if alone.series is None else _side_by_side(alone.series, 1),
        unit=None if alone.unit is None else _side_by_side(alone.unit, 2),
    )


def _side_by_side(values: np.ndarray, axis: int) -> np.ndarray:
    """`values` `[series, ..., 1, ...]` as `[1, ..., series, ...]`, the series on `axis`."""
    return np.moveaxis(values.squeeze(axis), 0, axis - 1)[None]


def _shared(values: Floats32 | None, panel: Panel, context: int) -> Floats32 | None:
    """The covariates of the longest series, with which each agrees since it begins."""
    if values is None:
        return None
    begins = context - np.minimum(np.diff(panel.offsets), context)
    longest = int(begins.argmin())
    there = np.arange(values.shape[1]) >= begins[:, None]  # [series, time (+ horizon)]
    differs = ((values != values[longest]).any(axis=2) & there).any(axis=1)
    if differs.any():
        message = (
            f"Its covariates differ from those of {panel.ids[longest]}. Series of one window share "
            "them: give them the same values at each step, or forecast them with a model that "
            "reads one at a time."
        )
        apart = [panel.ids[place] for place in np.flatnonzero(differs)]
        raise DataError(
            message, [Fault("group_misaligned", message, series=name) for name in apart]
        )
    return values[longest : longest + 1]
