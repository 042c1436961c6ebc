"""One training loop for every network; what needs no loop is fitted by the same call.

Everything random in an epoch (the order of the windows, dropout) comes from the seed and the
number of the epoch alone. So a resumed run needs no stored random state to be bit-equal, and
the caller's random state is never touched.

Several processes train as one: each takes its share of every batch, and losses, gradients and the
validation are those of the whole (`tsformer.ranks`). Then dropout alone tells them from one process
with the same batches: each rank draws its own numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tsformer.batch import Windows
from tsformer.batchnorm import share_statistics
from tsformer.chance import part_ways, seeded, shuffled, some
from tsformer.checkpoint import Checkpoint, Folder, Storage, keep, newest
from tsformer.descent import Descent, build_optimizer
from tsformer.errors import ConfigError, DataError, DivergedError, ShapeError
from tsformer.evaluate import blame, cut, device_of, evaluate
from tsformer.identity import identity, refuse_another_run
from tsformer.losses import LOSSES
from tsformer.model import ClosedForm, Model
from tsformer.ranks import ALONE, Ranks
from tsformer.recipe import Training
from tsformer.runtime import pick_precision
from tsformer.schedules import SCHEDULES, Plan

__all__ = ["Epoch", "Fit", "Progress", "Report", "Training", "evaluate", "fit", "is_network"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is: epochs and steps count from 1.

    `validation_loss` is None but in the report that ends an epoch, where `loss` is the mean
    over the epoch instead of over the last batch.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    validation_loss: float | None
    learning_rate: float


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Epoch:
    """One finished epoch; the learning rate is that of its last step."""

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of a fit: `best_epoch` is 0 and `history` empty where nothing is iterated."""

    history: tuple[Epoch, ...]
    best_epoch: int
    validation_loss: float
    seconds: float


def fit(
    model: Model,
    *,
    train: Windows,
    validation: Windows,
    training: Training,
    device: torch.device | str = "cpu",
    checkpoint: Storage | Path | None = None,
    report: Report | None = None,
    ranks: Ranks = ALONE,
) -> Fit:
    """Fits `model` in place, whatever its kind, and leaves it with its best validation weights.

    Networks descend the loss; a ClosedForm is solved; a model without parameters is only scored.
    With a `checkpoint` directory or storage, a run that was interrupted goes on where it was, and
    ends with the weights of an uninterrupted one (bit-equal on a CPU). `ranks` are the processes
    that all make this call, on the same windows, and end with the same weights; the first of them
    alone writes checkpoints.

    Raises DivergedError at the first number that is not finite, ConfigError when the checkpoint
    belongs to another run, DataError or ShapeError when the windows cannot be used, and
    UnavailableError when a checkpoint cannot be written; the one before is kept.
    """
    started = time.perf_counter()
    _check(model, train, validation)
    model.to(torch.device(device))
    ranks.agree(model.state_dict().values())
    history: list[Epoch] = []
    if isinstance(model, ClosedForm):
        model.solve(train, validation)
    elif is_network(model):
        run = _Run(model, training, train, validation, ranks)
        share_statistics(model, ranks)
        storage = Folder(checkpoint) if isinstance(checkpoint, Path) else checkpoint
        try:
            history = run.go(storage, report or _silent)
        finally:
            share_statistics(model, ALONE)
    model.eval()
    best = best_epoch(history, min_delta=training.min_delta)
    score = (
        evaluate(model, windows=validation, training=training, ranks=ranks)
        if best is None
        else best.validation_loss
    )
    return Fit(tuple(history), best.epoch if best else 0, score, time.perf_counter() - started)


def is_network(model: Model) -> bool:
    """Whether a fit of `model` descends a loss, epoch by epoch."""
    learns = any(parameter.requires_grad for parameter in model.parameters())
    return learns and not isinstance(model, ClosedForm)


def best_epoch(history: list[Epoch], *, min_delta: float) -> Epoch | None:
    """The last epoch that improved on the best before it by more than `min_delta`."""
    best: Epoch | None = None
    for row in history:
        if best is None or row.validation_loss < best.validation_loss - min_delta:
            best = row
    return best


