"""Two models on the same windows: who has the lower score, and whether that is more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from pipelines.backtest import Measure, total
from pipelines.diebold_mariano import DieboldMariano, Floats, diebold_mariano, lag_for

WINDOW = ("series", "cutoff")  # what names a window


@dataclass(frozen=True, slots=True)
class Duel:
    """The `score` of a model and that of its `rival` by one metric, lower being better."""

    score: float
    rival: float
    test: DieboldMariano

    @property
    def gain(self) -> float:
        """How much better the score is, as a share of the rival's; below 0 if it is worse."""
        if self.score == self.rival:
            return 0.0
        return (self.rival - self.score) / self.rival if self.rival > 0 else -np.inf


def duel(first: pl.DataFrame, second: pl.DataFrame, *, metric: str, measure: Measure) -> Duel:
    """`first` against `second`, the rows of `Scores.windows` of two models on the same windows."""
    differences, overlap = by_cutoff(first, second, metric=metric, measure=measure)
    lag = lag_for(len(differences), overlap=overlap)
    return Duel(
        score=total(first, metric, measure),
        rival=total(second, metric, measure),
        test=diebold_mariano(differences, overlap=overlap, lag=lag),
    )


def by_cutoff(
    first: pl.DataFrame, second: pl.DataFrame, *, metric: str, measure: Measure
) -> tuple[Floats, int]:
    """The difference of the losses at each cutoff in the order of time, and how far cutoffs overlap.

    Over all series at once, since what happens to all of them at a time happened once. The mean of
    the differences is the difference of the two scores; of a root, that of what stands under it.
    """
    sums, weight = f"{metric}_sum", f"{metric}_weight"
    first, second = shared([first, second])
    rows = first.select("series", "time", "until", sums, weight, theirs=second[sums])
    whole = pl.col(weight).sum()
    if measure.per_series:  # every series weighs the same, as in the score
        rows = rows.filter(whole.over("series") > 0)
        whole = whole.over("series") * pl.col("series").n_unique()
    losses = rows.with_columns(loss=(pl.col(sums) - pl.col("theirs")) / whole)
    cutoffs = losses.group_by("time").agg(pl.col("loss").sum(), pl.col("until").max()).sort("time")
    differences: Floats = cutoffs["loss"].to_numpy() * len(cutoffs)
    return differences, overlap_of(cutoffs)


def overlap_of(cutoffs: pl.DataFrame) -> int:
    """How many later cutoffs begin within the horizon of one, at most; `cutoffs` are sorted."""
    if not len(cutoffs):
        return 0
    begin, end = (cutoffs[name].to_physical().to_numpy() for name in ("time", "until"))
    reached = np.searchsorted(begin, end, side="right") - np.arange(len(begin)) - 1
    return int(reached.max())


def shared(tables: Sequence[pl.DataFrame]) -> list[pl.DataFrame]:
    """The tables with the windows that all of them have, in the same order."""
    first = tables[0]
    if all(table[name].equals(first[name]) for table in tables for name in WINDOW):
        return [*tables]  # as one backtest makes them
    common = first.select(WINDOW)
    for table in tables[1:]:
        common = common.join(table.select(WINDOW), on=WINDOW, how="semi")
    return [table.join(common, on=WINDOW, how="semi").sort(WINDOW) for table in tables]
