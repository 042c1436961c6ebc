"""The benchmark of batch forecasts, whole on sizes that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from benchmarks import batch_forecast, machine


def test_the_plain_way_forecasts_the_table_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the batch is held against must be the same work: every series, read and forecast."""
    monkeypatch.setattr(batch_forecast, "SERIES_A_FILE", 7)
    table = tmp_path / "table"
    table.mkdir()
    batch_forecast.write_table(table, series=20, rows=1_000)
    whole = pl.read_parquet(table)
    assert whole.shape == (20_000, 3)
    assert whole["unique_id"].n_unique() == 20
    asked = batch_forecast.model_of(table, tmp_path)
    found = batch_forecast.at_once(asked, table)
    assert found["series"] == 20
    assert 0 < found["predict_seconds"] < found["seconds"]


@pytest.mark.faults
def test_the_benchmark_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed result whose script does not run any more can be checked by nobody."""
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    batch_forecast.main(["--series", "3000", "--workers", "1"])
    (file,) = tmp_path.glob("*.json")
    found = json.loads(file.read_text())
    assert found["batch_under_the_limit"]["series"] == 3000
    assert found["batch_over_plain_by_processor"] > 0
