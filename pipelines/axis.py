"""The time axis of a table: ids numbered, stamps read, rows sorted by series and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import times as clock
from pipelines.findings import Findings, counted, offences
from pipelines.frequency import Frequency
from pipelines.inference import infer
from pipelines.schema import LONGEST_ID
from pipelines.stamps import read_stamps
from pipelines.times import DAY
from tsformer.errors import DataError, Fault

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

BAD_ID = "Ids must have 1 to 128 characters and no control characters."
# Rows that a row without a usable stamp accounts for: an hour that repeats lacks its other row.
UNUSABLE_STAMP = {
    "timestamp_invalid": 1,
    "timestamp_out_of_range": 1,
    "nonexistent_time": 1,
    "ambiguous_time": 2,
}

LEAST_FILLED = 0.1  # a filled grid must hold one real row in ten ...
FREE_ROWS = 1_000  # ... beyond its first thousand missing ones: two rows could else ask for 10^9


@dataclass(frozen=True, slots=True)
class Numbered:
    """Ids in order of first appearance, and the number of each row's id; -1 where it is null."""

    ids: tuple[str | int, ...]
    series: Rows


@dataclass(frozen=True, slots=True)
class Axis:
    """Rows that have a stamp, sorted by series and time.

    `series` and `times` `[row]`; `rows` `[row]` are their places in the table as given.
    `offsets` `[series + 1]` are the first rows of each series, and the end.
    """

    series: Rows
    times: pl.Series
    rows: Rows
    offsets: Rows
    tz: str | None
    in_order: bool

    @property
    def same(self) -> Mask:
        """Whether each row but the first belongs to the series of the row before `[row - 1]`."""
        same: Mask = self.series[1:] == self.series[:-1]
        return same


@dataclass(frozen=True, slots=True)
class Steps:
    """The axis on its grid: the step of each row from its series' first `[row]`.

    `time_of_day` `[series]`, in microseconds, is that of the grid, for calendar steps.
    """

    index: Rows
    time_of_day: Rows | None


# --- ids -------------------------------------------------------------------------------------


def number_ids(column: pl.Series) -> Numbered:
    """The ids of a column, text or integers, as they are; DataError for any other type."""
    if not (column.dtype.is_integer() or column.dtype in (pl.String, pl.Null)):
        message = "Ids must be text or integers."
        raise DataError(message, [Fault("id_invalid", message, column=column.name)])
    if column.dtype == pl.Null:
        return Numbered((), np.full(len(column), -1))
    # Arrow's dictionary lists values in order of first appearance.
    encoded = column.to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode()
    numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Numbered(tuple(encoded.dictionary.to_pylist()), numbers.astype(np.int64))


def check_ids(numbered: Numbered, found: Findings) -> None:
    """Empty ids, ids that are too long, and ids with control characters."""
    if not numbered.ids or isinstance(numbered.ids[0], int):
        return
    ids = pl.Series(numbered.ids, dtype=pl.String)
    bad = ~ids.str.len_chars().is_between(1, LONGEST_ID) | ids.str.contains(r"\p{Cc}")
    for number in np.flatnonzero(bad.to_numpy()).tolist():
        row = int(np.argmax(numbered.series == number))
        found.fault(number, "id_invalid", BAD_ID, row=row)


def null_ids(series: Rows, column: str | None) -> tuple[Fault, ...]:
    """The fault of rows that belong to no series, or nothing."""
    rows = np.flatnonzero(series < 0)
    if not len(rows):
        return ()
    message = f"{counted(len(rows), 'row has', 'rows have')} no id. Give one, or drop them."
    return (Fault("id_invalid", message, column=column, row=int(rows[0]), count=len(rows)),)


# --- stamps ----------------------------------------------------------------------------------


def read_axis(
    column: pl.Series, *, series: Rows, rows: Rows, tz: str | None, found: Findings
) -> Axis:
    """The axis of a time column; rows without a usable stamp are noted and left out."""
    stamps = read_stamps(column, tz=tz, series=series)
    for offender in stamps.offenders:
        mask = np.zeros(len(series), dtype=bool)
        mask[offender.rows] = True
        for one in offences(mask, series):
            more = f" {counted(one.count, 'row')} in this series." if one.count > 1 else ""
            found.fault(
                one.series, offender.code, offender.message + more,
                row=int(rows[one.position]), column=column.name, count=one.count,
            )  # fmt: skip
    times = stamps.values
    if times.null_count() or (len(series) and series.min() < 0):
        usable = np.flatnonzero(times.is_not_null().to_numpy() & (series >= 0))
        times, series, rows = times.gather(usable), series[usable], rows[usable]
    order = _order(times, series)
    if order is not None:
        times, series, rows = times.gather(order), series[order], rows[order]
    offsets = np.searchsorted(series, np.arange(len(found.ids) + 1))
    return Axis(series, times, rows, offsets, stamps.tz, in_order=order is None)


