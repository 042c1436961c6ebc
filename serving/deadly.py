"""Windows at which the process of a model died, and died again: for a while nobody asks them."""

from __future__ import annotations

import time
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from pipelines.query import Query

KEPT_S = 600.0  # a new version of the runtime or of the model may take them
MOST = 1_000


class Deadly:
    """The last windows of that kind, by hashes of all that is asked."""

    def __init__(self) -> None:
        self._until: OrderedDict[int, float] = OrderedDict()

    def any(self) -> bool:
        """Whether there are such; those of long ago are forgotten."""
        while self._until and next(iter(self._until.values())) < time.monotonic():
            self._until.popitem(last=False)
        return bool(self._until)

    def add(self, version: str, query: Query) -> None:
        """The windows of `query` are such for `name/version`."""
        for window in query.windows():
            self._until[hash((version, window))] = time.monotonic() + KEPT_S
        while len(self._until) > MOST:
            self._until.popitem(last=False)

    def among(self, version: str, query: Query) -> NDArray[np.bool_]:
        """Which windows of `query` are such, `[window]`."""
        known = (hash((version, window)) in self._until for window in query.windows())
        return np.fromiter(known, bool, len(query))
