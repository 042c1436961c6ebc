"""Vocabularies: stable numbers, and a place for what training never saw."""

from __future__ import annotations

import polars as pl

from pipelines.features.categories import UNKNOWN, Vocabulary

CARRIERS = pl.Series(["UA", "B6", None, "DL", "B6"])


def test_numbers_start_at_one_in_sorted_order() -> None:
    vocabulary = Vocabulary.fit(CARRIERS)
    assert vocabulary.words == ("B6", "DL", "UA")
    assert vocabulary.encode(CARRIERS).tolist() == [3, 1, UNKNOWN, 2, 1]
    assert vocabulary.size == 4


def test_unseen_and_missing_are_unknown() -> None:
    """A carrier that starts flying after training must be served, not refused."""
    vocabulary = Vocabulary.fit(CARRIERS)
    assert vocabulary.encode(pl.Series(["ZZ", None, "", "UA"])).tolist() == [0, 0, 0, 3]


def test_the_order_of_rows_does_not_matter() -> None:
    assert Vocabulary.fit(CARRIERS) == Vocabulary.fit(CARRIERS.reverse())


def test_numbers_and_text_are_the_same_word() -> None:
    """Ids are integers in Parquet and often text in JSON."""
    vocabulary = Vocabulary.fit(pl.Series([7, 10, 7]))
    assert vocabulary.encode(pl.Series(["7", "10", "8"])).tolist() == (
        vocabulary.encode(pl.Series([7, 10, 8])).tolist()
    )


def test_empty_columns() -> None:
    vocabulary = Vocabulary.fit(pl.Series([None, None], dtype=pl.String))
    assert vocabulary.size == 1
    assert vocabulary.encode(pl.Series(["a", None])).tolist() == [0, 0]
    assert vocabulary.encode(pl.Series([], dtype=pl.String)).tolist() == []


def test_whole_numbers_with_a_point_are_the_same_word() -> None:
    """A column with gaps becomes decimal numbers: store 7.0 is store 7."""
    vocabulary = Vocabulary.fit(pl.Series([7, 10]))
    assert vocabulary.encode(pl.Series([7.0, None, 10.0])).tolist() == [2, 0, 1]
