"""Stamps as text: read once where they repeat, with the same values and the same faults."""

from __future__ import annotations

import polars as pl
import pytest

from pipelines import stamps
from pipelines.stamps import read_stamps

TEXTS = [
    "2026-03-28T23:00:00", "2026-03-29 00:30", "2026-03-29", None, "", "no stamp",
    "2026-03-29T04:00:00.25", "1500-01-01T00:00:00", "2026-02-30",
]  # fmt: skip
WITH_OFFSETS = [
    "2026-03-29T00:00:00+01:00",
    "2026-03-29T03:00:00+0200",
    "2026-03-29T05:00:00Z",
    None,
]


@pytest.mark.parametrize(
    ("texts", "tz"),
    [(TEXTS, None), (TEXTS, "Europe/Berlin"), (WITH_OFFSETS, "Europe/Berlin")],
)
def test_repeated_stamps_are_those_that_are_read_one_by_one(
    monkeypatch: pytest.MonkeyPatch, texts: list[str | None], tz: str | None
) -> None:
    """A thousand series on one grid must not get another grid than one."""
    column = pl.Series("ds", texts * 600)
    assert len(column) < stamps.MANY * 2
    monkeypatch.setattr(stamps, "MANY", len(column) + 1)
    plain = read_stamps(column, tz=tz)
    monkeypatch.setattr(stamps, "MANY", 1)
    once = read_stamps(column, tz=tz)
    assert once.values.equals(plain.values)
    assert once.tz == plain.tz
    assert len(once.offenders) == len(plain.offenders)
    for ours, theirs in zip(once.offenders, plain.offenders, strict=True):
        assert str(ours) == str(theirs)
