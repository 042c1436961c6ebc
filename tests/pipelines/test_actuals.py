"""What really happened, held against what was forecast: nothing counted twice, nothing lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa

from pipelines.actuals import Received, add, newest, read_actuals, since
from pipelines.forecast import Forecast, SeriesForecast
from pipelines.forecaster import Forecaster
from pipelines.frequency import Frequency
from pipelines.live import intervals, live
from pipelines.panel import Panel, read_panel
from pipelines.profile import Profile
from pipelines.recipe import Recipe
from pipelines.recording import record, scales_of
from pipelines.sections import Data
from pipelines.store import Store
from pipelines.store_tables import FORECAST_RECORD
from pipelines.versions import ModelVersion
from tests.panels import SCHEMA, START, hourly, panel_of, waves
from tests.pipelines.postgres import new_database
from tsformer.batch import Shape
from tsformer.errors import ConfigError, DataError
from tsformer.models.naive import SeasonalNaiveSpec

HOUR = 3_600_000_000  # microseconds
FIRST = int(START.replace(tzinfo=UTC).timestamp()) * 1_000_000
VERSION = ModelVersion("load", "3", "ridge", "", run_id="", created_at="")
DATA = Data(id="unique_id", time="ds", targets=("y",))
HOURLY = Frequency.parse("h")


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "sqlite":
        return Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}")
    return Store.at(new_database())


@pytest.fixture
def quick(tmp_path: Path) -> Store:
    return Store.at(f"sqlite:///{tmp_path / 'tsformer.db'}")


def rows(values: dict[str, list[float]], *, after: int = 0) -> pl.DataFrame:
    """Actuals of hours after the start."""
    frames = [
        pl.DataFrame(
            {
                "unique_id": [name] * len(of_series),
                "ds_us": [FIRST + (after + n) * HOUR for n in range(len(of_series))],
                "y": of_series,
                "kind": "naive",
            }
        )
        for name, of_series in values.items()
    ]
    return pl.concat(frames).with_row_index("row")


def forecast_of(panel: Panel, values: np.ndarray, levels: tuple[str, ...]) -> Forecast:
    """A forecast `[series, step, 1 + level]` as a model would give it."""
    horizon = values.shape[1]
    ids = pl.Series("unique_id", panel.ids).gather(np.repeat(np.arange(len(panel.ids)), horizon))
    flat = values.reshape(-1, values.shape[2])
    columns = [pl.Series(name, flat[:, k]) for k, name in enumerate(("mean", *levels))]
    series = tuple(SeriesForecast(name, "ok", horizon, "direct") for name in panel.ids)
    table = pl.DataFrame([ids, panel.following(horizon).alias("ds"), *columns])
    return Forecast(table, series)


# --- kept -----------------------------------------------------------------------------------------


def test_a_later_value_takes_the_place_of_an_earlier_one(store: Store) -> None:
    """Truth is corrected: sending a day again must neither double it nor lose the correction."""
    first = add(store, "load", rows({"a": [1.0, 2.0, 3.0], "b": [4.0]}))
    assert first == Received(received=4, inserted=4)
    again = add(store, "load", rows({"a": [1.0, 2.5], "c": [0.0]}))
    assert again == Received(received=3, inserted=1, replaced=1, unchanged=1)
    found = since(store, "load", after_us=FIRST - 1).sort("unique_id", "ds_us")
    assert found.equals(rows({"a": [1.0, 2.5, 3.0], "b": [4.0], "c": [0.0]}).drop("row"))
    assert newest(store, "load") == FIRST + 2 * HOUR
    assert newest(store, "other") is None


def test_only_recorded_forecasts_match(store: Store) -> None:
    """The count tells whether a model is scored by what came; it must not flatter."""
    panel = panel_of({"a": np.arange(30.0), "b": np.arange(30.0)})
    forecast = forecast_of(panel.take([0]), np.zeros((1, 4, 1)), ())
    assert record(store, VERSION, panel, forecast, scales={}) == 1
    got = add(store, "load", rows({"a": [1.0] * 6, "b": [1.0] * 6}, after=28))
    assert (got.received, got.matched) == (12, 4)
    assert add(store, "other", rows({"a": [1.0] * 6}, after=28)).matched == 0


def test_many_rows_are_kept_in_several_transactions(
    quick: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A month of ten thousand series must not hold the database from everybody else."""
    monkeypatch.setattr("pipelines.actuals.ROWS_A_TRANSACTION", 7)
    values = {f"s{n}": [float(n)] * 5 for n in range(9)}
    assert add(quick, "load", rows(values)) == Received(received=45, inserted=45)
    assert add(quick, "load", rows(values)) == Received(received=45, unchanged=45)


