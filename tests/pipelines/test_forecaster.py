"""The forecaster: what a person gets for a panel, whatever else is in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from pipelines.fallback import LOOKS_BACK, rows_read, seasonal_naive
from pipelines.forecast import level_name
from pipelines.forecaster import Forecaster, interpolated
from pipelines.query import Query
from pipelines.recipe import Recipe
from pipelines.units import Units
from pipelines.versions import FALLBACK
from tests.panels import panel_of, waves
from tsformer.batch import Shape
from tsformer.conformal import Calibration
from tsformer.errors import ArtifactError, DataError, IncompatibleError
from tsformer.models import build
from tsformer.models.linear import LinearSpec
from tsformer.models.naive import SeasonalNaiveSpec
from tsformer.models.patchtst import PatchTSTSpec

CONTEXT, HORIZON = 96, 24
LEVELS = (0.1, 0.5, 0.9)
RECIPE = Recipe(frequency="h", season=24, context=CONTEXT, min_context=48, horizon=HORIZON)


@pytest.fixture(scope="module")
def network() -> Forecaster:
    torch.manual_seed(0)
    spec = PatchTSTSpec()
    model = build(spec, Shape(context=CONTEXT, horizon=HORIZON, levels=(0.1, 0.5, 0.9)))
    return Forecaster(model, spec=spec, recipe=RECIPE, device="cpu")


@pytest.fixture(scope="module")
def naive() -> Forecaster:
    spec = SeasonalNaiveSpec(season=24)
    model = build(spec, Shape(context=CONTEXT, horizon=HORIZON))
    grid = tuple(i / 100 for i in range(1, 100))
    residuals = torch.linspace(-1, 1, 99, dtype=torch.float64).expand(HORIZON, 99).clone()
    return Forecaster(
        model, spec=spec, recipe=RECIPE, calibration=Calibration(grid, residuals), device="cpu"
    )


def test_rows_and_columns_are_what_was_asked(network: Forecaster) -> None:
    """One row a series and step, in the panel's order, with a column a level."""
    forecast = network.predict(panel_of(waves(3, 200)), horizon=5, levels=LEVELS)
    assert forecast.table.columns == ["unique_id", "ds", "mean", "q0.1", "q0.5", "q0.9"]
    assert forecast.table["unique_id"].to_list() == ["s0"] * 5 + ["s1"] * 5 + ["s2"] * 5
    assert [entry.method for entry in forecast.series] == ["prefix"] * 3
    first, last = forecast.table["ds"][0], forecast.table["ds"][4]
    assert (first.day, first.hour) == (9, 8)
    assert last.hour == 12


def test_a_shorter_horizon_is_the_prefix_of_a_longer_one(network: Forecaster) -> None:
    panel = panel_of(waves(2, 150))
    short = network.predict(panel, horizon=7, levels=LEVELS).table.drop("ds", "unique_id")
    long = network.predict(panel, levels=LEVELS).table.drop("ds", "unique_id").to_numpy()
    assert np.array_equal(short.to_numpy(), long.reshape(2, HORIZON, 4)[:, :7].reshape(14, 4))


def test_a_series_alone_is_the_series_among_64(network: Forecaster) -> None:
    """A stranger's series in the same batch must not change anybody's forecast."""
    values = waves(64, 150)
    together = network.predict(panel_of(values), levels=LEVELS).table
    for name in ("s0", "s37", "s63"):
        alone = network.predict(panel_of({name: values[name]}), levels=LEVELS).table
        among = together.filter(together["unique_id"] == name)
        gap = (alone.drop("ds", "unique_id") - among.drop("ds", "unique_id")).to_numpy()
        assert np.abs(gap).max() <= 1e-5 * values[name].std()


