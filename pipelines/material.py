"""A panel made ready for fitting and scoring: windows of every part, and the recipe to repeat it.

Everything fitted here (scaler, covariate scaling) comes from training rows alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from pipelines.covariates import (
    Covariate,
    Floats32,
    Inputs,
    known_rows,
    past_rows,
    sizes,
    static_rows,
)
from pipelines.experiment import Data, Experiment, Window
from pipelines.features.categories import Vocabulary, as_words
from pipelines.forecaster import Forecaster, Recipe
from pipelines.large_grid import (
    fitted_inputs,
    fitted_scaler,
    large_grid,
    seasonal_scales,
    spans,
    standardised,
    with_inputs,
)
from pipelines.large_panel import large_files, read_large
from pipelines.mapping import Scratch
from pipelines.panel import Panel, Report, Schema, read_panel
from pipelines.profile import Profile
from pipelines.sources import cache_folder, load
from pipelines.stamps import read_stamps
from pipelines.units import Unit, Units
from pipelines.windows import Borders, Floats, Grid, PanelWindows, Rows, Scaler, Spaced
from tsformer.batch import Batch, Shape, Target
from tsformer.errors import ConfigError, DataError
from tsformer.metrics import seasonal_scale
from tsformer.model import Capabilities

WINDOWS_NAMED = 5
SEASONS_NEEDED = 2  # below two seasons nothing can tell a season from noise


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
        lay_out = _laid_out if panel.scratch is None else _laid_out_in_files
        laid = lay_out(panel, data, window, names=names, season=season)
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
            trained_until=_last_seen(panel, borders.train, per_group),
            fitted_until=_last_seen(panel, borders.validation, per_group),
        )
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
        return _grid(self.panel, groups, inputs, names)

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


def read(data: Data) -> tuple[Panel, Report, str]:
    """The panel of a data section, with its report and the fingerprint of its table."""
    source = data.source or data.name
    if data.id and data.targets:
        schema = schema_of(data, [])
        if files := large_files(source, schema):
            return read_large(
                files,
                schema=schema,
                read=lambda table, step: _panel_of(table, data, schema, step),
                scratch=Scratch(cache_folder(os.environ) / "mapped"),
            )
    table, fingerprint = load(source, id=data.id)
    panel, report = _panel_of(table, data, schema_of(data, list(table.columns)), None)
    return panel, report, fingerprint


def _panel_of(
    table: pl.DataFrame, data: Data, schema: Schema, step: str | None
) -> tuple[Panel, Report]:
    """The panel of `table`, on the step that the data section or else `step` says."""
    return read_panel(
        numbered(table, data),
        schema=schema,
        freq=data.freq or step,
        tz=data.tz or None,
        fill=data.fill,
    )


def numbered(table: pl.DataFrame, data: Data) -> pl.DataFrame:
    """The table with the rows of each series counted in the order of their stamps.

    As it is unless the frequency is a number and the stamps are not. Equal stamps count in the
    order of the file, and so does a column that holds no stamps.
    """
    if not data.freq.isdigit() or table[data.time].dtype.is_integer():
        return table
    try:
        stamps = read_stamps(table[data.time], tz=data.tz or None).values
    except DataError:
        stamps = pl.Series([None] * len(table), dtype=pl.Int64)
    if stamps.has_nulls():
        stamps = pl.int_range(len(table), eager=True)
    table = table.with_columns(stamps.to_physical().alias(data.time))
    place = pl.col(data.time).rank("ordinal").cast(pl.Int64) - 1  # equal ones in their order
    return table.with_columns((place.over(data.id) if data.id else place).alias(data.time))


def schema_of(data: Data, columns: list[str]) -> Schema:
    """The schema of a data section; without targets every other column of a wide table is one."""
    named = {data.id, data.time, *data.known, *data.past, *data.static}
    targets = data.targets or tuple(c for c in columns if c not in named)
    if not targets:
        raise ConfigError("data: no column is left to forecast; name it in 'targets'.")
    return Schema(
        id=data.id or None, time=data.time, targets=targets,
        known=data.known, past=data.past, static=data.static,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Laid:
    """A panel laid out for windows; see `Material`."""

    inputs: Inputs
    borders: Borders
    grid: Grid
    scaled: Grid
    scaler: Scaler
    seasonal_error: Floats
    seasonal_square: Floats


def _laid_out(panel: Panel, data: Data, window: Window, *, names: Vocabulary, season: int) -> _Laid:
    inputs = _inputs(panel, data, window)
    groups = _groups(panel, data)
    if len(groups) < len(panel.ids):
        _check_shared(panel, (*inputs.known, *inputs.past))
    grid = _grid(panel, groups, inputs, names)
    borders = _borders(data, panel, grid.lengths)
    scaler = grid.fit_scaler(borders.train)
    train = [group[: borders.train[g]] for g, group in enumerate(groups)]
    return _Laid(
        inputs, borders, grid, grid.standardised(scaler), scaler,
        seasonal_error=np.concatenate([seasonal_scale(part, season, power=1) for part in train]),
        seasonal_square=np.concatenate([seasonal_scale(part, season, power=2) for part in train]),
    )  # fmt: skip


def _laid_out_in_files(
    panel: Panel, data: Data, window: Window, *, names: Vocabulary, season: int
) -> _Laid:
    """As `_laid_out`, of a panel that is larger than the memory."""
    if data.group == "all":
        raise ConfigError(
            "data: the table is larger than the memory, and with 'group: all' a window has all of "
            "its series. Use group: none, or a machine with more memory."
        )
    assert panel.scratch is not None
    borders = _borders(data, panel, np.diff(panel.offsets))
    static = pl.DataFrame() if panel.static is None else panel.static
    inputs = fitted_inputs(
        panel,
        Inputs(
            features=window.features,
            known=tuple(map(Covariate, data.known)),
            past=tuple(map(Covariate, data.past)),
            static=_fitted(data.static, static, data.categories),
            lags=window.lags,
        ),
        train=borders.train,
        categories={*data.categories},
    )
    grid = large_grid(panel, inputs, names)
    scaler = fitted_scaler(panel, borders.train)
    absolute, square = seasonal_scales(panel, borders.train, season=season)
    scaled = standardised(grid, scaler, panel.scratch)
    return _Laid(inputs, borders, grid, scaled, scaler, absolute, square)


def _grid(panel: Panel, groups: list[Floats], inputs: Inputs, names: Vocabulary | None) -> Grid:
    """The series in their groups, with what `inputs` name of them and their numbers in `names`."""
    per_group = len(panel.ids) // len(groups)
    static = static_rows(panel, inputs)
    known = Vocabulary(()) if names is None else names
    return Grid.of(
        groups,
        known=_split(known_rows(panel, inputs), panel, per_group),
        covariates=_split(past_rows(panel, inputs), panel, per_group),
        static=None if static is None else static.reshape(len(groups), per_group, -1),
        series=known.encode(pl.Series(panel.ids)).reshape(len(groups), per_group),
    )


def _groups(panel: Panel, data: Data) -> list[Floats]:
    """The series as groups `[time, variate]`: all in one, or each for itself."""
    bounds = zip(panel.offsets[:-1], panel.offsets[1:], strict=True)
    series = [panel.target[start:end, None] for start, end in bounds]
    if data.group == "none":
        return series
    if not panel.aligned:
        raise ConfigError(
            "data: 'group: all' needs series that share one time grid; these start or end apart. "
            "Use group: none, or cut the table to the common span."
        )
    return [np.concatenate(series, axis=1)]


def _split(rows: Floats32 | None, panel: Panel, per_group: int) -> list[Floats32] | None:
    """Covariates `[row, column]` group by group; the variates of one group share the first's."""
    if rows is None:
        return None
    bounds = zip(panel.offsets[:-1], panel.offsets[1:], strict=True)
    return [rows[start:end] for start, end in bounds][::per_group]