# --- read -----------------------------------------------------------------------------------------


def test_stamps_mean_what_they_meant_in_training() -> None:
    """An hour of summer time between truth and forecast would make every score wrong."""
    table = pl.DataFrame(
        {"unique_id": [7, 7], "ds": ["2026-03-29 01:30", "2026-03-29 03:30"], "y": [1, 2]}
    )
    found = read_actuals(table, DATA, frequency=Frequency.parse("30min"), tz="Europe/Berlin")
    utc = [datetime(2026, 3, 29, 0, 30, tzinfo=UTC), datetime(2026, 3, 29, 1, 30, tzinfo=UTC)]
    assert found["ds_us"].to_list() == [int(stamp.timestamp()) * 1_000_000 for stamp in utc]
    assert found["unique_id"].to_list() == ["7", "7"]


def test_what_is_not_known_yet_is_left_out() -> None:
    """Null is no truth, and no reason to refuse the other rows."""
    table = hourly({"a": np.array([1.0, np.nan, 3.0])})
    assert read_actuals(table, DATA, frequency=HOURLY, tz="")["y"].to_list() == [1.0, 3.0]


def test_each_column_of_a_wide_table_is_a_series() -> None:
    """Actuals come in the table of the training, whatever its form."""
    table = pl.DataFrame({"date": [START], "north": [1.0], "south": [2.0], "note": ["x"]})
    data = Data(time="date", targets=("north", "south"))
    found = read_actuals(table, data, frequency=HOURLY, tz="").sort("unique_id")
    assert found["unique_id"].to_list() == ["north", "south"]
    alone = read_actuals(table, replace(data, targets=("north",)), frequency=HOURLY, tz="")
    assert alone["unique_id"].to_list() == ["0"]


@pytest.mark.parametrize(
    ("change", "frequency", "tz", "code"),
    [
        ({"ds": START}, "h", "", "duplicate_timestamp"),
        ({"y": np.inf}, "h", "", "non_finite"),
        ({"ds": "2026-13-01"}, "h", "", "timestamp_invalid"),
        ({"ds": pl.int_range(pl.len())}, "h", "", "timestamp_invalid"),
        ({}, "1", "", "timestamp_invalid"),
        ({"ds": pl.col("ds").dt.replace_time_zone("UTC")}, "h", "", "timestamp_invalid"),
        ({"unique_id": None}, "h", "", "id_invalid"),
    ],
)
def test_what_cannot_be_matched_is_refused(
    change: dict[str, object], frequency: str, tz: str, code: str
) -> None:
    """Silently kept it would match nothing, or the wrong hour."""
    table = hourly({"a": np.arange(3.0)})
    made = {
        name: value if isinstance(value, pl.Expr) else pl.lit(value)
        for name, value in change.items()
    }
    with pytest.raises(DataError) as caught:
        read_actuals(table.with_columns(**made), DATA, frequency=Frequency.parse(frequency), tz=tz)
    assert {fault.code for fault in caught.value.faults} == {code}


def test_a_model_that_counts_rows_wants_their_numbers() -> None:
    """A day alone does not say how many rows stood before it."""
    with pytest.raises(ConfigError, match="numbers of the steps in 'ds'"):
        read_actuals(
            hourly({"a": np.arange(3.0)}),
            replace(DATA, freq="1"),
            frequency=Frequency("", 1),
            tz="",
        )


# --- scored ---------------------------------------------------------------------------------------


