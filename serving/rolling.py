"""Forecasts of rows that are there already, each from the rows before it alone.

A forecast begins at a cut: a series, and how many of its rows come before. All cuts of a request are
series of one panel, so they share batches as series of one request do, and are numbers of the very
path that a forecast takes (`serving.answers`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.fallback import LOOKS_BACK
from pipelines.forecast import SeriesForecast
from pipelines.panel import Panel
from serving import tables
from serving.ahead import named, prepared
from serving.answers import ModelAnswer, answer
from serving.baselines import check_fits
from serving.body import pointer_to
from serving.inquiry import Inquiry, steps_of
from serving.limits import NUMBER_BYTES
from serving.models import Model, inputs_of
from serving.problems import Item, of_faults
from serving.schemas.series import Options, Series
from serving.scoring import Floats, filled
from serving.service import Service
from serving.tables import Data
from serving.threads import off_loop
from tsformer.errors import DataError

Rows = NDArray[np.int64]
ROWS_AT_ONCE = 2_000_000  # of the panel that the cuts of one call make: some 50 MiB


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where forecasts begin: `places` of series in a panel, and the `rows` before, `[cut]` each."""

    places: Rows
    rows: Rows

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, kept: Any) -> Cuts:
        return Cuts(self.places[kept], self.rows[kept])


@dataclass(frozen=True, slots=True)
class Rolled:
    """Forecasts `[cut, step, 1 + level]`, NaN where there is none, and what is to be said of them.

    `answer` is one for all cuts: an entry a series, warnings, times; its table is that of no cut.
    """

    numbers: Floats
    answer: ModelAnswer


def read(service: Service, asked: Series, options: Options, model: Model | None) -> Data:
    """The series of `asked` as `roll` takes them; their rows after a cut are those of `data`."""
    limits = service.settings.limits
    # Filled only after the rows that are forecast are cut off: a filled gap would know what follows.
    raw = options.model_copy(update={"fill": "none" if options.fill == "none" else "mask"})
    data = tables.read(asked, raw, limits, inputs=inputs_of(model))
    _, reach = steps_of(model, data.panel, asked, limits.horizon)
    return prepared(asked, data, options, steps=0, reach=reach, known=()).data


async def roll(
    service: Service,
    model: Model | None,
    inquiry: Inquiry,
    cuts: Cuts,
    *,
    steps: int,
    seconds: float,
) -> Rolled:
    """What `model` (None: the built-in baseline of `inquiry`) forecasts from each of `cuts` on.

    It goes `steps` ahead or to the last row of a series. The panel of `inquiry` must not be
    filled, and each cut must have a row before it.
    """
    panel, asked = inquiry.panel, inquiry.asked
    numbers = np.full((len(cuts), steps, 1 + len(asked.quantiles)), np.nan)
    entries: dict[int, SeriesForecast] = {}
    found: list[ModelAnswer] = []
    left = np.diff(panel.offsets)[cuts.places] - cuts.rows
    if model is None:
        check_fits(inquiry.built_in, service.settings.limits, fits=len(cuts))
    for chosen in _together(model, cuts, left, steps):
        own = int(min(steps, left[chosen].max(initial=1)))
        rows = int(np.minimum(cuts.rows[chosen], reach_of(model)).sum())
        size = max(inquiry.size, NUMBER_BYTES * rows)  # few rows sent may be many to look at
        before, future = await off_loop(
            size, _history, panel, cuts[chosen], model, steps=own, fill=inquiry.options.fill
        )
        this = asked.model_copy(update={"h": own, "future": {}})
        inquiry = replace(inquiry, asked=this, panel=before, future=future, size=size)
        with _of_series():
            one = await answer(service, model, inquiry, seconds=seconds)
        apart = {fault.series for fault in one.faults}  # that the model had to leave out
        kept = [at for at, name in zip(chosen, before.ids, strict=True) if name not in apart]
        _place(one, kept, numbers)
        _note(entries, cuts.places[kept].tolist(), one.forecast.series)
        empty = replace(one.forecast, table=one.forecast.table.clear(), series=())
        found.append(replace(one, forecast=empty))
    series = tuple(entries[place] for place in sorted(entries))
    return Rolled(numbers, _in_all(series, found, size=max(inquiry.size, numbers.nbytes)))


