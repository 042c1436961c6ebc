"""Time grids: the step of a series, its seasons, and the stamps that follow, right across DST.

Steps shorter than a day walk elapsed time. Steps of a day or more walk the local calendar: days
have 23 to 25 hours, and a step that falls into a clock gap moves to the first valid instant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import times as clock
from pipelines.lattice import BusinessDays, Days, Lattice, Months
from pipelines.stamps import read_stamps
from pipelines.times import DAY, SECOND
from tsformer.errors import ConfigError, DataError, Fault

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

HOUR = 3600 * SECOND
DAYS_A_WEEK = 7
WEEK = 7 * DAY
ELAPSED: Mapping[str, int] = {  # microseconds
    "h": HOUR,
    "min": 60 * SECOND,
    "s": SECOND,
    "ms": SECOND // 1000,
    "us": 1,
}
WEEKDAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
PERIOD_MONTHS: Mapping[str, int] = {"M": 1, "Q": 3, "Y": 12}

# Older pandas aliases and polars durations, in the pandas form of today.
ALIASES: Mapping[str, str] = {
    "H": "h", "T": "min", "m": "min", "S": "s", "L": "ms", "U": "us", "d": "D",
    "M": "ME", "Q": "QE", "Y": "YE", "A": "YE", "AS": "YS",
}  # fmt: skip
DEFAULT_ANCHORS: Mapping[str, str] = {
    "W": "SUN", "QS": "JAN", "QE": "DEC", "YS": "JAN", "YE": "DEC",
}  # fmt: skip
# Polars durations name no weekday or month: what fits the data is taken, the first by default.
UNANCHORED: Mapping[str, tuple[str, ...]] = {
    "w": ("W-SUN", *(f"W-{day}" for day in WEEKDAYS[:-1])),
    "mo": ("MS", "ME"),
    "q": ("QS-JAN", "QS-FEB", "QS-MAR", "QE-DEC", "QE-OCT", "QE-NOV"),
    "y": (*(f"YS-{month}" for month in MONTHS), *(f"YE-{month}" for month in MONTHS[::-1])),
}
MAX_COUNT = 1_000_000
MAX_ELAPSED = 366 * DAY
LONGEST_SEASON = 100_000  # steps; a longer cycle is of no use to a model here
SEASONS_NEEDED = 2  # below two seasons nothing can tell a season from noise
EXAMPLES = "15min, h, D, B, W-SUN, MS, ME, QS, YS (pandas) or 15m, 1h, 1d, 1w, 1mo (polars)"


@dataclass(frozen=True, slots=True)
class Frequency:
    """A step of `count` times `unit` in the words of pandas; the unit "" is an integer index.

    `anchor` is the weekday of `W`, and the month in which the year of `QS` and `YS` starts or
    that of `QE` and `YE` ends. Made by `Frequency.parse`.
    """

    unit: str
    count: int = 1
    anchor: str = ""

    def __str__(self) -> str:
        """The pandas alias, or the number of an integer step; `parse` reads it back."""
        if self.is_integer:
            return str(self.count)
        alias = f"{self.unit}-{self.anchor}" if self.anchor else self.unit
        return alias if self.count == 1 else f"{self.count}{alias}"

    @staticmethod
    def parse(text: str | int) -> Frequency:
        """The frequency of a pandas alias, polars duration or integer; ConfigError else."""
        return Frequency.candidates(text)[0]

    @staticmethod
    def candidates(text: str | int) -> tuple[Frequency, ...]:
        """What `text` may mean: several for polars durations without an anchor (`1w`)."""
        if isinstance(text, bool) or not isinstance(text, str | int):
            raise ConfigError(f"freq must be text or an integer, got {type(text).__name__}.")
        if isinstance(text, int) or re.fullmatch(r"[0-9]{1,7}", text):
            return (Frequency("", _count(int(text))),)
        match = re.fullmatch(r"([0-9]{0,7})([A-Za-z]{1,3}(?:-[A-Za-z]{3})?)", text)
        if match is None:
            return (_compound(text),)
        count = _count(int(match[1] or 1))
        return tuple(_of_alias(alias, count) for alias in UNANCHORED.get(match[2], (match[2],)))

    # --- what kind of step --------------------------------------------------------------------

    @property
    def is_integer(self) -> bool:
        """Whether stamps are integer step indices."""
        return self.unit == ""

    @property
    def is_elapsed(self) -> bool:
        """Whether steps walk elapsed time, not the calendar."""
        return self.unit in ELAPSED

    @property
    def is_calendar(self) -> bool:
        """Whether steps walk the local calendar: a day or more."""
        return not (self.is_integer or self.is_elapsed)

    @property
    def seasons(self) -> tuple[int, ...]:
        """The usual cycles in whole steps, the main one first: (24, 168) for `h`."""
        if self.is_elapsed:
            step = ELAPSED[self.unit] * self.count
            cycles = (DAY, WEEK) if step >= 60 * SECOND else (HOUR, DAY)
            return tuple(
                c // step for c in cycles if c % step == 0 and 1 < c // step < LONGEST_SEASON
            )
        if self.unit == "D" and self.count % 7 == 0:
            return Frequency("W", self.count // 7).seasons
        return tuple(
            c // self.count for c in CYCLES[self.unit] if c % self.count == 0 and c > self.count
        )

    @property
    def season(self) -> int:
        """Steps of the main cycle: 24 for `h`, 96 for `15min`, 7 for `D`, 12 for `MS`; else 1."""
        return self.seasons[0] if self.seasons else 1

    # --- grids --------------------------------------------------------------------------------

    def grid(self, start: datetime | int | str, periods: int, tz: str | None = None) -> pl.Series:
        """`periods` stamps from `start`, which must lie on the grid.

        A naive `start` is wall clock time in `tz`. Raises DataError for a start off the grid, in
        a clock gap or a repeated hour, and for stamps beyond 1700 to 2200.
        """
        stamps = read_stamps(pl.Series("time", [start]), tz=tz)
        for offender in stamps.offenders:
            raise _error(offender.code, offender.message)
        if stamps.values.dtype.is_integer() != self.is_integer:
            raise _error("timestamp_invalid", f"The start does not suit steps of '{self}'.")
        _, exact = self.steps_along(stamps.values, np.array([0, 1]))
        if not exact[0]:
            raise _error("off_grid", f"The start does not lie on the grid of '{self}'.")
        return self.shift(_repeat(stamps.values, periods), np.arange(periods))

    def next(self, last: datetime | int, periods: int) -> pl.Series:
        """The `periods` stamps after `last`, in its zone if it has one."""
        return self.shift(_repeat(_series([last]), periods), np.arange(1, periods + 1))

    def steps_between(self, start: datetime | int, end: datetime | int) -> int:
        """How many steps lead from `start` to `end`; DataError if no whole number does."""
        steps, exact = self.steps_along(_series([start, end]), np.array([0, 2]))
        if not exact.all():
            raise _error(
                "off_grid", f"No whole number of steps of '{self}' lies between these stamps."
            )
        return int(steps[1])

    def shift(self, times: pl.Series, steps: Rows, time_of_day: Rows | None = None) -> pl.Series:
        """Each of `times` moved by its own number of `steps`; DataError beyond 1700 to 2200.

        `time_of_day` (microseconds) is that of the grid where `times` may have been moved out of
        a clock gap.
        """
        if self.is_integer:
            return pl.Series(
                "time", _bounded(times.to_numpy(), steps, self.count, clock.LAST_INDEX)
            )
        zone = clock.zone_of(times)
        if self.is_elapsed:
            width = ELAPSED[self.unit] * self.count
            return clock.instants(_bounded(clock.elapsed(times), steps, width, clock.LAST), zone)
        walls = clock.wall(times)
        days = walls // DAY
        target = self.lattice.days(self.lattice.ordinals(days) + steps * self.count)
        of_day = walls - days * DAY if time_of_day is None else time_of_day
        walls = _bounded(of_day, target, DAY, clock.LAST)
        return clock.localise_forward(clock.naive(walls), zone)

    def steps_along(
        self, times: pl.Series, offsets: Rows, time_of_day: Rows | None = None
    ) -> tuple[Rows, Mask]:
        """Steps of each of `times` from the first of its series, and which are whole `[row]`.

        `offsets` `[series + 1]` are the first rows of the series and the end; `time_of_day`
        `[series]` is that of each grid in microseconds, by default that of the first row.
        """
        lengths = np.diff(offsets)
        firsts = offsets[:-1][lengths > 0]
        lengths = lengths[lengths > 0]
        if not self.is_calendar:
            stamps = clock.elapsed(times)
            width = self.count * ELAPSED.get(self.unit, 1)
            distance = stamps - np.repeat(stamps[firsts], lengths)
            steps = distance // width
            return steps, steps * width == distance
        walls = clock.wall(times)
        days = walls // DAY
        of_day = walls - days * DAY
        ordinals = self.lattice.ordinals(days)
        distance = ordinals - np.repeat(ordinals[firsts], lengths)
        steps = distance // self.count
        on_day = self.lattice.contains(days)
        exact = (steps * self.count == distance) & on_day & np.repeat(on_day[firsts], lengths)
        expected = of_day[firsts] if time_of_day is None else time_of_day[np.diff(offsets) > 0]
        expected = np.repeat(expected, lengths)
        moved = np.flatnonzero(exact & (of_day != expected))
        if len(moved):  # right only where a clock gap moved the stamp
            target = clock.naive(days[moved] * DAY + expected[moved])
            target = clock.localise_forward(target, clock.zone_of(times))
            exact[moved] = (target == times.gather(moved)).to_numpy()
        return steps, exact

    @property
    def lattice(self) -> Lattice:
        """The days that a calendar step visits."""
        if self.unit == "D":
            return Days()
        if self.unit == "B":
            return BusinessDays()
        if self.unit == "W":
            return Days(7, WEEKDAYS.index(self.anchor))
        width = PERIOD_MONTHS[self.unit[0]]
        phase = MONTHS.index(self.anchor) % width if self.anchor else 0
        return Months(width, "start" if self.unit[1] == "S" else "end", phase)


# Cycles in steps of the unit; a year has 365 days, 261 business days or 52 weeks, rounded down.
CYCLES: Mapping[str, tuple[int, ...]] = {
    "": (), "D": (7, 365), "B": (5, 261), "W": (52,), "MS": (12,), "ME": (12,),
    "QS": (4,), "QE": (4,), "YS": (), "YE": (),
}  # fmt: skip


def _count(count: int) -> int:
    if not 1 <= count <= MAX_COUNT:
        raise ConfigError(f"freq: the multiple must be between 1 and {MAX_COUNT}.")
    return count


def _of_alias(alias: str, count: int) -> Frequency:
    """The frequency of one pandas alias, old or new, with its anchor filled in."""
    name, _, anchor = alias.partition("-")
    unit = ALIASES.get(name, name)
    if unit in ELAPSED and not anchor:
        return of_elapsed(ELAPSED[unit] * count)
    if unit not in CYCLES or not unit:
        raise _unknown()
    anchor = anchor or DEFAULT_ANCHORS.get(unit, "")
    valid = {"W": WEEKDAYS, "Q": MONTHS, "Y": MONTHS}.get(unit[0], ("",))
    if anchor not in valid:
        raise _unknown()
    if unit[0] == "Q":  # quarters that start in January, April, July or October are one grid
        first = MONTHS.index(anchor) % 3
        anchor = MONTHS[first] if unit == "QS" else ("OCT", "NOV", "DEC")[first]
    return Frequency(unit, count, anchor)


def of_elapsed(width: int) -> Frequency:
    """The frequency of `width` microseconds in the largest unit that divides it."""
    if width > MAX_ELAPSED:
        raise ConfigError("freq: a step of elapsed time must be at most 366 days.")
    unit = next(unit for unit in ELAPSED if width % ELAPSED[unit] == 0)
    return Frequency(unit, width // ELAPSED[unit])


def _compound(text: str) -> Frequency:
    """The frequency of a sum such as `1h30m`."""
    if len(text) > 40 or not re.fullmatch(r"(?:[0-9]{1,7}[A-Za-z]{1,3}){2,5}", text):
        raise _unknown()
    parts = [_of_alias(unit, int(n)) for n, unit in re.findall(r"([0-9]+)([A-Za-z]+)", text)]
    if not all(part.is_elapsed for part in parts):
        raise _unknown()
    return of_elapsed(sum(ELAPSED[part.unit] * part.count for part in parts))


def _unknown() -> ConfigError:
    return ConfigError(f"freq is not a frequency that is known here. Use one of {EXAMPLES}.")


def _error(code: str, message: str) -> DataError:
    return DataError(message, [Fault(code, message)])


def _series(stamps: Sequence[datetime | int]) -> pl.Series:
    column = pl.Series("time", stamps)
    return column.cast(pl.Int64) if column.dtype.is_integer() else column.dt.cast_time_unit("us")


def _repeat(stamp: pl.Series, periods: int) -> pl.Series:
    return stamp.gather(np.zeros(periods, dtype=np.int64))


def _bounded(origins: Rows, steps: Rows, width: int, last: int) -> Rows:
    """`origins + steps * width`, or DataError where that leaves the range of stamps."""
    first = -clock.LAST_INDEX if last == clock.LAST_INDEX else clock.FIRST
    rough = origins + steps.astype(np.float64) * width  # cannot wrap around
    if len(rough) and not (first <= rough.min() and rough.max() <= last):
        limits = "the range of integer steps" if last == clock.LAST_INDEX else "1700 to 2200"
        raise _error(
            "timestamp_out_of_range", f"The time grid leaves {limits}. Shorten the horizon."
        )
    return origins + steps * width
