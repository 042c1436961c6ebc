"""What contenders of one benchmark share: a panel, and taking turns in processes of their own.

Standard library and numpy alone, so that it also runs where only a peer is installed.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import version
from time import process_time

import numpy as np
from numpy.typing import NDArray

REPLY = "reply "  # what a contender answers with; it may print other lines too


def panel(rows: int, series: int) -> NDArray[np.float64]:
    """Hourly series `[row, series]` with a day, a week and noise."""
    hours = np.arange(rows)[:, None]
    phase = np.arange(series)[None, :]
    day, week = (np.sin((hours / period + phase / 7) * 2 * np.pi) for period in (24, 168))
    return day + 0.5 * week + np.random.default_rng(0).normal(size=(rows, series))


class Turns:
    """Called after each training step: stops after every turn until it is told to go on.

    The first turn warms up and is not measured. Ends the process when nobody asks any more.
    """

    def __init__(self, steps: int, *, packages: Sequence[str] = ("torch",)) -> None:
        self.steps = steps
        self.versions = {name: version(name) for name in packages}
        self.done = 0
        self.started = process_time()

    def __call__(self) -> None:
        self.done += 1
        if self.done < self.steps:
            return
        seconds = (process_time() - self.started) / self.steps
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        reply = {"seconds": seconds, "peak_mib": peak, "versions": self.versions}
        print(REPLY + json.dumps(reply), flush=True)
        if not sys.stdin.readline():
            sys.exit(0)
        self.done, self.started = 0, process_time()
