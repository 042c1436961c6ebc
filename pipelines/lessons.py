"""What a trial of a search learns from, and its fit: this part runs where Ray puts it.

Only rows of training and validation come here. Those of the test part stay behind, so no trial
can be chosen by them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.experiment import Experiment
from pipelines.material import Material
from pipelines.search import CONTEXT, Search
from pipelines.training import prepared, validation_windows, with_season
from pipelines.trials import Epoch, State, tried
from pipelines.windows import Borders, Floats32, Grid, PanelWindows, Rows
from tsformer.batch import Shape
from tsformer.checkpoint import Checkpoint, Folder, Storage, newest
from tsformer.errors import (
    ConfigError,
    DataError,
    DivergedError,
    ShapeError,
    TsformerError,
    UnavailableError,
)
from tsformer.runtime import pick_device
from tsformer.train import Progress, Training, fit

BEST = "best"  # of the reported numbers that by which trials are compared: the best loss so far
Report = Callable[[Epoch], None]


@dataclass(frozen=True, slots=True)
class Lessons:
    """The rows of training and validation as arrays, which the processes of a machine share.

    `shape` has the longest context that is tried: all trials are judged on the validation windows
    that it has, whatever their own context.
    """

    values: Floats32  # [row, variate]
    others: Mapping[str, NDArray[Any] | None]  # the other tensors of a Grid
    offsets: Rows
    borders: Borders
    shape: Shape
    season: int

    @staticmethod
    def of(material: Material, experiment: Experiment, search: Search) -> Lessons:
        """Those of an experiment's model; the test part is cut away."""
        ends = material.borders.validation
        capabilities = experiment.model.capabilities
        levels = experiment.window.levels if capabilities.native_quantiles else ()
        shape = material.shape_for(capabilities, levels)
        grid = material.scaled
        rows = [np.arange(a, a + n) for a, n in zip(grid.offsets[:-1], ends, strict=True)]
        kept = np.concatenate(rows)
        observed = _array(grid.observed, kept)
        return Lessons(
            # each variate in one piece, as a Grid has them: windows are cut faster
            values=np.asfortranarray(grid.values.numpy()[kept]),
            others={
                "observed": None if observed is None else np.asfortranarray(observed),
                "known": _array(grid.known, kept),
                "covariates": _array(grid.covariates, kept),
                "static": _array(grid.static),
                "series": _array(grid.series),
            },
            offsets=np.cumsum([0, *ends], dtype=np.int64),
            borders=replace(material.borders, test=ends),
            shape=replace(shape, context=search.most(CONTEXT, own=experiment.window.context)),
            season=material.recipe.season,
        )

    @property
    def grid(self) -> Grid:
        """The rows as tensors, in the memory of the arrays."""
        others = {
            name: None if array is None else torch.from_numpy(array)
            for name, array in self.others.items()
        }
        return Grid(values=torch.from_numpy(self.values), offsets=self.offsets, **others)

    def windows(self, part: str, context: int, *, at_most: int = 0) -> PanelWindows:
        """Windows of `part` with `context`, evenly thinned to about `at_most` (0 for all)."""
        grid, shape = self.grid, replace(self.shape, context=context)
        judged = self.shape if part == "validation" else shape
        cutoffs = self.borders.cutoffs(part, grid, judged)
        if at_most and len(cutoffs) > at_most:
            stride = -(-len(cutoffs) // at_most)
            cutoffs = self.borders.cutoffs(part, grid, judged, stride=stride)
        if not len(cutoffs):
            raise DataError(
                f"The {part} part has no window of {judged.context} + {judged.horizon} steps. "
                f"Search shorter contexts ({CONTEXT}), or give the part more rows."
            )
        return PanelWindows(grid, cutoffs=cutoffs, shape=shape)


def learn(
    experiment: Experiment,
    lessons: Lessons,
    *,
    judged_as: Training,
    device: str,
    storage: Storage,
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

    at_most = validation_windows(model, judged_as)
    outcome = fit(
        model,
        train=lessons.windows("train", context),
        validation=lessons.windows("validation", context, at_most=at_most),
        training=training,
        device=pick_device(device),
        checkpoint=storage,
        report=tell,
    )
    if not outcome.history:
        report(Epoch(0, outcome.validation_loss, None, outcome.seconds))


def trial(
    config: Mapping[str, Any],
    *,
    lessons: Lessons,
    experiment: Experiment,
    folder: Path,
    device: str,
) -> None:
    """What Ray Tune calls: each epoch is reported, then how it ended, whatever happened."""
    from ray import tune

    torch.set_num_threads(
        1
    )  # parallel trials share the processors; two threads wait for each other
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
            storage=Folder(folder / config["name"]),
            report=tell,
        )
    except Exception as error:
        everywhere = isinstance(error, UnavailableError | OSError)  # a full disk, above all
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


def _array(tensor: Tensor | None, rows: Rows | slice = slice(None)) -> NDArray[Any] | None:
    return None if tensor is None else tensor.numpy()[rows]
