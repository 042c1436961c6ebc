"""A panel made ready for fitting and scoring: windows of every part, and the recipe to repeat it.

Everything fitted here (scaler, covariate scaling) comes from training rows alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipelines.covariates import Inputs, sizes
from pipelines.data_section import read
from pipelines.experiment import Experiment
from pipelines.features.categories import Vocabulary
from pipelines.findings import Report
from pipelines.forecaster import Forecaster
from pipelines.frequency import SEASONS_NEEDED
from pipelines.large_grid import with_inputs
from pipelines.layout import grid_of, laid_out
from pipelines.panel import Panel
from pipelines.profile import Profile
from pipelines.recipe import Recipe
from pipelines.seen import Seen
from pipelines.units import Unit, Units
from pipelines.windows import Borders, Floats, Grid, PanelWindows, Rows, Scaler, Spaced
from tsformer.batch import Batch, Shape, Target
from tsformer.errors import DataError
from tsformer.model import Capabilities

WINDOWS_NAMED = 5
Part = Literal["validation", "test"]  # those that a model must not have seen before


@dataclass(frozen=True, slots=True)
class Material:
    """A panel with its splits.

    `grid` holds the values in their unit (float64), `scaled` the same in training deviations
    (float32, what networks are trained on and what the papers score).
    """

    panel: Panel
    report: Report
    fingerprint: str
    recipe: Recipe
    grid: Grid
    scaled: Grid
    scaler: Scaler
    borders: Borders
    shape: Shape
    seasonal_error: Floats  # [series] in-sample mean absolute seasonal difference
    seasonal_square: Floats  # [series] the same squared

    @staticmethod
    def of(experiment: Experiment) -> Material:
        """The material of an experiment, its source read and checked."""
        panel, report, fingerprint = read(experiment.data)
        data, window = experiment.data, experiment.window
        season = data.season or panel.frequency.season
        names = Vocabulary.fit(pl.Series(panel.ids))
        laid = laid_out(panel, data, window, names=names, season=season)
        inputs, borders, per_group = laid.inputs, laid.borders, laid.grid.values.shape[1]
        shape = Shape(
            context=window.context,
            horizon=window.horizon,
            variates=per_group,
            known=inputs.known_sizes,
            past=sizes(inputs.past),
            static=sizes(inputs.static),
            lags=inputs.lags,
            series=names.size,
        )
        recipe = Recipe(
            frequency=str(panel.frequency),
            season=season,
            context=window.context,
            min_context=min(window.context, SEASONS_NEEDED * season),
            horizon=window.horizon,
            inputs=inputs,
            joint=data.group == "all",
            series=names,
        )
        seen = (_last_seen(panel, rows, per_group) for rows in (borders.train, borders.validation))
        trained, fitted = (Seen.of(stamps) if stamps else None for stamps in seen)
        recipe = recipe.having_seen(trained=trained, fitted=fitted)
        return Material(
            panel, report, fingerprint, recipe, laid.grid, laid.scaled, laid.scaler, borders, shape,
            seasonal_error=laid.seasonal_error, seasonal_square=laid.seasonal_square,
        )  # fmt: skip

    def read_by(self, forecaster: Forecaster) -> Material:
        """The same windows with covariates and numbers of series as `forecaster` learnt them.

        Its scalings, words and numbers come from its own training rows, which another table, or
        the same table grown, would give otherwise.
        """
        theirs, ours = forecaster.recipe, self.recipe
        inputs = ours.inputs.read_by(forecaster.spec.capabilities)
        if theirs.inputs == inputs and theirs.series in (None, ours.series):
            return self
        grid = self._grid_of(theirs.inputs, theirs.series)
        shape = replace(
            self.shape,
            known=theirs.inputs.known_sizes,
            past=sizes(theirs.inputs.past),
            static=sizes(theirs.inputs.static),
        )
        return replace(self, grid=grid, shape=shape)

    def _grid_of(self, inputs: Inputs, names: Vocabulary | None) -> Grid:
        """The grid with what `inputs` name, and the numbers of the series in `names`."""
        if self.panel.scratch is not None:
            return with_inputs(self.grid, self.panel, inputs, names)
        offsets, per_group = self.panel.offsets, self.shape.variates
        groups = [
            self.panel.target[offsets[first] : offsets[first + per_group]].reshape(per_group, -1).T
            for first in range(0, len(self.panel.ids), per_group)
        ]
        return grid_of(self.panel, groups, inputs, names)

    def seen(self, part: Part) -> dict[str, int]:
        """The last stamp of each series before its `part` begins, of those that have one."""
        return _last_seen(self.panel, self._before(part), self.shape.variates)

    def begins(self, part: Part) -> dict[str, int]:
        """The first stamp of `part` of each series that has rows in it."""
        ends = {"validation": self.borders.validation, "test": self.borders.test}[part]
        before = self._before(part)
        firsts = np.where(before < ends, before, -1)
        return _stamps(self.panel, firsts, self.shape.variates)

    def _before(self, part: Part) -> Rows:
        return {"validation": self.borders.train, "test": self.borders.validation}[part]

    def ids(self, windows: PanelWindows, rows: slice | Rows) -> NDArray[np.object_]:
        """The series of some windows `[window, variate]`."""
        variates = self.shape.variates
        places = windows.groups()[rows][:, None] * variates + np.arange(variates)
        found: NDArray[np.object_] = np.array(self.panel.ids, dtype=object)[places]
        return found

    def shape_for(self, capabilities: Capabilities, levels: tuple[float, ...]) -> Shape:
        """The shape of a model that reads what `capabilities` say and emits `levels`."""
        inputs = self.recipe.inputs.read_by(capabilities)
        return replace(
            self.shape,
            known=inputs.known_sizes,
            past=sizes(inputs.past),
            static=sizes(inputs.static),
            lags=inputs.lags,
            series=self.shape.series if capabilities.series else 0,
            levels=levels,
        )

    def training_windows(self, part: str, shape: Shape, *, at_most: int = 0) -> PanelWindows:
        """Standardised float32 windows of `part` for fitting; evenly thinned to about `at_most`."""
        cutoffs = self._cutoffs(part, self.scaled, shape)
        if at_most and len(cutoffs) > at_most:
            stride = -(-len(cutoffs) // at_most)
            cutoffs = self._cutoffs(part, self.scaled, shape, stride=stride)
        if not len(cutoffs):
            longest = max(shape.lags, default=0)
            lag = f" with {longest} steps before it for the longest lag" if longest else ""
            shorten = (
                "window.context, window.horizon or window.lags"
                if longest
                else ("window.context or window.horizon")
            )
            raise DataError(
                f"The {part} part has no window of {shape.context} + {shape.horizon} steps{lag}. "
                f"Shorten {shorten}, or give the part more rows."
            )
        return PanelWindows(self.scaled, cutoffs=cutoffs, shape=shape)

    def scoring_windows(
        self, part: str, *, stride: int, context: int | None = None
    ) -> PanelWindows:
        """Windows of `part` in the unit of the data, for calibration and scores."""
        shape = replace(self.shape, context=context or self.shape.context)
        cutoffs = self._cutoffs(part, self.grid, shape, stride=stride)
        return PanelWindows(self.grid, cutoffs=cutoffs, shape=shape)

    def _cutoffs(self, part: str, grid: Grid, shape: Shape, *, stride: int = 1) -> Rows | Spaced:
        """The cutoffs of `part`; without a number for each where these do not fit either."""
        spaced = self.borders.spaced(part, grid, shape, stride=stride)
        return spaced if grid.files else spaced.numpy()

    def unit(self, windows: PanelWindows, rows: slice | Rows) -> Unit:
        """The training mean and deviation of some windows, in which errors are scored."""
        groups = windows.groups()[rows]
        mean, std = (torch.from_numpy(s[groups]) for s in (self.scaler.mean, self.scaler.std))
        return Unit(mean[:, None], std[:, None])  # [batch, 1, variate]

    def seasonal_scales(self, windows: PanelWindows, rows: slice) -> tuple[Floats, Floats]:
        """The in-sample errors of seasonal naive of some windows, `[window, 1, variate]`."""
        groups = windows.groups()[rows]
        shape = (-1, windows.shape.variates)
        absolute, square = self.seasonal_error.reshape(shape), self.seasonal_square.reshape(shape)
        return absolute[groups][:, None], square[groups][:, None]

    def where(self, windows: PanelWindows, numbers: Sequence[int]) -> str:
        """The series and first target stamps of some windows, as a sentence; empty for none."""
        groups, cutoffs = windows.groups(), windows.cutoffs.numpy()
        shared = len(self.panel.ids) // len(self.grid.lengths)
        named = []
        for number in numbers[:WINDOWS_NAMED]:
            series = groups[number] * shared
            row = self.panel.offsets[series] + cutoffs[number] - self.grid.offsets[groups[number]]
            name = self.panel.ids[series] if shared == 1 else "all series"
            named.append(f"{name} at {self.panel.table['time'][int(row)]}")
        return f" In words: {', '.join(named)}." if named else ""

    def profile(self) -> Profile:
        """What the series are like, the newest rows too: what is there now is no drift."""
        return Profile.of(
            self.panel,
            season=self.recipe.season,
            horizon=self.recipe.horizon,
            seasonal_error=self.seasonal_error,
        )

    def units(self) -> Units:
        """The training mean and deviation of every series, by id."""
        pairs = zip(self.scaler.mean.ravel(), self.scaler.std.ravel(), strict=True)
        named = zip(self.panel.ids, pairs, strict=True)
        return Units({str(name): (float(mean), float(std)) for name, (mean, std) in named})


def chunks(windows: PanelWindows, size: int) -> Iterator[tuple[slice, Batch, Target]]:
    """All windows in order, `size` at a time; the last chunk is shorter, never dropped."""
    for start in range(0, len(windows), size):
        stop = min(start + size, len(windows))
        batch, target = windows.batch(torch.arange(start, stop))
        yield slice(start, stop), batch, target


def _last_seen(panel: Panel, border: Rows, per_group: int) -> dict[str, int]:
    """The last stamp of each series before its `border`, of those that begin before it."""
    return _stamps(panel, border - 1, per_group)


def _stamps(panel: Panel, rows: Rows, per_group: int) -> dict[str, int]:
    """The stamp of a row of each series; its `rows` `[group]` count from 0, and -1 is none."""
    own = np.repeat(rows, per_group)
    places = np.flatnonzero(own >= 0)
    stamps = panel.table["time"].to_physical().to_numpy()[panel.offsets[places] + own[places]]
    names = (str(panel.ids[place]) for place in places)
    return dict(zip(names, stamps.tolist(), strict=True))
