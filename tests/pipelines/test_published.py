"""What a version says of the table that it was trained on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pipelines.home import Home
from pipelines.material import Material
from pipelines.published import table_card
from tests.panels import experiment_on, hourly, waves

ROWS = 200


@pytest.mark.parametrize(
    ("tz", "start", "end"),
    [
        ("", "2024-01-01T00:00:00", "2024-01-07T15:00:00"),
        ("Europe/Berlin", "2024-01-01T00:00:00+01:00", "2024-01-07T15:00:00+01:00"),
    ],
)
def test_a_card_names_its_table_and_the_stamps_it_has_seen(
    tmp_path: Path, tz: str, start: str, end: str
) -> None:
    """Whoever compares two versions must know whether they saw the same rows, and until when."""
    data = {"tz": tz} if tz else {}
    experiment = experiment_on(tmp_path, hourly(waves(2, ROWS)), data=data)
    told = table_card(experiment.data, Material.of(experiment), Home(tmp_path, "sqlite://"))
    assert (told["start"], told["end"]) == (start, end)  # the last fifth, the test part, is later
    assert told["name"] == Path(experiment.data.source).name
    (tmp_path / "other").mkdir()
    other = experiment_on(tmp_path / "other", hourly(waves(2, ROWS, seed=1)), data=data)
    assert (
        told["version"]
        != table_card(other.data, Material.of(other), Home(tmp_path, "sqlite://"))["version"]
    )


def test_steps_without_a_clock_are_numbers(tmp_path: Path) -> None:
    """A stamp is told as it was given."""
    table = hourly(waves(1, ROWS)).with_columns(ds=pl.int_range(ROWS))
    experiment = experiment_on(tmp_path, table)
    experiment = replace(experiment, data=replace(experiment.data, freq="1"))
    told = table_card(experiment.data, Material.of(experiment), Home(tmp_path, "sqlite://"))
    assert (told["start"], told["end"]) == (0, 159)