def _order(times: pl.Series, series: Rows) -> Rows | None:
    """The rows sorted by series and time; None if they are."""
    stamps = clock.elapsed(times)
    before = series[1:] < series[:-1]
    back = (series[1:] == series[:-1]) & (stamps[1:] < stamps[:-1])
    if not (before | back).any():
        return None
    # One integer key sorts ten times as fast as two columns.
    place = stamps - stamps.min()
    width = int(place.max()) + 1
    if width * (int(series.max()) + 1) >= 2**63:
        place = pl.Series(stamps).rank("dense").cast(pl.Int64).to_numpy()
        width = len(place) + 1
    order: Rows = pl.Series(series * width + place).arg_sort().cast(pl.Int64).to_numpy()
    return order


# --- the grid --------------------------------------------------------------------------------


def find_frequency(
    axis: Axis, freq: str | int | None, *, found: Findings
) -> tuple[Frequency | None, tuple[Fault, ...]]:
    """The frequency asked for, or that of the data with a warning; None if there is none."""
    integers = axis.times.dtype.is_integer()
    if freq is None and integers:
        return Frequency("", 1), ()
    if freq is not None:
        return _fitting(Frequency.candidates(freq), axis), ()
    inference = infer(axis.times, axis.series)
    if inference.frequency is None:
        for number in range(len(found.ids)):
            found.fault(
                number, "frequency_unknown",
                "No step can be inferred: it takes two rows, and steps that repeat. Give freq.",
            )  # fmt: skip
        return None, ()
    name = str(inference.frequency)
    for number in inference.differing:
        found.fault(
            int(number), "frequency_mixed",
            f"The steps of this series differ from those of the others ('{name}'). "
            "Forecast it apart, or give freq.",
        )  # fmt: skip
    return inference.frequency, (Fault("frequency_inferred", f"The step is '{name}', inferred."),)


def _fitting(candidates: tuple[Frequency, ...], axis: Axis) -> Frequency:
    """The candidate on whose days most stamps lie; DataError if the kind of stamps is another."""
    first = candidates[0]
    if first.is_integer != axis.times.dtype.is_integer():
        kinds = ("integer steps", "dates and times")
        have, want = kinds if axis.times.dtype.is_integer() else kinds[::-1]
        message = (
            f"The time column holds {have}, freq '{first}' is for {want}. Give both of one kind: "
            "dates as 2026-03-29T14:00:00 with h or D, or integers with an integer."
        )
        raise DataError(message, [Fault("timestamp_invalid", message)])
    if len(candidates) == 1 or not len(axis.times):
        return first
    days = clock.wall(axis.times) // DAY
    return max(candidates, key=lambda candidate: candidate.lattice.contains(days).sum())


def check_grid(axis: Axis, frequency: Frequency, *, fill: str, found: Findings) -> Steps:
    """Duplicate stamps, stamps off the grid, and missing rows; gives each row's step."""
    time_of_day = times_of_day(axis.times, axis.offsets) if frequency.is_calendar else None
    index, exact = frequency.steps_along(axis.times, axis.offsets, time_of_day)
    distance = np.diff(index)
    same = axis.same
    physical = clock.elapsed(axis.times)
    duplicate = same & (physical[1:] == physical[:-1])
    for one in offences(duplicate, axis.series[1:]):
        earlier, row = sorted(axis.rows[one.position : one.position + 2].tolist())
        more = f" {counted(one.count, 'duplicate')} in this series." if one.count > 1 else ""
        found.fault(
            one.series, "duplicate_timestamp", f"Same time stamp as row {earlier}.{more} "
            "Keep one row a stamp, or tell the series apart by their ids.",
            row=row, count=one.count,
        )  # fmt: skip
    for one in offences(~exact, axis.series):
        stamp = clock.text(axis.times[one.position : one.position + 1], axis.tz)[0]
        found.fault(
            one.series, "off_grid",
            f"{stamp} is not on the grid of '{frequency}'; {counted(one.count, 'row')} in this "
            "series. Correct the stamp, give another freq, or resample.",
            row=int(axis.rows[one.position]), count=one.count,
        )  # fmt: skip
    _check_gaps(axis, np.where(same & exact[1:] & exact[:-1], distance, 1), fill, found)
    return Steps(index, time_of_day)