def test_the_forecast_follows_the_unit(network: Forecaster) -> None:
    """Kilowatts or megawatts, Celsius or Kelvin: the same forecast in another unit."""
    values = waves(1, 150)["s0"]
    plain = network.predict(panel_of({"a": values}), levels=LEVELS).table["mean"].to_numpy()
    for a, b in ((1e-6, 0.0), (1e6, 0.0), (1.0, 1e5 * values.std())):
        moved = network.predict(panel_of({"a": a * values + b}), levels=LEVELS)
        back = (moved.table["mean"].to_numpy() - b) / a
        assert np.abs(back - plain).max() <= 1e-4 * values.std()


def test_values_after_the_context_end_are_never_read(network: Forecaster) -> None:
    values = waves(1, 150)["s0"]
    other = values.copy()
    other[: 150 - CONTEXT] = 1e9
    one, two = (network.predict(panel_of({"a": v})).table["mean"] for v in (values, other))
    assert one.equals(two)


def test_short_history_is_padded_and_said(network: Forecaster) -> None:
    forecast = network.predict(panel_of(waves(1, 60)))
    assert forecast.series[0].status == "ok"
    assert forecast.series[0].padded == CONTEXT - 60
    assert [w.code for w in forecast.warnings] == ["history_padded"]


def test_too_little_history_gets_the_labelled_fallback(network: Forecaster) -> None:
    """A baseline in the place of a model is honest only when it is named."""
    values = waves(2, 150) | {"new": np.arange(30.0)}
    forecast = network.predict(panel_of(values), levels=LEVELS)
    entry = forecast.series[2]
    assert entry.status == "insufficient_history"
    assert entry.method == "fallback"
    assert entry.fallback == {"model": "seasonal_naive", "reason": "insufficient_history"}
    rows = forecast.table.filter(forecast.table["unique_id"] == "new")
    assert rows["mean"].to_list() == [*np.arange(6.0, 30.0)]  # the last season repeated


def test_without_a_fallback_every_short_series_is_named(network: Forecaster) -> None:
    values = waves(2, 150) | {"new": np.arange(30.0), "newer": np.arange(3.0)}
    with pytest.raises(DataError) as raised:
        network.predict(panel_of(values), fallback=None)
    assert [fault.series for fault in raised.value.faults] == ["new", "newer"]
    assert {fault.code for fault in raised.value.faults} == {"insufficient_history"}


def test_an_answer_that_is_not_finite_is_replaced_and_named(network: Forecaster) -> None:
    panel = panel_of(waves(3, 150))
    plan = network.plan(panel)
    numbers = network.answer(plan.course.question(), LEVELS)
    clean = network.assemble(panel, plan, numbers, LEVELS)
    numbers[1, 3, 0, 2] = np.nan
    forecast = network.assemble(panel, plan, numbers, LEVELS)
    assert [entry.status for entry in forecast.series] == ["ok", "model_failed", "ok"]
    assert forecast.series[1].fallback == {"model": "seasonal_naive", "reason": "nonfinite_output"}
    assert np.isfinite(forecast.table.drop("unique_id", "ds").to_numpy()).all()
    kept = clean.table["unique_id"] != "s1"
    assert forecast.table.filter(kept).equals(clean.table.filter(kept))


def test_the_horizon_has_limits_that_are_named(network: Forecaster) -> None:
    panel = panel_of(waves(1, 150))
    for steps in (0, -1):
        with pytest.raises(IncompatibleError, match=f"at least 1 step, got {steps}"):
            network.predict(panel, horizon=steps)


def test_another_frequency_is_refused(naive: Forecaster) -> None:
    daily = Forecaster(
        naive.model,
        spec=naive.spec,
        recipe=Recipe(frequency="D", season=7, context=96, min_context=14, horizon=24),
    )
    with pytest.raises(IncompatibleError, match=r"'D'.*'h'"):
        daily.predict(panel_of(waves(1, 150)))


