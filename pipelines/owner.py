"""Owner: the process that writes a run, so that a run without one can be told from a slow one.

A process that is killed outright (kill -9, a power cut) cannot say so; whoever comes next does.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

import psutil

CLOCK_SECONDS = 5.0  # by how much the begin of one process may be read differently


@dataclass(frozen=True, slots=True)
class Owner:
    """A process: its host, its number there, and when it began (seconds since 1970)."""

    host: str
    pid: int
    began: float

    @staticmethod
    def own() -> Owner:
        """This process."""
        return Owner(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @staticmethod
    def parse(text: str) -> Owner | None:
        """The owner that `str` wrote, or None for any other text."""
        try:
            host, pid, began = text.rsplit("/", 2)
            return Owner(host, int(pid), float(began))
        except ValueError:
            return None

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.began:.0f}"

    @property
    def here(self) -> bool:
        """Whether this host could know of it."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether it runs on this host; its number may have gone to another process since."""
        try:
            began = psutil.Process(self.pid).create_time()
        except psutil.Error:
            return False
        return self.here and abs(began - self.began) < CLOCK_SECONDS
