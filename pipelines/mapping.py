"""Arrays in files, of which the memory holds what is read: for tables that are larger than it.

Needs numpy alone. The files lie in a folder of their process and go with it; what a killed process
left is removed by the next one.
"""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tsformer.errors import UnavailableError


@dataclass(frozen=True, slots=True)
class Mapped:
    """An array in a file: how any process of this machine finds it."""

    path: str
    dtype: str
    shape: tuple[int, ...]

    @staticmethod
    def of(array: NDArray[Any]) -> Mapped:
        """Where an array of a `Scratch` is."""
        assert isinstance(array, np.memmap)
        return Mapped(str(array.filename), array.dtype.str, array.shape)

    @property
    def nbytes(self) -> int:
        """The memory that it needs: none, as long as nobody reads."""
        return 0

    def open(self) -> NDArray[Any]:
        """The array, to be read; its pages are in memory while there is room."""
        try:
            array: NDArray[Any] = np.memmap(self.path, self.dtype, mode="r", shape=self.shape)
        except OSError as error:
            raise UnavailableError(
                f"{self.path} is not to be seen from here ({error.strerror or error}). A table that "
                "is larger than the memory is read from a file: where workers run on several "
                "machines, TSFORMER_HOME must be a folder that all of them share."
            ) from error
        return array


class Scratch:
    """A folder of files for one process, under `parent`, which should be on a disk."""

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _bury(parent)
        self.folder = Path(mkdtemp(prefix=f"{os.getpid()}-", dir=parent))
        self.files = 0
        self._end = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def array(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """A new array of zeros."""
        array: NDArray[Any] = np.memmap(self._new(), np.dtype(dtype), mode="w+", shape=tuple(shape))
        return array

    def column(self, dtype: DTypeLike) -> Column:
        """A flat array that grows."""
        return Column(self._new(), np.dtype(dtype))

    def _new(self) -> Path:
        self.files += 1
        return self.folder / f"{self.files}.bin"


class Column:
    """A flat array in a file that is written from its beginning to its end."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.dtype = dtype
        self.rows = 0

    def append(self, values: NDArray[Any]) -> None:
        """Adds `values` to the end."""
        with self.path.open("ab") as file:
            np.ascontiguousarray(values, dtype=self.dtype).tofile(file)
        self.rows += len(values)

    def whole(self) -> NDArray[Any]:
        """All that was added, mapped."""
        return Mapped(str(self.path), self.dtype.str, (self.rows,)).open()


def _bury(parent: Path) -> None:
    """Removes the folders of processes that are no more."""
    for folder in parent.iterdir():
        owner = folder.name.partition("-")[0]
        if owner.isdecimal() and not _lives(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