def test_levels_are_those_of_the_card(network: Forecaster, naive: Forecaster) -> None:
    panel = panel_of(waves(1, 150))
    between = network.predict(panel, levels=(0.3,)).table["q0.3"].to_numpy()
    ends = network.predict(panel, levels=(0.1, 0.5)).table
    assert np.allclose(between, (ends["q0.1"] + ends["q0.5"]).to_numpy() / 2)
    with pytest.raises(IncompatibleError, match=r"0\.1 and 0\.9"):
        network.predict(panel, levels=(0.05,))
    assert naive.predict(panel, levels=(0.05, 0.99)).table.columns[-1] == "q0.99"
    assert network.card["quantiles"]["method"] == "native"
    assert naive.card["quantiles"]["method"] == "conformal"


def test_levels_may_come_in_any_order(naive: Forecaster) -> None:
    panel = panel_of(waves(1, 150))
    forward = naive.predict(panel, levels=(0.1, 0.9)).table
    assert naive.predict(panel, levels=(0.9, 0.1)).table.equals(forward)


def test_quantiles_ascend(network: Forecaster) -> None:
    levels = (0.1, 0.25, 0.5, 0.75, 0.9)
    table = network.predict(panel_of(waves(3, 150)), levels=levels).table
    numbers = table.select(level_name(level) for level in levels).to_numpy()
    assert (np.diff(numbers, axis=1) >= 0).all()


