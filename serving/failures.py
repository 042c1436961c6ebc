"""Keys that open nothing: so many a minute of an address are looked at, the others are refused unseen."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from serving.problems import Problem

MOST, MINUTE_S = 10, 60.0
ADDRESSES = 10_000  # of which failures are kept


class Failures:
    """The last failures, by address: no more of each than decide."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: dict[str, deque[float]] = {}

    def check(self, address: str) -> None:
        """Raises `rate-limited` where `address` has sent too many keys in vain."""
        failed, now = self._failed.get(address), self._clock()
        while failed and now - failed[0] >= MINUTE_S:
            failed.popleft()
        if failed and len(failed) >= MOST:
            wait_s = max(1, math.ceil(failed[0] + MINUTE_S - now))
            detail = f"{MOST} keys of this address opened nothing. Repeat after {wait_s} s."
            members = {"limit": "failed_keys_per_minute", "maximum": MOST}
            headers = {"Retry-After": str(wait_s)}
            raise Problem("rate-limited", detail, members=members, headers=headers)

    def add(self, address: str) -> None:
        """A key from `address` opened nothing."""
        if address not in self._failed:
            if len(self._failed) >= ADDRESSES:  # somebody has a network of them: the oldest go
                del self._failed[next(iter(self._failed))]
            self._failed[address] = deque(maxlen=MOST)  # those of known keys come unchecked
        self._failed[address].append(self._clock())
