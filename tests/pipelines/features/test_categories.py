"""Vocabularies: stable numbers, and a place for what training never saw."""

from __future__ import annotations

import polars as pl

from pipelines.features.categories import UNKNOWN, Vocabulary, as_words

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


def test_the_word_of_a_number_does_not_depend_on_its_neighbours() -> None:
    """A request without the 0.5 of training must name store 7 as training did."""
    vocabulary = Vocabulary.fit(pl.Series([7.0, 0.5, 1e19, None, float("nan")]))
    assert vocabulary.words == ("0.5", "1e+19", "7")
    for cells in ([7.0, 0.5], [7.0, None], [7], ["7"]):
        assert vocabulary.encode(pl.Series(cells))[0] == vocabulary.words.index("7") + 1
    assert as_words(pl.Series([0.1], dtype=pl.Float32)).to_list() == (
        as_words(pl.Series([0.1], dtype=pl.Float32).cast(pl.Float64)).to_list()
    )


def test_true_and_false_are_the_numbers_of_a_panel() -> None:
    """A panel makes a column of booleans 1.0 and 0.0; a future table keeps them."""
    vocabulary = Vocabulary.fit(pl.Series([1.0, 0.0, None]))
    assert vocabulary.encode(pl.Series([True, False, None])).tolist() == [2, 1, 0]