@pytest.mark.parametrize("name", ["network", "naive"])
def test_a_saved_forecaster_forecasts_bit_equal(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    forecaster: Forecaster = request.getfixturevalue(name)
    digest = forecaster.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model", digest=digest, device="cpu")
    panel = panel_of(waves(3, 150))
    one, two = (f.predict(panel, levels=LEVELS).table for f in (forecaster, again))
    assert one.equals(two)
    assert again.card == forecaster.card


def test_an_altered_recipe_is_refused(naive: Forecaster, tmp_path: Path) -> None:
    digest = naive.save(tmp_path / "model")
    recipe = tmp_path / "model" / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"season": 24', '"season": 12'))
    with pytest.raises(ArtifactError, match=r"recipe\.json"):
        Forecaster.load(tmp_path / "model", digest=digest)


def test_models_bound_to_a_unit_read_the_one_they_were_trained_in(tmp_path: Path) -> None:
    """A linear map without anchor that meets megawatts instead of deviations forecasts nonsense."""
    torch.manual_seed(0)
    spec = LinearSpec()
    model = build(spec, Shape(context=CONTEXT, horizon=HORIZON))
    values = waves(2, 150)
    units = Units({name: (float(v.mean()), float(v.std())) for name, v in values.items()})
    forecaster = Forecaster(model, spec=spec, recipe=RECIPE, units=units, device="cpu")
    digest = forecaster.save(tmp_path / "model")
    again = Forecaster.load(tmp_path / "model", digest=digest, device="cpu")
    table = again.predict(panel_of(values)).table
    for name, series in values.items():
        mean, std = units.known[name]
        past = torch.from_numpy((series[-CONTEXT:] - mean) / std).float()
        head = next(m for m in model.modules() if isinstance(m, torch.nn.Linear))
        expected = (head(past).detach().double() * std + mean).numpy()
        got = table.filter(table["unique_id"] == name)["mean"].to_numpy()
        assert np.allclose(got, expected, rtol=1e-5)


def test_queries_are_stacked_and_cut_without_loss(network: Forecaster) -> None:
    panel = panel_of(waves(5, 150))
    query = network.plan(panel).course.question()
    again = Query.stack([query[0:2], query[2:5]])
    assert np.array_equal(again.past, query.past)


def test_the_seasonal_fallback_is_exact_on_a_periodic_series() -> None:
    panel = panel_of({"a": np.tile(np.arange(24.0), 4)})
    numbers = seasonal_naive(panel, [0], season=24, horizon=30, levels=LEVELS)
    assert np.array_equal(numbers[0, :, 0], np.tile(np.arange(24.0), 2)[:30])
    assert np.array_equal(numbers[0, :, 1], numbers[0, :, 3])  # no error, no width


def test_the_fallback_goes_on_from_the_last_observed_value(network: Forecaster) -> None:
    """A meter that was silent for 5,000 hours stood at 100, and does not forecast 0."""
    hours, silent = np.arange(200), 5_003
    values = np.concatenate([100.0 + hours % 24, np.full(silent, np.nan)])
    forecast = network.predict(panel_of(waves(1, 150) | {"silent": values}), levels=LEVELS)
    rows = forecast.table.filter(forecast.table["unique_id"] == "silent")
    assert rows["mean"].to_list() == [100.0 + (200 + silent + h) % 24 for h in range(HORIZON)]
    assert forecast.series[1].rows_used == 200 + silent


def test_the_fallback_says_how_far_it_looked_back(network: Forecaster) -> None:
    panel = panel_of({"a": np.arange(9_000.0), "b": np.arange(30.0)})
    assert rows_read(FALLBACK, panel, [0, 1]) == [LOOKS_BACK, 30]
    assert network.predict(panel).series[1].rows_used == 30


def test_a_longer_silence_widens_the_fallback() -> None:
    """FPP3, table 5.2: the width follows the steps since the last observation."""
    values = waves(1, 48)["s0"]
    silent = np.concatenate([values, np.full(24 * 3, np.nan)])
    numbers = [
        seasonal_naive(panel_of({"a": v}), [0], season=24, horizon=24, levels=LEVELS)[0]
        for v in (values, silent)
    ]
    width, wider = (n[:, 3] - n[:, 1] for n in numbers)
    assert np.allclose(wider / width, 2.0)


@pytest.mark.parametrize("season", [1, 7, 24])
def test_the_fallback_is_the_model(season: int) -> None:
    """Who asks for the baseline and who gets it in the place of another read the same numbers."""
    random = np.random.default_rng(season)
    values = random.normal(size=(20, 120))
    values[random.random(values.shape) < 0.3] = np.nan
    for row in range(20):
        values[row, 120 - 3 * row :] = np.nan
    panel = panel_of({f"s{row}": each for row, each in enumerate(values)})
    stood_in = seasonal_naive(panel, range(20), season=season, horizon=30, levels=LEVELS)
    model = SeasonalNaiveSpec(season=season).build(Shape(120, 30, levels=LEVELS))
    asked = model(Query(values[..., None]).batch())[:, :, 0]  # [series, horizon, level]
    assert np.allclose(stood_in[..., 1:], asked.numpy(), rtol=1e-12)


def test_a_series_without_a_value_gets_no_fallback(network: Forecaster) -> None:
    values = np.arange(100.0)
    panel = panel_of({"a": values, "b": values + 1})
    table = panel.table.with_columns(
        y=pl.when(pl.col("series") == 1).then(None).otherwise(pl.col("y"))
    )
    forecast = network.predict(replace(panel, table=table), levels=LEVELS)
    entry = forecast.series[1]
    assert (entry.status, entry.rows, entry.fallback) == ("insufficient_history", 0, None)
    assert forecast.table["unique_id"].unique().to_list() == ["a"]


@pytest.mark.parametrize("unit", [1e200, 1e-200])
def test_the_fallback_has_quantiles_in_any_unit(unit: float) -> None:
    values = waves(1, 48)["s0"]
    plain, scaled = (
        seasonal_naive(panel_of({"a": v}), [0], season=24, horizon=24, levels=LEVELS)
        for v in (values, values * unit)
    )
    assert np.allclose(scaled / unit, plain)


def test_interpolation_is_linear_in_the_level() -> None:
    output = torch.tensor([[0.0, 10.0, 30.0]])
    between = interpolated(output, (0.1, 0.5, 0.9), (0.1, 0.3, 0.5, 0.7, 0.9))
    assert torch.allclose(
        between, torch.tensor([[0.0, 5.0, 10.0, 20.0, 30.0]], dtype=torch.float64)
    )
