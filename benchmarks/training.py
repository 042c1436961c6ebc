"""How fast training is: processor seconds of an optimiser step on one core, beside neuralforecast.

    python -m benchmarks.training [patchtst] [nlinear] ... [--peer PYTHON] [--rounds 5]

`PYTHON` is the interpreter of an environment with neuralforecast, e.g. of `pip install
neuralforecast` in a new virtual environment; without it ours are measured alone. Both fit the same
synthetic panel by their public call (`tsformer.train.fit`, `NeuralForecast.fit`), each in a process
of its own with one thread, with the same sizes, loss, optimiser and series-windows in a step. They
take turns of a few steps after a turn that warms up, so a busy machine slows both alike; the
quotient is taken turn by turn. What they learn is not compared.

`windows` instead is PanelWindows against torch's DataLoader over a data set that slices a window
at a time. The result goes to benchmarks/results/training-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from benchmarks.machine import keep, machine
from benchmarks.turns import REPLY, Turns, panel
from pipelines.windows import Grid, PanelWindows
from tsformer.batch import Shape
from tsformer.memory import keep_freed_memory
from tsformer.model import ModelSpec
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.linear import DLinearSpec, NLinearSpec
from tsformer.models.patchtst import PatchTSTSpec
from tsformer.models.tft import TFTSpec
from tsformer.train import Progress, Training, fit

# The training part of ETTh1.
SERIES, ROWS = 7, 8_640
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Task:
    """A model in our words and in neuralforecast's, `peer` and its `settings`.

    A step has `windows` windows of all series. `steps` are in a turn, and `target` is how many
    times as fast we mean to be.
    """

    spec: ModelSpec
    context: int
    horizon: int
    windows: int
    steps: int
    target: float
    peer: str
    settings: dict[str, Any]


TASKS = {
    "patchtst": Task(
        PatchTSTSpec(dropout=0.2),
        context=512,
        horizon=96,
        windows=128,
        steps=2,
        target=1.8,
        peer="PatchTST",
        settings={"hidden_size": 16, "n_heads": 4, "linear_hidden_size": 128},
    ),
    "dlinear": Task(
        DLinearSpec(),
        context=512,
        horizon=96,
        windows=128,
        steps=5,
        target=10,
        peer="DLinear",
        settings={},
    ),
    "nlinear": Task(
        NLinearSpec(),
        context=512,
        horizon=96,
        windows=128,
        steps=5,
        target=50,
        peer="NLinear",
        settings={},
    ),
    "itransformer": Task(
        ITransformerSpec(),
        context=96,
        horizon=96,
        windows=128,
        steps=5,
        target=1,
        peer="iTransformer",
        settings={"hidden_size": 256, "d_ff": 256, "n_series": SERIES},
    ),
    "tft": Task(
        TFTSpec(),
        context=168,
        horizon=24,
        windows=16,
        steps=2,
        target=1,
        peer="TFT",
        settings={"hidden_size": 64},
    ),
}


LEARNING_RATE = 1e-4


# --- ours ----------------------------------------------------------------------------------


def train_ours(task: Task) -> None:
    """Trains until nobody asks any more."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keep_freed_memory()  # as the command line does
    shape = Shape(context=task.context, horizon=task.horizon, variates=SERIES)
    grid = standard_grid([panel(ROWS, SERIES)])
    cutoffs = np.arange(task.context, ROWS - task.horizon + 1)
    turns = Turns(task.steps)

    def report(progress: Progress) -> None:
        if progress.validation_loss is None:
            turns()

    fit(
        task.spec.build(shape),
        train=PanelWindows(grid, cutoffs=cutoffs, shape=shape),
        validation=PanelWindows(grid, cutoffs=cutoffs[-1:], shape=shape),
        training=Training(
            epochs=1_000_000,
            batch_size=task.windows,
            loss="mae",
            optimizer="adam",
            learning_rate=LEARNING_RATE,
            schedule="constant",
        ),
        report=report,
    )


