"""Vocabularies: stable numbers, and a place for what training never saw."""

from __future__ import annotations

import json

import polars as pl
import pytest

from pipelines.features.categories import UNKNOWN, Vocabulary
from tsformer.errors import ConfigError

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


def test_decoding_undoes_encoding() -> None:
    vocabulary = Vocabulary.fit(CARRIERS)
    assert vocabulary.decode(vocabulary.encode(CARRIERS).tolist()) == CARRIERS.to_list()


def test_empty_columns() -> None:
    vocabulary = Vocabulary.fit(pl.Series([None, None], dtype=pl.String))
    assert vocabulary.size == 1
    assert vocabulary.encode(pl.Series(["a", None])).tolist() == [0, 0]
    assert vocabulary.encode(pl.Series([], dtype=pl.String)).tolist() == []


def test_it_survives_json() -> None:
    vocabulary = Vocabulary.fit(CARRIERS)
    text = json.dumps(vocabulary.to_mapping())
    assert Vocabulary.from_mapping(json.loads(text)) == vocabulary
    with pytest.raises(ConfigError, match="wordz"):
        Vocabulary.from_mapping({"wordz": []})
