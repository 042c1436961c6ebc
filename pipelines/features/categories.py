"""Static categories as whole numbers, with a place for what training never saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tsformer.settings import from_mapping, to_mapping

UNKNOWN = 0


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of one categorical column, in order; word `i` has number `i + 1`.

    Number 0 is everything else: a word that training never saw, or none. Words are text, so that
    the carrier 7 of a Parquet file and the carrier "7" of a JSON request are the same.
    """

    words: tuple[str, ...]

    @staticmethod
    def fit(values: pl.Series) -> Vocabulary:
        """The words among `values`, sorted: their order does not depend on that of the rows."""
        return Vocabulary(tuple(sorted(values.drop_nulls().cast(pl.String).unique())))

    @property
    def size(self) -> int:
        """How many numbers there are, with that of the unknown: the rows of an embedding."""
        return len(self.words) + 1

    def encode(self, values: pl.Series) -> NDArray[np.int64]:
        """The number of each value."""
        numbers = {word: number for number, word in enumerate(self.words, start=1)}
        return (
            values.cast(pl.String)
            .replace_strict(numbers, default=UNKNOWN, return_dtype=pl.Int64)
            .fill_null(UNKNOWN)
            .to_numpy()
        )

    def decode(self, numbers: Sequence[int]) -> list[str | None]:
        """The word of each number; None for the unknown."""
        return [None if number == UNKNOWN else self.words[number - 1] for number in numbers]

    def to_mapping(self) -> dict[str, Any]:
        """The vocabulary as plain values, ready for JSON."""
        return to_mapping(self)

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that `to_mapping` wrote."""
        return from_mapping(Vocabulary, mapping, where="vocabulary")
