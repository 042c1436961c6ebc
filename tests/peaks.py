"""The most memory that processes had, as Linux keeps it."""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1024 * 1024


def peaks(*processes: int) -> list[float]:
    """The most that each process (none: this one) had since the last time, in MiB; counted anew."""
    found = []
    for process in processes or (os.getpid(),):
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
        found.append(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        Path(f"/proc/{process}/clear_refs").write_text("5", encoding="ascii")
    return found


def growth(before: list[float], *processes: int) -> float:
    """By how much any of the processes grew above what `peaks` said before, in MiB."""
    return max(after - first for first, after in zip(before, peaks(*processes), strict=True))
