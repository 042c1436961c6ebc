"""The inputs at the end of a series: one meaning in training and in requests, no hole unnamed."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
import torch

from pipelines.covariates import Covariate, Inputs, known_rows, past_rows, static_rows
from pipelines.features.categories import Vocabulary
from pipelines.outlook import Outlook
from pipelines.panel import Panel, read_panel
from pipelines.query import Query
from pipelines.schema import Schema
from pipelines.windows import Grid, PanelWindows
from tests.panels import START, hourly, waves
from tsformer.batch import Shape
from tsformer.errors import DataError, Fault

CONTEXT, HORIZON = 48, 12
PRICE = Covariate("price", 10.0, 2.0)
PROMO = Covariate("promo", vocabulary=Vocabulary(("coupon", "none")))
INPUTS = Inputs(
    features=("hour", "weekday"),
    known=(PRICE, PROMO),
    past=(Covariate("rain", 1.0, 3.0),),
    static=(Covariate("city", vocabulary=Vocabulary(("Bern", "Oslo"))),),
    lags=(12, 90),
)
KNOWN = Inputs(features=INPUTS.features, known=INPUTS.known)
SCHEMA = Schema(
    id="unique_id",
    time="ds",
    targets=("y",),
    known=("price", "promo"),
    past=("rain",),
    static=("city",),
)


def shops(rows: int) -> tuple[Panel, pl.DataFrame]:
    """Two series with covariates of every kind, and the whole table."""
    row = pl.int_range(pl.len()).over("unique_id")
    table = hourly(waves(2, rows)).with_columns(
        price=row.cast(pl.Float64),
        promo=pl.when(row % 5 == 0).then(pl.lit("coupon")).otherwise(pl.lit("none")),
        rain=(row % 7).cast(pl.Float64),
        city=pl.when(pl.col("unique_id") == "s0").then(pl.lit("Oslo")).otherwise(pl.lit("Bern")),
    )
    return read_panel(table, schema=SCHEMA, freq="h")[0], table


def query(
    panel: Panel, future: pl.DataFrame | None, *, wanted: int = 6, inputs: Inputs = KNOWN
) -> Query:
    return Outlook(panel, inputs, CONTEXT, HORIZON, wanted, future).course().question()


def known(panel: Panel, future: pl.DataFrame | None, *, wanted: int = 6) -> np.ndarray:
    made = query(panel, future, wanted=wanted).known
    assert made is not None
    return made


def warnings(
    panel: Panel, inputs: Inputs, future: pl.DataFrame | None = None, *, wanted: int = 6
) -> tuple[Fault, ...]:
    return Outlook(panel, inputs, CONTEXT, HORIZON, wanted, future).warnings()


def test_a_request_reads_the_rows_that_training_read() -> None:
    """Skew between training and serving is a silent loss of accuracy."""
    panel, table = shops(200)
    bounds = list(zip(panel.offsets[:-1], panel.offsets[1:], strict=True))

    def by_series(rows: np.ndarray | None) -> list[np.ndarray]:
        assert rows is not None
        return [rows[start:end] for start, end in bounds]

    static = static_rows(panel, INPUTS)
    assert static is not None
    grid = Grid.of(
        [panel.target[start:end, None] for start, end in bounds],
        known=by_series(known_rows(panel, INPUTS)),
        covariates=by_series(past_rows(panel, INPUTS)),
        static=static[:, None],
    )
    shape = Shape(context=CONTEXT, horizon=HORIZON, lags=INPUTS.lags)
    windows = PanelWindows(grid, cutoffs=np.array([150, 350]), shape=shape)
    trained, _ = windows.batch(torch.arange(2))
    served = query(panel.head(150), table, wanted=HORIZON, inputs=INPUTS).batch()
    for name in ("past", "observed", "known", "covariates", "static", "lagged"):
        assert torch.equal(getattr(trained, name), getattr(served, name)), name


def test_lagged_values_are_those_of_that_step() -> None:
    """An hour off, and the model reads yesterday's peak as the night before it."""
    panel, _ = shops(200)
    lagged = query(panel, None, inputs=Inputs(lags=(12, 90))).lagged
    assert lagged is not None
    y = panel.target[:200]
    assert np.array_equal(lagged[0, CONTEXT:, 0, 0], y[200 - 12 : 200])
    assert np.array_equal(lagged[0, CONTEXT:, 0, 1], y[200 - 90 : 200 - 90 + HORIZON])
    assert np.array_equal(lagged[0, :CONTEXT, 0, 0], y[200 - CONTEXT - 12 : 200 - 12])


def test_lags_beyond_the_history_are_missing_and_said() -> None:
    panel, _ = shops(60)
    inputs = Inputs(lags=(12, 90))
    lagged = query(panel, None, inputs=inputs).lagged
    assert lagged is not None
    assert np.isnan(lagged[..., 1]).all()
    assert not np.isnan(lagged[:, CONTEXT:, :, 0]).any()
    faults = warnings(panel, inputs)
    assert [(fault.code, fault.series) for fault in faults] == [
        ("history_padded", "s0"),
        ("history_padded", "s1"),
    ]


