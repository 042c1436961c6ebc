"""The inputs of some series at their ends: over the context, and ahead where they are known.

Row by row what training read (`pipelines.covariates`), so a model sees one meaning of a column.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.course import Course
from pipelines.covariates import Covariate, Inputs, calendar, known_rows, past_rows, static_rows
from pipelines.findings import counted
from pipelines.future_table import future_cells
from pipelines.panel import Panel
from pipelines.query import Floats, Floats32, Query
from pipelines.window_groups import in_windows
from tsformer.errors import Fault

TOLD = 3  # columns that a message names


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is seen from the ends of the series of `panel`: `context` steps back, `wanted` ahead.

    A model answers `horizon` steps at a time and reads `inputs`. `future` (`series id`, `time` and
    the known columns) must cover the `wanted` steps.
    """

    panel: Panel
    inputs: Inputs
    context: int
    horizon: int
    wanted: int
    future: pl.DataFrame | None = None

    @property
    def blocks(self) -> int:
        """How often a model answers."""
        return -(-self.wanted // self.horizon)

    def course(
        self,
        *,
        unit: Floats | None = None,
        series: NDArray[np.int64] | None = None,
        width: int = 1,
    ) -> Course:
        """What a model is asked: a window for each `width` of the series.

        `unit` `[series, 2]` and the numbers of the `series` are passed on. Raises DataError where a
        covariate is missing, or where series that share a window do not end together or differ in
        what they share.
        """
        back = self.context + max(self.inputs.lags, default=0)
        alone = Query(np.empty((0, back, 1)))
        if self.panel.ids:
            alone = Query(
                past=Query.pasts(self.panel, back)[..., None],
                known=self._known(),
                covariates=self._past(),
                static=_variate(static_rows(self.panel, self.inputs), 1),
                series=_variate(series, 1),
                unit=_variate(unit, 2),
            )
        whole = in_windows(alone, self.panel, self.context, width)
        return Course(whole, self.context, self.horizon, self.blocks, self.inputs.lags)

    def warnings(self) -> tuple[Fault, ...]:
        """What the reader of a forecast must know of its inputs.

        Strange words and missing values among those that are read, lags out of reach, and what
        later blocks do not know. Words are counted, not repeated: they are the client's own.
        """
        return (
            *self._strangers(),
            *self._missing(),
            *self._masked(),
            *self._out_of_reach(),
        )

    def _strangers(self) -> Iterator[Fault]:
        for column, cells in self._categories():
            strange = sorted({word for part in cells for word in column.strangers(part)})
            if strange:
                message = (
                    f"{column.name}: {counted(len(strange), 'value')} did not occur in training; "
                    "forecast as the unknown category."
                )
                yield Fault("unknown_category", message, count=len(strange))

    def _missing(self) -> Iterator[Fault]:
        """Every series that lacks cells which are read: one warning, however many columns."""
        panel, inputs = self.panel, self.inputs
        lacking = dict[str, NDArray[np.int64]]()
        if inputs.columns:
            recent = _recent(panel, self.context).table
            for column in inputs.columns:
                rows = recent["series"].filter(_is_missing(recent[column.name]))
                lacking[column.name] = np.bincount(rows.to_numpy(), minlength=len(panel.ids))
        if panel.static is not None:
            for column in inputs.static:
                missing = _is_missing(panel.static[column.name])
                lacking[column.name] = missing.to_numpy().astype(np.int64)
        for place in np.flatnonzero(sum(lacking.values(), np.zeros(len(panel.ids), np.int64))):
            counts = {name: int(of[place]) for name, of in lacking.items() if of[place]}
            told = ", ".join(f"{count} of {name}" for name, count in [*counts.items()][:TOLD])
            message = (
                f"Missing values: {told}{' ...' * (len(counts) > TOLD)}. They count as the training "
                "mean, or as unknown."
            )
            yield Fault(
                "values_missing", message, series=panel.ids[place], count=sum(counts.values())
            )

    def _masked(self) -> Iterator[Fault]:
        if self.inputs.past and self.wanted > self.horizon and self.panel.ids:
            message = (
                f"{', '.join(self.inputs.names['past'])}: not known after the history; for the "
                f"steps after the first {self.horizon} what is missing counts as the training "
                "mean, or as unknown."
            )
            yield Fault("past_covariates_masked", message)

    def _out_of_reach(self) -> Iterator[Fault]:
        rows = np.diff(self.panel.offsets)
        for lag in self.inputs.lags:
            for place in np.flatnonzero(np.minimum(lag - rows, self.wanted) > 0):
                message = (
                    f"The history of {rows[place]} rows does not reach {lag} steps back from every "
                    "step; what is missing counts as the level of the series."
                )
                yield Fault("history_padded", message, series=self.panel.ids[place])

    def _known(self) -> Floats32 | None:
        """Columns known over context and all blocks `[series, time + steps, column]`, or None.

        What lies before the history or after the wanted steps counts as the training mean, or as
        the unknown category.
        """
        panel, inputs, context, wanted = self.panel, self.inputs, self.context, self.wanted
        if not inputs.features and not inputs.known:
            return None
        steps = self.blocks * self.horizon
        recent = _recent(panel, context)
        rows = known_rows(recent, inputs)
        assert rows is not None
        following = panel.following(steps)
        ahead = future_cells(panel, inputs.known, wanted, steps, following, self.future)
        made = _laid(rows, recent, context, steps)
        clock = calendar(panel, inputs, following)
        made[:, context:, : clock.shape[1]] = clock.reshape(len(panel.ids), steps, -1)
        for k, column in enumerate(inputs.known, start=clock.shape[1]):
            numbers = column.numbers(ahead[column.name])
            made[:, context : context + wanted, k] = numbers.reshape(len(panel.ids), wanted)
        return made

    def _past(self) -> Floats32 | None:
        """Columns known to the cutoff `[series, time, column]`, or None; 0 before the history."""
        if not self.inputs.past:
            return None
        recent = _recent(self.panel, self.context)
        rows = past_rows(recent, self.inputs)
        assert rows is not None
        return _laid(rows, recent, self.context, 0)

    def _categories(self) -> Iterator[tuple[Covariate, list[pl.Series]]]:
        """Every categorical column and the cells of it that are read, in the history and ahead."""
        panel, inputs, wanted = self.panel, self.inputs, self.wanted
        known, past, static = (
            [column for column in columns if column.size]
            for columns in (inputs.known, inputs.past, inputs.static)
        )
        recent = _recent(panel, self.context).table if known or past else panel.table
        ahead: dict[str, pl.Series] = {}
        if known and panel.ids:
            following = panel.following(wanted)
            ahead = future_cells(panel, known, wanted, wanted, following, self.future)
        for column in (*known, *past):
            yield column, [recent[column.name], *(ahead[n] for n in ahead if n == column.name)]
        for column in static:
            if panel.static is not None:
                yield column, [panel.static[column.name]]


def _is_missing(cells: pl.Series) -> pl.Series:
    return cells.is_null() | cells.is_nan() if cells.dtype.is_float() else cells.is_null()


def _variate(values: np.ndarray | None, axis: int) -> np.ndarray | None:
    return None if values is None else np.expand_dims(values, axis)


def _recent(panel: Panel, context: int) -> Panel:
    """The last `context` rows of each series, or all that it has."""
    firsts = np.repeat(panel.offsets[1:] - context, np.diff(panel.offsets))
    kept = np.arange(len(panel.table)) >= firsts
    return replace(panel, table=panel.table.filter(pl.Series(kept, dtype=pl.Boolean)))


def _laid(rows: Floats32, recent: Panel, context: int, horizon: int) -> Floats32:
    """`rows` `[row, column]` as `[series, time + horizon, column]`, ending with the context."""
    made = np.zeros((len(recent.ids), context + horizon, rows.shape[1]), dtype=np.float32)
    lengths = np.diff(recent.offsets)
    steps = context + np.arange(len(rows)) - np.repeat(recent.offsets[1:], lengths)
    made[np.repeat(np.arange(len(recent.ids)), lengths), steps] = rows
    return made
