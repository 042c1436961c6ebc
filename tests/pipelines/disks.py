"""Disks that fill up, and one that needs no waiting for."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

MEMORY = Path("/dev/shm")


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory, where there is one.

    Nobody pulls the plug of this machine: kills of processes lose nothing without a disk, and each
    write of SQLite waits for it.
    """
    there = MEMORY.is_dir() and os.access(MEMORY, os.W_OK)
    place = MEMORY if there else None
    with TemporaryDirectory(prefix="tsformer-", dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def disk_full(folder: Path, *, after: int) -> Iterator[None]:
    """Copies into `folder` fail as on a full disk, `after` that many bytes."""
    left, copyfile = after, shutil.copyfile

    def copy(source: str, target: str, *, follow_symlinks: bool = True) -> str:
        nonlocal left
        if folder not in Path(target).parents:
            return copyfile(source, target, follow_symlinks=follow_symlinks)
        content = Path(source).read_bytes()
        Path(target).write_bytes(content[:left])
        left -= len(content)
        if left < 0:
            left = 0
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        return target

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "copyfile", copy)
        yield
