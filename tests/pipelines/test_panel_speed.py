"""Checks run on whole arrays: ten thousand series cost about as much as one of the same rows."""

from __future__ import annotations

from time import process_time

import numpy as np
import polars as pl
import pytest

from pipelines.panel import Schema, read_panel

SCHEMA = Schema(id="id", time="t", targets=("y",))
SERIES, ROWS = 10_000, 100
CPU_SECONDS = 2.0  # measured 0.1 to 0.3 s; 10,000 series x 1,000 rows take 0.5 to 1 s


@pytest.mark.parametrize("fault", ["none", "gap", "infinity"])
def test_ten_thousand_series(fault: str) -> None:
    """A loop over series in Python would take minutes, also if every series has a fault."""
    hours = np.tile(np.arange(ROWS) * 3_600_000_000, SERIES)
    table = pl.DataFrame(
        {
            "id": np.repeat([f"s{i}" for i in range(SERIES)], ROWS),
            "t": pl.Series(hours).cast(pl.Datetime("us")),
            "y": np.sin(np.arange(SERIES * ROWS)),
        }
    )
    place = pl.int_range(pl.len()) % ROWS
    if fault == "gap":
        table = table.filter(place != 50)
    if fault == "infinity":
        y = pl.when(place == 50).then(float("inf")).otherwise("y")
        table = table.with_columns(y.alias("y"))
    read_panel(table[:1000], schema=SCHEMA, on_invalid="skip")
    start = process_time()
    _, report = read_panel(table, schema=SCHEMA, on_invalid="skip")
    assert process_time() - start < CPU_SECONDS
    assert len(report.all_faults) == (0 if fault == "none" else SERIES)