def test_live_scores_follow_their_definitions(store: Store) -> None:
    """The numbers that decide about a retraining, against the formulas written out."""
    chance = np.random.default_rng(0)
    panel = panel_of({"a": chance.normal(size=60), "b": 5 + chance.normal(size=60)})
    values = np.sort(chance.normal(size=(2, 6, 4)), axis=2)[..., [2, 0, 1, 3]]
    forecast = forecast_of(panel, values, ("q0.1", "q0.5", "q0.9"))
    record(store, VERSION, panel, forecast, scales={"a": 2.0, "b": 0.5})
    actual = {"a": chance.normal(size=4), "b": chance.normal(size=2)}  # the others are to come
    add(store, "load", rows({name: [*values] for name, values in actual.items()}, after=60))
    (found,) = live(store, "load", after_us=0, until_us=FIRST + 10_000 * HOUR)
    error = {name: np.abs(y - values[n, : len(y), 0]) for n, (name, y) in enumerate(actual.items())}
    y = np.concatenate([*actual.values()])
    quantiles = np.concatenate([values[0, :4, 1:], values[1, :2, 1:]])
    gap, level = y[:, None] - quantiles, np.array([0.1, 0.5, 0.9])
    pinball = 2 * np.maximum(level * gap, (level - 1) * gap).mean(axis=1)
    inside = (quantiles[:, 0] <= y) & (y <= quantiles[:, 2])
    errors = np.concatenate([*error.values()])
    assert (found.version, found.points, found.series, found.fallbacks) == ("3", 6, 2, 0)
    assert found.metrics == pytest.approx(
        {
            "mae": errors.mean(),
            "rmse": np.sqrt((errors**2).mean()),
            "mase": (error["a"].mean() / 2.0 + error["b"].mean() / 0.5) / 2,
            "wql": pinball.sum() / np.abs(y).sum(),
        }
    )
    assert found.coverage == pytest.approx({"0.8": inside.mean()})
    window = live(store, "load", after_us=FIRST + 60 * HOUR, until_us=FIRST + 62 * HOUR)
    assert window[0].points == 3


def test_versions_and_levels_are_scored_apart(quick: Store) -> None:
    """A new champion must not be judged by the forecasts of the old one."""
    panel = panel_of({"a": np.arange(40.0)})
    for number, level in (("3", ("q0.1", "q0.9")), ("10", ("q0.25", "q0.75"))):
        forecast = forecast_of(panel, np.full((1, 2, 3), float(number)), level)
        record(quick, replace(VERSION, version=number), panel, forecast, scales={})
    add(quick, "load", rows({"a": [10.0, 10.0]}, after=40))
    ten, three = live(quick, "load", after_us=0, until_us=FIRST + 99 * HOUR)
    assert (ten.version, ten.metrics["mae"], ten.coverage) == ("10", 0.0, {"0.5": 1.0})
    assert (three.version, three.metrics["mae"], three.coverage) == ("3", 7.0, {"0.8": 0.0})
    assert "mase" not in ten.metrics  # its scale is not known: undefined, and never 0
    (only,) = live(quick, "load", after_us=0, until_us=FIRST + 99 * HOUR, version="3")
    assert only == three


def test_a_forecast_that_is_made_again_counts_once(store: Store) -> None:
    """A batch that goes on after a kill records its last block twice."""
    panel = panel_of({"a": np.arange(40.0)})
    for value in (1.0, 2.0):
        record(store, VERSION, panel, forecast_of(panel, np.full((1, 2, 1), value), ()), scales={})
    add(store, "load", rows({"a": [2.0, 2.0]}, after=40))
    (found,) = live(store, "load", after_us=0, until_us=FIRST + 99 * HOUR)
    assert (found.points, found.metrics) == (2, {"mae": 0.0, "rmse": 0.0})
    with store.read() as connection:
        assert (
            connection.execute(sa.select(sa.func.count()).select_from(FORECAST_RECORD)).scalar_one()
            == 1
        )


def test_what_a_forecaster_says_is_what_is_recorded(quick: Store) -> None:
    """From the model to the score: stamps, order of series, fallbacks, scales."""
    spec = SeasonalNaiveSpec(season=24)
    recipe = Recipe("h", season=24, context=48, min_context=48, horizon=24)
    model = spec.build(Shape(context=48, horizon=24, levels=(0.1, 0.5, 0.9)))
    forecaster = Forecaster(model, spec=spec, recipe=recipe, device="cpu")
    whole = waves(2, 124) | {"short": waves(1, 54)["s0"]}
    panel = panel_of({name: values[:-24] for name, values in whole.items()})
    forecast = forecaster.predict(panel, levels=(0.1, 0.9))
    profile = Profile.of(panel, season=24, horizon=24, seasonal_error=np.array([0.5, 2.0, np.nan]))
    scales = scales_of(panel, profile=profile, season=24)
    assert scales == {"s0": 0.5, "s1": 2.0}
    record(quick, VERSION, panel, forecast, scales=scales)
    truth = read_actuals(hourly(whole), DATA, frequency=HOURLY, tz="")
    assert add(quick, "load", truth).matched == 3 * 24
    (found,) = live(quick, "load", after_us=0, until_us=FIRST + 999 * HOUR)
    assert (found.points, found.fallbacks) == (72, 24)
    expected = [
        np.abs(whole[name][-24:] - forecast.table.filter(unique_id=name)["mean"].to_numpy()).mean()
        for name in panel.ids
    ]
    assert found.metrics["mae"] == pytest.approx(np.mean(expected))
    assert found.metrics["mase"] == pytest.approx((expected[0] / 0.5 + expected[1] / 2.0) / 2)


