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
        return Vocabulary(tuple(sorted(as_words(values).drop_nulls().unique())))

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
    """`values` as text, each by itself; whole numbers without a point, whatever type they came in.

    True is 1 and false is 0, as in the columns of a panel. NaN is missing.
    """
    if values.dtype == pl.Boolean:
        return values.cast(pl.Int64).cast(pl.String)
    if not values.dtype.is_float():
        return values.cast(pl.String)
    numbers = values.cast(pl.Float64).fill_nan(None)  # 0.1 in 32 bits is not the 0.1 of a request
    whole = numbers.cast(pl.Int64, strict=False)
    text = pl.when(whole.cast(pl.Float64) == numbers).then(whole.cast(pl.String))
    return pl.select(text.otherwise(numbers.cast(pl.String)).alias(values.name)).to_series()
