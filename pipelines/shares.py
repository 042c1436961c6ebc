"""What a model read from the windows of a request, as tables of shares: each adds up to 1.

The numbers are those of `pipelines.explanations`, of each series by itself and without a check:
a request has too few windows to say whether a forecast depends on what was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from pipelines.explanations import attention_of, names, selection_of
from pipelines.forecaster import Forecaster
from pipelines.query import Query
from tsformer import explain
from tsformer.batch import Batch

Floats = NDArray[np.float64]
Ids = Sequence[str | int]
Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of series: what is asked of the model, the ids of all of them, window after window.

    `groups` are the names of the windows' groups, None for one without a name.
    """

    query: Query
    ids: Ids
    groups: Sequence[object]


def kind_of(forecaster: Forecaster) -> str | None:
    """`selection` or `variates` where the model tells that of itself; None elsewhere."""
    able = explain.explanations(forecaster.model)
    return able[0] if able and able[0] in ("selection", "variates") else None


def cells_of(forecaster: Forecaster, windows: Sequence[Windows], *, steps: int) -> int:
    """About how many cells the tables have, of forecasts of `steps`."""
    shape = forecaster.model.shape
    if kind_of(forecaster) == "variates":
        wide = sum(len(w.query) * w.query.variates * (w.query.variates + 1) for w in windows)
        return 4 * wide
    steps = min(steps, shape.horizon)
    of_series = 4 * (steps * shape.context + steps * (steps + 1) // 2)
    return of_series * sum(len(w.ids) for w in windows)


def by_variable(
    forecaster: Forecaster, windows: Windows, *, target: str, steps: int, together: bool
) -> Tables:
    """Of a temporal fusion transformer: `variables` and `attention` of each series.

    Lags count back from the step itself, which has 0; `steps` are at most those that the model was
    trained for. `together`: the means over all series, whose `unique_id` is null.
    """
    found = selection_of(forecaster, _read(forecaster, windows.query))
    named = names(forecaster.recipe.inputs, target=target)
    ids: Sequence[Any] = [None] if together else windows.ids
    variables = []
    for role, selected in explain.by_role(found).items():
        weights = _shares(_rows(selected.weights.movedim(-2, 1)), together)  # [row, variable]
        words = [named[str(name)] for name in selected.variables]
        variables.append(
            pl.DataFrame(
                {
                    "unique_id": _repeated(ids, len(words)),
                    "role": [role] * weights.size,
                    "variable": words * len(ids),
                    "importance": weights.ravel(),
                }
            )
        )
    return {
        "variables": pl.concat(variables),
        "attention": _attention(found.attention, ids, steps=steps, together=together),
    }


def _attention(weights: Tensor, ids: Sequence[Any], *, steps: int, together: bool) -> pl.DataFrame:
    """Attention `[window, variate, horizon, position]` by step and lag."""
    rows = weights.flatten(0, 1).double().numpy()  # [row, horizon, position]
    horizon, positions = rows.shape[1:]
    parts: list[Floats] = []
    step_of: list[int] = []
    lag_of: list[int] = []
    for step in range(1, min(steps, horizon) + 1):
        seen = positions - horizon + step  # what lies after the step has no weight
        parts.append(_shares(rows[:, step - 1, :seen], together))
        step_of += [step] * seen
        lag_of += range(seen - 1, -1, -1)
    shares = np.concatenate(parts, axis=1)  # [row, step and lag]
    return pl.DataFrame(
        {
            "unique_id": _repeated(ids, len(step_of)),
            "step": step_of * len(ids),
            "lag": lag_of * len(ids),
            "weight": shares.ravel(),
        }
    )


def by_variate(forecaster: Forecaster, windows: Windows, *, target: str) -> Tables:
    """Of iTransformer and SAMformer: how much each series took from each, the mean over layers.

    After the series of the window come the columns that it reads, if any.
    """
    found = attention_of(forecaster, _read(forecaster, windows.query))
    named = names(forecaster.recipe.inputs, target=target)
    columns = [named[column] for column in found.columns]
    shares = _normal(found.weights.double().mean(1).numpy())  # [window, from, to]
    width = shares.shape[1]
    tables: dict[str, list[Any]] = {"group_id": [], "from": [], "to": []}
    for window, group in enumerate(windows.groups):
        ids = [*windows.ids[window * width : (window + 1) * width]]
        tables["group_id"] += [group] * shares[window].size
        tables["from"] += _repeated(ids, shares.shape[2])
        tables["to"] += [*ids, *columns] * width
    cells = {name: pl.Series(name, values, dtype=pl.Object) for name, values in tables.items()}
    return {"variate_attention": pl.DataFrame({**cells, "weight": shares.ravel()})}


def _read(forecaster: Forecaster, query: Query) -> Batch:
    """The windows as the model is given them."""
    batch, unit = query.batch().recent(forecaster.recipe.context), query.measure()
    free = unit is None or forecaster.spec.capabilities.unit_free
    return batch if free or unit is None else unit.standardised(batch)


def _rows(weights: Tensor) -> Floats:
    """Weights `[window, variate, ..., variable]` as means over the steps `[row, variable]`."""
    rows = weights.flatten(0, 1).double()
    found: Floats = rows.flatten(1, -2).mean(1).numpy() if rows.ndim > 2 else rows.numpy()
    return found


def _shares(weights: Floats, together: bool) -> Floats:
    return _normal(weights.mean(0, keepdims=True) if together else weights)


def _normal(weights: Floats) -> Floats:
    """Weights that add up to 1 on the last axis, also in the last digits."""
    weights = np.maximum(weights, 0)
    normal: Floats = weights / weights.sum(-1, keepdims=True)
    return normal


def _repeated(values: Sequence[Any], times: int) -> list[Any]:
    return [value for value in values for _ in range(times)]