def standard_grid(groups: Sequence[NDArray[np.float64]]) -> Grid:
    """The grid as training has it: standardised, in float32."""
    grid = Grid.of(groups)
    return grid.standardised(grid.fit_scaler(grid.lengths))


# --- windows -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cutting:
    """Windows of a wide panel: `windows` at once, of all its series together or of one each."""

    joint: bool
    windows: int
    steps: int
    target: float = 10.0


CUTTINGS = {
    "windows": Cutting(joint=False, windows=896, steps=100),
    "windows joint": Cutting(joint=True, windows=32, steps=20),
}
# The Electricity set's size.
WIDE_SERIES, WIDE_ROWS = 321, 26_304
CONTEXT, HORIZON = 512, 96


class Slices(Dataset[tuple[NDArray[Any], NDArray[Any]]]):
    """The usual data set: a window is sliced when it is asked for, context and target.

    As cheap as the style allows: no copies of its own, no calendar beside the values.
    """

    def __init__(self, groups: Sequence[NDArray[Any]]) -> None:
        self.groups = groups
        self.each = len(groups[0]) - CONTEXT - HORIZON + 1

    def __len__(self) -> int:
        return len(self.groups) * self.each

    def __getitem__(self, number: int) -> tuple[NDArray[Any], NDArray[Any]]:
        group, start = divmod(number, self.each)
        values, end = self.groups[group], start + CONTEXT
        return values[start:end], values[end : end + HORIZON]


def wide_groups(cutting: Cutting) -> list[NDArray[np.float64]]:
    """The wide panel as `[row, variate]`: one group, or one for each series."""
    values = panel(WIDE_ROWS, WIDE_SERIES)
    if cutting.joint:
        return [values]
    return [np.ascontiguousarray(values[:, [column]]) for column in range(WIDE_SERIES)]


