"""The canary: odd inputs that every model must answer with numbers before users may send theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from pipelines.forecaster import Forecaster
from pipelines.material import Material
from pipelines.panel import Panel
from pipelines.query import Floats

SERIES = 4  # asked of a model that reads one at a time
OFFSET = 1e6  # in deviations of the series
RUNS = 8  # of observed and missing values in turn, over the context

Odd = Callable[[Floats], Floats]


def canary(
    forecaster: Forecaster, material: Material, *, levels: Sequence[float]
) -> tuple[str, ...]:
    """What is wrong with the answers to odd inputs, in sentences; empty if nothing is.

    The inputs are the newest windows of the table whose horizon is still in it, since covariates
    must be known there, as they are and spoiled in the ways of `ODD`. No fallback answers.
    """
    panel, future = _newest(forecaster, material.panel)
    if not panel.ids:
        return ("no series is long enough for a single window.",)
    return tuple(
        fault
        for name, odd in ODD.items()
        for fault in _faults(
            forecaster, _spoiled(panel, odd, rows=forecaster.recipe.context), future, levels, name
        )
    )


def constant(values: Floats) -> Floats:
    """Nothing ever happens."""
    known = values[np.isfinite(values)]
    return np.full(len(values), known[-1] if len(known) else 0.0)


def far_away(values: Floats) -> Floats:
    """The same far from zero, where float32 has no digits left for it."""
    return values + OFFSET * (np.nanstd(constant_filled(values)) or 1.0)


def in_pieces(values: Floats) -> Floats:
    """Whole runs are missing, the newest but for its last step too."""
    run = max(1, len(values) // RUNS)
    missing = (np.arange(len(values))[::-1] // run) % 2 == 0
    missing[[0, -1]] = False  # no shorter than it was
    return np.where(missing, np.nan, constant_filled(values))


def constant_filled(values: Floats) -> Floats:
    """`values` with their last known one where they are missing."""
    return np.where(np.isfinite(values), values, constant(values))


ODD: Mapping[str, Odd] = {
    "the newest window": lambda values: values,
    "a constant series": constant,
    "a huge offset": far_away,
    "missing runs": in_pieces,
}


def _newest(forecaster: Forecaster, panel: Panel) -> tuple[Panel, pl.DataFrame]:
    """The rows that a model reads of some series to forecast their last horizon, and that horizon.

    All series of a joint model, in which they stand together; else the first few.
    """
    recipe = forecaster.recipe
    context = recipe.context + max(recipe.inputs.lags, default=0)
    lengths = np.diff(panel.offsets)
    long_enough = np.flatnonzero(lengths >= recipe.context + recipe.horizon)
    asked = (long_enough if recipe.joint else long_enough[:SERIES]).tolist()
    ends = np.repeat(panel.offsets[1:], lengths)
    read = np.arange(len(ends)) >= ends - recipe.horizon - context
    chosen = replace(panel, table=panel.table.filter(pl.Series(read, dtype=pl.Boolean))).take(asked)
    ends = np.repeat(chosen.offsets[1:], np.diff(chosen.offsets))
    ahead = pl.Series(np.arange(len(ends)) >= ends - recipe.horizon, dtype=pl.Boolean)
    rows = chosen.table.filter(ahead)
    ids = pl.Series(chosen.ids).gather(rows["series"])
    named = {chosen.schema.id: ids} if chosen.schema.id else {}
    whole = [
        rows[c.name].fill_null("") if c.size else rows[c.name].fill_null(c.mean).fill_nan(c.mean)
        for c in recipe.inputs.known
    ]
    future = pl.DataFrame({**named, chosen.schema.time: rows["time"]}).with_columns(whole)
    return replace(chosen, table=chosen.table.filter(~ahead)), future


def _spoiled(panel: Panel, odd: Odd, *, rows: int) -> Panel:
    """The panel with the last `rows` rows of each series as `odd` makes them."""
    values = panel.target.copy()
    for end in panel.offsets[1:]:
        values[end - rows : end] = odd(values[end - rows : end])
    y = pl.Series("y", values, nan_to_null=True)
    return replace(panel, table=panel.table.with_columns(y))


def _faults(
    forecaster: Forecaster,
    panel: Panel,
    future: pl.DataFrame,
    levels: Sequence[float],
    name: str,
) -> Iterator[str]:
    asked = future if forecaster.recipe.inputs.known else None
    try:
        answer = forecaster.predict(panel, levels=levels, future=asked, fallback=None)
    except Exception as error:  # whatever it is, a user would meet it
        reason = str(error).partition("\n")[0]
        yield f"it fails on {name} ({type(error).__name__}: {reason})."
        return
    broken = [str(entry.unique_id) for entry in answer.series if entry.status != "ok"]
    if broken:
        listed = ", ".join(broken[:SERIES])
        yield f"its answer to {name} is not finite, or its quantiles cross ({listed})."
