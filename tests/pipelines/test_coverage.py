"""What intervals cover, told for the worst as well as for the mean."""

from __future__ import annotations

import polars as pl
import pytest

from pipelines.backtest import Scores
from pipelines.coverage import by_series, sentence


def scores() -> Scores:
    """Two series at two cutoffs of two steps: a is covered 3 of 4 times, b 1 of 2, c is empty."""
    windows = pl.DataFrame(
        {
            "model": ["ridge"] * 5 + ["other"],
            "series": ["a", "a", "b", "b", "c", "a"],
            "coverage_sum": [2.0, 1.0, 1.0, 0.0, 0.0, 0.0],
            "coverage_weight": [2.0, 2.0, 1.0, 1.0, 0.0, 2.0],
        }
    )
    steps = pl.DataFrame({"model": ["ridge"] * 2, "step": [1, 2], "coverage": [0.9, 0.5]})
    board = pl.DataFrame({"model": ["ridge", "none"], "coverage": [4 / 6, None]})
    return Scores(windows, steps, board)


def test_coverage_of_each_series_is_a_ratio_of_sums() -> None:
    """The mean of two windows' shares would count a half-missing one as much as a whole one."""
    found = by_series(scores().windows).rows()
    assert found == [
        ("ridge", "a", 0.75),
        ("ridge", "b", 0.5),
        ("ridge", "c", None),
        ("other", "a", 0.0),
    ]


def test_the_worst_series_and_step_are_named() -> None:
    """86 % in all can be 99 % and 21 %."""
    assert sentence(scores(), "ridge", nominal=0.8) == (
        "ridge: its 80% interval covers 66.7%; by series 50.0% (b) to 75.0% (a), mean 62.5%; "
        "by step 50.0% to 90.0%."
    )


@pytest.mark.parametrize("model", ["none", "unheard of"])
def test_what_is_not_known_is_said(model: str) -> None:
    assert "is not known" in sentence(scores(), model, nominal=0.8)
