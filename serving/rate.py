"""How often and how much at once each key may ask, and all of them together; counted in this process."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from serving.limits import Limits
from serving.problems import Problem

MINUTE_S = 60.0


@dataclass(slots=True)
class _Use:
    """When the requests of the last minute came, how many are being answered, and how many came.

    `streams` are answers that go on; they are counted apart, so that who looks on can ask as well.
    """

    came: deque[float] = field(default_factory=deque)
    running: int = 0
    total: int = 0
    streams: int = 0


class Rate:
    """Lets a key's request in, or raises `rate-limited`; in any minute never more than the limit.

    `limits` are those of one of so many `ingresses`, which is told to who meets them.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        *,
        ingresses: int = 1,
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._where = f" at each of {ingresses} ingresses" if ingresses > 1 else ""
        self._uses: defaultdict[str, _Use] = defaultdict(_Use)
        self._running = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """One of the requests that are answered at a time; the problem `overloaded` beyond them.

        What waits for the processor stands in no model's queue, and would be let in without end.
        """
        most = self._limits.requests_in_flight
        if self._running >= most:
            members = {"limit": "requests_in_flight", "maximum": most}
            raise Problem("overloaded", f"{most} requests are being answered.", members=members)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    @contextmanager
    def turn(self, prefix: str) -> Iterator[None]:
        """One request of the key `prefix`, counted; one that is refused does not count."""
        use, now = self._lately(prefix), self._clock()
        self._check(use, now)
        use.came.append(now)
        use.running += 1
        use.total += 1
        try:
            yield
        finally:
            use.running -= 1

    @contextmanager
    def stream(self, prefix: str) -> Iterator[None]:
        """One answer to the key `prefix` that goes on; as many as it may ask requests at once."""
        use, most = self._lately(prefix), self._limits.concurrent_requests
        if use.streams >= most:
            raise self._refused("concurrent_requests", most, 1)
        use.streams += 1
        try:
            yield
        finally:
            use.streams -= 1

    def used(self, prefix: str) -> tuple[int, int]:
        """The requests of the key `prefix` in the last minute, and since this process started."""
        use = self._lately(prefix)
        return len(use.came), use.total

    def _lately(self, prefix: str) -> _Use:
        """The use of a key, without the requests that are a minute old."""
        use, now = self._uses[prefix], self._clock()
        while use.came and now - use.came[0] >= MINUTE_S:
            use.came.popleft()
        return use

    def _check(self, use: _Use, now: float) -> None:
        limits = self._limits
        if len(use.came) >= limits.requests_per_minute:
            # The oldest request that must be a minute old before there is room again.
            blocking = use.came[len(use.came) - limits.requests_per_minute]
            wait = max(1, math.ceil(blocking + MINUTE_S - now))
            raise self._refused("requests_per_minute", limits.requests_per_minute, wait)
        if use.running >= limits.concurrent_requests:
            raise self._refused("concurrent_requests", limits.concurrent_requests, 1)

    def _refused(self, limit: str, maximum: int, wait_s: int) -> Problem:
        detail = (
            f"The limit {limit} of this key is {maximum}{self._where}. Repeat after {wait_s} s."
        )
        members, headers = {"limit": limit, "maximum": maximum}, {"Retry-After": str(wait_s)}
        return Problem("rate-limited", detail, members=members, headers=headers)
