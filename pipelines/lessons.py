"""What a trial of a search learns from, and its fit: this part runs where Ray puts it.

Only rows of training and validation come here. Those of the test part stay behind, so no trial
can be chosen by them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.experiment import Experiment
from pipelines.joint_fit import STOP_S, Job, LostError
from pipelines.material import Material
from pipelines.search import CONTEXT, Search
from pipelines.shared import Shared
from pipelines.storage import Place
from pipelines.training import fit_by, prepared, validation_windows, with_season
from pipelines.trials import Epoch, State, tried
from pipelines.windows import Borders, Grid, PanelWindows, Rows
from tsformer.batch import Shape
from tsformer.checkpoint import Checkpoint, Storage, newest
from tsformer.errors import (
    ConfigError,
    DataError,
    DivergedError,
    ShapeError,
    TsformerError,
    UnavailableError,
)
from tsformer.memory import keep_freed_memory
from tsformer.train import Progress, Training

BEST = "best"  # of the reported numbers that by which trials are compared: the best loss so far
Report = Callable[[Epoch], None]


@dataclass(frozen=True, slots=True)
class Lessons:
    """The rows of training and validation, of which there is one copy a machine.

    All trials are judged on the same validation windows: those that the longest context has which
    is tried.
    """

    shared: Shared
    borders: Borders
    season: int

    @staticmethod
    def of(material: Material, experiment: Experiment, search: Search) -> Lessons:
        """Those of an experiment's model; the test part is cut away where the memory has the rows.

        Where they are mapped from files, the windows alone keep trials away from it.
        """
        ends = material.borders.validation
        grid = material.scaled if material.scaled.files else _without_test(material.scaled, ends)
        borders = replace(material.borders, test=ends)
        capabilities = experiment.model.capabilities
        levels = experiment.window.levels if capabilities.native_quantiles else ()
        longest = search.most(CONTEXT, own=experiment.window.context)
        shape = replace(material.shape_for(capabilities, levels), context=longest)
        judged = _cut_at(grid, borders, "validation", shape)
        return Lessons(Shared.of(validation=judged), borders, material.recipe.season)

    @property
    def shape(self) -> Shape:
        """The shape of the windows, with the longest context."""
        return self.shared.shape

    def windows(self, context: int, *, judged: int) -> tuple[PanelWindows, PanelWindows]:
        """Windows of training, and about `judged` (0 for all) of validation, evenly thinned."""
        grid = self.shared.windows()["validation"].grid
        shape = replace(self.shape, context=context)
        judged_at = self.borders.spaced("validation", grid, self.shape)
        if judged and len(judged_at) > judged:
            stride = -(-len(judged_at) // judged)
            judged_at = self.borders.spaced("validation", grid, self.shape, stride=stride)
        train = _cut_at(grid, self.borders, "train", shape)
        return train, PanelWindows(grid, cutoffs=judged_at, shape=shape)


def learn(
    experiment: Experiment,
    lessons: Lessons,
    *,
    judged_as: Training,
    device: str,
    storage: Place,
    report: Report,
) -> None:
    """Fits the model of a trial's `experiment`; an earlier attempt's epochs are reported first.

    It is judged on as many validation windows as a fit with `judged_as` looks at.
    """
    spec, context = with_season(experiment.model, lessons.season), experiment.window.context
    shape = replace(lessons.shape, context=context)
    model, training = prepared(spec, experiment.training, shape=shape)
    for row in _earlier(storage):
        report(row)
    started = time.perf_counter()

    def tell(progress: Progress) -> None:
        nonlocal started
        if progress.validation_loss is not None:
            seconds = time.perf_counter() - started
            report(Epoch(progress.epoch, progress.validation_loss, progress.loss, seconds))
            started = time.perf_counter()

    train, validation = lessons.windows(context, judged=validation_windows(model, judged_as))
    job = Job(model, train, validation, training)
    outcome = fit_by(experiment.workers, job, device=device, storage=storage, report=tell)
    if not outcome.history:
        report(Epoch(0, outcome.validation_loss, None, outcome.seconds))


def trial(
    config: Mapping[str, Any],
    *,
    lessons: Lessons,
    experiment: Experiment,
    checkpoints: Place,
    device: str,
    cluster: bool,
) -> None:
    """What Ray Tune calls: each epoch is reported, then how it ended, whatever happened."""
    from ray import tune

    keep_freed_memory()
    # Parallel trials share the processors: two threads each would wait for each other.
    torch.set_num_threads(1)
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(2 * STOP_S)  # of one that is stopped
    if cluster:
        os.environ["RAY_ADDRESS"] = "auto"
    best = math.inf

    def tell(row: Epoch) -> None:
        nonlocal best
        best = min(best, row.loss)
        tune.report({**asdict(row), BEST: best})

    try:
        learn(
            tried(experiment, config["parameters"]),
            lessons,
            judged_as=experiment.training,
            device=device,
            storage=checkpoints / config["name"],
            report=tell,
        )
    except Exception as error:
        away = isinstance(error, UnavailableError | OSError)  # a full disk, above all
        everywhere = away and not isinstance(error, LostError)
        state, reason = _state(error), _reason(error)
        tune.report({"state": state, "reason": reason, "everywhere": everywhere})
    else:
        tune.report({"state": "finished", "reason": "", "everywhere": False})


def _state(error: Exception) -> State:
    if isinstance(error, DivergedError):
        return "diverged"
    return "pruned" if isinstance(error, ConfigError | DataError | ShapeError) else "failed"


def _reason(error: Exception) -> str:
    """The error's sentence; that of a foreign error begins with its kind."""
    known = isinstance(error, TsformerError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def _earlier(storage: Storage) -> list[Epoch]:
    """The epochs of an attempt that was interrupted, as its newest checkpoint knows them."""
    data = newest(storage)
    if data is None:
        return []
    history = Checkpoint.decoded(data).facts["history"]
    return [
        Epoch(row["epoch"], row["validation_loss"], row["train_loss"], row["seconds"])
        for row in history
    ]


def _cut_at(
    grid: Grid, borders: Borders, part: str, shape: Shape, *, stride: int = 1
) -> PanelWindows:
    """The windows of `part`; DataError where there is none."""
    cutoffs = borders.spaced(part, grid, shape, stride=stride)
    if not len(cutoffs):
        raise DataError(
            f"The {part} part has no window of {shape.context} + {shape.horizon} steps. Search "
            f"shorter contexts ({CONTEXT}), or give the part more rows."
        )
    return PanelWindows(grid, cutoffs=cutoffs, shape=shape)


def _without_test(grid: Grid, ends: Rows) -> Grid:
    """The first `ends` rows of each group of `grid`."""
    spans = [np.arange(a, a + n) for a, n in zip(grid.offsets[:-1], ends, strict=True)]
    kept = torch.from_numpy(np.concatenate(spans))
    return replace(
        grid,
        values=_cut(grid.values, kept),
        observed=None if grid.observed is None else _cut(grid.observed, kept),
        known=None if grid.known is None else grid.known[kept],
        covariates=None if grid.covariates is None else grid.covariates[kept],
        offsets=np.cumsum([0, *ends], dtype=np.int64),
    )


def _cut(rows: Tensor, kept: Tensor) -> Tensor:
    """Some of the rows, each variate still in one piece in memory."""
    return rows.mT[:, kept].contiguous().mT
