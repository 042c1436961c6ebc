"""Laws of the one door for data: order never matters, and nothing gets in that is not a panel."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.panel import Panel, read_panel
from pipelines.schema import Schema
from tsformer.errors import DataError

SCHEMA = Schema(id="id", time="t", targets=("y",), known=("x",))
HUGE = [1e308, -1e308, 5e-324, 1e16, 1.0, 0.0, -0.0]

values = st.one_of(st.none(), st.floats(allow_infinity=False), st.sampled_from(HUGE))
series = st.lists(st.tuples(values, st.floats(-10, 10)), min_size=1, max_size=12)
ids = st.text(min_size=1, max_size=4).filter(lambda text: text.isprintable())
panels = st.dictionaries(ids, series, min_size=1, max_size=5)


def table(content: dict[str, list[tuple[float | None, float]]]) -> pl.DataFrame:
    start = datetime(2026, 3, 28)
    rows = [
        (name, start + timedelta(hours=i), y, x)
        for name, cells in content.items()
        for i, (y, x) in enumerate(cells)
    ]
    schema = {"id": pl.String, "t": pl.Datetime("us"), "y": pl.Float64, "x": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def by_id(panel: Panel) -> dict[str | int, list[tuple[Any, ...]]]:
    """The rows of each series, independent of their order; NaN-free, so equality is exact."""
    parts = panel.table.partition_by("series", maintain_order=True)
    return {name: part.drop("series").rows() for name, part in zip(panel.ids, parts, strict=True)}


@given(
    content=panels,
    shuffle=st.randoms(use_true_random=False),
    fill=st.sampled_from(["none", "mask"]),
)
def test_shuffling_rows_changes_nothing(
    content: dict[str, list[tuple[float | None, float]]], shuffle: Any, fill: str
) -> None:
    frame = table(content)
    order = [*range(len(frame))]
    shuffle.shuffle(order)
    options: dict[str, Any] = {"schema": SCHEMA, "freq": "h", "on_invalid": "skip", "fill": fill}
    panel, report = read_panel(frame, **options)
    shuffled, other = read_panel(frame[order], **options)
    assert by_id(panel) == by_id(shuffled)
    assert shuffled.frequency == panel.frequency
    found = {entry.id: (entry.rows, entry.status, entry.warnings) for entry in report.series}
    assert {e.id: (e.rows, e.status, e.warnings) for e in other.series} == found
    assert [entry.id for entry in other.series] == [*dict.fromkeys(frame[order]["id"])]


@given(content=panels, data=st.data())
def test_permuting_series_permutes_the_panel(
    content: dict[str, list[tuple[float | None, float]]], data: st.DataObject
) -> None:
    order = data.draw(st.permutations([*content]))
    panel, _ = read_panel(table(content), schema=SCHEMA, freq="h", on_invalid="skip")
    permuted, _ = read_panel(
        table({name: content[name] for name in order}), schema=SCHEMA, freq="h", on_invalid="skip"
    )
    assert permuted.ids == tuple(name for name in order if name in panel.ids)
    assert by_id(permuted) == by_id(panel)
    again = permuted.take([permuted.ids.index(name) for name in panel.ids])
    assert again.table.equals(panel.table)


@given(content=panels)
def test_a_panel_is_regular_and_finite(
    content: dict[str, list[tuple[float | None, float]]],
) -> None:
    """Constant, all missing, one row, denormal and ±1e308: named, or kept to the last bit."""
    panel, report = read_panel(table(content), schema=SCHEMA, freq="h", on_invalid="skip")
    assert not np.isinf(panel.target).any()
    for entry in report.series:
        sent = [np.nan if y is None else y for y, _ in content[str(entry.id)]]
        empty = bool(np.isnan(sent).all())
        assert (entry.status == "invalid") == empty
        if not empty:
            place = panel.ids.index(entry.id)
            kept = panel.target[panel.offsets[place] : panel.offsets[place + 1]]
            np.testing.assert_array_equal(kept, sent)
        constant = {warning.code for warning in entry.warnings} >= {"constant_series"}
        seen = np.array(sent)[~np.isnan(sent)]
        assert constant == (len(seen) > 1 and seen.min() == seen.max())


texts = st.sampled_from(
    ["2026-01-01", "2026-03-29T02:30", "2026-10-25T02:30", "2026-01-01T00:00Z", "x", "",
     "0001-01-01", "9999-12-31T23:59:59+14:00", "2026-01-01T00:00:60", "99999-01-01",
     "2026-01-01T01:00+01:00", "2200-12-31T23:00-12:00", "NaN", "🙂", "\x00", "17"]
)  # fmt: skip
stamps = st.one_of(
    st.lists(st.one_of(st.none(), texts), max_size=8),
    st.lists(st.one_of(st.none(), st.text(max_size=12)), max_size=8),
    st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=8),
    st.lists(st.integers(0, 6), max_size=8),
    st.lists(st.one_of(st.none(), st.datetimes()), max_size=8),
    st.lists(st.datetimes(datetime(2026, 3, 29), datetime(2026, 3, 29, 4)), max_size=8),
    st.lists(st.one_of(st.none(), st.dates()), max_size=8),
    st.lists(st.dates(date(2026, 1, 1), date(2026, 1, 9)), max_size=8),
    st.lists(st.floats(), max_size=8),
    st.lists(st.booleans(), max_size=8),
    st.lists(st.timedeltas(), max_size=8),
    st.lists(st.none(), max_size=8),
)
names = st.one_of(
    st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "", "\n", "x" * 129])), max_size=8),
    st.lists(st.one_of(st.none(), st.integers(0, 2)), max_size=8),
    st.lists(st.booleans(), max_size=8),
    st.lists(st.floats(), max_size=8),
)
cells = st.one_of(
    st.lists(st.one_of(st.none(), st.floats()), max_size=8),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8),
    st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=8),
    st.lists(st.booleans(), max_size=8),
    st.lists(st.lists(st.floats(), max_size=2), max_size=8),
    st.lists(st.none(), max_size=8),
)
FREQUENCIES = [
    None,
    "h",
    "D",
    "MS",
    "ME",
    "W-SUN",
    "B",
    "1w",
    "1mo",
    "us",
    "366D",
    "1000000YE",
    1,
    7,
]


@settings(max_examples=600, deadline=None)
@given(
    columns=st.tuples(names, stamps, cells, cells),
    freq=st.sampled_from(FREQUENCIES),
    tz=st.sampled_from([None, "Europe/Berlin", "Australia/Lord_Howe", "+05:30", "UTC"]),
    fill=st.sampled_from(["none", "mask", "ffill", "linear", "zero"]),
    on_invalid=st.sampled_from(["fail", "skip"]),
    min_rows=st.integers(0, 4),
)
def test_whatever_comes_is_a_panel_or_a_data_error(
    columns: tuple[list[Any], ...], **options: Any
) -> None:
    """No table ends in a traceback: a request would be a 500, a training run would just die."""
    rows = min(len(column) for column in columns)
    cut = {name: column[:rows] for name, column in zip(("id", "t", "y", "x"), columns, strict=True)}
    try:
        panel, report = read_panel(pl.DataFrame(cut, strict=False), schema=SCHEMA, **options)
    except DataError:
        return
    assert panel.ids == tuple(entry.id for entry in report.series if entry.status == "ok")
    assert panel.offsets[-1] == len(panel.table)
    assert panel.table["time"].null_count() == 0
    assert not np.isinf(panel.target).any()
    steps, exact = panel.frequency.steps_along(panel.table["time"], panel.offsets)
    same = np.diff(panel.table["series"].to_numpy()) == 0
    assert (np.diff(steps)[same] == 1).all()
    assert exact.all() or panel.frequency.is_calendar  # a first row moved by a clock gap
