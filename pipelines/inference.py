"""Inferring the step of a panel: the most common step of each series, then of all series."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import times as clock
from pipelines.frequency import DAYS_A_WEEK, MONTHS, WEEKDAYS, Frequency, of_elapsed
from pipelines.times import DAY
from tsformer.errors import ConfigError

Rows = NDArray[np.int64]

SHARE = 0.8  # of stamps on a month's edge that make a panel monthly; the rest are then off grid
SHORTEST_MONTH = 28 * DAY


@dataclass(frozen=True, slots=True)
class Inference:
    """The step found, or None; `differing` are series that keep a regular step of their own."""

    frequency: Frequency | None
    differing: Rows


def infer(times: pl.Series, series: Rows) -> Inference:
    """The step of stamps sorted by series and time; duplicates are passed over.

    A step is common to a series if it is the most frequent one, and is not one of three or more
    that all differ. Ties go to the shorter step.
    """
    nothing = np.empty(0, dtype=np.int64)
    elapsed = np.diff(clock.elapsed(times))
    pairs = (series[1:] == series[:-1]) & (elapsed > 0)
    if not pairs.any():
        return Inference(None, nothing)
    elapsed = elapsed[pairs]
    if elapsed.min() == elapsed.max() and elapsed[0] % DAY:
        return Inference(_days_or_less(int(elapsed[0]), nothing, nothing), nothing)
    walls = clock.wall(times)
    days = walls // DAY
    of_day = walls - days * DAY
    same_clock = (of_day[1:] == of_day[:-1])[pairs]
    step = np.where(same_clock, np.diff(walls)[pairs], elapsed)
    edge = _month_edge(days) if np.median(step) >= SHORTEST_MONTH else None
    months = days.astype("M8[D]").astype("M8[M]").astype(np.int64) if edge else nothing
    if edge:
        step = np.diff(months)[pairs]
    common = _common_steps(series[1:][pairs], step)
    voters = common.filter((pl.col("rows") > 1) | (pl.col("steps") < 3))
    if voters.is_empty():
        return Inference(None, nothing)
    votes = voters["step"].value_counts().sort(["count", "step"], descending=[True, False])
    winner = int(votes["step"][0])
    differing = common.filter((pl.col("rows") > 1) & (pl.col("step") != winner))["series"]
    found = _months(winner, edge, months) if edge else _days_or_less(winner, days, step)
    return Inference(found, differing.to_numpy())


def _common_steps(series: Rows, step: Rows) -> pl.DataFrame:
    """A row a series: its most frequent `step`, the `rows` with it, and how many `steps` differ."""
    counted = pl.DataFrame({"series": series, "step": step}).group_by("series", "step").len("rows")
    ranked = counted.sort(["series", "rows", "step"], descending=[False, True, False])
    return ranked.group_by("series", maintain_order=True).agg(
        pl.col("step").first(), pl.col("rows").first(), pl.len().alias("steps")
    )


def _month_edge(days: Rows) -> str | None:
    """`S` if most days are the first of a month, `E` if most are the last, None otherwise."""
    for edge, moved in (("S", days), ("E", days + 1)):
        first = moved.astype("M8[D]").astype("M8[M]").astype("M8[D]").astype(np.int64) == moved
        if first.mean() >= SHARE:
            return edge
    return None


def _months(step: int, edge: str, months: Rows) -> Frequency | None:
    if step < 1:
        return None
    if step % 12 == 0:
        return Frequency.parse(f"{step // 12}Y{edge}-{MONTHS[_mode(months % 12)]}")
    if step % 3 == 0:
        return Frequency.parse(f"{step // 3}Q{edge}-{MONTHS[_mode(months % 3)]}")
    return Frequency.parse(f"{step}M{edge}")


def _days_or_less(step: int, days: Rows, steps: Rows) -> Frequency | None:
    if step % DAY:
        try:
            return of_elapsed(step)
        except ConfigError:  # longer than any step known here
            return None
    width = step // DAY
    days = days + clock.EPOCH_WEEKDAY
    weekday = days - days // DAYS_A_WEEK * DAYS_A_WEEK  # several times as fast as % here
    if width == 1 and weekday.max() < 5 and bool((steps == 3 * DAY).any()):
        return Frequency.parse("B")
    if width % DAYS_A_WEEK == 0 and weekday.min() == weekday.max():
        return Frequency.parse(f"{width // DAYS_A_WEEK}W-{WEEKDAYS[weekday[0]]}")
    return Frequency.parse(f"{width}D")


def _mode(values: Rows) -> int:
    return int(np.bincount(values).argmax())
