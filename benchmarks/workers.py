"""What workers cost and bring: windows a second of one process, of one worker of Ray, and of two.

    python -m benchmarks.workers [nlinear] [itransformer] [patchtst] [--rounds 5]

Each fit is a whole one: `tsformer.train.fit` in this process, or `pipelines.joint_fit.fit_together` on a
Ray that is started once. They take turns, and a quotient is taken of the fits of one round, so a busy
machine slows all alike. Windows a second are those of the epochs after the first, on the clock of
whoever trains; processor seconds are those of all that train together, which a busy machine hardly
changes. The seconds before and after the epochs are the price of a start. Every process has one
thread. The result goes to benchmarks/results/workers-DATE.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.machine import keep, machine
from benchmarks.training import LEARNING_RATE, ROWS, SERIES, TASKS, Task, standard_grid
from benchmarks.turns import panel
from pipelines.joint_fit import Job, fit_together
from pipelines.local_ray import local_ray
from pipelines.storage import Place
from pipelines.windows import PanelWindows
from pipelines.workers import Workers
from tsformer.batch import Shape
from tsformer.memory import keep_freed_memory
from tsformer.train import Fit, Progress, Training, fit

EPOCHS = 4
NAMES = ("nlinear", "itransformer", "patchtst")
STEPS = {"nlinear": 200, "itransformer": 50, "patchtst": 10}  # of an epoch, about two seconds


@dataclass(frozen=True, slots=True)
class Seconds:
    """How long a fit took: a step of its later epochs, by the clock and by all processors together,
    and all that was no epoch.
    """

    step: float
    processor: float
    start: float


class Meter:
    """Takes what a fit reports: the processor time of `processes` at the end of each epoch.

    Workers may be gone when their last epoch is heard of; the epochs before count then.
    """

    def __init__(self, processes: Callable[[], Sequence[psutil.Process]]) -> None:
        self.processes = processes
        self.at: dict[int, float] = {}

    def __call__(self, progress: Progress) -> None:
        if progress.validation_loss is None:
            return
        with suppress(psutil.NoSuchProcess):
            times = [process.cpu_times() for process in self.processes()]
            spent = sum(time.user + time.system for time in times)
            if spent >= max(self.at.values(), default=0.0):  # an epoch may be shorter than a tick
                self.at[progress.epoch] = spent

    @property
    def epoch(self) -> float:
        """Seconds of an epoch after the first."""
        first, last = min(self.at), max(self.at)
        return (self.at[last] - self.at[first]) / (last - first)


def job_of(task: Task, *, steps: int) -> Job:
    """A fit of `task` with fresh weights, `steps` of them in an epoch, a single window to judge."""
    torch.manual_seed(0)
    shape = Shape(context=task.context, horizon=task.horizon, variates=SERIES)
    grid = standard_grid([panel(ROWS, SERIES)])
    cutoffs = np.arange(task.context, ROWS - task.horizon + 1)
    return Job(
        task.spec.build(shape),
        train=PanelWindows(grid, cutoffs=cutoffs, shape=shape),
        validation=PanelWindows(grid, cutoffs=cutoffs[-2:], shape=shape),
        training=Training(
            epochs=EPOCHS,
            batch_size=task.windows,
            windows_per_epoch=steps * task.windows,
            loss="mae",
            learning_rate=LEARNING_RATE,
            schedule="constant",
        ),
    )


Work = Callable[[Job], tuple[Fit, Meter]]


def alone(job: Job) -> tuple[Fit, Meter]:
    """The fit in this process, with checkpoints as workers have them."""
    meter = Meter(lambda: [psutil.Process()])
    with TemporaryDirectory() as folder:
        done = fit(
            job.model, train=job.train, validation=job.validation, training=job.training,
            checkpoint=Place(folder), report=meter,
        )  # fmt: skip
    return done, meter


def by(count: int) -> Work:
    """The fit by so many workers of Ray."""

    def work(job: Job) -> tuple[Fit, Meter]:
        meter = Meter(_workers)
        with TemporaryDirectory() as folder:
            place = Place(folder)
            done = fit_together(job, workers=Workers(count), storage=place, report=meter)
        return done, meter

    return work


def _workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [p for p in children if "RayTrainWorker" in " ".join(p.cmdline())]


CONTENDERS: dict[str, Work] = {"process": alone, "1 worker": by(1), "2 workers": by(2)}


def timed(work: Work, job: Job, *, steps: int) -> Seconds:
    """What a fit by `work` takes."""
    started = time.perf_counter()
    done, meter = work(job)
    whole = time.perf_counter() - started
    epochs = [row.seconds for row in done.history]
    counted = (len(epochs) - 1) * steps
    return Seconds(sum(epochs[1:]) / counted, meter.epoch / steps, whole - sum(epochs))


def measure(name: str, *, rounds: int) -> dict[str, list[Seconds]]:
    """All contenders in turns."""
    found: dict[str, list[Seconds]] = {label: [] for label in CONTENDERS}
    for number in range(rounds):
        order = list(CONTENDERS) if number % 2 == 0 else list(CONTENDERS)[::-1]
        for label in order:
            job = job_of(TASKS[name], steps=STEPS[name])
            found[label].append(timed(CONTENDERS[label], job, steps=STEPS[name]))
    return found


def shown(name: str, found: dict[str, list[Seconds]]) -> dict[str, Any]:
    """Prints a line a contender; gives what is kept."""
    kept: dict[str, Any] = {}
    plain = found["process"]
    for label, rows in found.items():
        speeds = [TASKS[name].windows / row.step for row in rows]
        ratios = [one.step / row.step for one, row in zip(plain, rows, strict=True)]
        costs = [row.processor / one.processor for one, row in zip(plain, rows, strict=True)]
        print(
            f"{name:13} {label:10} {median(speeds):8.0f} windows/s"
            f"  x {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            f"  processor x {median(costs):.2f} ({min(costs):.2f} to {max(costs):.2f})"
            f"  start {median(row.start for row in rows):5.1f} s",
            flush=True,
        )
        kept[label] = {
            "windows_per_second": speeds,
            "times_as_fast_as_the_process": ratios,
            "times_its_processor_seconds": costs,
            "start_seconds": [row.start for row in rows],
        }
    return kept


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", default=NAMES, help=f"of {', '.join(NAMES)}")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the workers, which Ray starts from here
    keep_freed_memory()  # as the command line does
    result: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "unit": "windows of all series a second of the clock; a fit each, in turns",
        "machine": machine("ray"),
    }
    started = time.perf_counter()
    with local_ray(processors=2, shared_bytes=0):
        result["ray_start_seconds"] = time.perf_counter() - started
        print(f"Ray starts in {result['ray_start_seconds']:.1f} s")
        for name in given.names:
            result[name] = shown(name, measure(name, rounds=given.rounds))
    result["load_average_after"] = machine()["load_average"]
    print(keep("workers", result))


if __name__ == "__main__":
    main(sys.argv[1:])
