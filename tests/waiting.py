"""Tests wait for what happens, not for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(happens: Callable[[], bool], seconds: float = 180) -> float:
    """How long it took; fails after `seconds`."""
    begun = time.monotonic()
    while not happens():
        assert time.monotonic() - begun < seconds, "it did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - begun
