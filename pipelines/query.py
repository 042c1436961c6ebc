"""What is asked of a model: a row a window, ready to be stacked, cut and sent over a bus."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.panel import Panel
from pipelines.units import Unit
from tsformer.batch import Batch

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Query:
    """The inputs of some windows, with the axes of `tsformer.batch.Batch`.

    - `past` `[window, time, variate]`: contexts; NaN is missing.
    - `known` `[window, time + horizon, column]`, `covariates` `[window, time, column]`,
      `static` `[window, variate, column]`.
    - `lagged` `[window, time + horizon, variate, lag]`: NaN is missing.
    - `series` `[window, variate]`: the number of each series, 0 where training did not see it.
    - `unit` `[window, 2, variate]`: mean and deviation, where the model is bound to a unit.
    """

    past: Floats
    known: Floats32 | None = None
    covariates: Floats32 | None = None
    static: Floats32 | None = None
    lagged: Floats | None = None
    series: NDArray[np.int64] | None = None
    unit: Floats | None = None

    def __len__(self) -> int:
        return len(self.past)

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(values.nbytes for values in self._given().values())

    @property
    def variates(self) -> int:
        """Series that each window holds."""
        return self.past.shape[2]

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> Query:
        return Query(**{name: values[rows] for name, values in self._given().items()})

    @staticmethod
    def stack(queries: Sequence[Query]) -> Query:
        """Queries of one shape as a single one, in order."""
        if len(queries) == 1:
            return queries[0]
        given = [query._given() for query in queries]
        return Query(**{name: np.concatenate([g[name] for g in given]) for name in given[0]})

    def windows(self) -> Iterator[bytes]:
        """All that is asked of each window; the same bytes ask the same."""
        given = self._given().values()
        return (b"".join(values[row].tobytes() for values in given) for row in range(len(self)))

    @staticmethod
    def pasts(panel: Panel, context: int) -> Floats:
        """The last `context` values of every series `[series, time]`; NaN stands before the first."""
        past = np.full((len(panel.ids), context), np.nan)
        for row, (start, end) in enumerate(zip(panel.offsets[:-1], panel.offsets[1:], strict=True)):
            tail = panel.target[max(start, end - context) : end]
            past[row, context - len(tail) :] = tail
        return past

    def measure(self) -> Unit | None:
        """The unit as tensors `[window, 1, variate]`."""
        if self.unit is None:
            return None
        mean, std = torch.from_numpy(self.unit).unsqueeze(2).unbind(1)
        return Unit(mean, std)

    def batch(self) -> Batch:
        """The windows as tensors."""
        past = torch.from_numpy(self.past)
        others = {
            name: torch.from_numpy(values)
            for name, values in self._given().items()
            if name not in ("past", "unit")
        }
        return Batch(past=past.nan_to_num(nan=0.0), observed=~past.isnan(), **others)

    def _given(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