def test_words_that_training_never_saw_are_said() -> None:
    """A misspelt promotion is forecast as the unknown one; its sender must hear of it."""
    panel, table = shops(60)
    future = table.with_columns(promo=pl.lit("flyer"))
    (fault,) = warnings(panel.head(48), KNOWN, future)
    assert fault.code == "unknown_category"
    assert fault.message.startswith("promo: 1 value did not occur in training;")
    assert "flyer" not in fault.message  # a service would repeat what may be a secret


def test_missing_cells_that_are_read_are_said_of_their_series() -> None:
    """They count as the training mean: a forecast without its covariate must not look like one with."""
    _, table = shops(100)
    last = (pl.col("unique_id") == "s1") & (pl.int_range(pl.len()).over("unique_id") >= 70)
    holes = table.with_columns(
        pl.when(~last).then("price").alias("price"), pl.when(~last).then("promo").alias("promo")
    )
    panel = read_panel(holes, schema=SCHEMA, freq="h")[0].head(80)
    (fault,) = warnings(panel, KNOWN, table)
    assert (fault.code, fault.series, fault.count) == ("values_missing", "s1", 20)
    assert fault.message.startswith("Missing values: 10 of price, 10 of promo. They count as")
    assert warnings(panel.head(70), KNOWN, table) == ()


def test_only_words_that_are_read_are_strange() -> None:
    """A word of years ago, or beyond the horizon, changes no number; one of both is one warning."""
    _, table = shops(100)
    row = pl.int_range(pl.len()).over("unique_id")

    def with_word(at: pl.Expr, word: str = "flyer") -> tuple[Fault, ...]:
        worded = table.with_columns(promo=pl.when(at).then(pl.lit(word)).otherwise("promo"))
        panel = read_panel(worded, schema=SCHEMA, freq="h")[0].head(80)
        return warnings(panel, KNOWN, worded)

    assert with_word(row < 80 - CONTEXT) == ()
    assert with_word(row >= 86) == ()
    assert [fault.count for fault in with_word(row == 85)] == [1]
    assert [fault.count for fault in with_word(row == 80 - CONTEXT)] == [1]
    assert [fault.count for fault in with_word((row == 50) | (row == 80))] == [1]


def test_later_blocks_do_not_know_the_past_columns() -> None:
    """Rain counts as its mean from the second block on; the reader must hear of it, once."""
    panel, _ = shops(100)
    inputs = Inputs(past=INPUTS.past)
    assert warnings(panel, inputs, wanted=HORIZON) == ()
    (fault,) = warnings(panel, inputs, wanted=HORIZON + 1)
    assert (fault.code, fault.series) == ("past_covariates_masked", None)
    assert "rain" in fault.message


@pytest.mark.parametrize("column", ["price", "promo"])
def test_a_step_without_a_value_is_named(column: str) -> None:
    """A forgotten price is not the usual one, and a forgotten word not a strange one."""
    panel, table = shops(60)
    at = pl.col("ds") == START + timedelta(hours=50)
    hole = table.with_columns(
        pl.when(at & (pl.col("unique_id") == "s1")).then(None).otherwise(column).alias(column)
    )
    with pytest.raises(DataError, match="No value for 2024-01-03 02:00") as raised:
        known(panel.head(48), hole)
    (fault,) = raised.value.faults
    assert (fault.code, fault.series, fault.column) == ("covariate_missing", "s1", column)
    later = table.with_columns(
        pl.when(pl.col("ds") < START + timedelta(hours=54)).then(column).alias(column)
    )
    known(panel.head(48), later)  # nobody asks for those


def test_a_step_with_two_rows_is_named() -> None:
    """Which of two prices holds is for the sender to say."""
    panel, table = shops(60)
    twice = pl.concat([table, table.filter(pl.col("ds") == START + timedelta(hours=50))])
    with pytest.raises(DataError, match="Another row for 2024-01-03 02:00") as raised:
        known(panel.head(48), twice)
    assert [(f.code, f.series) for f in raised.value.faults] == [
        ("future_extra", "s0"),
        ("future_extra", "s1"),
    ]


def test_a_future_may_have_columns_of_any_name() -> None:
    panel, table = shops(60)
    spare = table.with_columns(id=pl.lit(1), time=pl.lit("noon"), row=pl.lit(2), came=pl.lit(3))
    assert np.array_equal(known(panel.head(48), table), known(panel.head(48), spare))


def test_ids_of_another_type_are_named() -> None:
    """Joined as they are, 7 and "7" are no match, or an error of polars."""
    panel, table = shops(60)
    with pytest.raises(DataError, match="Its ids are Int64, those of the data String"):
        known(panel.head(48), table.with_columns(unique_id=pl.lit(7, dtype=pl.Int64)))


