"""The terminal of a job: what it prints is kept in its log, and told to whoever follows the run."""

from __future__ import annotations

import io
import math
import time
from typing import TextIO

from pipelines.attempt import Teller

PROGRESS_S = 1.0


class Telling(io.StringIO):
    """Passes whole lines on. An indented line is progress, as `pipelines.terminal` prints it.

    Of progress, a line a second is enough for people, and spares the store. It keeps nothing; it is a StringIO because that is what rich takes for a terminal.
    """

    def __init__(self, teller: Teller, log: TextIO) -> None:
        super().__init__()
        self._teller, self._log, self._rest = teller, log, ""
        self._told = -math.inf

    def write(self, text: str) -> int:
        """Takes what is printed."""
        self._log.write(text)
        self._log.flush()
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            self._tell(line)
        return len(text)

    def _tell(self, line: str) -> None:
        if not line.startswith("  "):
            self._teller.log(line)
        elif time.monotonic() - self._told >= PROGRESS_S:
            self._teller.progress(line.strip())
            self._told = time.monotonic()
