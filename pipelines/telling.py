"""The terminal of a job: what it prints is kept in its log, and told to whoever follows the run."""

from __future__ import annotations

import io
from typing import TextIO

from pipelines.attempt import Teller


class Telling(io.StringIO):
    """Passes whole lines on. An indented line is progress, as `pipelines.terminal` prints it.

    It keeps nothing; it is a StringIO because that is what rich takes for a terminal.
    """

    def __init__(self, teller: Teller, log: TextIO) -> None:
        super().__init__()
        self._teller, self._log, self._rest = teller, log, ""

    def write(self, text: str) -> int:
        """Takes what is printed."""
        self._log.write(text)
        self._log.flush()
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            tell = self._teller.progress if line.startswith("  ") else self._teller.log
            tell(line.strip())
        return len(text)