def _together(model: Model | None, cuts: Cuts, left: Rows, steps: int) -> Iterator[Rows]:
    """The cuts of one call each: of as many steps, and no more than fit.

    Series of one window end together, and a table of covariates known ahead holds a step of a
    series once: there, those that lie equally far from the end.
    """
    everything = np.arange(len(cuts))
    if not len(cuts):
        yield everything
    joint = model is not None and model.forecaster.recipe.joint
    apart = joint or (bool(inputs_of(model).known) and _overlap(cuts, steps))
    alike = left if apart else np.minimum(left, steps)
    for one in np.unique(alike)[::-1]:
        those = everything[alike == one]
        calls = np.minimum(cuts.rows[those], reach_of(model)).cumsum() // ROWS_AT_ONCE
        yield from [those] if joint else (those[calls == call] for call in np.unique(calls))


def _overlap(cuts: Cuts, steps: int) -> bool:
    """Whether a row of a series is forecast from two cuts; those of a series follow each other."""
    near = np.diff(cuts.rows) < steps
    return bool((near & (np.diff(cuts.places) == 0)).any())


def reach_of(model: Model | None) -> int:
    """How many rows back a forecast reads at most, its fallback included."""
    if model is None:
        return LOOKS_BACK
    recipe = model.forecaster.recipe
    return max(LOOKS_BACK, recipe.context + max(recipe.inputs.lags, default=0))


def _history(
    panel: Panel, cuts: Cuts, model: Model | None, *, steps: int, fill: str
) -> tuple[Panel, pl.DataFrame | None]:
    """The rows before each cut as a series of its own, and the known covariates of its steps."""
    ends = panel.offsets[cuts.places] + cuts.rows
    lengths = np.minimum(cuts.rows, reach_of(model))
    before = _taken(panel, cuts, ends - lengths, lengths)
    known = panel.schema.known
    if not known:
        return filled(before, fill), None
    after = _taken(panel, cuts, ends, np.full(len(cuts), steps))
    of_rows = after.table.with_columns(id=pl.Series(after.ids).gather(after.table["series"]))
    return filled(before, fill), named(of_rows, panel, known)


def _taken(panel: Panel, cuts: Cuts, starts: Rows, lengths: Rows) -> Panel:
    """A panel with `lengths` rows from `starts` on for each cut."""
    shift = starts - (lengths.cumsum() - lengths)
    rows = np.repeat(shift, lengths) + np.arange(lengths.sum())
    number = np.repeat(np.arange(len(cuts), dtype=np.int32), lengths)
    return replace(
        panel,
        table=panel.table[rows].with_columns(pl.Series("series", number)),
        ids=tuple(panel.ids[place] for place in cuts.places.tolist()),
        static=None if panel.static is None else panel.static[cuts.places],
    )


@contextmanager
def _of_series() -> Iterator[None]:
    """The problem of faults in what a model reads, without rows: those are none of the request."""
    try:
        yield
    except DataError as error:
        items = [
            Item(
                fault.message,
                pointer_to("data", *([fault.column] if fault.column else [])),
                fault.code,
                fault.series,
            )
            for fault in error.faults
        ]
        raise of_faults("The model cannot read these data.", items) from error


def _place(one: ModelAnswer, kept: Sequence[int], numbers: Floats) -> None:
    """Puts the answer to the cuts `kept` in its places."""
    answered = [at for at, entry in zip(kept, one.forecast.series, strict=True) if entry.rows]
    values = one.forecast.table[:, 2:].to_numpy()
    numbers[answered, : one.horizon] = values.reshape(len(answered), one.horizon, values.shape[1])


def _note(
    entries: dict[int, SeriesForecast], places: Sequence[int], series: Sequence[SeriesForecast]
) -> None:
    """Keeps one entry a series with the rows of all: the first that is not plain, or the last."""
    for place, entry in zip(places, series, strict=True):
        known = entries.get(place)
        if known is None:
            entries[place] = entry
            continue
        worst = known if known.status != "ok" or known.fallback else entry
        entries[place] = replace(worst, rows=known.rows + entry.rows)


def _in_all(
    series: tuple[SeriesForecast, ...], found: Sequence[ModelAnswer], *, size: int
) -> ModelAnswer:
    """One answer for all cuts, without numbers."""
    warnings = {(w.code, w.series): w for one in found for w in one.forecast.warnings}
    faults = {(f.code, f.series): f for one in found for f in one.faults}
    first = found[0]
    return ModelAnswer(
        first.model,
        replace(first.forecast, series=series, warnings=tuple(warnings.values())),
        first.horizon,
        size,
        max(one.queue_ms for one in found),
        sum(one.model_ms for one in found),
        tuple(faults.values()),
        first.fallback,
    )
