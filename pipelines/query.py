"""What is asked of a model: one row a series, ready to be stacked, cut and sent over a bus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.panel import Panel
from pipelines.units import Unit
from tsformer.batch import Batch

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Query:
    """Contexts `past` `[series, time]` (NaN is missing) and `known` `[series, time + horizon, feature]`.

    `unit` `[series, 2]` (mean, deviation) stands where the model is bound to one.
    """

    past: Floats
    known: NDArray[np.float32] | None = None
    unit: Floats | None = None

    def __len__(self) -> int:
        return len(self.past)

    def __getitem__(self, rows: slice) -> Query:
        known, unit = self.known, self.unit
        return Query(
            self.past[rows],
            None if known is None else known[rows],
            None if unit is None else unit[rows],
        )

    @staticmethod
    def stack(queries: Sequence[Query]) -> Query:
        """Queries of one shape as a single one, in order."""
        if len(queries) == 1:
            return queries[0]
        known = [query.known for query in queries if query.known is not None]
        unit = [query.unit for query in queries if query.unit is not None]
        return Query(
            np.concatenate([query.past for query in queries]),
            np.concatenate(known) if known else None,
            np.concatenate(unit) if unit else None,
        )

    @staticmethod
    def pasts(panel: Panel, context: int) -> Floats:
        """The last `context` values of every series `[series, time]`; NaN stands before the first."""
        past = np.full((len(panel.ids), context), np.nan)
        for row, (start, end) in enumerate(zip(panel.offsets[:-1], panel.offsets[1:], strict=True)):
            tail = panel.target[max(start, end - context) : end]
            past[row, context - len(tail) :] = tail
        return past

    def measure(self) -> Unit | None:
        """The unit as tensors `[series, 1, 1]`."""
        if self.unit is None:
            return None
        mean, std = torch.from_numpy(self.unit).T[:, :, None, None]
        return Unit(mean, std)

    def batch(self) -> Batch:
        """The query as a batch of univariate series."""
        past = torch.from_numpy(self.past).unsqueeze(-1)  # [series, time, 1]
        return Batch(
            past=past.nan_to_num(nan=0.0),
            observed=~past.isnan(),
            known=None if self.known is None else torch.from_numpy(self.known),
        )
