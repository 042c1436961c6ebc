"""What a longer look-back is worth to iTransformer (arXiv 2310.06625, section 4.2, figure 6).

    python -m benchmarks.lookback [etth1] [--contexts 48 96 192 336 720] [--seeds 1] [--device auto]

The same settings are fitted at every look-back, horizon 96, and beside each the closed-form ridge
map: a line reads a longer past too, so what remains above it is what attention made of the past.
Scores are those of the papers: training deviations, all windows of the test part, which decides
nothing. The result goes to benchmarks/results/lookback-DATA-DATE.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import torch

from benchmarks.accuracy.cells import Cell, Series
from benchmarks.accuracy.prepare import cells_of, folder_of, series_of
from benchmarks.accuracy.run import measure
from benchmarks.accuracy.sweep import DATASETS
from benchmarks.machine import keep, machine
from tsformer.runtime import pick_device

HORIZON = 96
CONTEXTS = (48, 96, 192, 336, 720)
MODELS = ("itransformer", "ridge-mean")  # the rows of the accuracy table: the network, its control


def study(data: str, *, contexts: Sequence[int], seeds: int, device: str) -> list[dict[str, Any]]:
    """A record for each model, look-back and seed."""
    dataset = DATASETS[data]
    series = series_of(dataset, folder_of(data, dataset))
    cells = {
        (cell.model, cell.seed): cell
        for cell in cells_of(data, dataset)
        if cell.model in MODELS and cell.horizon == HORIZON and cell.seed < seeds
    }
    return [
        scored(replace(cell, context=context), series, device=device)
        for context in contexts
        for cell in cells.values()
    ]


def scored(cell: Cell, series: Series, *, device: str) -> dict[str, Any]:
    """The scores of one cell, shown as they come."""
    found = measure(cell, series, device=device)
    test, validation = found["test"], found["validation"]
    print(
        f"{cell.name:<36} {test['mse']:.4f} / {test['mae']:.4f}  "
        f"validation {validation['mse']:.4f}  {found['fit_s']:.0f} s",
        flush=True,
    )
    return {
        "model": cell.model,
        "context": cell.context,
        "seed": cell.seed,
        "validation_mse": validation["mse"],
        "mse": test["mse"],
        "mae": test["mae"],
        "windows": test["windows"],
        "fit_s": found["fit_s"],
        "spec": {"kind": cell.spec.kind, **cell.spec.to_mapping()},
    }


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", nargs="?", default="etth1", choices=[*DATASETS])
    parser.add_argument("--contexts", type=int, nargs="+", default=CONTEXTS)
    parser.add_argument("--seeds", type=int, default=1, choices=(1, 2, 3))
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    device = pick_device(given.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    rows = study(given.data, contexts=given.contexts, seeds=given.seeds, device=str(device))
    result = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks.lookback {' '.join(arguments)}".strip(),
        "horizon": HORIZON,
        "machine": machine(device=device),
        "rows": rows,
    }
    print(keep(f"lookback-{given.data}", result))


if __name__ == "__main__":
    main(sys.argv[1:])
