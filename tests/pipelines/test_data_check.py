"""`tsformer data check`: what a newcomer learns about a file before training on it."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from pipelines import catalogue
from pipelines.catalogue import CATALOGUE
from pipelines.data_check import check
from pipelines.data_commands import app, describe
from pipelines.schema import Schema
from pipelines.sources import SAMPLE_FILE
from tsformer.errors import DataError, NotFoundError


def dates(rows: int) -> list[str]:
    return [str(date(2024, 1, 1) + timedelta(days=row)) for row in range(rows)]


def hourly(rows: int) -> pl.DataFrame:
    ds = pl.datetime_range(datetime(2024, 1, 1), datetime(2025, 1, 1), "1h", eager=True)[:rows]
    return pl.DataFrame({"ds": ds, "a": [float(i % 24) for i in range(rows)]})


def test_the_sample_is_recognised_and_clean() -> None:
    found = check("flights")
    assert found.dataset == "flights"
    assert (found.rows, found.series, found.frequency) == (201_480, 23, "h")
    assert found.problems == ()


def test_a_regular_file_of_ones_own(tmp_path: Path) -> None:
    hourly(200).write_csv(tmp_path / "own.csv")
    found = check(tmp_path / "own.csv")
    assert found.dataset is None
    assert found.schema is not None
    assert (found.schema.time, found.schema.targets) == ("ds", ("a",))
    assert (found.series, found.frequency) == (1, "h")
    assert found.problems == ()


def test_problems_name_the_place(tmp_path: Path) -> None:
    table = hourly(200)
    pl.concat([table, table[50:51]]).write_parquet(tmp_path / "twice.parquet")
    (problem,) = check(tmp_path / "twice.parquet").problems
    assert "row 200" in problem
    assert "row 50" in problem


def test_a_file_without_dates_says_what_is_needed(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}).write_csv(tmp_path / "bare.csv")
    (problem,) = check(tmp_path / "bare.csv").problems
    assert "expected a column of dates" in problem


FAULTY = """shop,day,sold
a,2024-01-01,1
a,2024-01-02,2
a,2024-01-02,2
a,2024-01-03,3
b,2024-01-01,1
b,yesterday,2
b,2024-01-03,3
b,2024-01-04,3
c,2024-01-01,
c,2024-01-02,
c,2024-01-03,
d,2024-01-01,1
d,2024-01-02,inf
d,2024-01-03,2
e,2024-01-01,many
e,2024-01-02,2
e,2024-01-03,4
"""


@pytest.mark.parametrize("shown", ["sales.csv", "sales.yaml"])
def test_everything_wrong_is_named_at_once(tmp_path: Path, shown: str) -> None:
    """The columns of the guide: what they are shows in the cells, a bad cell notwithstanding."""
    (tmp_path / "sales.csv").write_text(FAULTY)
    (tmp_path / "sales.yaml").write_text(
        "data: {source: sales.csv, id: shop, time: day, targets: [sold], freq: D}\nmodel: ridge\n"
    )
    found = check(tmp_path / shown)
    assert found.schema == Schema(id="shop", time="day", targets=("sold",))
    said = "\n".join(found.problems)
    for series, row in (("a", 2), ("b", 5), ("d", 12), ("e", 14)):
        assert f"series '{series}'" in said
        assert f"row {row}:" in said
    assert "series 'c'" in said
    assert "No row of this series has a value" in said


LENGTHS = {"a": 100, "b": 12, "c": 40}


@pytest.mark.parametrize(
    ("shown", "short", "least"), [("sales.csv", "'b'", "14"), ("sales.yaml", "'b', 'c'", "35")]
)
def test_series_that_are_too_short_are_named(
    tmp_path: Path, shown: str, short: str, least: str
) -> None:
    """They add nothing to a training, and nobody said so: 28 of the 40 rows of c are to learn from."""
    days = [f"{shop},{day}" for shop, rows in LENGTHS.items() for day in dates(rows)]
    lines = [f"{day},{row}" for row, day in enumerate(days)]
    (tmp_path / "sales.csv").write_text("\n".join(["shop,day,sold", *lines]))
    (tmp_path / "sales.yaml").write_text(
        "data: {source: sales.csv, id: shop, time: day, targets: [sold], freq: D}\nmodel: ridge\n"
        "window: {context: 28, horizon: 7}\n"
    )
    found = check(tmp_path / shown)
    (warning,) = found.warnings
    count = short.count(",") + 1
    assert warning.startswith(f"{count} of the 3 usable series ({short}) have fewer rows")
    assert f"({least})" in warning
    assert "give them more rows" in warning.lower()
    assert found.problems == ()


def test_many_short_series_are_counted_and_the_first_are_named(tmp_path: Path) -> None:
    lines = [f"s{shop},{day},{shop}" for shop in range(30) for day in dates(3)]
    (tmp_path / "many.csv").write_text("\n".join(["shop,day,sold", *lines]))
    (warning,) = (each for each in check(tmp_path / "many.csv").warnings if "fewer" in each)
    assert warning.startswith("30 of the 30 usable series ('s0', 's1', 's2', 's3', 's4', ...) have")


def test_a_wide_table_shows_wrong_stamps_and_wrong_values(tmp_path: Path) -> None:
    lines = [f"2024-01-{day:02},{day},{day}" for day in range(1, 20)]
    lines[3], lines[5], lines[7] = "sometime,4,4", "2024-01-06,x,6", "2024-01-08,8,inf"
    (tmp_path / "wide.csv").write_text("\n".join(["tag,north,south", *lines]))
    found = check(tmp_path / "wide.csv")
    assert found.schema == Schema(time="tag", targets=("north", "south"))
    said = "\n".join(found.problems)
    for place in ("row 3:", "column 'north', row 5:", "column 'south', row 7:"):
        assert place in said


@pytest.mark.parametrize(
    ("table", "schema"),
    [
        ("day,shop,sold\n2024-01-01,1,5\n2024-01-02,1,6\n2024-01-01,2,5\n2024-01-02,2,6\n",
         Schema(id="shop", time="day", targets=("sold",))),
        ("city,shop,day,sold\nx,a,2024-01-01,5\nx,a,2024-01-02,6\nx,b,2024-01-01,5\n"
         "x,b,2024-01-02,6\n", Schema(id="shop", time="day", targets=("sold",))),
        ("when,left,right\n2024-01-01T00:00,1,\n2024-01-01T01:00,2,\n",
         Schema(time="when", targets=("left", "right"))),
        ("t,y\n1,4\n2,5\n3,4\n", Schema(time="t", targets=("y",))),
        ("Date,price,y\n2024-01-01,1,2\n2024-01-02,2,4\n",
         Schema(time="Date", targets=("price", "y"))),
    ],
)  # fmt: skip
def test_columns_are_known_by_what_is_in_them(tmp_path: Path, table: str, schema: Schema) -> None:
    (tmp_path / "own.csv").write_text(table)
    assert check(tmp_path / "own.csv").schema == schema


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("shop,day,sold\na,31.01.2024,3\na,01.02.2024,4\n", "column 'day', row 0: Not a stamp"),
        ("shop;day;sold\na;2024-01-01;3\na;2024-01-02;4\n", "semicolons"),
        ("shop\tday\tsold\na\t2024-01-01\t3\n", "tabs"),
    ],
)
def test_what_spreadsheets_write_is_told_with_the_remedy(
    tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "sheet.csv").write_text(text)
    assert said in check(tmp_path / "sheet.csv").problems[0]


def test_a_ragged_file_is_told_without_words_of_its_reader(tmp_path: Path) -> None:
    (tmp_path / "ragged.csv").write_text("a,b\n1,2,3\n")
    with pytest.raises(DataError, match="more fields") as raised:
        check(tmp_path / "ragged.csv")
    assert "truncate" not in str(raised.value)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_an_original_is_recognised_under_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line_end: str
) -> None:
    path = tmp_path / "mine.csv"
    text = hourly(100).write_csv()
    path.write_bytes(text.encode())
    entry = CATALOGUE["etth1"]
    monkeypatch.setattr(
        catalogue,
        "_ALL",
        (
            catalogue.Dataset(
                **{name: getattr(entry, name) for name in entry.__slots__}
                | {"sha256": catalogue.text_sha256(path), "size_bytes": len(text)}
            ),
        ),
    )
    path.write_bytes(text.replace("\n", line_end).encode())
    found = check(path)
    assert found.dataset == "etth1"
    assert found.origin.startswith("the original")
    assert ("CRLF" in found.origin) == (line_end == "\r\n")


def test_an_altered_copy_is_not_taken_for_the_original(tmp_path: Path) -> None:
    """Scores on it would be compared with papers."""
    hourly(100).write_csv(tmp_path / "ETTh1.csv")
    found = check(tmp_path / "ETTh1.csv")
    assert (found.dataset, found.origin) == ("etth1", "altered")
    assert "100 rows and 2 columns, expected 17,420 and 8" in found.problems[0]


def test_an_absent_file() -> None:
    with pytest.raises(NotFoundError, match="There is no file"):
        check("nowhere.csv")


def test_series_with_problems_are_counted_too(tmp_path: Path) -> None:
    """A person who has six shops and reads of five looks for the wrong mistake."""
    table = hourly(200).rename({"a": "y"})
    shops = [table.with_columns(unique_id=pl.lit(i)) for i in range(6)]
    pl.concat([*shops, shops[0]]).write_parquet(tmp_path / "shops.parquet")
    assert "6 series, 1 of them with problems, step h" in describe(
        check(tmp_path / "shops.parquet")
    )


def test_many_problems_are_counted_not_poured_out(tmp_path: Path) -> None:
    table = hourly(200).rename({"a": "y"})
    series = [table.with_columns(unique_id=pl.lit(i)) for i in range(40)]
    pl.concat([*series, *series]).write_parquet(tmp_path / "all_twice.parquet")
    lines = describe(check(tmp_path / "all_twice.parquet"))
    assert len(lines) < 60
    assert any("more of the kind 'problem'" in line for line in lines)


# --- the commands ---------------------------------------------------------------------------


def test_list_shows_every_set_and_where_it_is(tmp_path: Path) -> None:
    environment = {"TSFORMER_HOME": str(tmp_path), "TSFORMER_DATA": "", "COLUMNS": "200"}
    result = CliRunner(env=environment).invoke(app, ["list"])
    assert result.exit_code == 0
    for name in ("flights", *CATALOGUE):
        assert name in result.output
    assert "95.6 MB" in result.output


def test_check_tells_a_script_by_its_exit_code(tmp_path: Path) -> None:
    runner = CliRunner(env={"COLUMNS": "200"})
    clean = runner.invoke(app, ["check", "flights"])
    assert clean.exit_code == 0
    assert "no problems" in clean.output
    pl.DataFrame({"a": [1.0]}).write_csv(tmp_path / "bare.csv")
    assert runner.invoke(app, ["check", str(tmp_path / "bare.csv")]).exit_code == 1


def test_nothing_is_fetched_that_is_here(tmp_path: Path) -> None:
    runner = CliRunner(env={"TSFORMER_HOME": str(tmp_path), "TSFORMER_DATA": "", "COLUMNS": "200"})
    assert SAMPLE_FILE.name in runner.invoke(app, ["fetch", "flights"]).output
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "national_illness.csv").write_text("date,OT\n")
    result = runner.invoke(app, ["fetch", "ili"])
    assert isinstance(result.exception, DataError)
    assert "not the original" in str(result.exception)
