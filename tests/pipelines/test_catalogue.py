"""The catalogue: an entry that is slightly wrong would send every user to the wrong file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import catalogue
from pipelines.catalogue import CATALOGUE, Dataset, dataset, identify, text_sha256
from pipelines.frequency import Frequency
from tsformer.errors import NotFoundError

TEXT = b"date,OT\n2016-07-01,1.5\n2016-07-02,2.5\n"


def test_it_has_the_nine_sets_of_the_papers() -> None:
    assert [*CATALOGUE] == [
        *("etth1", "etth2", "ettm1", "ettm2", "weather", "exchange", "ili"),
        *("electricity", "traffic"),
    ]


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda entry: entry.name)
def test_entries_are_well_formed(entry: Dataset) -> None:
    assert entry.address.startswith("https://")
    assert entry.file.endswith(".csv")
    for digest in {entry.sha256, entry.parquet_sha256 or entry.sha256}:
        assert re.fullmatch("[0-9a-f]{64}", digest)
    assert entry.size_bytes > entry.rows * entry.variates
    assert str(Frequency.parse(entry.frequency)) == entry.frequency


def test_no_two_entries_share_a_file_or_checksum() -> None:
    entries = [*CATALOGUE.values()]
    assert len({entry.file for entry in entries}) == len(entries)
    assert len({entry.sha256 for entry in entries}) == len(entries)


def test_names_are_found_in_any_case_and_misspelt_ones_get_a_hint() -> None:
    assert dataset("ETTh1") is CATALOGUE["etth1"]
    with pytest.raises(NotFoundError, match="Did you mean 'electricity'"):
        dataset("electricty")


def test_line_ends_do_not_change_the_checksum(tmp_path: Path) -> None:
    """Half of the copies in circulation have CRLF; they hold the same numbers."""
    crlf = tmp_path / "crlf.csv"
    crlf.write_bytes(TEXT.replace(b"\n", b"\r\n"))
    assert text_sha256(crlf) == hashlib.sha256(TEXT).hexdigest()


def test_a_single_changed_digit_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "any name.csv"
    entry = replace(CATALOGUE["etth1"], sha256=hashlib.sha256(TEXT).hexdigest())
    monkeypatch.setattr(catalogue, "_ALL", (entry,))
    path.write_bytes(TEXT)
    assert identify(path) is entry
    path.write_bytes(TEXT.replace(b"1.5", b"1.6"))
    assert identify(path) is None
