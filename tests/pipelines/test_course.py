"""Blocks of a long forecast: each asks what a request at its cutoff would ask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.course import Course, follow
from pipelines.forecaster import Forecaster
from pipelines.query import Floats, Query
from pipelines.recipe import Recipe
from pipelines.windows import Grid, PanelWindows
from tests.panels import panel_of, waves
from tsformer.batch import Shape
from tsformer.models.ridge import RidgeSpec

CONTEXT, HORIZON = 24, 6


@given(
    rows=st.integers(30, 120),
    more=st.lists(st.integers(0, 100), min_size=1, max_size=4, unique=True),
    data=st.data(),
)
def test_lagged_values_are_those_that_training_cuts(
    rows: int, more: list[int], data: st.DataObject
) -> None:
    """The two ways are two pieces of code; a step between them is a forecast of another hour."""
    lags = tuple(HORIZON + extra for extra in more)
    cutoff = data.draw(st.integers(CONTEXT, rows - HORIZON))
    series = np.random.default_rng(rows).normal(size=rows)
    series[rows // 3] = np.nan
    shape = Shape(context=CONTEXT, horizon=HORIZON, lags=lags)
    windows = PanelWindows(Grid.of([series[:, None]]), cutoffs=np.array([cutoff]), shape=shape)
    trained, _ = windows.batch(torch.tensor([0]))
    back = CONTEXT + max(lags)
    past = np.full((1, back, 1), np.nan)
    known = series[max(0, cutoff - back) : cutoff]
    past[0, back - len(known) :, 0] = known
    asked = Course(Query(past), CONTEXT, HORIZON, lags=lags).question()
    assert trained.lagged is not None
    np.testing.assert_array_equal(asked.lagged, trained.lagged.numpy())


def test_each_block_reads_the_forecasts_before_it() -> None:
    """Block two at lag 6 reads block one; its columns are those of its own steps."""
    past = np.arange(CONTEXT + 10.0)[None, :, None]
    known = np.arange(CONTEXT + 12, dtype=np.float32)[None, :, None]
    whole = Query(past, known=known, covariates=np.ones((1, CONTEXT, 1), np.float32))
    course = Course(whole, CONTEXT, HORIZON, blocks=2, lags=(6, 10))
    first = course.question()
    assert first.past[0, :, 0].tolist() == [*range(10, 34)]
    done: Floats = np.arange(100.0, 106.0)[None, :, None, None]
    second = course.question([done])
    assert second.past[0, :, 0].tolist() == [*range(16, 34), *range(100, 106)]
    assert second.known is not None
    assert second.known[0, :, 0].tolist() == [*range(6, 36)]
    assert second.covariates is not None
    assert second.covariates[0, :, 0].tolist() == [1.0] * 18 + [0.0] * 6
    assert second.lagged is not None
    assert second.lagged[0, CONTEXT:, 0, 0].tolist() == [*range(100, 106)]
    assert second.lagged[0, CONTEXT:, 0, 1].tolist() == [30, 31, 32, 33, 100, 101]


def line() -> Forecaster:
    """A ridge at random weights."""
    torch.manual_seed(2)
    spec = RidgeSpec()
    model = spec.build(Shape(context=CONTEXT, horizon=HORIZON))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) / 10)
    recipe = Recipe("h", 24, CONTEXT, CONTEXT, HORIZON)
    return Forecaster(model, spec=spec, recipe=recipe, device="cpu")


def test_a_longer_horizon_is_asked_block_by_block() -> None:
    """What a user would get by appending the forecast and asking again."""
    forecaster, values = line(), waves(2, 60)
    long = forecaster.predict(panel_of(values), horizon=2 * HORIZON + 1)
    expected = values
    for _ in range(3):
        table = forecaster.predict(panel_of(expected)).table
        ahead = table["mean"].to_numpy().reshape(2, HORIZON)
        expected = {
            name: np.concatenate([series, ahead[place]])
            for place, (name, series) in enumerate(expected.items())
        }
    wanted = np.stack([series[60 : 60 + 2 * HORIZON + 1] for series in expected.values()])
    got = long.table["mean"].to_numpy().reshape(2, -1)
    np.testing.assert_allclose(got, wanted, rtol=1e-9)
    assert {(entry.method, entry.blocks, entry.rows) for entry in long.series} == {
        ("rollout", 3, 13)
    }
    assert [fault.code for fault in long.warnings] == ["rollout", "rollout"]


def test_quantiles_widen_with_the_blocks_as_in_a_random_walk() -> None:
    """Those of a later block alone leave out the error of the points that it was fed with."""
    sigma = np.sqrt(np.arange(1.0, HORIZON + 1))  # deviations of a random walk after each step
    point = np.zeros((1, HORIZON, 1, 1))
    block = np.concatenate([point, -sigma[None, :, None, None], sigma[None, :, None, None]], -1)
    answer = follow([block, block, block])
    expected = np.sqrt(np.arange(1.0, 3 * HORIZON + 1))
    np.testing.assert_allclose(answer[0, :, 0, 2], expected)
    np.testing.assert_allclose(answer[0, :, 0, 1], -expected)
    assert (answer[0, :, 0, 0] == 0).all()


def test_quantiles_of_a_long_forecast_do_not_cross() -> None:
    """Native ones need not have the point among them, nor lie on both sides of it."""
    chance = np.random.default_rng(0)
    blocks = [np.sort(chance.normal(size=(50, HORIZON, 1, 6)), axis=-1) for _ in range(3)]
    answers = follow([block[..., [2, 0, 1, 2, 3, 4, 5]] for block in blocks])
    assert (np.diff(answers[..., 1:], axis=-1) >= 0).all()


@pytest.mark.parametrize("ends", [(1.5, -0.9), (-1.5, 0.9), (1.5, 1.5), (0.0, 0.3)])
def test_quantiles_of_a_biased_model_do_not_cross(ends: tuple[float, float]) -> None:
    """Held-out errors may lie on one side of the point, and on the other at the next step."""
    shift = np.linspace(*ends, HORIZON)[None, :, None, None]
    block = np.concatenate([0 * shift, np.linspace(-1, 1, 9) + shift], axis=-1) + 5.0
    answers = follow([block, block, block])
    assert (np.diff(answers[..., 1:], axis=-1) >= 0).all()
    reversed_ = follow([block[..., [0, *range(9, 0, -1)]]] * 3)
    assert np.array_equal(reversed_[..., :0:-1], answers[..., 1:])  # in the order that was asked
    assert np.array_equal(answers[:, :HORIZON], block)


def test_a_block_reads_no_more_than_it_needs() -> None:
    """A horizon of thousands of blocks would copy all those before it for each."""
    past = np.zeros((2, CONTEXT + 10, 1))
    course = Course(Query(past, covariates=np.ones((2, CONTEXT, 1), np.float32)), CONTEXT, 1, 900)
    assert np.shares_memory(course.question().past, past)
    done = [np.full((2, 1, 1, 1), float(step)) for step in range(800)]
    late = course.question(done)
    assert late.past[0, :, 0].tolist() == [*range(800 - CONTEXT, 800)]
    held = late.past if late.past.base is None else late.past.base
    assert held.shape[1] <= past.shape[1] + course.horizon
    assert late.covariates is not None
    assert late.covariates.shape == (2, CONTEXT, 1)
    assert not late.covariates.any()
