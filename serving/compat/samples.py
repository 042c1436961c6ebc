"""Series that came one by one, each with a start instead of stamps, as the tables of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import times
from pipelines.frequency import Frequency
from pipelines.stamps import Stamps, read_stamps
from serving.compat.columns import joined
from serving.compat.undated import Undated
from serving.models import Model
from serving.problems import Item, Problem, of_faults
from serving.schemas.forecasts import ForecastRequest
from serving.schemas.tables import Cells, Columns
from serving.tables import check_freq, check_tz
from tsformer.errors import DataError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
NAMES = Columns()
EPOCH = datetime(2000, 1, 1)  # where steps without a start are put; nothing may depend on it


@dataclass(frozen=True, slots=True)
class Sample:
    """A series: `y` from `start` on, NaN where missing; leading ones are padding.

    `past` has columns as long as `y`, `future` columns of the horizon, `static` a cell each.
    """

    id: str | int
    y: Floats
    start: str | None = None
    past: Mapping[str, Cells] = field(default_factory=dict)
    future: Mapping[str, Cells] = field(default_factory=dict)
    static: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Where:
    """Pointers to the sample at a place, to its id and to its start, as they were sent."""

    sample: Callable[[int], str]
    id: Callable[[int], str]
    start: Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Grid:
    """The step of all samples and the stamp of their step 0 `[sample]`; at `offset` they are naive."""

    frequency: Frequency
    starts: pl.Series
    offset: str | None
    dated: bool = True  # whether somebody said when the series start

    @property
    def request(self) -> type[ForecastRequest]:
        """The kind of request that has these stamps."""
        return ForecastRequest if self.dated else Undated

    @property
    def step(self) -> str | int:
        """The frequency as a request has it."""
        return self.frequency.count if self.frequency.is_integer else str(self.frequency)

    def stamps(self, samples: Rows, steps: Rows) -> pl.Series:
        """The stamps of `steps` of `samples`."""
        found = self.frequency.shift(self.starts.gather(samples), steps)
        return found if self.offset is None else times.text(found, self.offset)


def tables_of(samples: Sequence[Sample], grid: Grid) -> dict[str, Any]:
    """The fields `data`, `future` and `static` of a request for `samples`.

    Their past, future and static columns must be the same; raises DataError for stamps that are
    out of range.
    """
    firsts = np.array([_first(sample.y) for sample in samples])
    lengths = np.array([len(sample.y) for sample in samples])
    late = np.array([0 if s.start else lengths.max() - len(s.y) for s in samples])  # all end alike
    ids = pl.Series([sample.id for sample in samples])
    rows, steps = _places(lengths - firsts)
    steps = steps + (firsts + late)[rows]
    y = np.concatenate([s.y[first:] for s, first in zip(samples, firsts, strict=True)])
    data: dict[str, Cells] = {
        NAMES.id: ids.gather(rows),
        NAMES.time: grid.stamps(rows, steps),
        NAMES.target: pl.Series(y).fill_nan(None),
    }
    for name in samples[0].past:
        data[name] = joined([s.past[name][f:] for s, f in zip(samples, firsts, strict=True)])
    future: dict[str, Cells] = {}
    if samples[0].future:
        ahead = np.array([len(next(iter(sample.future.values()))) for sample in samples])
        rows, steps = _places(ahead)
        stamps = grid.stamps(rows, steps + (lengths + late)[rows])
        future = {NAMES.id: ids.gather(rows), NAMES.time: stamps}
    for name in samples[0].future:
        future[name] = joined([sample.future[name] for sample in samples])
    static: dict[str, Cells] = {NAMES.id: ids} if samples[0].static else {}
    for name in samples[0].static:
        static[name] = [sample.static[name] for sample in samples]
    return {"data": data, "future": future, "static": static}


def _first(y: Floats) -> int:
    """The row of the first number; of the last row where there is none."""
    seen = ~np.isnan(y)
    return int(seen.argmax()) if seen.any() else len(y) - 1


def _places(lengths: Rows) -> tuple[Rows, Rows]:
    """The sample and the step of every row of samples of `lengths` below each other."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]


# --- ids and starts -------------------------------------------------------------------------------