def test_a_series_that_training_has_not_seen_is_scaled_by_its_history() -> None:
    """A new shop has a live MASE too."""
    panel = read_panel(hourly({"new": np.tile([0.0, 1.0], 30) + np.arange(60)}), schema=SCHEMA)[0]
    assert scales_of(panel, profile=None, season=2) == {"new": 2.0}
    assert scales_of(panel_of({"flat": np.ones(60)}), profile=None, season=24) == {"flat": 0.0}


def test_intervals_have_both_their_ends() -> None:
    assert intervals((0.05, 0.1, 0.3, 0.5, 0.9, 0.95)) == (0.9, 0.8)
    assert intervals((0.5,)) == ()


def test_recorded_days_are_found_by_day(quick: Store) -> None:
    """Daily data in a zone: midnight there is another instant in winter and in summer."""
    days = pl.datetime_range(datetime(2026, 1, 1), datetime(2026, 4, 4), "1d", eager=True)
    table = pl.DataFrame({"unique_id": "a", "ds": days, "y": np.arange(float(len(days)))})
    panel = read_panel(table.head(-8), schema=SCHEMA, freq="D", tz="Europe/Berlin")[0]
    record(quick, VERSION, panel, forecast_of(panel, np.zeros((1, 8, 1)), ()), scales={})
    truth = read_actuals(table, DATA, frequency=Frequency.parse("D"), tz="Europe/Berlin")
    assert add(quick, "load", truth).matched == 8
    assert timedelta(microseconds=int(truth["ds_us"][-1] - truth["ds_us"][0])) == timedelta(
        days=93, hours=-1
    )


@pytest.mark.parametrize(
    ("zone", "sent"), [("Etc/GMT-2", ""), ("", "Etc/GMT-2")], ids=["naive", "instants"]
)
def test_wall_times_and_instants_never_meet(store: Store, zone: str, sent: str) -> None:
    """Two hours of shift between truth and forecast, and every score is wrong without a word."""
    table = hourly({"a": np.arange(30.0)})
    stamps = pl.col("ds").dt.replace_time_zone(zone) if zone else pl.col("ds")
    panel, _ = read_panel(table.with_columns(stamps), schema=SCHEMA)
    record(store, VERSION, panel, forecast_of(panel, np.zeros((1, 24, 1)), ()), scales={})
    truth = hourly({"a": np.arange(40.0), "unforecast": np.arange(40.0)})
    other, same = (
        read_actuals(truth, replace(DATA, tz=tz), frequency=HOURLY, tz=tz) for tz in (sent, zone)
    )
    with pytest.raises(DataError, match="give") as caught:
        add(store, "load", other)
    (fault,) = caught.value.faults
    assert (fault.code, fault.row) == ("timestamp_invalid", 0)
    assert newest(store, "load") is None  # refused whole
    assert add(store, "load", same).matched == 10
    (found,) = live(store, "load", after_us=0, until_us=FIRST + 999 * HOUR)
    assert found.points == 10


def test_what_came_before_a_forecast_of_another_kind_does_not_score_it(store: Store) -> None:
    """Nobody could refuse it when it came; it must not be taken for other hours later."""
    early = rows({"a": [1.0] * 6}, after=28).with_columns(kind=pl.lit("instants"))
    assert add(store, "load", early).inserted == 6
    panel = panel_of({"a": np.arange(30.0)})
    record(store, VERSION, panel, forecast_of(panel, np.zeros((1, 4, 1)), ()), scales={})
    assert live(store, "load", after_us=0, until_us=FIRST + 999 * HOUR) == ()
    late = add(store, "load", rows({"a": [1.0] * 6}, after=28))
    assert (late.replaced, late.matched) == (6, 4)


def test_what_was_kept_before_stamps_had_kinds_is_matched_as_it_was(quick: Store) -> None:
    """The history of an installation that is brought up to date must not lose its scores."""
    panel = panel_of({"a": np.arange(30.0)})
    record(quick, VERSION, panel, forecast_of(panel, np.zeros((1, 4, 1)), ()), scales={})
    with quick.begin() as connection:
        connection.execute(FORECAST_RECORD.update().values(kind=None))
    assert add(quick, "load", rows({"a": [1.0] * 4}, after=30)).matched == 4
