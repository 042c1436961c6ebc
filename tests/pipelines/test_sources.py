"""Finding, reading and fingerprinting tables."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from pipelines.catalogue import CATALOGUE
from pipelines.fingerprint import fingerprint
from pipelines.sources import SAMPLE_FILE, cache_folder, glance, load, locate
from tsformer.errors import DataError, NotFoundError

TABLE = pl.DataFrame(
    {
        "id": ["a", "b", None],
        "time": [datetime(2024, 1, d) for d in (1, 2, 3)],
        "y": [1.5, None, -2.0],
        "n": [1, 2, 3],
        "flag": [True, None, False],
    }
)


def exchange_shaped() -> pl.DataFrame:
    known = CATALOGUE["exchange"]
    dates = pl.datetime_range(datetime(1990, 1, 1), datetime(2010, 10, 10), "1d", eager=True)
    return pl.DataFrame({"date": dates}).with_columns(
        **{str(i): pl.lit(float(i)) for i in range(known.variates)}
    )


def write(table: pl.DataFrame, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (table.write_csv if path.suffix == ".csv" else table.write_parquet)(path)
    return path


def test_the_sample_is_always_there() -> None:
    assert locate("flights", environment={}) == SAMPLE_FILE
    assert locate("Flights", environment={}) == SAMPLE_FILE


def test_parquet_is_read_as_it_is(tmp_path: Path) -> None:
    table, _ = load(write(TABLE, tmp_path / "own.parquet"), environment={})
    assert table.equals(TABLE)


def test_csv_numbers_are_numbers_and_ids_stay_text(tmp_path: Path) -> None:
    """An id 007 that became 7 would not be found again in a request."""
    path = tmp_path / "own.csv"
    path.write_text("shop,ds,y,n\n007,01/02/2024,1.5,1\n8,02/02/2024,NA,2\n")
    table, _ = load(path, id="shop", environment={})
    assert table["shop"].to_list() == ["007", "8"]
    assert table["y"].to_list() == [1.5, None]
    assert table["n"].dtype == pl.Int64
    assert table["ds"].dtype == pl.String  # first of February or second of January? Not ours to say


def test_dates_of_the_benchmark_files_are_read(tmp_path: Path) -> None:
    """exchange_rate.csv writes 1990/1/1 0:00, which is no ISO date."""
    path = tmp_path / "exchange_rate.csv"
    path.write_text("date,a\n1990/1/1 0:00,0.5\n1990/1/2 0:00,1\n")
    table, _ = load(path, environment={})
    assert table["date"].to_list() == [datetime(1990, 1, 1), datetime(1990, 1, 2)]
    assert table["a"].to_list() == [0.5, 1.0]


def test_own_folder_comes_before_the_cache(tmp_path: Path) -> None:
    environment = {"TSFORMER_DATA": str(tmp_path / "own"), "TSFORMER_HOME": str(tmp_path / "home")}
    cached = write(exchange_shaped(), tmp_path / "home" / "data" / "exchange_rate.parquet")
    assert locate("exchange", environment=environment) == cached
    own = write(exchange_shaped(), tmp_path / "own" / "exchange_rate.csv")
    assert locate("exchange", environment=environment) == own


def test_the_folder_layout_of_the_benchmark_is_understood(tmp_path: Path) -> None:
    path = write(exchange_shaped(), tmp_path / "exchange_rate" / "exchange_rate.csv")
    assert locate("exchange", environment={"TSFORMER_DATA": str(tmp_path)}) == path


def test_the_cache_is_in_the_home_of_the_project_or_the_user(tmp_path: Path) -> None:
    assert cache_folder({"TSFORMER_HOME": str(tmp_path)}) == tmp_path / "data"
    assert cache_folder({}) == Path.home() / ".cache" / "tsformer"


def test_a_set_that_is_not_here_says_how_to_get_it(tmp_path: Path) -> None:
    environment = {"TSFORMER_HOME": str(tmp_path)}
    with pytest.raises(NotFoundError, match=r"tsformer data fetch traffic.*TSFORMER_DATA"):
        load("traffic", environment=environment)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("fligths", "Did you mean 'flights'"),
        ("nowhere.csv", "There is no file"),
        ("some/folder", "There is no file"),
        ("", "neither a data set nor a path"),
    ],
)
def test_unknown_sources(source: str, says: str) -> None:
    with pytest.raises(NotFoundError, match=says):
        load(source, environment={})


def test_a_file_of_another_shape_is_not_taken_for_the_set(tmp_path: Path) -> None:
    """A truncated copy would give scores that look like the paper's and are not."""
    write(exchange_shaped().head(7000), tmp_path / "exchange_rate.csv")
    with pytest.raises(DataError, match=r"7,000 rows and 9 columns, expected 7,588 and 9"):
        load("exchange", environment={"TSFORMER_DATA": str(tmp_path)})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.parquet", b"PAR1 but no more"),
        ("empty.csv", b""),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n"),
        ("binary.csv", b"a,b\n\xff\xfe,2\n"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / name, environment={})


