"""What a model may have seen of the rows that it is scored on, as far as that can be found out.

Found: a fit or a calibration that reached into the test part, and an input column that repeats the
target. How far it reached is told by the last stamp of each series (`pipelines.seen`). Not found: a
column that knows the future in part (a mean around the present, a forecast made afterwards), rows of
the test part that were trained on under another id or with other stamps, and the same days in other
series. Only live accuracy shows those (docs/gate.md).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from pipelines.forecaster import Forecaster
from pipelines.material import Material
from pipelines.query import Floats
from pipelines.seen import Reach

SERIES = 8  # that are looked at
ROWS = 5_000  # of each, the newest
LEAST_PAIRS = 30  # below which a correlation says nothing
SAME = 1 - 1e-6  # squared correlation of changes from which one column repeats the other


def leaks(forecaster: Forecaster, material: Material) -> tuple[str, ...]:
    """What speaks against the scores of `forecaster` on the test part of `material`."""
    return (*_seen_rows(forecaster, material), *_copies(forecaster, material))


def _seen_rows(forecaster: Forecaster, material: Material) -> Iterator[str]:
    theirs = forecaster.recipe.fitted
    if theirs is None:
        yield "It does not say until when it was fitted, so it may have seen the test part."
    elif found := theirs.reach(material.begins("test")):
        last, part = shown(found, material)
        yield (
            f"It was fitted on rows until {last}, but the test {part}: it may have seen what it is "
            "scored on."
        )


def shown(found: Reach, material: Material) -> tuple[object, str]:
    """The last stamp that was seen, and where the part of which series begins, for a sentence."""
    kind = material.panel.table["time"].dtype
    last, first = (pl.Series([stamp]).cast(kind)[0] for stamp in (found.seen, found.begins))
    whose = "" if material.panel.schema.id is None else f" of '{found.series}'"
    return last, f"part{whose} begins at {first}"


def _copies(forecaster: Forecaster, material: Material) -> Iterator[str]:
    inputs, horizon = forecaster.recipe.inputs, forecaster.recipe.horizon
    for column in inputs.known:
        if not column.size and 0 in _repeats(material, column.name, range(1)):
            yield (
                f"'{column.name}', which it reads as known ahead, repeats the target: nobody will "
                "know it when a forecast is asked for. (If somebody will: promote it by override.)"
            )
    for column in inputs.past:
        ahead = () if column.size else _repeats(material, column.name, range(1, horizon + 1))
        for steps in [*ahead][:1]:
            yield (
                f"'{column.name}', which it reads as past, repeats the target {steps} steps before "
                "it happens: that row was filled in later."
            )


def _repeats(material: Material, name: str, leads: range) -> Iterator[int]:
    """By how many steps, of `leads`, the column runs ahead of the target in every series.

    Changes are compared, since levels that drift look alike; a lead by which the target repeats
    itself proves nothing.
    """
    panel = material.panel
    bounds = [*zip(panel.offsets[:-1], panel.offsets[1:], strict=True)][:SERIES]
    column = panel.column(name)
    pairs = [
        (np.diff(column[start:end][-ROWS:]), np.diff(panel.target[start:end][-ROWS:]))
        for start, end in bounds
    ]
    for lead in leads:
        found = [_alike(x, y, lead) and not (lead and _alike(y, y, lead)) for x, y in pairs]
        if found and all(found):
            yield lead


def _alike(first: Floats, second: Floats, lead: int) -> bool:
    """Whether `first` says what `second` is `lead` steps later, but for unit and level."""
    x, y = first[: len(first) - lead], second[lead:]
    seen = np.isfinite(x) & np.isfinite(y)
    if seen.sum() < LEAST_PAIRS:
        return False
    x, y = x[seen] - x[seen].mean(), y[seen] - y[seen].mean()
    size = (x @ x) * (y @ y)
    return bool(size > 0 and (x @ y) ** 2 >= SAME * size)
