"""Where a process that trains, or runs models, gets its memory from."""

from __future__ import annotations

import ctypes

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
MIB = 2**20


def keep_freed_memory() -> bool:
    """From now on large blocks that are freed are kept for reuse; False where that cannot be had.

    A training step allocates the same large tensors again and again. glibc's malloc maps each of
    more than 32 MiB anew and gives it back when it is freed, so every page of it faults in every
    step (mallopt(3), M_MMAP_THRESHOLD). Afterwards memory is never given back before the process
    ends: for processes that train, not for those that stay. Other libraries of C are left alone.
    """
    # 0 blocks are mapped by themselves; the top of the heap is not trimmed
    return _set((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))


def keep_some_freed_memory(mib: int = 256) -> bool:
    """From now on up to `mib` MiB that are freed are kept for reuse; False where that cannot be had.

    For processes that stay and run models: the tensors of a forward pass come from the heap, whose
    top glibc otherwise gives back after each of them. A block of more than 32 MiB, such as the
    weights of a large model, is given back when it is freed, as before.
    """
    return _set((M_MMAP_THRESHOLD, 32 * MIB), (M_TRIM_THRESHOLD, mib * MIB))


def _set(*options: tuple[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return False
    return all(bool(mallopt(name, value)) for name, value in options)
