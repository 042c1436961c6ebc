"""How much memory there is, by whoever may limit it."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil

GROUP = Path("/sys/fs/cgroup")


def memory_left() -> int:
    """Bytes that this process may still take, by the machine, its group and its own limits."""
    left = [psutil.virtual_memory().available]
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        left.append(soft - getattr(psutil.Process().memory_info(), "data", 0))
    most, taken = (_number(GROUP / name) for name in ("memory.max", "memory.current"))
    if most is not None and taken is not None:
        left.append(most - taken)
    return max(0, min(left))


def _number(path: Path) -> int | None:
    """The number in a file of the control group; None without a limit."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