# --- fingerprints ---------------------------------------------------------------------------


def test_the_fingerprint_does_not_depend_on_memory_or_file(tmp_path: Path) -> None:
    """Else a cache would miss, and two runs on the same data would look different in MLflow."""
    chunks = pl.concat([TABLE.head(1), TABLE.tail(2)], rechunk=False)
    again = pl.read_parquet(write(TABLE, tmp_path / "t.parquet"))
    assert fingerprint(chunks) == fingerprint(again) == fingerprint(TABLE)


def test_a_glance_finds_what_reading_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table larger than the memory that counts as changed whenever more is free is never skipped."""
    monkeypatch.setattr("pipelines.fingerprint.ROWS", 10)
    shop = pl.Series("shop", ["a", None, "b", "c"], dtype=pl.Categorical)
    for number, kind in enumerate((pl.Int32, pl.Int64, pl.Float64)):
        rows = 4 * (3, 5, 4)[number]
        part = pl.DataFrame({"id": [number] * rows, "y": pl.Series(range(rows), dtype=kind)})
        part = part.with_columns(pl.concat([shop] * (rows // 4)))
        part.select(reversed(part.columns) if number else part.columns).write_parquet(
            tmp_path / f"{number}.parquet", row_group_size=7
        )
    table, whole = load(tmp_path)
    assert glance(tmp_path) == (table.columns, whole)
    (tmp_path / "2.parquet").unlink()
    assert glance(tmp_path)[1] == load(tmp_path)[1] != whole
    TABLE.clear().write_parquet(empty := tmp_path / "empty.parquet")
    assert glance(empty)[1] == load(empty)[1]


def test_the_fingerprint_stays_the_same_over_versions() -> None:
    """Stored with every run: a new version of a library must not change it."""
    expected = "b425a43c895d60029ba04ba56f8a29f91a5fa6600fb607a4831aaa40f42a7649"
    assert fingerprint(TABLE) == expected


@pytest.mark.parametrize(
    "other",
    [
        TABLE.rename({"y": "z"}),
        TABLE.select("time", "id", "y", "n", "flag"),
        TABLE.reverse(),
        TABLE.head(2),
        TABLE.with_columns(pl.col("y").fill_null(0)),
        TABLE.with_columns(pl.col("id").fill_null("")),
        TABLE.with_columns(pl.col("n").cast(pl.Int32)),
        TABLE.with_columns(pl.col("time").dt.replace_time_zone("UTC")),
        TABLE.with_columns(pl.Series("id", ["ab", "", None])),
        TABLE.with_columns(pl.Series("flag", [True, None, True])),
    ],
    ids=["name", "order", "rows", "length", "null", "no text", "type", "zone", "text", "flag"],
)
def test_any_change_changes_the_fingerprint(other: pl.DataFrame) -> None:
    assert fingerprint(other) != fingerprint(TABLE)


def test_nested_columns_are_refused() -> None:
    with pytest.raises(DataError, match="Column 'l' holds List"):
        fingerprint(pl.DataFrame({"l": [[1, 2], [3]]}))


def test_a_plain_file_name_is_looked_for_in_the_data_folder(tmp_path: Path) -> None:
    """An experiment shared without its table names the file, and each user has it somewhere."""
    file = write(TABLE, tmp_path / "sales.parquet")
    environment = {"TSFORMER_DATA": str(tmp_path)}
    assert locate("sales.parquet", environment=environment) == file
    with pytest.raises(NotFoundError, match="none of that name in the folder"):
        locate("other.parquet", environment=environment)
    with pytest.raises(NotFoundError):
        locate("elsewhere/sales.parquet", environment=environment)
