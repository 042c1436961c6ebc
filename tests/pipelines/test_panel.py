"""A panel is what the table says, or an error that names every place and the remedy."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from pipelines.findings import Report
from pipelines.panel import read_panel
from pipelines.schema import Schema
from tsformer.errors import ConfigError, DataError

START = datetime(2026, 1, 1)
LONG = Schema(id="shop", time="when", targets=("sold",))
LONE = Schema(time="when", targets=("sold",))
WIDE = Schema(time="when", targets=("a", "b"))


def stamps(rows: int, step: timedelta = timedelta(hours=1)) -> list[datetime]:
    return [START + step * i for i in range(rows)]


def table(rows: int = 6, *ids: str | int) -> pl.DataFrame:
    ids = ids or ("a", "b")
    return pl.DataFrame(
        {
            "shop": [name for name in ids for _ in range(rows)],
            "when": stamps(rows) * len(ids),
            "sold": [float(i) for i in range(rows * len(ids))],
        }
    )


def lone(when: list[object], sold: list[object] | None = None) -> pl.DataFrame:
    sold = [float(i) for i in range(len(when))] if sold is None else sold
    return pl.DataFrame({"when": when, "sold": sold}, strict=False)


def faults(
    frame: object, schema: Schema = LONE, **options: object
) -> dict[str, tuple[object, int | None]]:
    """Each code with the series and row it names."""
    with pytest.raises(DataError) as caught:
        read_panel(frame, schema=schema, **options)  # type: ignore[arg-type]
    return {fault.code: (fault.series, fault.row) for fault in caught.value.faults}


def codes(report: Report) -> list[str]:
    return [warning.code for warning in report.all_warnings]


# --- what a panel holds ------------------------------------------------------------------------


def test_a_long_table_is_series_in_order_of_first_appearance() -> None:
    panel, report = read_panel(table(3, "z", "a", "m"), schema=LONG)
    assert panel.ids == ("z", "a", "m")
    assert panel.table.columns == ["series", "time", "y"]
    assert panel.table["series"].to_list() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert panel.table["series"].dtype == pl.Int32
    assert panel.target.tolist() == [*range(9)]
    assert panel.offsets.tolist() == [0, 3, 6, 9]
    assert panel.ends == [START + timedelta(hours=2)] * 3
    assert panel.aligned
    assert str(panel.frequency) == "h"
    assert codes(report) == ["frequency_inferred"]
    assert [(entry.id, entry.rows, entry.status) for entry in report.series] == [
        ("z", 3, "ok"), ("a", 3, "ok"), ("m", 3, "ok"),
    ]  # fmt: skip


def test_without_ids_a_table_is_one_series() -> None:
    panel, _ = read_panel(lone(stamps(4)), schema=LONE)
    assert panel.ids == ("0",)


def test_a_wide_table_is_a_series_a_column() -> None:
    frame = pl.DataFrame({"when": stamps(3), "a": [1, 2, 3], "b": [4.0, None, 6.0], "x": [7, 8, 9]})
    schema = Schema(time="when", targets=("b", "a"), known=("x",))
    panel, report = read_panel(frame[::-1], schema=schema)
    assert panel.ids == ("b", "a")
    np.testing.assert_array_equal(panel.target, [4, np.nan, 6, 1, 2, 3])
    assert panel.column("x").tolist() == [7, 8, 9, 7, 8, 9]
    assert report.series[0].rows == 3
    assert codes(report) == ["frequency_inferred", "values_missing"]


def test_covariates_and_attributes_ride_along() -> None:
    frame = table(3).with_columns(
        price=pl.Series([1, 2, 3, 4, 5, 6]),
        open=pl.Series([True, False, None] * 2),
        weather=pl.Series(["sun", "rain", None] * 2),
        city=pl.Series(["Kiel", None, "Kiel", "Ulm", "Ulm", "Ulm"]),
        size=pl.Series([1.5] * 3 + [2.5] * 3),
    )
    schema = Schema(
        id="shop", time="when", targets=("sold",), known=("price", "open"), past=("weather",),
        static=("city", "size"),
    )  # fmt: skip
    panel, _ = read_panel(frame, schema=schema)
    assert panel.column("price").tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(panel.column("open"), [1, 0, np.nan] * 2)
    assert panel.table["weather"].to_list() == ["sun", "rain", None] * 2
    assert panel.static is not None
    assert panel.static.to_dict(as_series=False) == {"city": ["Kiel", "Ulm"], "size": [1.5, 2.5]}
    with pytest.raises(ConfigError, match="categories"):
        panel.column("weather")


def test_trailing_missing_values_stay_as_context() -> None:
    """They are missing history, never the horizon."""
    panel, _ = read_panel(lone(stamps(4), [1.0, 2.0, None, float("nan")]), schema=LONE)
    np.testing.assert_array_equal(panel.target, [1, 2, np.nan, np.nan])
    assert panel.ends == [START + timedelta(hours=3)]


def test_parts_of_a_panel() -> None:
    panel, _ = read_panel(table(4, "a", "b", "c"), schema=LONG)
    assert panel.head(2).target.tolist() == [0, 1, 4, 5, 8, 9]
    assert panel.until(START).target.tolist() == [0, 4, 8]
    assert panel.until(START - timedelta(hours=1)).ids == ()
    taken = panel.take([2, 0])
    assert taken.ids == ("c", "a")
    assert taken.target.tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    assert taken.offsets.tolist() == [0, 4, 8]
    assert panel.following(2).to_list() == [START + timedelta(hours=h) for h in (4, 5)] * 3


def test_a_panel_knows_series_that_start_apart() -> None:
    assert not read_panel(table(4)[1:], schema=LONG)[0].aligned
    assert not read_panel(table(4).filter(~pl.int_range(pl.len()).is_in([0, 7])), schema=LONG)[
        0
    ].aligned


@pytest.mark.parametrize(
    "ids",
    [["\u00e9", "e\u0301"], ["\u202eabc", "abc"], ["../x", "a b", " a", "a "], ["1", "01", "１"],
     ["x" * 128, "🙂"], [3, 1, 2], [-(2**63), 2**63 - 1]],
)  # fmt: skip
def test_ids_come_back_byte_for_byte(ids: list[str] | list[int]) -> None:
    panel, _ = read_panel(table(2, *ids), schema=LONG)
    assert panel.ids == tuple(ids)


# --- stamps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "when",
    [["2026-01-01", "2026-01-02"], ["2026-01-01T00:00", "2026-01-02T00:00"],
     ["2026-01-01 00:00:00", "2026-01-02 00:00:00.000"], [date(2026, 1, 1), date(2026, 1, 2)]],
)  # fmt: skip
def test_stamps_may_be_text_or_dates(when: list[object]) -> None:
    panel, _ = read_panel(lone(when), schema=LONE)
    assert panel.table["time"].to_list() == [START, START + timedelta(days=1)]
    assert panel.tz is None


def test_one_offset_is_kept_and_utc_is_a_zone() -> None:
    panel, _ = read_panel(lone(["2026-01-01T00:00+05:30", "2026-01-01T01:00+0530"]), schema=LONE)
    assert (panel.tz, panel.table["time"][0]) == ("+05:30", START)
    panel, _ = read_panel(lone(["2026-01-01T00:00Z", "2026-01-01T01:00+00:00"]), schema=LONE)
    assert (panel.tz, panel.table["time"].dtype) == ("UTC", pl.Datetime("us", "UTC"))


def test_offsets_and_zones_are_converted_to_the_zone_asked_for() -> None:
    text = ["2026-01-01T00:00Z", "2026-01-01T03:00+02:00", "2026-01-01T03:00"]
    panel, _ = read_panel(lone(text), schema=LONE, tz="Europe/Berlin")
    assert [stamp.hour for stamp in panel.table["time"]] == [1, 2, 3]
    zoned = pl.Series("when", stamps(3)).dt.replace_time_zone("UTC")
    frame = pl.DataFrame({"when": zoned, "sold": [1.0, 2.0, 3.0]})
    assert read_panel(frame, schema=LONE)[0].tz == "UTC"
    moved = read_panel(frame, schema=LONE, tz="Asia/Kolkata")[0].table["time"]
    assert moved.to_list() == zoned.to_list()
    assert moved.dtype == pl.Datetime("us", "Asia/Kolkata")


@pytest.mark.parametrize("text", [["2026-01-01T00:00Z", "2026-01-01T01:00+01:00"],
                                  ["2026-01-01T00:00Z", "2026-01-01T01:00"]])  # fmt: skip
def test_several_offsets_need_a_zone(text: list[object]) -> None:
    assert "mixed_offsets" in faults(lone(text))


@pytest.mark.parametrize(
    ("bad", "code"),
    [("yesterday", "timestamp_invalid"), ("01/02/2026", "timestamp_invalid"),
     ("2026-02-30", "timestamp_invalid"), ("2026-01-01T00:00:60", "timestamp_invalid"),
     ("2026-01-01T24:00", "timestamp_invalid"), ("99999-01-01", "timestamp_invalid"),
     ("", "timestamp_invalid"), (None, "timestamp_invalid"),
     ("0001-01-01", "timestamp_out_of_range"), ("1699-12-31T23:59:59", "timestamp_out_of_range"),
     ("2201-01-01", "timestamp_out_of_range"), ("9999-12-31", "timestamp_out_of_range")],
)  # fmt: skip
def test_a_bad_stamp_is_named_with_its_row(bad: object, code: str) -> None:
    when = ["2026-01-01", "2026-01-02", bad, "2026-01-03"]
    assert faults(lone(when))[code] == ("0", 2)


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_a_stamp_far_out_is_named_not_wrapped(unit: str) -> None:
    physical = pl.Series("when", [0, 10**18 * (9 if unit == "ns" else 1)])
    frame = pl.DataFrame({"when": physical.cast(pl.Datetime(unit)), "sold": [1.0, 2.0]})  # type: ignore[arg-type]
    assert faults(frame)["timestamp_out_of_range"] == ("0", 1)


def test_integer_steps() -> None:
    panel, _ = read_panel(lone([5, 6, 7]), schema=LONE)
    assert (panel.ends, str(panel.frequency)) == ([7], "1")
    assert read_panel(lone([0, 10, 20]), schema=LONE, freq=10)[0].following(2).to_list() == [30, 40]
    assert faults(lone([0, 10, 25]), freq=10) == {"off_grid": ("0", 2)}
    assert faults(lone([0, 2**60]))["timestamp_out_of_range"] == ("0", 1)
    assert "timestamp_invalid" in faults(lone([0, 1]), freq="h")
    assert "timestamp_invalid" in faults(lone(stamps(2)), freq=1)


@pytest.mark.parametrize("when", [[1.5, 2.5], [True, False]])
def test_other_types_are_no_stamps(when: list[object]) -> None:
    assert "timestamp_invalid" in faults(lone(when))


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(ConfigError, match="IANA"):
        read_panel(lone(stamps(2)), schema=LONE, tz="Mars/Olympus")


# --- faults and warnings -----------------------------------------------------------------------


def test_every_fault_is_named_at_once() -> None:
    frame = pl.concat([table(6, *"abcdef"), table(1, "short")])
    rows = pl.int_range(pl.len())
    value = pl.when(rows == 13).then(float("inf")).when(rows.is_between(18, 23)).then(None)
    frame = frame.with_columns(value.otherwise("sold").alias("sold"))
    keep = [*range(3), 4, 5, *range(6, 12), 7, *range(12, 37)]
    found = faults(frame[keep], LONG, min_rows=2)
    assert found == {
        "gap": ("a", 3),
        "duplicate_timestamp": ("b", 11),
        "non_finite": ("c", 13),
        "all_missing": ("d", None),
        "insufficient_history": ("short", None),
    }


def test_a_gap_says_how_many_rows_and_where() -> None:
    with pytest.raises(
        DataError, match="2 rows are missing before this one; 3 in the series, in 2 places"
    ):
        read_panel(lone([stamps(9)[i] for i in (0, 1, 4, 5, 7, 8)]), schema=LONE)


def test_both_rows_of_a_duplicate_are_named() -> None:
    with pytest.raises(DataError, match=r"row 4: Same time stamp as row 1\.") as caught:
        read_panel(lone([stamps(4)[i] for i in (3, 1, 2, 0, 1)]), schema=LONE)
    assert [fault.row for fault in caught.value.faults] == [4]


def test_stamps_off_the_grid_are_never_repaired() -> None:
    when = stamps(6)
    when[3] += timedelta(minutes=7)
    for fill in ("none", "mask"):
        assert faults(lone(when), fill=fill)["off_grid"] == ("0", 3)


def test_an_explicit_frequency_is_checked() -> None:
    assert faults(lone(stamps(3)), freq="2h") == {"off_grid": ("0", 1)}
    assert faults(lone(stamps(3)), freq="30min") == {"gap": ("0", 1)}
    weekly = lone(stamps(3, timedelta(days=7)))  # Thursdays
    assert faults(weekly, freq="W-SUN") == {"off_grid": ("0", 0)}
    assert str(read_panel(weekly, schema=LONE, freq="1w")[0].frequency) == "W-THU"


@pytest.mark.parametrize("rows", [1, 0])
def test_a_step_needs_two_rows(rows: int) -> None:
    code = "frequency_unknown" if rows else "insufficient_history"
    assert code in faults(lone(stamps(2))[:rows])
    assert read_panel(lone(stamps(1)), schema=LONE, freq="h")[0].ends == [START]


def test_steps_that_never_repeat_are_no_frequency() -> None:
    when = [START + timedelta(minutes=m) for m in (0, 3, 10, 35, 36)]
    assert faults(lone(when)) == {"frequency_unknown": ("0", None)}


def test_a_series_with_steps_of_its_own_is_mixed() -> None:
    frame = pl.concat(
        [
            table(6, "a", "b", "c"),
            table(3, "d").with_columns(when=pl.Series(stamps(3, timedelta(days=1)))),
        ]
    )
    assert faults(frame, LONG)["frequency_mixed"] == ("d", None)
    panel, report = read_panel(frame, schema=LONG, on_invalid="skip")
    assert panel.ids == ("a", "b", "c")
    assert report.series[3].status == "invalid"


@pytest.mark.parametrize(
    "sold", [["1", "x", "3"], [1, "x", 3], [True, False, True], [START, START, START]]
)
def test_what_is_no_number_is_named(sold: list[object]) -> None:
    column = pl.Series(
        "sold", [None if s is None else str(s) for s in sold] if "x" in sold else sold
    )
    frame = pl.DataFrame({"when": stamps(3), "sold": column})
    assert faults(frame)["non_numeric"] == ("0", 1 if "x" in sold else 0)


def test_infinite_covariates_are_named() -> None:
    frame = lone(stamps(3)).with_columns(x=pl.Series([1.0, float("-inf"), 2.0]))
    schema = Schema(time="when", targets=("sold",), known=("x",))
    assert faults(frame, schema) == {"non_finite": ("0", 1)}


def test_attributes_must_not_change() -> None:
    frame = table(2).with_columns(city=pl.Series(["Kiel", "Ulm", "Bonn", "Bonn"]))
    schema = Schema(id="shop", time="when", targets=("sold",), static=("city",))
    assert faults(frame, schema) == {"static_conflict": ("a", None)}


@pytest.mark.parametrize("bad", ["", "a\x00b", "a\nb", "\x85", "x" * 129])
def test_bad_ids_are_named(bad: str) -> None:
    assert faults(table(2, "ok", bad), LONG) == {"id_invalid": (bad, 2)}


def test_rows_without_an_id_belong_to_no_series() -> None:
    frame = table(3).with_columns(shop=pl.Series(["a", None, "a", "b", "b", "b"]))
    panel, report = read_panel(frame, schema=LONG, on_invalid="skip", fill="mask")
    assert [(fault.code, fault.row) for fault in report.faults] == [("id_invalid", 1)]
    np.testing.assert_array_equal(panel.target, [0, np.nan, 2, 3, 4, 5])
    assert ("id_invalid", (None, 1)) in faults(frame, LONG).items()


@pytest.mark.parametrize("row", [0, 2, 3, 5])
def test_a_series_may_begin_or_end_with_a_row_without_an_id(row: int) -> None:
    """Where no gap is left, the other rows must still find their own values."""
    ids = ["a"] * 3 + ["b"] * 3
    frame = table(3).with_columns(shop=pl.Series([*ids[:row], None, *ids[row + 1 :]]))
    panel, _ = read_panel(frame, schema=LONG, freq="h", on_invalid="skip")
    np.testing.assert_array_equal(panel.target, [n for n in range(6) if n != row])


def test_missing_columns_are_named_together() -> None:
    frame = table(2).rename({"when": "ds", "sold": "y"})
    with pytest.raises(DataError) as caught:
        read_panel(frame, schema=LONG)
    assert [(f.code, f.column) for f in caught.value.faults] == [
        ("missing_column", "when"), ("missing_column", "sold"),
    ]  # fmt: skip


def test_a_fault_of_the_shared_axis_is_of_no_series() -> None:
    frame = pl.DataFrame({"when": [START, START], "a": [1, 2], "b": [3, 4]})
    assert faults(frame, WIDE, freq="h", on_invalid="skip") == {"duplicate_timestamp": (None, 1)}


def test_one_bad_series_never_harms_the_others() -> None:
    """Even if it is the last of many, it is named; the rest is as if it had not been sent."""
    many = [f"s{i}" for i in range(2_000)]
    good = table(3, *many)
    bad = table(3, "bad").with_columns(sold=pl.lit(float("inf")))
    panel, report = read_panel(pl.concat([good, bad]), schema=LONG, on_invalid="skip")
    alone, _ = read_panel(good, schema=LONG)
    assert panel.table.equals(alone.table)
    assert panel.ids == alone.ids
    assert len(report.series) == 2_001
    assert [entry.id for entry in report.invalid] == ["bad"]


def test_all_may_be_skipped() -> None:
    panel, report = read_panel(lone([START, START]), schema=LONE, on_invalid="skip")
    assert (panel.ids, len(panel.table), panel.ends, panel.aligned) == ((), 0, [], False)
    assert [entry.status for entry in report.series] == ["invalid"]


def test_constant_series_and_missing_values_are_warnings() -> None:
    frame = pl.DataFrame({"when": stamps(3), "a": [5.0, 5.0, None], "b": [1.0, None, None]})
    _, report = read_panel(frame, schema=WIDE)
    found = [(warning.series, warning.code, warning.count) for warning in report.all_warnings]
    assert found == [
        (None, "frequency_inferred", None),
        ("a", "values_missing", 1), ("a", "constant_series", None), ("b", "values_missing", 2),
    ]  # fmt: skip


# --- filling -----------------------------------------------------------------------------------

HOLES = {
    "mask": [np.nan, 1, np.nan, np.nan, 4, np.nan],
    "ffill": [np.nan, 1, 1, 1, 4, 4],
    "linear": [np.nan, 1, 2, 3, 4, np.nan],
    "zero": [0, 1, 0, 0, 4, 0],
}  # fmt: skip


@pytest.mark.parametrize(("fill", "expected"), HOLES.items())
def test_fill(fill: str, expected: list[float]) -> None:
    """Row 2 is absent; rows 0, 3 and 5 have no value."""
    when = [stamps(6)[i] for i in (0, 1, 3, 4, 5)]
    frame = lone(when, [None, 1.0, None, 4.0, None]).with_columns(x=pl.Series([1, 2, 3, 4, 5]))
    schema = Schema(time="when", targets=("sold",), known=("x",))
    panel, report = read_panel(frame, schema=schema, fill=fill)
    np.testing.assert_array_equal(panel.target, expected)
    assert panel.table["time"].to_list() == stamps(6)
    assert panel.table["x"].to_list() == [1, 2, None, 3, 4, 5]
    assert "gap_filled" in codes(report)


def test_fill_never_reaches_into_the_next_series() -> None:
    frame = table(3).with_columns(sold=pl.Series([1.0, 2.0, None, None, 5.0, 6.0]))
    for fill in ("ffill", "linear"):
        panel, _ = read_panel(frame, schema=LONG, fill=fill)
        assert panel.table["y"][3] is None


def test_a_gap_too_long_to_fill_is_a_gap() -> None:
    """Two stamps five centuries apart would else ask for 10^10 rows."""
    when = [datetime(1700, 1, 1), datetime(2200, 1, 1)]
    assert faults(lone(when), freq="s", fill="mask") == {"gap": ("0", 1)}


def test_gaps_of_a_wide_table_are_filled_for_all_series() -> None:
    frame = pl.DataFrame(
        {"when": [stamps(4)[i] for i in (0, 1, 3)], "a": [1, 2, 4], "b": [5, 6, 8]}
    )
    panel, report = read_panel(frame, schema=WIDE, fill="mask")
    np.testing.assert_array_equal(panel.target, [1, 2, np.nan, 4, 5, 6, np.nan, 8])
    assert codes(report) == ["frequency_inferred", "gap_filled"]


# --- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"targets": ()}, {"targets": ("t",)}, {"targets": ("a", "b"), "id": "i"},
     {"targets": ("a",), "known": ("x",), "past": ("x",)}, {"targets": ("a",), "known": ("y",)}],
)  # fmt: skip
def test_schemas_that_contradict_themselves_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="schema"):
        Schema(time="t", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"fill": "magic"}, {"on_invalid": "ignore"}, {"freq": "x"}])
def test_options_are_checked(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        read_panel(table(2), schema=LONG, **options)  # type: ignore[arg-type]


def test_messages_never_hold_values() -> None:
    """A canary in the values must not reach a log or a response."""
    frame = lone(["2026-01-01", "CANARY-7731"], ["CANARY-7731", "1"])
    with pytest.raises(DataError) as caught:
        read_panel(frame, schema=LONE)
    assert "CANARY" not in str(caught.value)


def test_a_series_begins_with_its_first_value() -> None:
    """What nothing was sent for must not count as history, nor get a clock that padding has not."""
    rows = table(6, "a", "b").with_columns(
        sold=pl.Series([None, None, 1.0, None, 2.0, 3.0, *[4.0] * 6])
    )
    panel, _ = read_panel(rows, schema=LONG)
    found = panel.from_first_values()
    assert np.diff(found.offsets).tolist() == [4, 6]
    assert found.ends == panel.ends
    np.testing.assert_array_equal(found.target[:4], [1.0, np.nan, 2.0, 3.0])
    assert found.from_first_values() is found
