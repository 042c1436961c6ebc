"""Figures show what they were given: every series, every model, dates, names, no global state."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.figures import (
    FanChart,
    calibration_figure,
    forecast_figure,
    horizon_error_figure,
    leaderboard_figure,
    training_curve_figure,
)
from pipelines.sheet import save_figure

HOURS = np.arange("2013-03-01", "2013-03-15", dtype="datetime64[h]")
HORIZON = 48


def chart(title: str, *, actual: bool = True) -> FanChart:
    y = np.sin(np.arange(len(HOURS)) / 24 * 2 * np.pi) + 2
    past, ahead = slice(None, -HORIZON), slice(-HORIZON, None)
    return FanChart(
        title=title,
        times=HOURS[past],
        history=y[past],
        future_times=HOURS[ahead],
        point=y[ahead] + 0.1,
        actual=y[ahead] if actual else None,
        bands={(0.1, 0.9): (y[ahead] - 1, y[ahead] + 1), (0.25, 0.75): (y[ahead], y[ahead] + 0.5)},
    )


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(axes: Axes) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata(), dtype=float) for line in axes.get_lines()]


def test_every_series_has_a_panel_with_its_title() -> None:
    figure = forecast_figure([chart(name) for name in "abc"], title="three", unit="flights")
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert titles == ["a", "b", "c"]
    assert figure.axes[0].get_ylabel() == "flights"


def test_the_legend_names_what_is_drawn_and_nothing_else() -> None:
    everything = forecast_figure([chart("a")], title="a")
    assert legend(everything) == ["history", "actual", "forecast", "80% interval", "50% interval"]
    unknown = forecast_figure([chart("a", actual=False)], title="a")
    assert "actual" not in legend(unknown)


def test_the_forecast_and_the_actuals_are_drawn_as_given() -> None:
    given = chart("a")
    (axes,) = forecast_figure([given], title="a").axes
    drawn = lines(axes)
    assert any(np.array_equal(line, given.point) for line in drawn)
    assert given.actual is not None
    joined = np.concatenate([given.history[-1:], given.actual])
    assert any(np.array_equal(line, joined) for line in drawn)
    assert len(axes.collections) == 2  # one area a band


def test_a_long_history_leaves_room_for_the_forecast() -> None:
    (axes,) = forecast_figure([chart("a")], title="a").axes
    low, high = axes.get_xlim()
    cutoff = axes.get_lines()[-1].get_xdata()[0]
    days = (np.datetime64(cutoff) - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")
    assert 0.25 < (high - days) / (high - low) < 0.5


def test_missing_values_leave_gaps() -> None:
    given = chart("a")
    given.history[-5] = np.nan
    (axes,) = forecast_figure([given], title="a").axes
    assert any(np.isnan(line).any() for line in lines(axes))


def test_step_numbers_are_not_dates() -> None:
    steps = FanChart("a", np.arange(10), np.ones(10), np.arange(10, 14), np.ones(4))
    figure = forecast_figure([steps], title="steps")
    figure.draw_without_rendering()
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert not any("19" in label or "-" in label for label in labels)


def test_every_model_is_named_where_its_line_ends() -> None:
    errors = {"ridge": np.linspace(0.3, 0.5, 96), "patchtst": np.linspace(0.3, 0.5, 96)}
    (axes,) = horizon_error_figure(errors, metric="MSE").axes
    heights = {text.get_text(): text.xy[1] for text in axes.texts}
    assert heights.keys() == errors.keys()
    assert heights["ridge"] != heights["patchtst"]  # equal lines, names apart
    assert axes.get_xlim() == (1, 96)


def test_calibration_is_drawn_against_the_diagonal() -> None:
    """Without the diagonal nobody sees whether 74 % below the 80 % quantile is good or bad."""
    levels = np.array([0.1, 0.5, 0.9])
    below = {"ridge": np.array([0.2, 0.5, 0.8]), "patchtst": np.array([0.1, 0.49, 0.9])}
    (axes,) = calibration_figure({name: (levels, share) for name, share in below.items()}).axes
    diagonal, *drawn = lines(axes)
    assert np.array_equal(diagonal, [0, 1])
    assert all(np.array_equal(*pair) for pair in zip(drawn, below.values(), strict=True))
    assert {text.get_text() for text in axes.get_legend().get_texts()} == below.keys()


def test_the_leaderboard_has_the_best_on_top() -> None:
    scores = {"patchtst": 0.8, "ridge": 0.7, "seasonal_naive": 1.0}
    (axes,) = leaderboard_figure(scores, metric="MASE").axes
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names == ["ridge", "patchtst", "seasonal_naive"]
    assert axes.yaxis_inverted()
    best, *rest = (bar.get_facecolor() for bar in axes.patches)
    assert best not in rest


def test_the_training_curve_marks_the_epoch_whose_weights_were_taken() -> None:
    """With min_delta that is not the lowest of all; another number would be told than is served."""
    epochs = [
        {"epoch": i, "train_loss": 1 / i, "validation_loss": abs(i - 3) + 0.5} for i in range(1, 8)
    ]
    (axes,) = training_curve_figure(epochs, best=2, loss="MSE").axes
    assert any(text.get_text() == "best: epoch 2, 1.5" for text in axes.texts)


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_a_figure_is_saved_as_its_name_says(name: str, magic: bytes, tmp_path: Path) -> None:
    path = tmp_path / "new" / name
    save_figure(forecast_figure([chart("a")], title="a"), path)
    assert path.read_bytes().startswith(magic)


def test_no_display_and_no_global_state_is_touched() -> None:
    """pyplot keeps every figure alive until it is closed: a leak in a service."""
    forecast_figure([chart("a")], title="a")
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )
