"""A panel made ready: rows in time order, covariates of the right series."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.data_section import read
from pipelines.experiment import Experiment
from pipelines.material import Material
from pipelines.sections import Data
from tests.panels import START, hourly, waves
from tsformer.errors import ConfigError

COLUMNS = {"id": "unique_id", "time": "ds", "targets": ["y"]}


def grouped(folder: Path, table: pl.DataFrame, **data: object) -> Material:
    """The material of an experiment whose series are the variates of one window."""
    table.write_parquet(folder / "table.parquet")
    content = {
        "data": {"source": "table.parquet", **COLUMNS, "known": ["price"], "group": "all", **data},
        "window": {"context": 48, "horizon": 12},
        "model": {"kind": "ridge"},
    }
    return Material.of(Experiment.from_mapping(content, where="test", folder=folder))


def priced(*, apart: float) -> pl.DataFrame:
    """Two series with a price, missing at one step; that of the second is `apart` higher."""
    step = pl.int_range(pl.len()).over("unique_id")
    price = pl.when(step != 50).then(step % 7) + apart * (pl.col("unique_id") == "s1")
    return hourly(waves(2, 300)).with_columns(price.cast(pl.Float64).alias("price"))


def test_variates_of_one_window_must_share_what_is_known(tmp_path: Path) -> None:
    """The second shop must not be forecast from the prices of the first."""
    with pytest.raises(ConfigError, match="'price' of s1 differs from that of s0"):
        grouped(tmp_path, priced(apart=0.5))


def test_shared_known_columns_make_one_row_for_all_variates(tmp_path: Path) -> None:
    material = grouped(tmp_path, priced(apart=0.0))
    assert material.shape.variates == 2
    assert material.grid.known is not None
    assert material.grid.known.shape == (300, 1)


def test_apart_from_each_other_series_keep_their_own_known_columns(tmp_path: Path) -> None:
    material = grouped(tmp_path, priced(apart=0.5), group="none")
    assert material.grid.known is not None
    first, second = material.grid.known[:300], material.grid.known[300:]
    assert not first.equal(second)


@pytest.mark.parametrize("rows", [1, 40])
def test_a_series_without_rows_in_the_training_part_is_taken_as_it_is(
    tmp_path: Path, rows: int
) -> None:
    """A shop that opened last week ended the training of all others by a defect."""
    table = hourly(waves(2, 300)).with_columns(pl.lit(0.0).alias("price"))
    late = pl.col("ds") >= START + timedelta(hours=300 - rows)
    days = [str((START + timedelta(days=day)).date()) for day in (10, 11, 13)]
    split = {"split_dates": days} if rows > 1 else {}
    material = grouped(
        tmp_path, table.filter((pl.col("unique_id") != "s1") | late), group="none", **split
    )
    assert material.borders.train.tolist()[1] == 0
    values = material.grid.values[300:, 0].numpy()
    np.testing.assert_allclose(material.scaled.values[300:, 0].numpy(), values, rtol=1e-6)


def numbered(folder: Path, table: pl.DataFrame, **data: object) -> pl.DataFrame:
    """The panel table of a source whose rows are counted."""
    table.write_csv(folder / "table.csv")
    named = {**COLUMNS, "targets": ("y",), **data}
    return read(Data(source=str(folder / "table.csv"), freq="1", **named))[0].table  # type: ignore[arg-type]


def irregular() -> pl.DataFrame:
    """Two series at irregular stamps; `y` counts each in time order."""
    minutes = np.cumsum([1, 5, 2, 9, 4, 30])
    frames = [
        {
            "unique_id": name,
            "ds": (START + timedelta(minutes=int(minute))).isoformat(),
            "y": 100.0 * series + place,
        }
        for series, name in enumerate(("b", "a"))
        for place, minute in enumerate(minutes)
    ]
    return pl.DataFrame(frames)


@pytest.mark.parametrize("seed", range(3))
def test_counted_rows_stand_in_the_order_of_their_stamps(tmp_path: Path, seed: int) -> None:
    """A file that was written out of order would be learnt, and scored, in a shuffled order."""
    shuffled = irregular().sample(fraction=1.0, shuffle=True, seed=seed)
    panel = numbered(tmp_path, shuffled)
    for first, part in zip(panel["y"].to_list()[::6], panel.iter_slices(6), strict=True):
        assert part["time"].to_list() == [*range(6)]
        assert part["y"].to_list() == [first + step for step in range(6)]
        assert first in (0.0, 100.0)


def test_series_keep_the_order_in_which_the_file_names_them(tmp_path: Path) -> None:
    """Ids come back in the order in which they were sent, however the clock of each stands."""
    table = irregular()
    later = pl.when(pl.col("unique_id") == "b").then(pl.lit("2030")).otherwise(pl.lit("2020"))
    table = table.with_columns((later + pl.col("ds").str.slice(4)).alias("ds"))
    assert numbered(tmp_path, table)["y"].to_list()[::6] == [0.0, 100.0]


@pytest.mark.parametrize("stamp", ["2024-01-01T00:00:00", "third quarter"])
def test_without_an_order_in_the_stamps_the_file_gives_it(tmp_path: Path, stamp: str) -> None:
    table = irregular().with_columns(pl.lit(stamp).alias("ds"))
    assert numbered(tmp_path, table)["y"].to_list() == irregular()["y"].to_list()


def test_rows_of_a_wide_table_are_counted_in_time_order(tmp_path: Path) -> None:
    table = irregular().filter(pl.col("unique_id") == "b").drop("unique_id").reverse()
    panel = numbered(tmp_path, table, id="")
    assert panel["y"].to_list() == [*range(6)]
