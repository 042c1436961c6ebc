"""Windows: the papers' splits, no copies, no leaks, no dropped window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipelines.windows import Borders, Grid, PanelWindows
from tsformer.batch import Shape
from tsformer.errors import ConfigError

ETTH = (8640, 2880, 2880)


def grid_of(*lengths: int, variates: int = 1) -> Grid:
    """Groups whose values are their row numbers over the whole grid."""
    starts = np.cumsum([0, *lengths])
    return Grid.of(
        [
            np.repeat(np.arange(a, a + n, dtype=float)[:, None], variates, axis=1)
            for a, n in zip(starts, lengths, strict=False)
        ]
    )


@pytest.mark.parametrize(("horizon", "test"), [(96, 2785), (192, 2689), (336, 2545), (720, 2161)])
def test_window_counts_are_the_published_ones(horizon: int, test: int) -> None:
    """n_test - H + 1 whatever the context, n_train - L - H + 1 for training (ETTh)."""
    grid = grid_of(17_420)
    borders = Borders.by_rows(ETTH, grid.lengths)
    for context in (96, 336, 512):
        shape = Shape(context=context, horizon=horizon)
        assert len(borders.cutoffs("test", grid, shape)) == test
        assert len(borders.cutoffs("validation", grid, shape)) == test
        assert len(borders.cutoffs("train", grid, shape)) == 8640 - context - horizon + 1


@pytest.mark.parametrize(
    ("rows", "parts"),
    [(52_696, (36_887, 5_270, 10_539)), (7_588, (5_311, 760, 1_517)), (966, (676, 97, 193))],
)
def test_fractions_give_the_published_parts(rows: int, parts: tuple[int, int, int]) -> None:
    """Weather, Exchange and ILI: train and test are floors, validation the rest."""
    borders = Borders.by_fractions((0.7, 0.1, 0.2), np.array([rows]))
    ends = np.array([borders.train[0], borders.validation[0], borders.test[0]])
    assert tuple(np.diff([0, *ends])) == parts


def test_targets_of_different_parts_never_overlap() -> None:
    """A row that is scored was never a target in training: else scores flatter the model."""
    grid = grid_of(300, 260)
    borders = Borders.by_fractions((0.6, 0.2, 0.2), grid.lengths)
    shape = Shape(context=20, horizon=7)
    rows = {}
    for part in ("train", "validation", "test"):
        cutoffs = borders.cutoffs(part, grid, shape)
        rows[part] = {int(c) + step for c in cutoffs for step in range(shape.horizon)}
    assert not rows["train"] & rows["validation"]
    assert not rows["validation"] & rows["test"]
    assert max(rows["test"]) == 559  # the newest row is scored


def test_a_window_never_leaves_its_group() -> None:
    """A window over the seam between two series would learn from a series that is not there."""
    grid = grid_of(50, 40, 60)
    borders = Borders.by_rows((30, 5, 5), grid.lengths)
    shape = Shape(context=8, horizon=4)
    windows = PanelWindows(grid, cutoffs=borders.cutoffs("train", grid, shape), shape=shape)
    batch, target = windows.batch(torch.arange(len(windows)))
    values = torch.cat((batch.past, target.values), 1)[..., 0].numpy()  # [window, time + horizon]
    assert (np.diff(values, axis=1) == 1).all()
    groups = np.searchsorted(grid.offsets, values, side="right")
    assert (groups == groups[:, :1]).all()
    assert (windows.groups() == groups[:, 0] - 1).all()


def test_a_stride_keeps_the_newest_window() -> None:
    grid = grid_of(200)
    borders = Borders.by_rows((100, 50, 50), grid.lengths)
    shape = Shape(context=10, horizon=6)
    cutoffs = borders.cutoffs("test", grid, shape, stride=7)
    assert cutoffs[-1] == 200 - 6
    assert (np.diff(cutoffs) == 7).all()
    assert cutoffs[0] >= 150


def test_cutting_copies_only_the_windows_of_the_batch() -> None:
    """The whole set of windows would need context + horizon times the memory of the data."""
    grid = grid_of(10_000, variates=3)
    shape = Shape(context=512, horizon=96, variates=3)
    windows = PanelWindows(grid, cutoffs=np.arange(512, 9_904), shape=shape)
    view = grid.values.unfold(0, 608, 1)
    assert view.untyped_storage().data_ptr() == grid.values.untyped_storage().data_ptr()
    batch, _ = windows.batch(torch.tensor([0, 17]))
    assert batch.past.untyped_storage().nbytes() == 2 * 608 * 3 * 8


def test_missing_values_are_masked_and_have_no_say_in_the_scaler() -> None:
    series = np.array([[1.0], [np.nan], [3.0], [5.0], [np.nan], [100.0]])
    grid = Grid.of([series])
    scaler = grid.fit_scaler(np.array([4]))
    assert scaler.mean[0, 0] == pytest.approx(3.0)
    assert scaler.std[0, 0] == pytest.approx(np.std([1.0, 3.0, 5.0]))
    scaled = grid.standardised(scaler)
    assert scaled.observed is not None
    assert (scaled.values[~scaled.observed] == 0).all()
    windows = PanelWindows(scaled, cutoffs=np.array([4]), shape=Shape(context=4, horizon=2))
    batch, target = windows.batch(torch.tensor([0]))
    assert batch.observed[0, :, 0].tolist() == [True, False, True, True]
    assert target.observed[0, :, 0].tolist() == [False, True]


def test_the_scaler_sees_training_rows_alone() -> None:
    """A statistic of the test part in the inputs is leakage."""
    values = np.random.default_rng(0).normal(size=(100, 2))
    other = values.copy()
    other[60:] = 1e6
    train = np.array([60])
    one, two = (Grid.of([v]).fit_scaler(train) for v in (values, other))
    assert np.array_equal(one.mean, two.mean)
    assert np.array_equal(one.std, two.std)


def test_a_constant_and_an_empty_column_scale_to_numbers() -> None:
    """A column without variation or values must not make NaN of everything."""
    grid = Grid.of([np.column_stack([np.full(10, 4.0), np.full(10, np.nan)])])
    scaler = grid.fit_scaler(np.array([10]))
    assert scaler.mean.tolist() == [[4.0, 0.0]]
    assert scaler.std.tolist() == [[1.0, 1.0]]


def test_an_unknown_part_is_named() -> None:
    grid = grid_of(30)
    borders = Borders.by_rows((10, 10, 10), grid.lengths)
    with pytest.raises(ConfigError, match="valid"):
        borders.cutoffs("valid", grid, Shape(context=2, horizon=1))


def test_each_variate_of_a_training_window_lies_in_one_piece() -> None:
    """Models that read variates one by one would copy each batch once more, column by column."""
    grid = grid_of(60, variates=3)
    windows = PanelWindows(
        grid.standardised(grid.fit_scaler(grid.lengths)),
        cutoffs=np.array([30, 41]),
        shape=Shape(context=20, horizon=7, variates=3),
    )
    batch, _ = windows.batch(torch.tensor([1, 0]))
    assert batch.past.stride()[1] == 1


def test_lagged_values_are_earlier_rows_of_their_own_group() -> None:
    """The end of one series must not be read as the past of the next."""
    grid = grid_of(60, 50, variates=2)
    missing = grid.values == 75
    grid = replace(grid, observed=~missing)
    shape = Shape(context=8, horizon=4, variates=2, lags=(4, 30, 90))
    windows = PanelWindows(grid, cutoffs=np.array([8, 20, 41, 68, 79, 100]), shape=shape)
    index = torch.tensor([3, 0, 4, 1, 5, 2])
    lagged = windows.batch(index)[0].lagged
    assert lagged is not None
    steps = torch.arange(-8, 4)
    for window, cutoff in enumerate(windows.cutoffs[index].tolist()):
        for place, lag in enumerate(shape.lags):
            rows = cutoff + steps - lag
            there = (rows >= (0 if cutoff < 60 else 60)) & (rows != 75)
            expected = torch.where(there, rows.double(), torch.nan)
            for variate in range(2):
                got = lagged[window, :, variate, place]
                assert torch.equal(got.nan_to_num(-1), expected.nan_to_num(-1))


def test_lagged_values_of_a_variate_lie_in_one_piece() -> None:
    """Picked row by row out of columns they took 40 times as long as the windows themselves."""
    grid = grid_of(60, variates=3)
    shape = Shape(context=20, horizon=7, variates=3, lags=(7, 12))
    windows = PanelWindows(
        grid.standardised(grid.fit_scaler(grid.lengths)), cutoffs=np.array([35, 41]), shape=shape
    )
    lagged = windows.batch(torch.tensor([1, 0]))[0].lagged
    assert lagged is not None
    assert lagged.stride()[1] == 1
    assert lagged.untyped_storage().nbytes() == 2 * 27 * 3 * 2 * 4
