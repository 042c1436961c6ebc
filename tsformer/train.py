"""One training loop for every network; what needs no loop is fitted by the same call.

Everything random in an epoch (the order of the windows, dropout) comes from the seed and the
number of the epoch alone. So a resumed run needs no stored random state to be bit-equal, and
the caller's random state is never touched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tsformer.batch import Windows
from tsformer.checkpoint import Checkpoint, read_newest, write
from tsformer.descent import Descent, build_optimizer
from tsformer.errors import ConfigError, DataError, DivergedError, ShapeError
from tsformer.evaluate import blame, cut, device_of, evaluate
from tsformer.losses import LOSSES
from tsformer.model import ClosedForm, Model
from tsformer.recipe import Training
from tsformer.runtime import pick_precision
from tsformer.schedules import SCHEDULES, Plan

__all__ = ["Epoch", "Fit", "Progress", "Report", "Training", "evaluate", "fit"]


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
    checkpoint: Path | None = None,
    report: Report | None = None,
) -> Fit:
    """Fits `model` in place, whatever its kind, and leaves it with its best validation weights.

    Networks descend the loss; a ClosedForm is solved; a model without parameters is only scored.
    With a `checkpoint` directory, a run that was interrupted goes on where it was, and ends with
    the weights of an uninterrupted one (bit-equal on a CPU).

    Raises DivergedError at the first number that is not finite, ConfigError when the checkpoint
    belongs to another run, DataError or ShapeError when the windows cannot be used.
    """
    started = time.perf_counter()
    _check(model, train, validation)
    model.to(torch.device(device))
    history: list[Epoch] = []
    if isinstance(model, ClosedForm):
        model.solve(train, validation)
    elif any(parameter.requires_grad for parameter in model.parameters()):
        run = _Run(model, training, train, validation)
        history = run.go(checkpoint, report or _silent)
    model.eval()
    best = best_epoch(history, min_delta=training.min_delta)
    score = (
        evaluate(model, windows=validation, training=training)
        if best is None
        else best.validation_loss
    )
    return Fit(tuple(history), best.epoch if best else 0, score, time.perf_counter() - started)


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
        self, model: Model, training: Training, train: Windows, validation: Windows
    ) -> None:
        self.model = model
        self.training = training
        self.train = train
        self.validation = validation
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
        )
        self.windows = min(training.windows_per_epoch or len(train), len(train))
        steps = training.steps_per_epoch(len(train))
        self.plan = Plan(training.epochs, steps, training.warmup)
        self.history: list[Epoch] = []
        self.best: dict[str, Tensor] = {}

    def go(self, directory: Path | None, report: Report) -> list[Epoch]:
        """Runs the epochs that are left after the newest checkpoint; takes the best weights."""
        if directory is not None:
            self._resume(directory)
        while not self._finished():
            row = self._epoch(len(self.history) + 1, report)
            self.history.append(row)
            if best_epoch(self.history, min_delta=self.training.min_delta) is row:
                self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
            if directory is not None:
                write(self._checkpoint(), directory)
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
        with _seeded(self.training.seed, epoch, self.device):
            train_loss = self._descend(epoch, report)
        loss = evaluate(self.model, windows=self.validation, training=self.training)
        if not math.isfinite(loss):
            every = torch.arange(len(self.validation))
            raise self._diverged(f"after epoch {epoch}, in validation", self.validation, every)
        rate = self._rate(epoch, self.plan.steps_per_epoch)
        return Epoch(epoch, train_loss, loss, rate, time.perf_counter() - started)

    def _descend(self, epoch: int, report: Report) -> float:
        """All steps of an epoch; gives their mean loss, each weighing as many as its windows."""
        self.model.train()
        total = 0.0
        order = torch.randperm(len(self.train))[: self.windows]
        # parts of (nearly) equal size: no last batch of a few windows with a noisy gradient
        for step, index in enumerate(order.tensor_split(self.plan.steps_per_epoch), start=1):
            variates = _some(self.train.shape.variates, share=self.training.variate_share)
            batch, target = cut(self.train, index=index, device=self.device, variates=variates)
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
        """What a checkpoint must agree with, by name."""
        facts: dict[str, object] = {
            **{f"training.{key}": value for key, value in asdict(self.training).items()},
            **{f"shape.{key}": value for key, value in asdict(self.model.shape).items()},
            "windows.train": len(self.train),
            "windows.validation": len(self.validation),
        }
        for name, module in self.model.named_modules():
            facts[f"module.{name}"] = f"{type(module).__name__}({module.extra_repr()})"
        for name, tensor in self.model.state_dict().items():
            facts[f"weight.{name}"] = tuple(tensor.shape)
        return {name: repr(value) for name, value in facts.items()}

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

    def _resume(self, directory: Path) -> None:
        checkpoint = read_newest(directory)
        if checkpoint is None:
            return
        _refuse_another_run(directory, checkpoint.facts["identity"], self._identity())
        self.history = [Epoch(**row) for row in checkpoint.facts["history"]]
        self.best = _under("best", checkpoint.tensors)
        self.model.load_state_dict(_under("weights", checkpoint.tensors))
        optimizer = _under("optimizer", checkpoint.tensors)
        self.descent.restore(checkpoint.facts["descent"], optimizer)


def _some(variates: int, *, share: float) -> Tensor | None:
    """The numbers of a random `share` of the variates, in order and at least one; None for all."""
    kept = max(1, round(share * variates))
    return None if kept == variates else torch.randperm(variates)[:kept].sort().values


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


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Torch's random state for one epoch; afterwards the caller's is as it was."""
    state = int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0])
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(state)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(state)
        yield


def _refuse_another_run(directory: Path, there: dict[str, str], here: dict[str, str]) -> None:
    differing = [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
        for name in [*here, *(name for name in there if name not in here)]
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise ConfigError(
            f"The checkpoint in {directory} belongs to another run: {'; '.join(differing[:5])}. "
            "Give another directory, or remove this one to start anew."
        )


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
