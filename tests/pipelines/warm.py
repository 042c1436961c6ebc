"""Small experiments whose model is PatchTST, an encoder of theirs in a registry, and its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.pretrain_command import Outcome, pretrain_and_register
from tests.panels import experiment_on, hourly, waves

ROWS = 400
SPEC: dict[str, Any] = {
    "kind": "patchtst", "patch": 6, "stride": 6, "depth": 1, "width": 8, "heads": 2,
    "feedforward": 16, "attention": "plain", "padding": "none",
}  # fmt: skip
WINDOW = {"context": 72, "horizon": 12}
QUIET = Console(quiet=True)


def experiment(folder: Path, *, rows: int = ROWS, **sections: Any) -> Experiment:
    """Three waves of `rows` hours, called `waves`."""
    folder.mkdir(exist_ok=True)
    given = {
        "name": "waves",
        "model": SPEC,
        "window": WINDOW,
        "training": {"epochs": 2, "windows_per_epoch": 64, "learning_rate": 0.01},
        **sections,
    }
    return experiment_on(folder, hourly(waves(3, rows)), **given)


def pretrained(home: Home, made: Experiment) -> Outcome:
    """The encoder of an experiment in the registry of `home`."""
    return pretrain_and_register(made, home=home, console=QUIET, device="cpu")
