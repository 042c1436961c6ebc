"""The examples run as a reader would run them, and say what they promise."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import numpy as np

from pipelines.experiment import Experiment
from pipelines.material import Material

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_the_schedule_is_worth_something() -> None:
    """The covariate example: knowing the schedule lowers the error of late flights."""
    board = runpy.run_path(str(EXAMPLES / "late_flights.py"))["main"]()
    assert board["model"].to_list() == ["with the schedule", "values alone"]
    informed, alone = board["mse_scaled"]
    assert informed < 0.99 * alone


def test_a_frame_becomes_a_forecast() -> None:
    table = runpy.run_path(str(EXAMPLES / "dataframe.py"))["main"]()
    assert len(table) == 24
    assert (np.diff(table[["q0.1", "q0.5", "q0.9"]].to_numpy(), axis=1) >= 0).all()
    wave = 50 + 10 * np.sin(2 * np.pi * table["ds"].dt.hour / 24)
    assert np.abs(table["mean"] - wave).mean() < 3


def test_the_growing_table_is_one_to_train_on(tmp_path: Path) -> None:
    """The page on schedules begins with it; its spoiled rows are those of the fit alone."""
    folder = Path(shutil.copytree(EXAMPLES / "nightly", tmp_path / "nightly"))
    grow = runpy.run_path(str(folder / "grow.py"))["grow"]
    values = {}
    for spoiled in (False, True):
        grow(100, spoiled=spoiled)
        material = Material.of(Experiment.read(folder / "departures.yaml"))
        values[spoiled] = material.panel.target.reshape(23, 2400).copy()
    assert (values[True] != values[False])[:, :1680].mean() > 0.3
    assert (values[True] == values[False])[:, 1680:].all()