def times_of_day(times: pl.Series, offsets: Rows) -> Rows:
    """The wall clock time of each series' grid in microseconds `[series]`.

    A clock gap moves a stamp to a later time, so the earlier of the last two rows is the grid's.
    """
    if not len(times):
        return np.zeros(len(offsets) - 1, dtype=np.int64)
    last = np.maximum(offsets[1:] - 1, 0)  # a series without rows reads another's, to no effect
    before = np.clip(last - 1, offsets[:-1].clip(max=len(times) - 1), None)
    late, early = (clock.wall(times.gather(rows)) % DAY for rows in (last, before))
    return np.minimum(late, early)


def _check_gaps(axis: Axis, distance: Rows, fill: str, found: Findings) -> None:
    missing = distance - 1
    gaps = missing > 0
    if not gaps.any():
        return
    total = np.bincount(axis.series[1:][gaps], weights=missing[gaps], minlength=len(found.ids))
    rows = np.diff(axis.offsets)
    for one in offences(gaps, axis.series[1:]):
        absent = int(total[one.series])
        if absent <= _without_stamp(found, one.series):
            continue  # the rows are there; what is wrong with their stamps is said
        too_many = absent > FREE_ROWS + rows[one.series] / LEAST_FILLED
        if fill != "none" and not too_many:
            message = f"{counted(absent, 'missing row was', 'missing rows were')} filled ({fill})."
            found.warn(one.series, "gap_filled", message, count=absent)
            continue
        here = counted(int(missing[one.position]), "row is", "rows are")
        remedy = (
            "These are too many to fill."
            if too_many
            else "Add them, or set fill to mask: they then count as missing."
        )
        found.fault(
            one.series, "gap",
            f"{here} missing before this one; {absent} in the series, in "
            f"{counted(one.count, 'place')}. {remedy}",
            row=int(axis.rows[one.position + 1]), count=absent,
        )  # fmt: skip


def _without_stamp(found: Findings, series: int) -> int:
    """How many rows of a series were left out for their stamps, or are said to be missing there."""
    faults = found.faults.get(series, ())
    return sum(UNUSABLE_STAMP.get(fault.code, 0) * (fault.count or 0) for fault in faults)


def regular(
    axis: Axis, steps: Steps, frequency: Frequency, kept: list[int]
) -> tuple[pl.Series, pl.Series | None, Rows]:
    """The whole grids of the series `kept`: stamps, source rows, and rows of each series.

    The source of a grid row is its row in the table as given, null where one was missing; it is
    None as a whole where the table already is the grid, row for row.
    """
    everything = len(kept) == len(axis.offsets) - 1
    chosen = np.isin(axis.series, kept)
    rows = np.arange(len(chosen)) if everything else np.flatnonzero(chosen)
    counts = np.diff(axis.offsets)[kept]
    ends = np.cumsum(counts)
    index = steps.index[rows]
    lengths = index[ends - 1] + 1
    times = axis.times if everything else axis.times.gather(rows)
    if lengths.sum() == len(rows):
        identical = everything and axis.in_order and len(rows) == len(axis.rows)
        return times, None if identical else pl.Series(axis.rows[rows]), lengths
    starts = np.cumsum(lengths) - lengths
    place = np.repeat(starts, counts) + index
    source = np.full(lengths.sum(), -1)
    source[place] = axis.rows[rows]
    series = np.repeat(np.arange(len(kept)), lengths)
    absent = np.flatnonzero(source < 0)
    of_absent = series[absent]
    of_day = None if steps.time_of_day is None else steps.time_of_day[kept][of_absent]
    inserted = frequency.shift(
        times.gather((ends - counts)[of_absent]), absent - starts[of_absent], of_day
    )
    stamps = np.empty(len(source), dtype=np.int64)
    stamps[place], stamps[absent] = clock.elapsed(times), clock.elapsed(inserted)
    whole = pl.Series("time", stamps)
    if not frequency.is_integer:
        whole = clock.instants(stamps, clock.zone_of(times))
    places = pl.Series(source)
    return whole, pl.select(pl.when(places >= 0).then(places)).to_series(), lengths
