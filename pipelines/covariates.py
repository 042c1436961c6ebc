"""Covariates known ahead, as numbers over context and horizon: clock features and table columns.

The same function serves training rows and requests, so a model sees one meaning of a column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.features import feature_names, known_features
from pipelines.panel import Panel
from tsformer.errors import DataError, Fault

Floats32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Known:
    """A column known ahead, and the training mean and standard deviation that scale it."""

    name: str
    mean: float
    std: float

    @staticmethod
    def fit(name: str, values: NDArray[np.float64]) -> Known:
        """The scaling of `values`, missing ones left out; a constant column is only shifted."""
        seen = values[np.isfinite(values)]
        if not len(seen):
            return Known(name, 0.0, 1.0)
        return Known(name, float(seen.mean()), float(seen.std()) or 1.0)

    def scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """`values` in training deviations from the training mean; a missing one is the mean."""
        return np.nan_to_num((values - self.mean) / self.std, nan=0.0)


def width(features: Sequence[str], known: Sequence[Known]) -> int:
    """Columns that `features` and `known` make."""
    return len(feature_names(features)) + len(known)


def known_rows(panel: Panel, *, features: Sequence[str], known: Sequence[Known]) -> Floats32 | None:
    """The covariates of every row of `panel` `[row, feature]`, or None where there are none."""
    if not features and not known:
        return None
    clock = known_features(features, panel.table["time"], panel.frequency)
    columns = [column.scaled(panel.column(column.name))[:, None] for column in known]
    return np.concatenate([clock, *columns], axis=1).astype(np.float32)


def known_ahead(
    panel: Panel,
    positions: NDArray[np.int64],
    *,
    features: Sequence[str],
    known: Sequence[Known],
    context: int,
    horizon: int,
    wanted: int,
    future: pl.DataFrame | None,
) -> Floats32 | None:
    """Covariates over context and horizon of some series `[series, time + horizon, feature]`.

    `future` (`series id`, `time` and the known columns) must cover the `wanted` first steps.
    What lies before the history or after the wanted steps counts as the training mean.
    """
    if not features and not known:
        return None
    ahead = _future_columns(panel, positions, known, wanted, future)
    blocks = []
    for place, position in enumerate(positions):
        rows = slice(panel.offsets[position], panel.offsets[position + 1])
        tail = slice(max(rows.start, rows.stop - context), rows.stop)
        stamps = panel.table["time"][tail.start : tail.stop]
        following = panel.frequency.next(panel.ends[position], horizon)
        clock = known_features(
            features, pl.concat([stamps, following.cast(stamps.dtype)]), panel.frequency
        )
        block = np.zeros((context + horizon, clock.shape[1] + len(known)), dtype=np.float32)
        block[context + horizon - len(clock) :, : clock.shape[1]] = clock
        for k, column in enumerate(known, start=clock.shape[1]):
            history = column.scaled(panel.column(column.name)[tail])
            block[context - len(history) : context, k] = history
            block[context : context + wanted, k] = column.scaled(ahead[column.name][place])
        blocks.append(block)
    return np.stack(blocks) if blocks else None


def _future_columns(
    panel: Panel,
    positions: NDArray[np.int64],
    known: Sequence[Known],
    wanted: int,
    future: pl.DataFrame | None,
) -> dict[str, NDArray[np.float64]]:
    """Each known column over the wanted steps `[series, step]`; every place must have a row."""
    if not known:
        return {}
    names = [column.name for column in known]
    if future is None:
        raise _missing(
            f"The model needs {', '.join(names)} over the horizon; no future table came."
        )
    grid = pl.concat(
        [
            pl.DataFrame(
                {
                    "series": [panel.ids[int(p)]] * wanted,
                    "time": panel.frequency.next(panel.ends[int(p)], wanted),
                }
            )
            for p in positions
        ]
    )
    schema = panel.schema
    renamed = future.rename({schema.id: "series"} if schema.id else {}).rename(
        {schema.time: "time"}
    )
    absent = [name for name in names if name not in renamed.columns]
    if absent:
        raise _missing(f"The future table lacks the column {', '.join(absent)}.")
    joined = grid.join(
        renamed.with_columns(pl.col("time").cast(grid["time"].dtype), pl.lit(True).alias("_came")),
        on=[c for c in ("series", "time") if c in renamed.columns],
        how="left",
        maintain_order="left",
    )
    lacking = joined.filter(pl.col("_came").is_null())
    if len(lacking):
        first = lacking.row(0, named=True)
        raise DataError(
            f"{len(lacking)} rows of the future table are missing.",
            [Fault("future_missing", f"No row for {first['time']}.", series=first["series"])],
        )
    return {
        name: joined[name].cast(pl.Float64).to_numpy().reshape(len(positions), wanted)
        for name in names
    }


def _missing(message: str) -> DataError:
    return DataError(message, [Fault("future_missing", message)])
