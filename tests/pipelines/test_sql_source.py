"""A table of a database is read as a file would be, and a password stays out of the records."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from pipelines.sources import load, locate
from tests.pipelines.postgres import new_database
from tsformer.errors import ConfigError, DataError, NotFoundError, UnavailableError

ROWS = [("a", "2024-01-02", 2.5), ("a", "2024-01-01", None), ("b", "2024-01-01", 4.0)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE sales (shop TEXT, day TEXT, y REAL)")
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?)", ROWS)
        connection.execute("CREATE VIEW b_only AS SELECT day, y FROM sales WHERE shop = 'b'")
    connection.close()
    return path


def test_a_table_of_sqlite(file: Path) -> None:
    """Sales stand in a database; exporting them every night is work and goes wrong."""
    table, _ = load(f"sql:sqlite:///{file}#sales")
    assert table.columns == ["shop", "day", "y"]
    assert table["y"].dtype == pl.Float64
    assert sorted(table.rows(), key=str) == sorted(ROWS, key=str)


def test_a_view_says_what_is_read(file: Path) -> None:
    """A selection needs no language of its own."""
    assert load(f"sql:sqlite:///{file}#b_only")[0].rows() == [("2024-01-01", 4.0)]


def test_the_order_of_rows_is_no_change(file: Path) -> None:
    """A database gives rows in any order; a schedule must not retrain because of it."""
    before = load(f"sql:sqlite:///{file}#sales")[1]
    with sqlite3.connect(file) as connection:
        connection.execute("DELETE FROM sales")
        connection.executemany("INSERT INTO sales VALUES (?, ?, ?)", ROWS[::-1])
    connection.close()
    assert load(f"sql:sqlite:///{file}#sales")[1] == before


def test_a_table_of_postgresql_with_a_password() -> None:
    """Decimals are numbers and stamps are stamps; the password comes from the environment."""
    url = new_database()
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA shop"))
        connection.execute(sa.text("CREATE TABLE shop.sales (ds timestamp, y numeric(8, 2))"))
        connection.execute(sa.text("INSERT INTO shop.sales VALUES ('2024-01-01T10:00', 1.25)"))
    engine.dispose()
    plain = url.replace("postgres:@", "postgres@")
    table, _ = load(f"sql:{plain}#shop.sales", environment={"TSFORMER_SQL_PASSWORD": "any"})
    assert table.schema == {"ds": pl.Datetime("us"), "y": pl.Float64}
    assert table["y"].to_list() == [1.25]


@pytest.mark.parametrize(
    "source", ["sql:sales", "sql:sqlite:///shop.db", "sql:sqlite:///shop.db#", "sql:#sales"]
)
def test_a_source_without_a_table_or_an_address(source: str) -> None:
    """A typing error gets the form that is expected."""
    with pytest.raises(ConfigError, match="Expected sql:ADDRESS#TABLE"):
        load(source)


def test_a_password_in_the_source_is_refused_and_not_repeated() -> None:
    """MLflow keeps every experiment: the password would be there for all to read."""
    with pytest.raises(ConfigError, match="TSFORMER_SQL_PASSWORD") as caught:
        load("sql:postgresql://ann:secret@db/shop#sales")
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load("sql:ann:secret@db#sales")
    assert "secret" not in str(caught.value)


def test_what_is_not_there_is_named(file: Path, tmp_path: Path) -> None:
    """SQLite would make an empty database of a wrong path."""
    with pytest.raises(NotFoundError, match="no table or view 'orders'"):
        load(f"sql:sqlite:///{file}#orders")
    with pytest.raises(NotFoundError, match="There is no file"):
        load(f"sql:sqlite:///{tmp_path / 'other.db'}#sales")
    assert not (tmp_path / "other.db").exists()
    with pytest.raises(UnavailableError, match="does not answer"):
        load("sql:postgresql://ann@127.0.0.1:1/shop#sales")
    with pytest.raises(ConfigError, match="install a driver"):
        load("sql:nosuch://db/shop#sales")
    with pytest.raises(ConfigError, match="a file is expected"):
        locate("sql:sqlite:///shop.db#sales")


def test_a_folder_of_parquet_is_one_table(tmp_path: Path) -> None:
    """Every night adds a file; an integer column of one is a float column of the next."""
    folder = tmp_path / "sales"
    folder.mkdir()
    pl.DataFrame({"ds": ["2024-01-01"], "y": [1]}).write_parquet(folder / "1.parquet")
    pl.DataFrame({"y": [2.5], "ds": ["2024-01-02"]}).write_parquet(folder / "2.parquet")
    pl.DataFrame({"ds": ["?"], "y": [0]}).write_parquet(folder / ".unfinished.parquet")
    table, before = load(folder)
    assert table.rows() == [("2024-01-01", 1.0), ("2024-01-02", 2.5)]
    pl.DataFrame({"ds": ["2024-01-03"], "y": [3]}).write_parquet(folder / "3.parquet")
    assert load(folder)[1] != before


def test_a_folder_whose_files_differ_is_refused(tmp_path: Path) -> None:
    """Half a column would be missing values that nobody notices."""
    pl.DataFrame({"ds": ["2024-01-01"], "y": [1]}).write_parquet(tmp_path / "1.parquet")
    pl.DataFrame({"ds": ["2024-01-02"], "z": [1]}).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match=r"2\.parquet has other columns .*: y, z"):
        load(tmp_path)
    pl.DataFrame({"ds": ["2024-01-02"], "y": ["x"]}).write_parquet(tmp_path / "2.parquet")
    with pytest.raises(DataError, match="the column 'y' is String"):
        load(tmp_path)
