"""How much memory there is, by whoever may limit it."""

from __future__ import annotations

import resource
from pathlib import Path

import psutil

# The limit of a control group and what it holds of it, in both versions of the kernel's interface.
GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def memory_left() -> int:
    """Bytes that this process may still take, by the machine, its group and its own limits."""
    left = [psutil.virtual_memory().available]
    soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if soft != resource.RLIM_INFINITY:
        left.append(soft - getattr(psutil.Process().memory_info(), "data", 0))
    for limit, used in GROUPS:
        most, taken = _number(Path(limit)), _number(Path(used))
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
