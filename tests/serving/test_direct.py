"""The short way gives the very panel of the long one, or leaves the request to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.panel import read_panel
from pipelines.schema import Schema
from serving import direct
from serving.schemas.forecasts import ForecastRequest
from tests.serving.running import series, stamps

HOURS = stamps(48)
DAYS = stamps(48, hours=24)


def both(data: dict[str, Any], freq: object) -> tuple[Any, Any]:
    asked = ForecastRequest.model_validate({"data": data, "freq": freq})
    schema = Schema(id="id" if "id" in data else None, time="ds", targets=("y",))
    asked = asked.model_copy(update={"columns": asked.columns.model_copy(update={"id": "id"})})
    short = direct.read(asked, schema)
    long = read_panel(pl.DataFrame(data), schema=schema, freq=asked.freq, on_invalid="skip")
    return short, long


@pytest.mark.parametrize(
    ("ds", "freq"),
    [
        (HOURS, "h"),
        (HOURS, "60min"),
        (stamps(48, hours=3), "3h"),
        (DAYS, "D"),
        (DAYS, "24h"),
        (stamps(48, hours=48), "2D"),
        (stamps(48, start="2024-02-27T05:00:00"), "h"),
    ],
)
@pytest.mark.parametrize("ids", [{}, {"id": ["Ω 1"] * 48}, {"id": [7] * 48}])
def test_a_clean_series_has_one_meaning(ds: list[str], freq: str, ids: dict[str, Any]) -> None:
    short, long = both({**ids, "ds": ds, "y": series(48)}, freq)
    assert short is not None
    (panel, report), (expected, expected_report) = short, long
    assert panel.table.equals(expected.table)
    assert panel.table.schema == expected.table.schema
    assert panel.schema == expected.schema
    for name in ("ids", "frequency", "tz", "static", "ends", "aligned"):
        assert getattr(panel, name) == getattr(expected, name)
    assert np.array_equal(panel.offsets, expected.offsets)
    assert panel.following(30).equals(expected.following(30))
    assert report == expected_report


def changed(values: list[Any], row: int, value: object) -> list[Any]:
    return [*values[:row], value, *values[row + 1 :]]


@pytest.mark.parametrize(
    ("data", "freq"),
    [
        ({"ds": HOURS, "y": series(48)}, None),
        ({"ds": HOURS, "y": series(48)}, "D"),
        ({"ds": HOURS, "y": series(48)}, "MS"),
        ({"ds": HOURS, "y": [1.0] * 48}, "h"),
        ({"ds": HOURS, "y": changed(series(48), 3, None)}, "h"),
        ({"ds": HOURS[::-1], "y": series(48)}, "h"),
        ({"ds": changed(HOURS, 3, HOURS[2]), "y": series(48)}, "h"),
        ({"ds": changed(HOURS, 3, None), "y": series(48)}, "h"),
        ({"ds": [f"{s}Z" for s in HOURS], "y": series(48)}, "h"),
        ({"ds": [s.replace("T", " ") for s in HOURS], "y": series(48)}, "h"),
        ({"ds": ["2026-02-29T23:00:00", "2026-03-01T00:00:00"], "y": [1.0, 2.0]}, "h"),
        ({"ds": ["2026-02-28T23:00:00", "2026-02-29T00:00:00"], "y": [1.0, 2.0]}, "h"),
        ({"ds": ["１026-01-01T00:00:0", "1026-01-01T01:00:00"], "y": [1.0, 2.0]}, "h"),
        ({"ds": ["1600-01-01T00:00:00", "1600-01-01T01:00:00"], "y": [1.0, 2.0]}, "h"),
        ({"ds": list(range(48)), "y": series(48)}, 1),
        ({"id": ["a"] * 24 + ["b"] * 24, "ds": HOURS[:24] * 2, "y": series(48)}, "h"),
        ({"id": ["a\n"] * 48, "ds": HOURS, "y": series(48)}, "h"),
        ({"id": [None] * 48, "ds": HOURS, "y": series(48)}, "h"),
    ],
)
def test_anything_else_is_left_to_the_long_way(data: dict[str, Any], freq: object) -> None:
    asked = ForecastRequest.model_validate({"data": data, "freq": freq})
    asked = asked.model_copy(update={"columns": asked.columns.model_copy(update={"id": "id"})})
    schema = Schema(id="id" if "id" in data else None, time="ds", targets=("y",))
    assert direct.read(asked, schema) is None
