"""What a forecaster read from some windows, as tables with the names of the data.

Each table comes with a check of itself: what it calls important is hidden, and the same windows
are forecast again (`tsformer.faithfulness`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.covariates import Inputs
from pipelines.features import feature_names
from pipelines.forecaster import Forecaster
from pipelines.units import Unit
from tsformer import explain
from tsformer.batch import Batch, Target
from tsformer.errors import IncompatibleError
from tsformer.explain import LEVELS, Importance, VariateAttention
from tsformer.faithfulness import (
    Faithfulness,
    check_lags,
    check_steps,
    check_variables,
    check_variates,
)
from tsformer.model import Model
from tsformer.models.tft import Explanation, Selected

Ids = NDArray[np.str_]
Checks = dict[str, Faithfulness | None]
Of = TypeVar("Of")

ROWS = 256  # windows times variates that a check forecasts a dozen times
STEPS = 4  # steps of the horizon whose attention is tabled, evenly from the first to the last
QUANTILES = tuple(f"p{level * 100:.0f}" for level in LEVELS)


@dataclass(frozen=True, slots=True)
class Asked:
    """Windows to be explained.

    - `batch`: what was read, in the unit of the data; `target`: what followed.
    - `ids` `[window, variate]`: the series, and `cutoffs` `[window]`: their first target stamps.
    - `unit`: where the model is bound to one; `target_name`: the column that is forecast.
    """

    batch: Batch
    target: Target
    ids: Ids
    cutoffs: pl.Series
    unit: Unit | None
    target_name: str


@dataclass(frozen=True, slots=True)
class Explained:
    """Tables by name, and for each importance in them how it did when it was checked.

    - `variables`: unique_id, role, variable, importance and percentiles over windows and steps.
    - `attention`: unique_id, step, lag, weight and percentiles over windows.
    - `regimes`: unique_id, cutoff, distance from the mean attention of the series.
    - `variate_attention`: layer, from, to, weight; and `resemblance`: layer and the correlation of
      its scores with the correlations of the context (past) and of the target (future).
    - `lags`: step, lag, input (context, or lagged value), weight, importance.
    """

    tables: Mapping[str, pl.DataFrame]
    checks: Mapping[str, Faithfulness | None]


def explained(forecaster: Forecaster, asked: Asked) -> Explained:
    """The explanation of what `forecaster` reads from `asked`.

    Raises IncompatibleError for a model without any, naming the kinds that have one.
    """
    able = explain.explanations(forecaster.model)
    if not able:
        kinds = ", ".join(kind for kinds in explain.EXPLAINED_BY.values() for kind in kinds)
        raise IncompatibleError(
            f"A model of kind '{forecaster.spec.kind}' explains nothing of itself. Kinds that do: "
            f"{kinds}."
        )
    return EXPLAINERS[able[0]](forecaster, asked)


def read(forecaster: Forecaster, asked: Asked) -> Batch:
    """The windows as the model is given them: its own context, in its own unit."""
    batch = asked.batch.recent(forecaster.recipe.context)
    return batch if asked.unit is None else asked.unit.standardised(batch)


def names(inputs: Inputs, *, target: str) -> dict[str, str]:
    """The names of a model's variables, by role and number."""
    columns = {
        "known": (*feature_names(inputs.features), *inputs.names["known"]),
        "past": inputs.names["past"],
        "static": inputs.names["static"],
    }
    numbered = {f"{use} {n}": name for use, of in columns.items() for n, name in enumerate(of)}
    return {
        "target": target,
        "step": "step",
        **{f"lag {n}": f"lag {n}" for n in inputs.lags},
    } | numbered


# --- variables and steps ------------------------------------------------------------------------


