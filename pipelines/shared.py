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

from pipelines.windows import Grid, PanelWindows, Rows
from tsformer.batch import Shape

Arrays = Mapping[str, NDArray[Any] | None]


@dataclass(frozen=True, slots=True)
class Shared:
    """Training and validation windows of one grid, as arrays alone.

    Ray's object store keeps the bytes of arrays, and every process of a machine reads them in
    place; tensors it would pickle, a copy for each.
    """

    grid: Arrays
    cutoffs: Mapping[str, Rows]
    shape: Shape

    @staticmethod
    def of(**parts: PanelWindows) -> Shared:
        """The windows of `parts`, which are cut from one grid, by their names."""
        first = next(iter(parts.values()))
        return Shared(
            grid=arrays_of(first.grid),
            cutoffs={name: windows.cutoffs.numpy() for name, windows in parts.items()},
            shape=first.shape,
        )

    @property
    def bytes(self) -> int:
        """How much memory the arrays take."""
        arrays = [*self.grid.values(), *self.cutoffs.values()]
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
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return Grid(**{name: _tensor(name, array) for name, array in arrays.items()})


def arrays_of(grid: Grid) -> Arrays:
    """The fields of `grid` as arrays."""
    values = {field.name: getattr(grid, field.name) for field in fields(grid)}
    return {k: v.numpy() if isinstance(v, Tensor) else v for k, v in values.items()}


def _tensor(name: str, array: NDArray[Any] | None) -> Any:
    """The field `name` of a grid from its array."""
    return array if array is None or name == "offsets" else torch.from_numpy(np.asarray(array))
