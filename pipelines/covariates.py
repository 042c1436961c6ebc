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
from pipelines.stamps import read_stamps
from pipelines.windows import mean_std
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
        mean, std = mean_std(np.where(np.isfinite(values), values, np.nan))
        return Known(name, float(mean), float(std))

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
    if not len(positions) or (not features and not known):
        return None
    asked = panel.take(positions.tolist())
    following = asked.following(horizon)
    ahead = _future_columns(asked, known, wanted, horizon, following, future)
    blocks = []
    for place in range(len(asked.ids)):
        start, end = asked.offsets[place], asked.offsets[place + 1]
        tail = slice(max(start, end - context), end)
        stamps = [
            asked.table["time"][tail.start : tail.stop],
            following[place * horizon : (place + 1) * horizon],
        ]
        clock = known_features(features, pl.concat(stamps), panel.frequency)
        block = np.zeros((context + horizon, clock.shape[1] + len(known)), dtype=np.float32)
        block[len(block) - len(clock) :, : clock.shape[1]] = clock
        for k, column in enumerate(known, start=clock.shape[1]):
            history = column.scaled(asked.column(column.name)[tail])
            block[context - len(history) : context, k] = history
            block[context : context + wanted, k] = column.scaled(ahead[column.name][place])
        blocks.append(block)
    return np.stack(blocks) if blocks else None


def _future_columns(
    panel: Panel,
    known: Sequence[Known],
    wanted: int,
    horizon: int,
    following: pl.Series,
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
    named = {panel.schema.time: "time"} | ({panel.schema.id: "id"} if panel.schema.id else {})
    absent = [name for name in (*named, *names) if name not in future.columns]
    if absent:
        raise _missing(f"The future table lacks the column {', '.join(absent)}.")
    places = np.repeat(np.arange(len(panel.ids)), horizon)
    grid = pl.DataFrame({"id": pl.Series(panel.ids).gather(places), "time": following}).filter(
        pl.Series(np.tile(np.arange(horizon) < wanted, len(panel.ids)))
    )
    stamps = read_stamps(future[panel.schema.time], tz=panel.tz).values
    rows = future.rename(named).with_columns(
        stamps.cast(following.dtype).alias("time"), pl.lit(value=True).alias("came")
    )
    joined = grid.join(
        rows.unique([*named.values()], keep="last"),
        on=[*named.values()],
        how="left",
        maintain_order="left",
    )
    lacking = joined.filter(pl.col("came").is_null())
    if len(lacking):
        first = lacking.row(0, named=True)
        raise DataError(
            f"{len(lacking)} rows of the future table are missing.",
            [Fault("future_missing", f"No row for {first['time']}.", series=first["id"])],
        )
    shape = (len(panel.ids), wanted)
    return {name: joined[name].cast(pl.Float64).to_numpy().reshape(shape) for name in names}


def _missing(message: str) -> DataError:
    return DataError(message, [Fault("future_missing", message)])
