"""Columns as numbers: scaled or named, with a place for what is missing or was never seen."""

from __future__ import annotations

import json
from dataclasses import asdict

import polars as pl
import pytest

from pipelines.covariates import Covariate, Inputs
from pipelines.features.categories import Vocabulary
from tsformer.errors import ConfigError, DataError
from tsformer.model import Capabilities

PROMO = Covariate("promo", vocabulary=Vocabulary(("coupon", "none")))
PRICE = Covariate("price", 10.0, 2.0)
INPUTS = Inputs(
    features=("hour",), known=(PRICE, PROMO), past=(Covariate("rain"),), static=(PROMO,), lags=(48,)
)


def test_scaling_survives_constant_and_missing_columns() -> None:
    """A flat price must not become a division by nothing."""
    constant = pl.Series([3.0] * 5)
    assert Covariate.fit("a", constant) == Covariate("a", 3.0, 1.0)
    assert Covariate.fit("a", pl.Series([None] * 5, dtype=pl.Float64)) == Covariate("a", 0.0, 1.0)
    rounding = pl.Series([1.1] * 490)
    assert Covariate.fit("a", rounding).std == 1.0  # by rounding it is 2e-16
    wobble = rounding + 1e-12 * (pl.int_range(490, eager=True) % 2)
    assert Covariate.fit("a", wobble).std < 1e-11
    assert Covariate("a", 1.0, 2.0).numbers(pl.Series([3.0, None])).tolist() == [1.0, 0.0]


def test_text_becomes_numbers_of_words() -> None:
    """A promotion that starts after training is the unknown one, not an error."""
    column = Covariate.fit("promo", pl.Series(["none", "coupon", None, "none"]))
    assert column == PROMO
    assert column.size == 3
    assert column.numbers(pl.Series(["none", "flyer", None])).tolist() == [2, 0, 0]
    assert column.strangers(pl.Series(["none", "flyer", None, "flyer"])) == ["flyer"]


def test_text_in_a_column_of_numbers_is_named() -> None:
    with pytest.raises(DataError, match="price holds text; training saw numbers"):
        PRICE.numbers(pl.Series(["cheap"]))


def test_free_text_is_refused() -> None:
    """A comment field would become thousands of inputs of every step."""
    with pytest.raises(ConfigError, match="'note' has 1,001 different words"):
        Covariate.fit("note", pl.Series([f"note {i}" for i in range(1001)]))


def test_inputs_survive_json() -> None:
    assert Inputs.of_mapping(json.loads(json.dumps(asdict(INPUTS)))) == INPUTS


def test_a_model_is_given_what_it_can_read() -> None:
    """Whoever reads no attribute is asked for none."""
    assert INPUTS.read_by(Capabilities()) == Inputs()
    line = INPUTS.read_by(Capabilities(known=True, lags=True))
    assert line == Inputs(features=("hour",), known=(PRICE, PROMO), lags=(48,))
    assert line.within(INPUTS)
    assert not INPUTS.within(line)
    dearer = Inputs(known=(Covariate("price", 11.0, 2.0),))
    assert not dearer.within(INPUTS)
    assert line.known_sizes == (0, 0, 0, 3)  # hour is a cosine and a sine


def test_merged_inputs_have_each_column_once() -> None:
    other = Inputs(known=(PRICE,), past=(Covariate("wind"),))
    merged = INPUTS.merged(other)
    assert merged.names == {
        "known": ("price", "promo"),
        "past": ("wind", "rain"),
        "static": ("promo",),
    }
