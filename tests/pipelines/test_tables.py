"""Every kind of table reads as the same panel, and no file can run code or end in a traceback."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.panel import read_panel
from pipelines.schema import Schema
from tsformer.errors import ConfigError, DataError

SCHEMA = Schema(id="id", time="t", targets=("y",), known=("x",), static=("kind",))
FRAME = pl.DataFrame(
    {
        "id": ["007"] * 3 + ["NA"] * 3,
        "unused": ["?"] * 6,
        "t": [datetime(2026, 1, 1) + timedelta(days=i) for i in range(3)] * 2,
        "y": [1.5, None, 3.0, 4.0, 5.0, 6.25],
        "x": [1, 2, 3, 4, 5, 6],
        "kind": ["a"] * 3 + ["b"] * 3,
    }
)


def as_csv(folder: Path) -> Path:
    FRAME.write_csv(folder / "table.csv")
    return folder / "table.csv"


def as_parquet(folder: Path) -> Path:
    FRAME.write_parquet(folder / "table.parquet")
    return folder / "table.parquet"


def as_arrow_parquet(folder: Path) -> Path:
    table = FRAME.to_arrow(compat_level=pl.CompatLevel.oldest())
    kind = table["kind"].combine_chunks().dictionary_encode()
    pq.write_table(table.set_column(5, "kind", kind), folder / "table.pq")
    return folder / "table.pq"


def indexed_pandas(_: Path) -> pd.DataFrame:
    return FRAME.to_pandas().set_index("t")


KINDS: dict[str, Callable[[Path], object]] = {
    "polars": lambda _: FRAME,
    "polars categories": lambda _: FRAME.with_columns(pl.col("id", "kind").cast(pl.Categorical)),
    "pandas": lambda _: FRAME.to_pandas(),
    "pandas with a time index": indexed_pandas,
    "arrow": lambda _: FRAME.to_arrow(),
    "csv": as_csv,
    "csv path as text": lambda folder: str(as_csv(folder)),
    "parquet": as_parquet,
    "parquet of pyarrow": as_arrow_parquet,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table_is_the_same_panel(kind: str, tmp_path: Path) -> None:
    panel, report = read_panel(KINDS[kind](tmp_path), schema=SCHEMA)  # type: ignore[arg-type]
    expected, _ = read_panel(FRAME, schema=SCHEMA)
    assert panel.ids == ("007", "NA")
    assert panel.table.equals(expected.table)
    assert panel.static is not None
    assert panel.static["kind"].to_list() == ["a", "b"]
    assert "unsorted" not in {warning.code for warning in report.all_warnings}


def test_unsorted_files_are_sorted_with_a_warning(tmp_path: Path) -> None:
    FRAME[::-1].write_csv(tmp_path / "table.csv")
    panel, report = read_panel(tmp_path / "table.csv", schema=SCHEMA)
    assert panel.ids == ("NA", "007")
    assert "unsorted" in {warning.code for warning in report.all_warnings}
    _, report = read_panel(FRAME[::-1], schema=SCHEMA)
    assert "unsorted" not in {warning.code for warning in report.all_warnings}


def csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


LONE = Schema(time="t", targets=("y",))


def test_a_csv_of_step_numbers(tmp_path: Path) -> None:
    panel, _ = read_panel(csv(tmp_path, "t,y\n3,1\n4,NA\n5,3\n"), schema=LONE)
    assert panel.ends == [5]
    assert panel.table["y"].to_list() == [1, None, 3]


def test_a_csv_names_dates_and_numbers_that_cannot_be_read(tmp_path: Path) -> None:
    path = csv(tmp_path, "t,y\n2026-01-01,1\n2026-13-01,2\n2026-01-03,many\n2026-01-04,inf\n")
    with pytest.raises(DataError) as caught:
        read_panel(path, schema=LONE, freq="D", fill="mask")
    found = {fault.code: fault.row for fault in caught.value.faults}
    assert found == {"timestamp_invalid": 1, "non_numeric": 2, "non_finite": 3}


def test_a_byte_order_mark_and_odd_names_do_no_harm(tmp_path: Path) -> None:
    path = csv(tmp_path, b"\xef\xbb\xbft,rain (mm)/\xc2\xb5\n2026-01-01,1\n2026-01-02,2\n")
    schema = Schema(time="t", targets=("rain (mm)/µ",))
    assert read_panel(path, schema=schema)[0].target.tolist() == [1, 2]


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "t,y\n1,2,3\n", b"t,y\n\xff\xfe,1\n", b"PK\x03\x04", b"\x00" * 100, "t,y\n"],
)
def test_a_csv_that_cannot_be_read_is_a_data_error(text: str | bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_panel(csv(tmp_path, text), schema=LONE)


def test_a_parquet_that_cannot_be_read_is_a_data_error(tmp_path: Path) -> None:
    whole = as_parquet(tmp_path).read_bytes()
    for cut in (0, 4, 100, len(whole) // 2, len(whole) - 3):
        path = tmp_path / "cut.parquet"
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="Expected Parquet"):
            read_panel(path, schema=SCHEMA)


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        read_panel(tmp_path / "none.csv", schema=LONE)
    with pytest.raises(DataError, match="There is no file"):
        read_panel(tmp_path, schema=LONE)
    (tmp_path / "table.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"ending in \.csv"):
        read_panel(tmp_path / "table.xlsx", schema=LONE)


@pytest.mark.parametrize("hours", [1, 5.5, -3.5])
def test_a_fixed_offset_of_arrow_or_pandas_is_kept(hours: float) -> None:
    zone = timezone(timedelta(hours=hours))
    days = [datetime(2026, month, 1, tzinfo=zone) for month in (1, 2, 3)]
    frame = pd.DataFrame({"t": pd.Series(days), "y": [1.0, 2.0, 3.0]})
    for table in (frame, pa.Table.from_pandas(frame)):
        panel, _ = read_panel(table, schema=LONE)
        assert str(panel.frequency) == "MS"
        assert panel.tz == days[0].isoformat()[-6:]
        assert panel.ends == [datetime(2026, 3, 1)]


def test_pandas_categories_periods_and_decimals() -> None:
    frame = pd.DataFrame({"t": [1, 2], "y": pd.Categorical([3, 4])})
    assert read_panel(frame, schema=LONE)[0].target.tolist() == [3, 4]
    frame = pd.DataFrame({"t": pd.period_range("2026-01", periods=2, freq="M"), "y": [1, 2]})
    with pytest.raises(DataError, match="type"):
        read_panel(frame, schema=LONE)
    money = pl.DataFrame({"t": [1, 2], "y": [Decimal("1.5"), Decimal("2.25")]})
    assert read_panel(money, schema=LONE)[0].target.tolist() == [1.5, 2.25]


def test_what_is_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match="got dict"):
        read_panel({"t": [1], "y": [1]}, schema=LONE)  # type: ignore[arg-type]


def test_a_pandas_column_of_mixed_types_is_a_data_error() -> None:
    frame = pd.DataFrame({"t": [1, 2], "y": pd.Series([1, {"a": 2}], dtype=object)})
    with pytest.raises(DataError):
        read_panel(frame, schema=LONE)
    twice = pd.DataFrame([[1, 2, 3]], columns=["t", "y", "y"])
    with pytest.raises(DataError):
        read_panel(twice, schema=LONE)


# --- types that are never decoded --------------------------------------------------------------

TYPES = [
    pa.list_(pa.float64()), pa.struct([("a", pa.float64())]), pa.binary(), pa.duration("us"),
    pa.decimal128(5, 2), pa.map_(pa.string(), pa.string()), pa.dictionary(pa.int32(), pa.binary()),
    pa.time64("us"), pa.float16(), pa.binary_view(), pa.date64(),
]  # fmt: skip


@pytest.mark.parametrize("kind", TYPES, ids=str)
@pytest.mark.parametrize("column", ["id", "t", "y"])
def test_arrow_types_off_the_list_are_refused_by_the_schema(kind: pa.DataType, column: str) -> None:
    columns = {"id": pa.array(["a"]), "t": pa.array([1]), "y": pa.array([1.0])}
    columns[column] = pa.nulls(1, kind)
    with pytest.raises(DataError) as caught:
        read_panel(pa.table(columns), schema=Schema(id="id", time="t", targets=("y",)))
    codes = {"id": "id_invalid", "t": "timestamp_invalid", "y": "non_numeric"}
    assert [(f.code, f.column) for f in caught.value.faults] == [(codes[column], column)]


class Hostile(pa.ExtensionType):  # type: ignore[misc]
    """Stands for `ray.data.arrow_pickled_object`: decoding it would run the sender's code."""

    decoded = 0

    def __init__(self, storage: pa.DataType | None = None) -> None:
        super().__init__(storage or pa.binary(), "ray.data.arrow_pickled_object")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, _: bytes) -> Hostile:
        cls.decoded += 1
        return cls(storage)


