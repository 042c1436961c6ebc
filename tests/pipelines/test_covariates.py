"""Covariates known ahead: one meaning in training and in requests, and a fault for every hole."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from pipelines.covariates import Known, known_ahead, known_rows, width
from pipelines.panel import Panel, read_panel
from tests.panels import SCHEMA, START, hourly, waves
from tsformer.errors import DataError

FEATURES = ("hour", "weekday")
KNOWN = (Known("price", 10.0, 2.0),)


def priced(rows: int) -> tuple[Panel, pl.DataFrame]:
    """Two series with a price that is their row number, and the whole table."""
    table = hourly(waves(2, rows)).with_columns(
        pl.int_range(pl.len()).over("unique_id").cast(pl.Float64).alias("price")
    )
    schema = type(SCHEMA)(id="unique_id", time="ds", targets=("y",), known=("price",))
    return read_panel(table, schema=schema, freq="h")[0], table


def ahead(panel: Panel, future: pl.DataFrame | None, *, wanted: int = 6) -> np.ndarray:
    block = known_ahead(
        panel, np.arange(2), features=FEATURES, known=KNOWN,
        context=48, horizon=12, wanted=wanted, future=future,
    )  # fmt: skip
    assert block is not None
    return block


def test_a_request_reads_the_rows_that_training_read() -> None:
    """Skew between training and serving is a silent loss of accuracy."""
    panel, table = priced(200)
    rows = known_rows(panel, features=FEATURES, known=KNOWN)
    assert rows is not None
    assert rows.shape[1] == width(FEATURES, KNOWN)
    head = panel.head(150)
    block = ahead(head, table, wanted=12)
    for series in range(2):
        start = series * 200 + 150
        assert np.array_equal(block[series], rows[start - 48 : start + 12])


def test_short_history_and_unasked_steps_count_as_the_mean() -> None:
    panel, table = priced(30)
    block = ahead(panel.head(20), table, wanted=6)
    price = block[:, :, -1]
    assert (price[:, : 48 - 20] == 0).all()
    assert (price[:, 48 + 6 :] == 0).all()
    assert price[0, 48] == pytest.approx((20 - 10) / 2)


def test_rows_of_the_future_may_come_in_any_order() -> None:
    panel, table = priced(60)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=1)
    assert np.array_equal(ahead(panel.head(48), table), ahead(panel.head(48), shuffled))


def test_stamps_of_the_future_may_be_text() -> None:
    """A future table from a CSV file has text where the panel has stamps."""
    panel, table = priced(60)
    text = table.with_columns(pl.col("ds").dt.to_string("iso"))
    assert np.array_equal(ahead(panel.head(48), table), ahead(panel.head(48), text))


def test_a_hole_in_the_future_is_named() -> None:
    panel, table = priced(60)
    hole = table.filter(
        (pl.col("unique_id") != "s1") | (pl.col("ds") != START + timedelta(hours=50))
    )
    with pytest.raises(DataError, match="1 rows of the future table are missing") as raised:
        ahead(panel.head(48), hole)
    assert raised.value.faults[0].series == "s1"
    assert "2024-01-03 02:00" in str(raised.value)


@pytest.mark.parametrize(
    ("future", "named"), [(None, "no future table"), (pl.DataFrame({"ds": []}), "unique_id, price")]
)
def test_a_missing_table_or_column_is_named(future: pl.DataFrame | None, named: str) -> None:
    panel, _ = priced(60)
    with pytest.raises(DataError, match=named):
        ahead(panel, future)


def test_scaling_survives_constant_and_missing_columns() -> None:
    assert Known.fit("a", np.full(5, 3.0)) == Known("a", 3.0, 1.0)
    assert Known.fit("a", np.full(5, np.nan)) == Known("a", 0.0, 1.0)
    assert Known.fit("a", np.full(490, 1.1)).std == 1.0  # by rounding it is 2e-16
    assert Known.fit("a", np.full(490, 1.1) + 1e-12 * (np.arange(490) % 2)).std < 1e-11
    scaled = Known("a", 1.0, 2.0).scaled(np.array([3.0, np.nan]))
    assert scaled.tolist() == [1.0, 0.0]
