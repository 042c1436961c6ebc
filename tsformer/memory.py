"""Where a process that trains gets its memory from."""

from __future__ import annotations

import ctypes

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """From now on large blocks that are freed are kept for reuse; False where that cannot be had.

    A training step allocates the same large tensors again and again. glibc's malloc maps each of
    more than 32 MiB anew and gives it back when it is freed, so every page of it faults in every
    step (mallopt(3), M_MMAP_THRESHOLD). Afterwards memory is never given back before the process
    ends: for processes that train, not for those that stay. Other libraries of C are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    # 0 blocks are mapped by themselves; the top of the heap is not trimmed
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
