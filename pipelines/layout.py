"""A panel laid out for windows: its parts, its grid, and what models may read beside the target."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from pipelines.covariates import (
    Covariate,
    Floats32,
    Inputs,
    known_rows,
    past_rows,
    static_rows,
)
from pipelines.features.categories import Vocabulary, as_words
from pipelines.large_grid import (
    fitted_inputs,
    fitted_scaler,
    large_grid,
    seasonal_scales,
    spans,
    standardised,
)
from pipelines.panel import Panel
from pipelines.sections import Data, Window
from pipelines.windows import Borders, Floats, Grid, Rows, Scaler
from tsformer.errors import ConfigError
from tsformer.metrics import seasonal_scale


@dataclass(frozen=True, slots=True)
class Layout:
    """Inputs, borders and grids of a panel; see `pipelines.material.Material`."""

    inputs: Inputs
    borders: Borders
    grid: Grid
    scaled: Grid
    scaler: Scaler
    seasonal_error: Floats
    seasonal_square: Floats


def laid_out(panel: Panel, data: Data, window: Window, *, names: Vocabulary, season: int) -> Layout:
    """The layout of `panel`, in memory or in files as the panel is.

    `names` number its series; scalings and words come from the training rows.
    """
    lay_out = _in_memory if panel.scratch is None else _in_files
    return lay_out(panel, data, window, names=names, season=season)


def _in_memory(
    panel: Panel, data: Data, window: Window, *, names: Vocabulary, season: int
) -> Layout:
    inputs = _inputs(panel, data, window)
    groups = _groups(panel, data)
    if len(groups) < len(panel.ids):
        _check_shared(panel, (*inputs.known, *inputs.past))
    grid = grid_of(panel, groups, inputs, names)
    borders = borders_of(data, panel, grid.lengths)
    scaler = grid.fit_scaler(borders.train)
    train = [group[: borders.train[g]] for g, group in enumerate(groups)]
    return Layout(
        inputs, borders, grid, grid.standardised(scaler), scaler,
        seasonal_error=np.concatenate([seasonal_scale(part, season, power=1) for part in train]),
        seasonal_square=np.concatenate([seasonal_scale(part, season, power=2) for part in train]),
    )  # fmt: skip


def _in_files(
    panel: Panel, data: Data, window: Window, *, names: Vocabulary, season: int
) -> Layout:
    if data.group == "all":
        raise ConfigError(
            "data: the table is larger than the memory, and with 'group: all' a window has all of "
            "its series. Use group: none, or a machine with more memory."
        )
    assert panel.scratch is not None
    borders = borders_of(data, panel, np.diff(panel.offsets))
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
    return Layout(inputs, borders, grid, scaled, scaler, absolute, square)


def grid_of(panel: Panel, groups: list[Floats], inputs: Inputs, names: Vocabulary | None) -> Grid:
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
    train = borders_of(data, panel, lengths).train
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


def borders_of(data: Data, panel: Panel, lengths: Rows) -> Borders:
    """Where the parts end in each group; groups of one length each have one series' calendar."""
    if data.split_dates:
        return Borders(*(_rows_before(panel, day)[: len(lengths)] for day in data.split_dates))
    if data.split_rows:
        return Borders.by_rows(data.split_rows, lengths)
    return Borders.by_fractions(data.split, lengths)


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
