"""One trial of a search, as a value: what was tried, how it went and how it ended."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pipelines.experiment import Experiment
from pipelines.search import Parameters, Search, sections

# finished: all its epochs, or as many as its patience. stopped: worse than others at the same
# epoch, or out of time. diverged: met a number that is not finite. pruned: its settings do not go
# together. failed: something broke that another attempt may mend.
State = Literal["running", "finished", "stopped", "diverged", "pruned", "failed"]
COMPARED: tuple[State, ...] = ("finished", "stopped")  # those that may be the best


@dataclass(frozen=True, slots=True)
class Epoch:
    """What a trial says after an epoch; `loss` is that of the validation part, lower is better.

    A model without epochs says it once, as epoch 0.
    """

    epoch: int
    loss: float
    train_loss: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the space; `run_id` is that of its MLflow run, a child of the search's."""

    number: int
    parameters: Parameters
    run_id: str = ""
    state: State = "running"
    reason: str = ""
    epochs: tuple[Epoch, ...] = ()

    @property
    def loss(self) -> float:
        """Its best validation loss: a fit keeps the weights of its best epoch. NaN before any."""
        return min((row.loss for row in self.epochs), default=math.nan)

    @property
    def seconds(self) -> float:
        """The time that its epochs took."""
        return sum(row.seconds for row in self.epochs)

    @property
    def last(self) -> int:
        """Its last epoch; -1 before any word of it."""
        return self.epochs[-1].epoch if self.epochs else -1

    def after(self, row: Epoch) -> Trial:
        """The trial with one more epoch."""
        return replace(self, epochs=(*self.epochs, row))

    def ended(self, state: State, reason: str = "") -> Trial:
        """The trial at its end."""
        return replace(self, state=state, reason=reason)


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """The trial with the lowest loss among those that may be the best; the first of equals."""
    compared = [trial for trial in trials if trial.state in COMPARED and trial.epochs]
    return min(compared, key=lambda trial: (trial.loss, trial.number), default=None)


def tried(experiment: Experiment, parameters: Parameters) -> Experiment:
    """The experiment that a trial stands for; ConfigError where its settings do not go together."""
    changes = sections(parameters)
    model, training = experiment.model, experiment.training
    return replace(
        experiment,
        model=type(model).from_mapping({**model.to_mapping(), **changes.get("model", {})}),
        training=replace(training, **changes.get("training", {})),
        window=replace(experiment.window, **changes.get("window", {})),
        search=None,
    )


def start_of(experiment: Experiment, search: Search) -> dict[str, Any]:
    """What the experiment itself says of the settings that are searched."""
    found = {}
    for name in search.space:
        section, _, key = name.partition(".")
        found[name] = getattr(getattr(experiment, section), key)
    return found
