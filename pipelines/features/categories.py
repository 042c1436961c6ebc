"""Categories as whole numbers, with a place for what training never saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

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
        return Vocabulary(tuple(sorted(as_words(values.drop_nulls()).unique())))

    @property
    def size(self) -> int:
        """How many numbers there are, with that of the unknown: the rows of an embedding."""
        return len(self.words) + 1

    def encode(self, values: pl.Series) -> NDArray[np.int64]:
        """The number of each value."""
        numbers = {word: number for number, word in enumerate(self.words, start=1)}
        return (
            as_words(values)
            .replace_strict(numbers, default=UNKNOWN, return_dtype=pl.Int64)
            .fill_null(UNKNOWN)
            .to_numpy(writable=True)
        )


def as_words(values: pl.Series) -> pl.Series:
    """`values` as text; whole numbers without a point, whatever type they came in."""
    if values.dtype.is_float() and (values.drop_nulls() % 1 == 0).all():
        values = values.cast(pl.Int64)
    return values.cast(pl.String)