class _Run:
    """The epochs of one network; between two of them its whole state is in a checkpoint."""

    def __init__(
        self,
        model: Model,
        training: Training,
        train: Windows,
        validation: Windows,
        ranks: Ranks,
    ) -> None:
        self.model = model
        self.training = training
        self.train = train
        self.validation = validation
        self.ranks = ranks
        self.device = device_of(model)
        self.descent = Descent(
            model,
            optimizer=build_optimizer(
                model, name=training.optimizer, weight_decay=training.weight_decay
            ),
            loss=LOSSES[training.loss],
            precision=pick_precision(training.precision, device=self.device),
            clip=training.gradient_clip,
            sharpness=training.sharpness,
            ranks=ranks,
        )
        self.windows = min(training.windows_per_epoch or len(train), len(train))
        steps = training.steps_per_epoch(len(train))
        _check_shares(self.windows // steps, ranks)
        self.plan = Plan(training.epochs, steps, training.warmup)
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}

    def go(self, storage: Storage | None, report: Report) -> list[Epoch]:
        """Runs the epochs that are left after the newest checkpoint; takes the best weights."""
        if storage is not None:
            self._resume(storage)
        while not self._finished():
            row = self._epoch(len(self.history) + 1, report)
            self.history.append(row)
            if best_epoch(self.history, min_delta=self.training.min_delta) is row:
                self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
            if storage is not None:
                self.ranks.on_first(lambda: keep(self._checkpoint(), storage))
            report(self._progress(row.epoch, self.plan.steps_per_epoch, row.train_loss, row))
        self.model.load_state_dict(self.best)
        return self.history

    def _finished(self) -> bool:
        done = len(self.history)
        best = best_epoch(self.history, min_delta=self.training.min_delta)
        waited = done - best.epoch if best else 0
        return done == self.training.epochs or 0 < self.training.patience <= waited

    def _epoch(self, epoch: int, report: Report) -> Epoch:
        started = time.perf_counter()
        with seeded(self.training.seed, epoch, device=self.device):
            train_loss = self._descend(epoch, report)
        self.ranks.agree(self.model.buffers())  # what a foreign layer counted of its share alone
        loss = evaluate(
            self.model, windows=self.validation, training=self.training, ranks=self.ranks
        )
        if not math.isfinite(loss):
            every = torch.arange(len(self.validation))
            raise self._diverged(f"after epoch {epoch}, in validation", self.validation, every)
        rate = self._rate(epoch, self.plan.steps_per_epoch)
        return Epoch(epoch, train_loss, loss, rate, time.perf_counter() - started)

    def _descend(self, epoch: int, report: Report) -> float:
        """All steps of an epoch; gives their mean loss, each weighing as many as its windows."""
        self.model.train()
        total = 0.0
        # parts of (nearly) equal size: no last batch of a few windows with a noisy gradient
        batches = shuffled(len(self.train), kept=self.windows, parts=self.plan.steps_per_epoch)
        seed, share = self.training.seed, self.training.variate_share
        chance = part_ways(seed, epoch, ranks=self.ranks, device=self.device)
        for step, index in enumerate(batches, start=1):
            variates = some(self.train.shape.variates, share=share, chance=chance)
            own = self.ranks.share(index)
            batch, target = cut(self.train, index=own, device=self.device, variates=variates)
            loss = self.descent.step(batch, target, learning_rate=self._rate(epoch, step))
            if not math.isfinite(loss):
                where = f"in epoch {epoch}, step {step} of {self.plan.steps_per_epoch}"
                raise self._diverged(where, self.train, index)
            total += loss * len(index)
            report(self._progress(epoch, step, loss, None))
        return total / self.windows

    def _rate(self, epoch: int, step: int) -> float:
        done = (epoch - 1) * self.plan.steps_per_epoch + step - 1
        factor = SCHEDULES[self.training.schedule](done, self.plan)
        return self.training.learning_rate * factor

    def _progress(self, epoch: int, step: int, loss: float, row: Epoch | None) -> Progress:
        return Progress(
            epoch=epoch,
            epochs=self.plan.epochs,
            step=step,
            steps=self.plan.steps_per_epoch,
            loss=loss,
            validation_loss=None if row is None else row.validation_loss,
            learning_rate=self._rate(epoch, step),
        )

    def _diverged(self, where: str, windows: Windows, index: Tensor) -> DivergedError:
        parts = index.split(self.training.batch_size)
        blamed = (blame(self.model, windows=windows, index=part) for part in parts)
        unknown = "contexts, targets and forecasts are finite but too large"
        cause, bad = next((found for found in blamed if found[0]), (unknown, []))
        smaller = " or sharpness" if self.training.sharpness else ""
        return DivergedError(
            f"The loss is not finite {where}: {cause}. "
            f"Mend these windows, lower learning_rate{smaller}, or set gradient_clip.",
            part="training" if windows is self.train else "validation",
            windows=bad,
        )

    def _identity(self) -> dict[str, str]:
        return identity(
            self.model, training=self.training, train=self.train, validation=self.validation
        )

    def _checkpoint(self) -> Checkpoint:
        tensors = {
            **_prefixed("weights", self.model.state_dict()),
            **_prefixed("best", self.best),
            **_prefixed("optimizer", self.descent.tensors()),
        }
        facts = {
            "identity": self._identity(),
            "history": [asdict(row) for row in self.history],
            "descent": self.descent.facts(),
        }
        return Checkpoint(len(self.history), facts, tensors)

    def _resume(self, storage: Storage) -> None:
        data = self.ranks.from_first(lambda: newest(storage))
        if data is None:
            return
        checkpoint = Checkpoint.decoded(data)
        refuse_another_run(checkpoint.facts["identity"], self._identity(), place=str(storage))
        self.history = [Epoch(**row) for row in checkpoint.facts["history"]]
        self.best = _under("best", checkpoint.tensors)
        self.model.load_state_dict(_under("weights", checkpoint.tensors))
        optimizer = _under("optimizer", checkpoint.tensors)
        self.descent.restore(checkpoint.facts["descent"], optimizer)


def _silent(progress: Progress) -> None:
    """The report of who does not want any."""


def _check(model: Model, train: Windows, validation: Windows) -> None:
    for name, windows in (("training", train), ("validation", validation)):
        for axis in ("context", "horizon"):
            built, given = getattr(model.shape, axis), getattr(windows.shape, axis)
            if built != given:
                raise ShapeError(
                    f"The model is built for {axis} {built}, the {name} windows have {given}. "
                    "Build the model from the shape of the windows."
                )
        if not len(windows):
            raise DataError(
                f"There is no {name} window. Each needs {model.shape.context} rows of context and "
                f"{model.shape.horizon} of horizon: give more rows or shorten context and horizon."
            )


def _check_shares(windows: int, ranks: Ranks) -> None:
    if windows < ranks.size:
        raise ConfigError(
            f"{ranks.size} workers share the windows of each step, and a step has {windows}. Use "
            "fewer workers, or a larger batch_size."
        )


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
