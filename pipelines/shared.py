"""Windows that several processes read, and of which there is one copy a machine."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.mapping import Mapped
from pipelines.windows import Grid, PanelWindows, Rows, Spaced
from tsformer.batch import Shape

Arrays = Mapping[str, NDArray[Any] | Mapped | None]


@dataclass(frozen=True, slots=True)
class Shared:
    """Training and validation windows of one grid, as arrays alone.

    Ray's object store keeps the bytes of arrays, and every process of a machine reads them in
    place; tensors it would pickle, a copy for each. What is mapped from a file is mapped by each.
    """

    grid: Arrays
    cutoffs: Mapping[str, Rows | Spaced]
    shape: Shape

    @staticmethod
    def of(**parts: PanelWindows) -> Shared:
        """The windows of `parts`, which are cut from one grid, by their names."""
        first = next(iter(parts.values()))
        return Shared(
            grid=arrays_of(first.grid),
            cutoffs={name: _cutoffs(windows) for name, windows in parts.items()},
            shape=first.shape,
        )

    @property
    def bytes(self) -> int:
        """How much memory the arrays take."""
        arrays = (*self.grid.values(), *self.cutoffs.values())
        return sum(array.nbytes for array in arrays if array is not None)

    def windows(self) -> dict[str, PanelWindows]:
        """What `of` was given, in the memory of the arrays, which is only read."""
        grid = grid_of(self.grid)
        return {
            name: PanelWindows(grid, cutoffs=cutoffs, shape=self.shape)
            for name, cutoffs in self.cutoffs.items()
        }


def grid_of(arrays: Arrays) -> Grid:
    """The grid of which `arrays_of` gave `arrays`, in their memory, which is only read."""
    files = {name: array.open() for name, array in arrays.items() if isinstance(array, Mapped)}
    there = {**arrays, **files}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Grid(**{name: _tensor(name, array) for name, array in there.items()}, files=files)


def arrays_of(grid: Grid) -> Arrays:
    """The fields of `grid` as arrays, or as the files that they are mapped from."""
    values = {field.name: getattr(grid, field.name) for field in fields(grid)}
    del values["files"]
    return {
        name: _array(value, grid.files.get(name)) if isinstance(value, Tensor) else value
        for name, value in values.items()
    }


def _array(tensor: Tensor, mapped: NDArray[Any] | None) -> NDArray[Any] | Mapped:
    if mapped is not None and mapped.ctypes.data == tensor.data_ptr():
        return Mapped.of(mapped)
    array: NDArray[Any] = tensor.numpy()
    return array


def _cutoffs(windows: PanelWindows) -> Rows | Spaced:
    return windows.cutoffs if isinstance(windows.cutoffs, Spaced) else windows.cutoffs.numpy()


def _tensor(name: str, array: Any) -> Any:
    """The field `name` of a grid from its array."""
    plain = array is None or name == "offsets"
    return array if plain else torch.from_numpy(np.asarray(array))
