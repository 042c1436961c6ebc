"""A neuralforecast model in training, for benchmarks.training; runs where only that is installed.

    python -m benchmarks.training_peer '{"model": "NLinear", ...}'

Everything that is not told is neuralforecast's default; its progress bar, log files and
checkpoints, which cost time, are off.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import neuralforecast.models
import numpy as np
import pandas as pd
import torch
from neuralforecast import NeuralForecast
from pytorch_lightning.callbacks import Callback

from benchmarks.turns import Turns, panel


class AfterStep(Callback):
    """Takes turns after each optimiser step."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_batch_end(self, *_: Any) -> None:
        self.turns()


def table(rows: int, series: int) -> pd.DataFrame:
    """The panel in neuralforecast's long form."""
    values = panel(rows, series)
    return pd.DataFrame(
        {
            "unique_id": np.repeat([f"s{i}" for i in range(series)], rows),
            "ds": np.tile(pd.date_range("2020-01-01", periods=rows, freq="h"), series),
            "y": values.T.reshape(-1).astype(np.float32),
        }
    )


def main(given: dict[str, Any]) -> None:
    """Trains until nobody asks any more."""
    torch.set_num_threads(1)
    packages = ("neuralforecast", "torch", "pytorch-lightning")
    model = getattr(neuralforecast.models, given["model"])(
        **given["settings"],
        max_steps=1_000_000,
        accelerator="cpu",
        callbacks=[AfterStep(Turns(given["steps"], packages=packages))],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    NeuralForecast([model], freq="h").fit(table(given["rows"], given["series"]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
