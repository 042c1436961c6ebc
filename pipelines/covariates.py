"""Covariates as numbers: what a model reads beside the target, the same in training and serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.features import feature_names, known_features
from pipelines.features.categories import Vocabulary, as_words
from pipelines.panel import Panel
from pipelines.windows import mean_std
from tsformer.errors import ConfigError, DataError, Fault
from tsformer.model import Capabilities

Floats32 = NDArray[np.float32]

# More words are an id or free text; each would be an input of every step of the horizon.
WORDS_AT_MOST = 1_000


@dataclass(frozen=True, slots=True)
class Covariate:
    """A column, and how its cells become numbers.

    A number is scaled by the training `mean` and `std`; a category is its number in the
    `vocabulary` of the training rows.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    vocabulary: Vocabulary | None = None

    @staticmethod
    def fit(name: str, values: pl.Series) -> Covariate:
        """The scaling or the words of `values`, missing ones left out.

        A constant column is only shifted. Raises ConfigError for more than `WORDS_AT_MOST` words.
        """
        if values.dtype != pl.String:
            mean, std = mean_std(_floats(values))
            return Covariate(name, float(mean), float(std))
        vocabulary = Vocabulary.fit(values)
        if len(vocabulary.words) > WORDS_AT_MOST:
            raise ConfigError(
                f"data: '{name}' has {len(vocabulary.words):,} different words; a category has at "
                f"most {WORDS_AT_MOST:,}. Group rare words into one, or leave the column out."
            )
        return Covariate(name, vocabulary=vocabulary)

    @property
    def size(self) -> int:
        """How many categories there are, the unknown included; 0 for a number."""
        return 0 if self.vocabulary is None else self.vocabulary.size

    def strangers(self, values: pl.Series) -> list[str]:
        """The words among `values` that training did not see, sorted."""
        known = () if self.vocabulary is None else self.vocabulary.words
        return sorted({*as_words(values).drop_nulls().unique()} - {*known})

    def numbers(self, values: pl.Series) -> NDArray[np.float64]:
        """`values` as training deviations from the training mean, or as numbers of categories.

        What is missing is the mean, or the category 0 of the unknown. Raises DataError for text
        where training saw numbers.
        """
        if self.vocabulary is not None:
            return self.vocabulary.encode(values).astype(np.float64)
        if values.dtype == pl.String:
            message = f"{self.name} holds text; training saw numbers. Give numbers."
            raise DataError(message, [Fault("non_numeric", message, column=self.name)])
        return np.nan_to_num((_floats(values) - self.mean) / self.std, nan=0.0)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model reads beside the target.

    `features` follow from the stamps, `known` columns reach over the horizon, `past` columns to
    the cutoff, `static` ones hold for a series; `lags` are steps.
    """

    features: tuple[str, ...] = ()
    known: tuple[Covariate, ...] = ()
    past: tuple[Covariate, ...] = ()
    static: tuple[Covariate, ...] = ()
    lags: tuple[int, ...] = ()

    @staticmethod
    def of_mapping(plain: Mapping[str, Any]) -> Inputs:
        """The inputs that `asdict` made plain."""
        columns = {use: tuple(map(_covariate, plain[use])) for use in ("known", "past", "static")}
        return Inputs(tuple(plain["features"]), **columns, lags=tuple(plain["lags"]))

    def read_by(self, capabilities: Capabilities) -> Inputs:
        """What is left for a model with `capabilities`."""
        able = capabilities
        return Inputs(
            features=self.features if able.known else (),
            known=self.known if able.known else (),
            past=self.past if able.past else (),
            static=self.static if able.static else (),
            lags=self.lags if able.lags else (),
        )

    def within(self, others: Inputs) -> bool:
        """Whether everything read here is among `others`, in the same role and order.

        Scalings and words may differ: those of a model are its own, whatever the newer rows say.
        """
        mine, theirs = self._said(), others._said()
        return all(not mine[use] or mine[use] == theirs[use] for use in mine)

    def _said(self) -> dict[str, tuple[object, ...]]:
        columns = {
            use: tuple((column.name, column.size > 0) for column in getattr(self, use))
            for use in ("known", "past", "static")
        }
        return {"features": self.features, "lags": self.lags, **columns}

    def merged(self, other: Inputs) -> Inputs:
        """The columns of both, each once."""
        mine = {use: {c.name: c for c in getattr(self, use)} for use in ("known", "past", "static")}
        both = {
            use: tuple({**{c.name: c for c in getattr(other, use)}, **columns}.values())
            for use, columns in mine.items()
        }
        return replace(self, **both)

    @property
    def columns(self) -> tuple[Covariate, ...]:
        """The columns of a table with a row a step: known ahead, and known to the cutoff."""
        return (*self.known, *self.past)

    @property
    def known_sizes(self) -> tuple[int, ...]:
        """The size of each column known ahead: those of the features, then the others."""
        return (0,) * len(feature_names(self.features)) + sizes(self.known)

    @property
    def names(self) -> dict[str, tuple[str, ...]]:
        """The columns of each use."""
        return {
            use: tuple(column.name for column in getattr(self, use))
            for use in ("known", "past", "static")
        }


NO_INPUTS = Inputs()


def sizes(columns: Sequence[Covariate]) -> tuple[int, ...]:
    """The size of each column, as a `Shape` has them."""
    return tuple(column.size for column in columns)


def known_rows(panel: Panel, inputs: Inputs) -> Floats32 | None:
    """What is known ahead, in every row of `panel` `[row, column]`; None where nothing is."""
    if not inputs.features and not inputs.known:
        return None
    clock = calendar(panel, inputs, panel.table["time"])
    columns = [column.numbers(panel.table[column.name])[:, None] for column in inputs.known]
    return np.concatenate([clock, *columns], axis=1).astype(np.float32)


def calendar(panel: Panel, inputs: Inputs, stamps: pl.Series) -> Floats32:
    """What follows from `stamps` on the grid of `panel`, `[stamp, column]`; 0 where that is unknown."""
    made = known_features(inputs.features, stamps, panel.frequency)
    if not panel.dated:
        made[:] = 0.0
    return made


def past_rows(panel: Panel, inputs: Inputs) -> Floats32 | None:
    """What is known to the cutoff, in every row of `panel` `[row, column]`, or None."""
    return _stacked([column.numbers(panel.table[column.name]) for column in inputs.past])


def static_rows(panel: Panel, inputs: Inputs) -> Floats32 | None:
    """The attributes of every series of `panel` `[series, column]`, or None.

    Raises DataError where the panel has no such column.
    """
    if not inputs.static:
        return None
    absent = [c.name for c in inputs.static if panel.static is None or c.name not in panel.static]
    if absent or panel.static is None:
        message = f"The model needs the attributes {', '.join(absent)} of every series; none came."
        raise DataError(message, [Fault("missing_column", message)])
    return _stacked([column.numbers(panel.static[column.name]) for column in inputs.static])


def _stacked(columns: Sequence[NDArray[np.float64]]) -> Floats32 | None:
    return np.stack(columns, axis=1).astype(np.float32) if columns else None


def _floats(values: pl.Series) -> NDArray[np.float64]:
    floats = values.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return np.where(np.isfinite(floats), floats, np.nan)


def _covariate(plain: Mapping[str, Any]) -> Covariate:
    vocabulary = plain["vocabulary"]
    return Covariate(
        **{**plain, "vocabulary": vocabulary and Vocabulary(tuple(vocabulary["words"]))}
    )
