"""Units of a series: found again however its id is spelt, its own where it was never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.material import Material
from pipelines.units import Units
from tests.panels import experiment_on, hourly, waves

PAST = np.array([[1.0, 3.0, np.nan], [5.0, 5.0, 5.0]])


@pytest.mark.parametrize("stored", ["7", 7])
@pytest.mark.parametrize("asked", ["7", 7])
def test_a_series_is_found_by_its_id_as_text(stored: str | int, asked: str | int) -> None:
    """Trained from a CSV ("7") and asked in JSON (7): the same shop, so the same unit."""
    text = Units({str(stored): (100.0, 20.0)}).text()
    assert Units.of_text(text).of([asked], PAST[:1]).tolist() == [[100.0, 20.0]]


def test_units_from_training_are_found_by_number_and_by_text(tmp_path: Path) -> None:
    table = hourly({"7": waves(1, 300)["s0"]})
    for ids in (table["unique_id"], table["unique_id"].cast(int)):
        experiment = experiment_on(
            tmp_path, table.with_columns(ids), window={"context": 48, "horizon": 12}
        )
        material = Material.of(experiment)
        expected = [[material.scaler.mean[0, 0], material.scaler.std[0, 0]]]
        for asked in ("7", 7):
            assert material.units().of([asked], PAST[:1]).tolist() == expected


def test_other_spellings_are_other_series() -> None:
    """An id 007 is not 7: article numbers with leading zeros are told apart."""
    assert Units({"007": (100.0, 20.0)}).of([7], PAST[:1]).tolist() == [[2.0, 1.0]]


def test_an_unseen_series_brings_its_own_unit() -> None:
    """A flat context is only shifted, so nothing is divided by 0."""
    assert Units({}).of(["a", "b"], PAST).tolist() == [[2.0, 1.0], [5.0, 1.0]]
    assert Units({}).of(["c"], np.full((1, 490), 1.1))[0, 1] == 1.0
    assert Units({}).of(["d"], np.full((1, 4), np.nan)).tolist() == [[0.0, 1.0]]