def hostile_columns() -> dict[str, pa.Array]:
    plain = pa.ExtensionArray.from_storage(Hostile(), pa.array([b"cos\nsystem\n"]))
    text = pa.ExtensionArray.from_storage(Hostile(pa.string()), pa.array(["code"]))
    return {
        "plain": plain,
        "text": text,
        "list": pa.ListArray.from_arrays([0, 1], plain),
        "struct": pa.StructArray.from_arrays([plain], ["inner"]),
    }


@pytest.fixture
def _registered() -> object:
    with suppress(pa.ArrowKeyError):  # Ray registers its own where it was imported before
        pa.unregister_extension_type("ray.data.arrow_pickled_object")
    pa.register_extension_type(Hostile())
    yield
    pa.unregister_extension_type("ray.data.arrow_pickled_object")


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("form", ["plain", "text", "list", "struct"])
@pytest.mark.parametrize("column", ["y", "unused"])
def test_parquet_with_an_extension_type_is_refused_undecoded(
    form: str, column: str, tmp_path: Path
) -> None:
    """Importing ray.tune registers such a type; pandas and pyarrow would then unpickle the file."""
    columns = {"t": pa.array([1]), "y": pa.array([1.0]), column: hostile_columns()[form]}
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(columns), path)
    Hostile.decoded = 0
    with pytest.raises(DataError):
        read_panel(path, schema=LONE)
    assert Hostile.decoded == 0


@pytest.mark.parametrize("form", ["plain", "text", "list", "struct"])
def test_arrow_with_an_extension_type_is_refused(form: str) -> None:
    table = pa.table({"t": pa.array([1]), "y": hostile_columns()[form]})
    with pytest.raises(DataError):
        read_panel(table, schema=LONE)


def test_an_extension_type_that_is_not_registered_is_known_by_its_mark() -> None:
    mark = {"ARROW:extension:name": "ray.data.arrow_pickled_object"}
    schema = pa.schema([pa.field("t", pa.int64()), pa.field("y", pa.float64(), metadata=mark)])
    with pytest.raises(DataError):
        read_panel(pa.table({"t": [1], "y": [1.0]}, schema=schema), schema=LONE)
