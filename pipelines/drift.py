"""Drift of the data: series whose newest window is unlike the windows of their training table.

Pure: actuals and a profile in, drifts out; a measure and the state before in, a trigger out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import times as clock
from pipelines.frequency import Frequency
from pipelines.profile import LEVEL, MISSING, SCALE, Profile, described

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Kind = Literal["level", "scale", "missing", "frequency"]

# Half ranges from the middle; with profile.FEW_WINDOWS few windows get there by chance.
LIMIT = 2.0
LOOKED_BACK = 3  # windows that are looked at, to find since when
LOOKS_A_WINDOW = 8  # how finely that is found
LEAST_PAIRS = 3  # of rows one after the other, to know their step
MOST = 0.5  # of these pairs are so many steps apart: then the frequency is that
SOME = 0.4  # of these pairs are in one step: then it is finer; at half the step every second is
LARGEST = 1_000.0  # a score; a series that was constant has no range to divide by


@dataclass(frozen=True, slots=True)
class Drift:
    """One way in which a series is not what it was: a `score` of 1 is the limit.

    `since_us` is the end of the first of the windows that have been beyond it without a break, as
    far as is looked back.
    """

    unique_id: str
    kind: Kind
    since_us: int
    score: float


@dataclass(frozen=True, slots=True)
class Measure:
    """What a look at the actuals found: the drifts among `series` that could be judged.

    A series is judged by its newest `window` of steps; 0 where there are no actuals to look at.
    `mase_ratio` is the live MASE over that of the backtest; None where one of them is unknown.
    """

    series: int
    drifts: tuple[Drift, ...]
    mase_ratio: float | None = None
    window: int = 0

    @property
    def share(self) -> float:
        """The share of the series that drifted."""
        return len({drift.unique_id for drift in self.drifts}) / max(1, self.series)


# --- the data -------------------------------------------------------------------------------------


def edges(profile: Profile, frequency: Frequency, newest_us: int) -> Rows:
    """The ends of the steps that are looked at, oldest first; one begins after the end before."""
    return grid_back(profile.tz, frequency, newest_us, LOOKED_BACK * profile.window)


def grid_back(tz: str, frequency: Frequency, newest_us: int, steps: int) -> Rows:
    """The grid of so many steps up to `newest_us`, `[step + 1]`, in microseconds."""
    newest = stamps(np.full(steps + 1, newest_us), tz, frequency)
    found: Rows = clock.elapsed(frequency.shift(newest, np.arange(-steps, 1)))
    return found


def stamps(stamps_us: Rows, tz: str, frequency: Frequency) -> pl.Series:
    """Stamps as the panel has them: step numbers, or date-times; naive ones for a fixed offset."""
    if frequency.is_integer:
        return pl.Series("time", stamps_us)
    return clock.instants(stamps_us, None if clock.is_offset(tz) else tz or None)


def measure(profile: Profile, actuals: pl.DataFrame, ends: Rows) -> Measure:
    """The drift of the series in `actuals` (`unique_id`, `ds_us`, `y`) in the steps up to `ends`.

    A series counts if its history had a usual range and its actuals fill a window.
    """
    steps = len(ends) - 1
    rows = _on_steps(profile, actuals, ends)
    first = rows.group_by("row", maintain_order=True).agg(pl.col("step").min().alias("first"))
    usual = ~np.isnan(profile.usual[first["row"].to_numpy(), LEVEL])
    judged = first.filter(pl.Series(usual), pl.col("first") <= steps - profile.window)
    newest = _Looked.at(profile, judged, rows, steps)
    strange = judged.filter(pl.Series((newest.scores >= 1).any(axis=1), dtype=pl.Boolean))
    looks = range(steps, profile.window - 1, -max(1, profile.window // LOOKS_A_WINDOW))
    looked = [_Looked.at(profile, strange, rows, end) for end in looks]
    drifts = _drifts(looked, ends) if len(strange) else ()
    return Measure(len(judged), drifts, window=profile.window)


def _on_steps(profile: Profile, actuals: pl.DataFrame, ends: Rows) -> pl.DataFrame:
    """The actuals of series in the profile, each with its step; in the order of series and time."""
    places = pl.DataFrame({"unique_id": profile.ids, "row": np.arange(len(profile.ids))})
    rows = actuals.join(places, on="unique_id").sort("row", "ds_us")
    step = np.searchsorted(ends, rows["ds_us"].to_numpy()) - 1
    inside = (step >= 0) & (step < len(ends) - 1)
    return rows.with_columns(pl.Series("step", step)).filter(pl.Series(inside))


@dataclass(frozen=True, slots=True)
class _Looked:
    """The scores `[series, kind]` of some series in the window that ends before the step `end`."""

    ids: tuple[str, ...]
    end: int
    scores: Floats

    @staticmethod
    def at(profile: Profile, judged: pl.DataFrame, rows: pl.DataFrame, end: int) -> _Looked:
        """A look at the series `judged` (`row`, `first`); before a series began it has no score."""
        start, series = end - profile.window, judged["row"].to_numpy()
        numbered = judged.select("row").with_row_index("place")
        inside = rows.filter(pl.col("step").is_between(start - 1, end - 1)).join(
            numbered, on="row", maintain_order="left"
        )
        grid = np.full((len(series), profile.window + 1), np.nan)
        place = (inside["place"].to_numpy(), inside["step"].to_numpy() - start + 1)
        grid[place] = inside["y"].to_numpy()
        found = described(grid[:, 1:])
        distance = np.abs(found - profile.usual[series]) / profile.half_range[series] / LIMIT
        distance[:, MISSING] *= found[:, MISSING] > profile.usual[series, MISSING]
        step = _other_step(inside, len(series))
        distance[step >= 1] = 0.0  # at another step, level, scale and gaps are others too
        scores = np.minimum(np.nan_to_num(np.column_stack([distance, step])), LARGEST)
        scores[judged["first"].to_numpy() > start] = 0.0
        return _Looked(tuple(profile.ids[row] for row in series), end, scores)


def _other_step(rows: pl.DataFrame, series: int) -> Floats:
    """How surely the rows of each series come at a step that is not the model's; 1 is the limit.

    Several in one step, or most of them so many steps apart; gaps have no common length.
    """
    apart = rows.select("place", apart=pl.col("step").diff().over("place")).drop_nulls()
    counts = apart.group_by("place", "apart").len()
    shares = counts.with_columns(share=pl.col("len") / pl.col("len").sum().over("place"))
    enough = shares.filter(pl.col("len").sum().over("place") >= LEAST_PAIRS)
    common = enough.filter(pl.col("share") == pl.col("share").max().over("place"))
    finer = enough.filter(apart=0).select("place", score=pl.col("share") / SOME)
    coarser = common.filter(pl.col("apart").min().over("place") > 1)
    told = pl.concat([finer, coarser.select("place", score=pl.col("share") / MOST)])
    found = np.zeros(series)
    np.maximum.at(found, told["place"].to_numpy(), told["score"].to_numpy())
    return found


KINDS: Sequence[tuple[int, Kind]] = (
    (LEVEL, "level"), (SCALE, "scale"), (MISSING, "missing"), (MISSING + 1, "frequency"),
)  # fmt: skip


def _drifts(looked: Sequence[_Looked], ends: Rows) -> tuple[Drift, ...]:
    """What is beyond the limit in the first of the looks, which is the newest; worst first."""
    scores = np.stack([look.scores for look in looked])  # [look, series, kind]
    lasts = np.logical_and.accumulate(scores >= 1, axis=0).sum(axis=0)  # looks without a break
    found = [
        Drift(
            unique_id=looked[0].ids[place],
            kind=kind,
            since_us=int(ends[looked[lasts[place, column] - 1].end]),
            score=float(scores[0, place, column]),
        )
        for column, kind in KINDS
        for place in np.flatnonzero(lasts[:, column])
    ]
    return tuple(sorted(found, key=lambda drift: (-drift.score, drift.unique_id, drift.kind)))


# --- what follows ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tolerance:
    """When drift calls for a training: beyond one value it begins, below another it is over.

    `wait_ms` is the least time between two trainings that drift calls for.
    """

    share_enters: float = 0.1
    share_leaves: float = 0.05
    ratio_enters: float = 1.5
    ratio_leaves: float = 1.2
    wait_ms: int = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Alarm:
    """Whether a model is taken to drift, since when, and why."""

    active: bool
    since_ms: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Trigger:
    """A training that drift calls for, and why."""

    due_ms: int
    reason: str


def alarm(before: Alarm | None, found: Measure, *, now_ms: int, tolerance: Tolerance) -> Alarm:
    """The alarm after a measure: what wavers between the two values changes nothing."""
    was = before is not None and before.active
    ratio = found.mase_ratio or 0.0
    if was:
        active = found.share > tolerance.share_leaves or ratio > tolerance.ratio_leaves
    else:
        active = found.share >= tolerance.share_enters or ratio >= tolerance.ratio_enters
    since = None
    if active:
        since = before.since_ms if was and before is not None else now_ms
    return Alarm(active, since, sentence(found))


def due_by_drift(
    found: Alarm, *, last_ms: int | None, now_ms: int, tolerance: Tolerance
) -> Trigger | None:
    """The training that an alarm calls for; None without one, or too soon after `last_ms`.

    It calls once an interval while it lasts, since a training may have failed.
    """
    if not found.active or (last_ms is not None and now_ms - last_ms < tolerance.wait_ms):
        return None
    return Trigger(now_ms, found.reason)


def sentence(found: Measure) -> str:
    """What a measure found, for a person."""
    if not found.series:
        few = (
            f"no series has actuals of {found.window} steps in a row"
            if found.window
            else "no actuals"
        )
        return f"Drift cannot be judged yet: {few}."
    series = len({drift.unique_id for drift in found.drifts})
    kinds = {drift.kind for drift in found.drifts}
    named = ", ".join(kind for _, kind in KINDS if kind in kinds)
    said = f"{series} of {found.series} series drifted" + (f" ({named})" if named else "")
    if found.mase_ratio is None:
        return f"{said}."
    return f"{said}; live MASE is {found.mase_ratio:.2f} times that of the backtest."
