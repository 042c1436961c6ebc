"""Which models fail often at the moment, so that a dashboard can ring without a rate of its own."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WINDOW_S = 300.0
SLOT_S = 10.0  # what comes within it is counted together
SHARE = 0.05  # of the series of a model; more must ring


@dataclass(slots=True)
class _Slot:
    began: float
    series: int = 0
    failed: int = 0


class Alarms:
    """The share of series on which each model failed in the last five minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._slots: dict[str, deque[_Slot]] = {}

    def count(self, name: str, *, series: int, failed: int) -> None:
        """The model `name` was asked for `series` and failed on some."""
        slots, now = self._slots.setdefault(name, deque()), self._clock()
        if not slots or now - slots[-1].began >= SLOT_S:
            slots.append(_Slot(now))
            self._forget(slots, now)
        slots[-1].series += series
        slots[-1].failed += failed

    def ringing(self) -> Mapping[str, bool]:
        """Whether each model that was ever asked fails on too many."""
        now, found = self._clock(), {}
        for name, slots in self._slots.items():
            self._forget(slots, now)
            failed = sum(slot.failed for slot in slots)
            found[name] = failed > SHARE * sum(slot.series for slot in slots)
        return found

    def _forget(self, slots: deque[_Slot], now: float) -> None:
        while slots and now - slots[0].began >= WINDOW_S:
            slots.popleft()
