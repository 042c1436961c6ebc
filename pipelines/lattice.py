"""Calendar days as numbered steps: every n-th weekday, business days, month starts and ends.

A lattice numbers its days, so that walking the calendar is integer arithmetic on whole arrays.
Days are counted from 1970-01-01, a Thursday.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.times import EPOCH_WEEKDAY

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Lattice(Protocol):
    """Days numbered by consecutive ordinals."""

    def contains(self, days: Rows) -> Mask:
        """Which of `days` belong to the lattice."""
        ...

    def ordinals(self, days: Rows) -> Rows:
        """The number of each of `days`; of the last lattice day before it if it is none itself."""
        ...

    def days(self, ordinals: Rows) -> Rows:
        """The days with these numbers."""
        ...


@dataclass(frozen=True, slots=True)
class Days:
    """Every day, or one weekday of every week."""

    width: int = 1
    weekday: int = 0

    @property
    def _phase(self) -> int:
        return (self.weekday - EPOCH_WEEKDAY) % self.width

    def contains(self, days: Rows) -> Mask:
        return self.days(self.ordinals(days)) == days

    def ordinals(self, days: Rows) -> Rows:
        return (days - self._phase) // self.width

    def days(self, ordinals: Rows) -> Rows:
        return ordinals * self.width + self._phase


@dataclass(frozen=True, slots=True)
class BusinessDays:
    """Monday to Friday; holidays count as business days, as in pandas' `B`."""

    def contains(self, days: Rows) -> Mask:
        return self.days(self.ordinals(days)) == days

    def ordinals(self, days: Rows) -> Rows:
        weeks = (days + EPOCH_WEEKDAY) // 7
        return weeks * 5 + np.minimum(days + EPOCH_WEEKDAY - weeks * 7, 4)

    def days(self, ordinals: Rows) -> Rows:
        weeks, weekday = np.divmod(ordinals, 5)
        return weeks * 7 + weekday - EPOCH_WEEKDAY


@dataclass(frozen=True, slots=True)
class Months:
    """The first or last day of every period of `width` months; `phase` is one such month, from 0."""

    width: int
    edge: Literal["start", "end"]
    phase: int = 0

    def contains(self, days: Rows) -> Mask:
        # The day after a month's end is a month's start.
        shifted = days + (self.edge == "end")
        starts = _month_start(_month(shifted))
        on_edge: Mask = starts == shifted
        return on_edge & ((_month(days) - self.phase) % self.width == 0)

    def ordinals(self, days: Rows) -> Rows:
        ends = self.edge == "end"
        begun = _month(days + ends) - ends  # the last month whose edge is reached
        return (begun - self.phase) // self.width

    def days(self, ordinals: Rows) -> Rows:
        months = ordinals * self.width + self.phase
        if self.edge == "start":
            return _month_start(months)
        return _month_start(months + 1) - 1


def _month(days: Rows) -> Rows:
    return days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)


def _month_start(months: Rows) -> Rows:
    return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
