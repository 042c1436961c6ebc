"""How many bytes of bodies this process holds at a time."""

from __future__ import annotations

from serving.limits import MIB
from serving.problems import Problem

RETRY_AFTER = {"Retry-After": "2"}


class Bodies:
    """Counts the bytes of requests from when they are read until they are answered."""

    def __init__(self, most_mib: int) -> None:
        self._most_mib = most_mib
        self.held = 0

    def take(self, size: int) -> None:
        """Counts `size` bytes more; the problem `overloaded` where that would be too many."""
        if self.held + size > self._most_mib * MIB:
            detail = f"The bodies of all requests hold {self._most_mib} MiB. Repeat later."
            raise Problem(
                "overloaded",
                detail,
                members={"limit": "bodies_in_flight_mib", "maximum": self._most_mib},
                headers=RETRY_AFTER,
            )
        self.held += size

    def give(self, size: int) -> None:
        """The request of `size` bytes is answered."""
        self.held -= size