def _check_shared(panel: Panel, columns: tuple[Covariate, ...]) -> None:
    """The variates of one window read one row of covariates, so theirs must not differ."""
    for column in columns:
        rows = column.numbers(panel.table[column.name]).reshape(len(panel.ids), -1)
        differs = (rows != rows[0]).any(axis=1)
        if differs.any():
            raise ConfigError(
                f"data: with 'group: all' every series shares its covariates, but '{column.name}' "
                f"of {panel.ids[int(differs.argmax())]} differs from that of {panel.ids[0]}. "
                "Use group: none, or leave the column out."
            )


def _inputs(panel: Panel, data: Data, window: Window) -> Inputs:
    """What models may read; scalings and words come from the training rows of every series."""
    lengths = np.diff(panel.offsets)
    train = _borders(data, panel, lengths).train
    in_train = np.concatenate([np.arange(n) < t for n, t in zip(lengths, train, strict=True)])
    rows = panel.table.filter(pl.Series(in_train))
    static = pl.DataFrame() if panel.static is None else panel.static

    return Inputs(
        features=window.features,
        known=_fitted(data.known, rows, data.categories),
        past=_fitted(data.past, rows, data.categories),
        static=_fitted(data.static, static, data.categories),
        lags=window.lags,
    )


def _fitted(
    names: tuple[str, ...], table: pl.DataFrame, categories: tuple[str, ...]
) -> tuple[Covariate, ...]:
    """The scalings and words of the columns `names` of `table`."""
    words = {name: as_words(table[name]) for name in names if name in categories}
    return tuple(Covariate.fit(name, words.get(name, table[name])) for name in names)


def _borders(data: Data, panel: Panel, lengths: Rows) -> Borders:
    """Where the parts end in each group; groups of one length each have one series' calendar."""
    if data.split_dates:
        return Borders(*(_rows_before(panel, day)[: len(lengths)] for day in data.split_dates))
    if data.split_rows:
        return Borders.by_rows(data.split_rows, lengths)
    return Borders.by_fractions(data.split, lengths)


def _last_seen(panel: Panel, validation: Rows, per_group: int) -> int:
    """The last stamp of any series before its test part begins."""
    rows = panel.offsets[:-1] + np.repeat(validation, per_group) - 1
    return int(panel.table["time"].to_physical().to_numpy()[rows].max())


def _rows_before(panel: Panel, day: str) -> Rows:
    """Rows of each series `[series]` before the local day `day` begins."""
    try:
        stamp = date.fromisoformat(day)
    except ValueError:
        raise ConfigError(
            f"data: 'split_dates' must hold days like 2013-10-01, got '{day}'."
        ) from None
    if panel.table["time"].dtype.is_integer():
        raise ConfigError(
            "data: 'split_dates' needs time stamps; this table counts steps. Use split_rows."
        )
    before: list[Rows] = []
    for span in spans(panel.offsets):
        earlier = (panel.table["time"][span.rows].dt.date() < stamp).to_numpy()
        starts = panel.offsets[span.series] - span.rows.start
        before.append(np.add.reduceat(earlier.astype(np.int64), starts))
    return np.concatenate(before)