def test_short_history_and_unasked_steps_count_as_the_mean() -> None:
    panel, table = shops(30)
    block = known(panel.head(20), table, wanted=6)
    price = block[:, :, -2]
    assert (price[:, : CONTEXT - 20] == 0).all()
    assert (price[:, CONTEXT + 6 :] == 0).all()
    assert price[0, CONTEXT] == pytest.approx((20 - 10) / 2)


def test_rows_of_the_future_may_come_in_any_order() -> None:
    panel, table = shops(60)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=1)
    assert np.array_equal(known(panel.head(48), table), known(panel.head(48), shuffled))


def test_stamps_of_the_future_may_be_text() -> None:
    """A future table from a CSV file has text where the panel has stamps."""
    panel, table = shops(60)
    text = table.with_columns(pl.col("ds").dt.to_string("iso"))
    assert np.array_equal(known(panel.head(48), table), known(panel.head(48), text))


def test_a_hole_in_the_future_is_named() -> None:
    panel, table = shops(60)
    hole = table.filter(
        (pl.col("unique_id") != "s1") | (pl.col("ds") != START + timedelta(hours=50))
    )
    with pytest.raises(DataError, match="No row for") as raised:
        known(panel.head(48), hole)
    assert raised.value.faults[0].series == "s1"
    assert "2024-01-03 02:00" in str(raised.value)


@pytest.mark.parametrize(
    ("future", "named"),
    [(None, "no future table"), (pl.DataFrame({"ds": []}), "unique_id, price, promo")],
)
def test_a_missing_table_or_column_is_named(future: pl.DataFrame | None, named: str) -> None:
    panel, _ = shops(60)
    with pytest.raises(DataError, match=named):
        known(panel, future)


# --- series that share a window ---------------------------------------------------------------


def joint(panel: Panel, inputs: Inputs, future: pl.DataFrame | None = None) -> Query:
    outlook = Outlook(panel, inputs, CONTEXT, HORIZON, 6, future)
    return outlook.course(width=len(panel.ids)).question()


def test_series_of_one_window_are_its_variates() -> None:
    """A model that looks across series must see them side by side, each in its own column."""
    panel, table = shops(200)
    panel = panel.head(150)
    inputs = Inputs(known=(PRICE,), past=INPUTS.past, static=INPUTS.static, lags=(12,))
    one, alone = joint(panel, inputs, table), query(panel, table, inputs=inputs)
    assert one.past.shape == (1, CONTEXT, 2)
    assert one.lagged is not None
    assert alone.lagged is not None
    assert one.static is not None
    assert alone.static is not None
    for place in range(2):
        assert np.array_equal(one.past[0, :, place], alone.past[place, :, 0])
        assert np.array_equal(one.lagged[0, :, place], alone.lagged[place, :, 0])
        assert np.array_equal(one.static[0, place], alone.static[place, 0])
    assert np.array_equal(one.known, known_of(alone)[:1])


def known_of(query: Query) -> np.ndarray:
    assert query.known is not None
    return query.known


def test_series_of_one_window_end_together() -> None:
    _, table = shops(60)
    panel, _ = read_panel(table.head(len(table) - 1), schema=SCHEMA, freq="h")
    with pytest.raises(DataError, match="end together") as raised:
        joint(panel, Inputs())
    assert [(f.code, f.series) for f in raised.value.faults] == [("group_misaligned", "s1")]


def test_series_of_one_window_share_its_covariates() -> None:
    _, table = shops(60)
    dearer = table.with_columns(
        price=pl.when(pl.col("unique_id") == "s1").then(99.0).otherwise(pl.col("price"))
    )
    panel, _ = read_panel(dearer, schema=SCHEMA, freq="h")
    with pytest.raises(DataError, match="differ from those of s0"):
        joint(panel.head(48), Inputs(known=(PRICE,)), dearer)


def test_series_of_one_window_may_begin_apart() -> None:
    """Rows before the younger series began are no difference of theirs."""
    _, table = shops(60)
    younger = table.filter(
        (pl.col("unique_id") == "s1") | (pl.col("ds") >= START + timedelta(hours=20))
    )
    panel, _ = read_panel(younger, schema=SCHEMA, freq="h")
    inputs = Inputs(features=("hour",), known=(PRICE,), past=INPUTS.past)
    panel = panel.until(START + timedelta(hours=47))
    one, whole = joint(panel, inputs, table), joint(shops(48)[0], inputs, table)
    assert np.array_equal(known_of(one), known_of(whole))
    assert np.array_equal(one.covariates, whole.covariates)
    assert np.isnan(one.past[0, :20, 0]).all()
    dearer = younger.with_columns(
        price=pl.when(pl.col("unique_id") == "s0").then(99.0).otherwise("price")
    )
    panel = read_panel(dearer, schema=SCHEMA, freq="h")[0].until(START + timedelta(hours=47))
    with pytest.raises(DataError, match="differ from those of s1") as raised:
        joint(panel, inputs, table)
    assert [f.series for f in raised.value.faults] == ["s0"]