def check_ids(samples: Sequence[Sample], where: Where) -> None:
    """Raises `invalid-data` for an id that occurs twice, and for ids of several kinds."""
    seen: set[str | int] = set()
    for place, sample in enumerate(samples):
        if sample.id in seen:
            item = Item("Another series has the same id.", where.id(place), "id_invalid", sample.id)
            raise of_faults("Two series have the same id.", [item])
        if type(sample.id) is not type(samples[0].id):
            item = Item("Ids are text, or all of them integers.", where.id(place), "id_invalid")
            raise of_faults("The ids are of two kinds.", [item])
        seen.add(sample.id)


def grid_of(
    samples: Sequence[Sample], model: Model | None, *, freq: str | int | None, tz: str | None,
    where: Where,
) -> Grid:  # fmt: skip
    """The grid of `samples`: at `freq`, or the step of the model, from their starts."""
    check_freq(freq)
    check_tz(tz)
    if freq is None and model is None:
        message = "This model has no step of its own. Give freq."
        raise Problem("invalid-request", message, [Item(message, "/freq")])
    step = freq if model is None or freq is not None else model.forecaster.recipe.frequency
    frequencies = Frequency.candidates(step or 1)
    given = [place for place, sample in enumerate(samples) if sample.start is not None]
    _check_calendar(samples, model, given, where)
    if not given:
        return _without_starts(len(samples), frequencies[0], tz)
    read = _starts(samples, given, tz, where)
    frequency = _fitting(read.values, frequencies, [where.start(place) for place in given])
    place = np.zeros(len(samples), np.int64)  # those without a start begin at the first there is
    place[given] = np.arange(len(given))
    offset = read.tz if times.is_offset(read.tz) else None
    return Grid(frequency, read.values.gather(place), offset)


def _starts(
    samples: Sequence[Sample], given: Sequence[int], tz: str | None, where: Where
) -> Stamps:
    """The starts of the samples at the places `given`."""
    texts = pl.Series("start", [samples[place].start for place in given], dtype=pl.String)
    try:
        read = read_stamps(texts, tz=tz)
    except DataError as error:
        faults = [Item(f.message, where.start(given[0]), f.code) for f in error.faults]
        raise of_faults("The starts cannot be read.", faults) from error
    items = [
        Item(found.message, where.start(given[row]), found.code, samples[given[row]].id)
        for found in read.offenders
        for row in found.rows.tolist()
    ]
    if items:
        raise of_faults(f"{len(items)} starts cannot be read.", items)
    return read


def _check_calendar(
    samples: Sequence[Sample], model: Model | None, given: Sequence[int], where: Where
) -> None:
    features = () if model is None else model.forecaster.recipe.inputs.features
    if features and given and len(given) < len(samples):
        place = next(i for i, sample in enumerate(samples) if sample.start is None)
        message = (
            f"The model reads {', '.join(features)}. Send the start of all series, or of none."
        )
        raise Problem("model-incompatible", message, [Item(message, where.sample(place))])


def _without_starts(count: int, frequency: Frequency, tz: str | None) -> Grid:
    if frequency.is_integer:
        return Grid(frequency, pl.Series("time", np.zeros(count, np.int64)), None, dated=False)
    walls = pl.Series("time", [EPOCH], dtype=pl.Datetime("us"))
    zone = None if times.is_offset(tz) else tz
    on_grid = frequency.shift(times.localise_forward(walls, zone), np.array([1]))
    offset = tz if times.is_offset(tz) else None
    return Grid(frequency, on_grid.gather(np.zeros(count, np.int64)), offset, dated=False)


def _fitting(
    starts: pl.Series, frequencies: Sequence[Frequency], pointers: Sequence[str]
) -> Frequency:
    """The first of `frequencies` on whose grid all starts lie."""
    if starts.dtype.is_integer() or frequencies[0].is_integer:
        message = "Stamps and an integer freq do not go together. Leave out the start."
        raise of_faults(message, [Item(message, pointers[0], "timestamp_invalid")])
    alone = np.arange(len(starts) + 1)  # each start begins a grid of its own
    off: list[int] = []
    for frequency in frequencies:
        _, exact = frequency.steps_along(starts, alone)
        found = np.flatnonzero(~exact).tolist()
        if not found:
            return frequency
        off = off or found
    message = f"The start does not lie on the grid of '{frequencies[0]}'."
    raise of_faults(message, [Item(message, pointers[place], "off_grid") for place in off])