def by_selection(forecaster: Forecaster, asked: Asked) -> Explained:
    """Of a temporal fusion transformer: variables, attention by lag, regimes, of each series."""
    batch, model = read(forecaster, asked), forecaster.model
    found = selection_of(forecaster, batch)
    named = names(forecaster.recipe.inputs, target=asked.target_name)
    variables, attention, regimes = [], [], []
    steps = np.unique(np.linspace(1, model.shape.horizon, STEPS).round().astype(int)).tolist()
    for series, rows in _rows(asked.ids):
        for role, selected in explain.by_role(found).items():
            of = explain.variables(Selected(selected.variables, _of_rows(selected.weights, rows)))
            table = _table(of, "variable", "importance", [named[str(name)] for name in of.names])
            variables.append(_led(table, unique_id=series, role=role))
        weights = found.attention.flatten(0, 1)[rows].unsqueeze(1)  # [window, 1, horizon, position]
        for step in steps:
            of = explain.pattern(weights, step=step)
            table = _table(of, "lag", "weight", [*of.names])
            attention.append(_led(table, unique_id=series, step=step))
        cutoffs = asked.cutoffs.gather((rows // asked.ids.shape[1]).numpy())
        distance = explain.regimes(weights)[:, 0].numpy()
        table = pl.DataFrame({"cutoff": cutoffs, "distance": distance})
        regimes.append(_led(table, unique_id=series))
    few = _few(batch)
    return Explained(
        {
            "variables": pl.concat(variables),
            "attention": pl.concat(attention),
            "regimes": pl.concat(regimes),
        },
        _check_selection(forecaster, few),
    )


def _check_selection(forecaster: Forecaster, batch: Batch) -> Checks:
    forecast, found = _point(forecaster), selection_of(forecaster, batch)
    checks = {
        f"{role} variables": check_variables(
            forecast, batch, selected, shape=forecaster.model.shape, role=role
        )
        for role, selected in explain.by_role(found).items()
    }
    return {**checks, "attended steps": check_steps(forecast, batch, found.attention)}


def selection_of(forecaster: Forecaster, batch: Batch) -> Explanation:
    """What a temporal fusion transformer reads from windows that are as it is given them."""
    parts = _in_parts(forecaster, batch, explain.selection)

    def joined(pick: Callable[[Explanation], Tensor]) -> Tensor:
        return torch.cat([pick(part).cpu() for part in parts])

    first = parts[0]
    return Explanation(
        static=Selected(first.static.variables, joined(lambda part: part.static.weights)),
        past=Selected(first.past.variables, joined(lambda part: part.past.weights)),
        known=Selected(first.known.variables, joined(lambda part: part.known.weights)),
        attention=joined(lambda part: part.attention),
    )


def _rows(ids: Ids) -> Iterator[tuple[str, Tensor]]:
    """Each series and its places in `[window * variate]`, in the order of first appearance."""
    flat = ids.ravel()
    for name in dict.fromkeys(flat.tolist()):
        yield name, torch.from_numpy(np.flatnonzero(flat == name))


def _of_rows(weights: Tensor, rows: Tensor) -> Tensor:
    """Weights `[window, ..., variate, variable]` as `[row, ..., variable]` of those rows."""
    return weights.movedim(-2, 1).flatten(0, 1)[rows]


def _table(of: Importance, key: str, value: str, keys: list[object]) -> pl.DataFrame:
    quantiles = zip(QUANTILES, of.quantiles.numpy(), strict=True)
    return pl.DataFrame({key: keys, value: of.mean.numpy(), **dict(quantiles)})


def _led(table: pl.DataFrame, **leading: object) -> pl.DataFrame:
    """`table` with columns of one value before its own."""
    return table.select(*(pl.lit(value).alias(name) for name, value in leading.items()), pl.all())


# --- variates -----------------------------------------------------------------------------------


def by_variates(forecaster: Forecaster, asked: Asked) -> Explained:
    """Of iTransformer and SAMformer: how much each series takes from each other."""
    batch = read(forecaster, asked)
    found = attention_of(forecaster, batch)
    if found.weights.shape[-1] == 1:
        raise IncompatibleError(
            "Each series was forecast by itself, so there is no other to attend to. Train with "
            "'group: all' in the data section."
        )
    named = names(forecaster.recipe.inputs, target=asked.target_name)
    tables = {"variate_attention": _attention_table(found, asked.ids, named)}
    if forecaster.recipe.joint:
        tables["resemblance"] = _resemblance(found, batch, asked.target)
    few = _few(batch)
    check = check_variates(_point(forecaster), few, attention_of(forecaster, few))
    return Explained(tables, {"variates": check})


def attention_of(forecaster: Forecaster, batch: Batch) -> VariateAttention:
    """What the variates of windows, as the model is given them, take from each other."""
    parts = _in_parts(forecaster, batch, explain.variate_attention)
    weights = torch.cat([part.weights.cpu() for part in parts])
    scores = torch.cat([part.scores.cpu() for part in parts])
    return VariateAttention(weights, scores, parts[0].columns)


def _attention_table(found: VariateAttention, ids: Ids, named: Mapping[str, str]) -> pl.DataFrame:
    """Means over the windows of the same series; a row for each layer, reader and what is read."""
    columns = [named[column] for column in found.columns]
    tables = []
    for group in dict.fromkeys(map(tuple, ids.tolist())):
        rows = torch.from_numpy((ids == np.array(group)).all(axis=1))
        mean = found.weights[rows].double().mean(0)  # [layer, from, to]
        layer, reader, source = (place.ravel() for place in np.indices(mean.shape))
        tables.append(
            pl.DataFrame(
                {
                    "layer": layer + 1,
                    "from": np.array(group)[reader],
                    "to": np.array([*group, *columns])[source],
                    "weight": mean.numpy().ravel(),
                }
            )
        )
    return pl.concat(tables)


def _resemblance(found: VariateAttention, batch: Batch, target: Target) -> pl.DataFrame:
    """Means over the windows where both are defined; null where there is none."""
    past = explain.correlations(batch.past, batch.observed)
    future = explain.correlations(target.values, target.observed)
    columns = {
        when: explain.resemblance(found.scores, correlation).nanmean(0).numpy()
        for when, correlation in (("past", past), ("future", future))
    }
    layers = np.arange(1, found.scores.shape[1] + 1)
    return pl.DataFrame({"layer": layers, **columns}).fill_nan(None)


# --- lags ---------------------------------------------------------------------------------------


def by_lags(forecaster: Forecaster, asked: Asked) -> Explained:
    """Of ridge and the linear family: the one map that all series share."""
    shape = forecaster.model.shape
    weights, lags = explain.lag_weights(forecaster.model), explain.lags_of(shape)
    step, place = (axis.ravel() for axis in np.indices(weights.shape))
    table = pl.DataFrame(
        {
            "step": step + 1,
            "lag": lags.numpy().ravel(),
            "input": np.where(place < shape.context, "context", "lagged value"),
            "weight": weights.numpy().ravel(),
            "importance": explain.lag_importance(weights).numpy().ravel(),
        }
    )
    few = _few(read(forecaster, asked))
    check = check_lags(_point(forecaster), few, weights)
    return Explained({"lags": table.sort("step", "lag")}, {"lags": check})


EXPLAINERS: Mapping[str, Callable[[Forecaster, Asked], Explained]] = {
    "selection": by_selection,
    "variates": by_variates,
    "lags": by_lags,
}


# --- running ------------------------------------------------------------------------------------


def _in_parts(forecaster: Forecaster, batch: Batch, ask: Callable[[Model, Batch], Of]) -> list[Of]:
    """What `ask` says of the windows, as many at a time as are forecast at a time."""
    runtime = forecaster.runtime
    size = max(1, runtime.micro_batch // batch.past.shape[2])
    return [
        ask(forecaster.model, batch[start : start + size].to(runtime.device))
        for start in range(0, len(batch), size)
    ]


def _point(forecaster: Forecaster) -> Callable[[Batch], Tensor]:
    """Point forecasts of windows that are as the model is given them."""
    return lambda batch: forecaster.runtime.predict(batch)[..., forecaster.model.shape.point]


def _few(batch: Batch) -> Batch:
    """At most about ROWS rows of the windows, evenly from the first to the last."""
    count = min(len(batch), max(1, ROWS // batch.past.shape[2]))
    return batch[torch.linspace(0, len(batch) - 1, count).round().long()]