def cut_ours(cutting: Cutting) -> None:
    """Cuts random windows until nobody asks any more."""
    torch.set_num_threads(1)
    keep_freed_memory()
    grid = standard_grid(wide_groups(cutting))
    variates = grid.values.shape[1]
    shape = Shape(context=CONTEXT, horizon=HORIZON, variates=variates)
    starts = np.arange(WIDE_ROWS - CONTEXT - HORIZON + 1)
    cutoffs = (grid.offsets[:-1, None] + CONTEXT + starts).reshape(-1)
    windows, turns = PanelWindows(grid, cutoffs=cutoffs, shape=shape), Turns(cutting.steps)
    while True:
        for index in torch.randperm(len(windows)).tensor_split(len(windows) // cutting.windows):
            cut = windows.batch(index)  # stays until the next one is there, as in a loop
            assert len(cut[0]) == len(index)
            turns()


def cut_usual(cutting: Cutting, *, dtype: type[np.floating[Any]]) -> None:
    """The same with torch's loader, of values held as `dtype` and used as float32.

    float64 is what Time-Series-Library's data sets hold, as scikit-learn's scaler leaves it.
    """
    torch.set_num_threads(1)
    data = Slices([group.astype(dtype) for group in wide_groups(cutting)])
    loader = DataLoader(data, batch_size=cutting.windows, shuffle=True, num_workers=0)
    turns = Turns(cutting.steps)
    while True:
        for context, target in loader:
            context.float(), target.float()
            turns()


# --- processes -----------------------------------------------------------------------------


class Contender:
    """A process that measures a turn whenever it is asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def turn(self) -> dict[str, Any]:
        """The next reply."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(REPLY):
                reply: dict[str, Any] = json.loads(line.removeprefix(REPLY))
                return reply
        raise RuntimeError(f"A contender ended with exit status {self.process.wait()}.")

    def go_on(self) -> None:
        """Lets it begin the next turn."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@contextmanager
def contender(*command: str) -> Iterator[Contender]:
    """A contender of this command line, with one thread; ended afterwards."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Contender(process)
    finally:
        process.kill()
        process.communicate()


# --- the measurement -----------------------------------------------------------------------


def commands(name: str, *, peer: str | None) -> dict[str, list[str]]:
    """The command line of each contender of `name`; ours first."""
    own = [sys.executable, "-m", "benchmarks.training", name, "--run"]
    if name in CUTTINGS:
        return {
            "ours": [*own, "ours"],
            "DataLoader": [*own, "usual"],
            "DataLoader, float64": [*own, "usual64"],
        }
    if peer is None:
        return {"ours": [*own, "ours"]}
    task = TASKS[name]
    variates = task.settings.get("n_series", 1)  # of a window, in its words
    request = {
        "model": task.peer,
        "steps": task.steps,
        "rows": ROWS,
        "series": SERIES,
        "settings": {
            "h": task.horizon,
            "input_size": task.context,
            "windows_batch_size": task.windows * SERIES // variates,
            "learning_rate": LEARNING_RATE,
            **task.settings,
        },
    }
    others = [peer, "-m", "benchmarks.training_peer", json.dumps(request)]
    threshold = f"={2**32}"
    keeping = ["env", f"MALLOC_MMAP_THRESHOLD_{threshold}", f"MALLOC_TRIM_THRESHOLD_{threshold}"]
    return {"ours": [*own, "ours"], "peer": others, "peer, memory kept": [*keeping, *others]}


def measure(name: str, *, peer: str | None, rounds: int) -> dict[str, Any]:
    """All contenders of `name` in turns."""
    with ExitStack() as stack:
        running = {
            label: stack.enter_context(contender(*command))
            for label, command in commands(name, peer=peer).items()
        }
        first = {label: one.turn() for label, one in running.items()}  # warms up
        replies: dict[str, list[dict[str, Any]]] = {label: [] for label in running}
        for number in range(rounds):
            order = list(running) if number % 2 == 0 else list(running)[::-1]
            for label in order:
                running[label].go_on()
                replies[label].append(running[label].turn())
    return {
        label: {
            "seconds": [row["seconds"] for row in rows],
            "peak_mib": rows[-1]["peak_mib"],
            "versions": first[label]["versions"],
        }
        for label, rows in replies.items()
    }


def show(name: str, found: dict[str, Any]) -> None:
    """A line for each contender: milliseconds, memory, and how many times as fast ours are."""
    ours = found["ours"]["seconds"]
    target = (TASKS | CUTTINGS)[name].target
    for label, row in found.items():
        times = [1000 * seconds for seconds in row["seconds"]]
        line = (
            f"{name:14} {label:20} {median(times):9.2f} ms ({min(times):.2f} to {max(times):.2f})"
            f" {row['peak_mib']:6.0f} MiB"
        )
        if label != "ours":
            ratios = [theirs / own for theirs, own in zip(row["seconds"], ours, strict=True)]
            line += f"  x {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            line += f", meant {target:g}" if "," not in label else ""
        print(line, flush=True)


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and stores."""
    names = [*TASKS, *CUTTINGS]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--peer", help="the interpreter of an environment with neuralforecast")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if given.run:
        RUNS[given.run](given.names[0])
        return
    result: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "unit": "processor seconds of a step, one thread; a turn each",
        "machine": machine(),
    }
    for name in given.names:
        result[name] = measure(name, peer=given.peer, rounds=given.rounds)
        show(name, result[name])
    result["load_average_after"] = machine()["load_average"]
    print(keep("training", result))


def _run_ours(name: str) -> None:
    if name in TASKS:
        train_ours(TASKS[name])
    else:
        cut_ours(CUTTINGS[name])


RUNS: dict[str, Callable[[str], None]] = {
    "ours": _run_ours,
    "usual": lambda name: cut_usual(CUTTINGS[name], dtype=np.float32),
    "usual64": lambda name: cut_usual(CUTTINGS[name], dtype=np.float64),
}

if __name__ == "__main__":
    main(sys.argv[1:])
