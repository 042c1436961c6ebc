"""The trials of one search while it runs: which comes next, what each said, how each ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.crashpoint import crashpoint
from pipelines.experiment import Experiment
from pipelines.search import Search
from pipelines.suggestions import suggest
from pipelines.trial_runs import TrialRuns
from pipelines.trials import Epoch, State, Trial, start_of, tried
from tsformer.errors import ConfigError

OUT_OF_TIME = "out of time"
Report = Callable[[Trial], None]


@dataclass(frozen=True, slots=True)
class Effort:
    """How many trials, how many at once, and for how many seconds at most (None: no limit)."""

    trials: int
    parallel: int
    seconds: float | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        for option in ("trials", "parallel"):
            if getattr(self, option) < 1:
                raise ConfigError(f"--{option} must be at least 1, got {getattr(self, option)}.")


class Campaign:
    """Every step is in MLflow before the next; what MLflow knows already is taken up again.

    Trials that were running, that failed, or that ran out of time go first, with the settings that
    they had; then new ones, up to `trials` of all.
    """

    def __init__(
        self,
        experiment: Experiment,
        search: Search,
        runs: TrialRuns,
        *,
        trials: int,
        tags: Mapping[str, object],
        report: Report,
    ) -> None:
        self.experiment = experiment
        self.search = search
        self.runs = runs
        self.limit = trials
        self.tags = tags
        self.report = report
        self.exhausted = False  # every combination was tried
        self._trials = {trial.number: trial for trial in runs.known()}
        self._waiting = [trial for trial in self._trials.values() if _unsettled(trial)]

    @property
    def trials(self) -> list[Trial]:
        """All trials so far, in their order."""
        return [self._trials[number] for number in sorted(self._trials)]

    @property
    def settled(self) -> list[Trial]:
        """Those that are at their end."""
        waiting = {trial.number for trial in self._waiting}
        return [t for t in self.trials if t.state != "running" and t.number not in waiting]

    @property
    def over(self) -> bool:
        """Whether there is nothing left to run."""
        return not self._waiting and len(self._trials) >= self.limit

    def next(self) -> Trial | None:
        """The trial to run now; None where there is none left."""
        if self._waiting:
            return self._keep(self.runs.again(self._waiting.pop(0)))
        while len(self._trials) < self.limit:
            trial = self._new(len(self._trials))
            if trial is None:
                self.exhausted = True
                return None
            try:
                tried(self.experiment, trial.parameters)
            except ConfigError as error:
                self.end(trial.number, "pruned", str(error))
            else:
                return trial
        return None

    def add(self, number: int, row: Epoch) -> None:
        """Takes what a trial says after an epoch."""
        self._keep(self.runs.add(self._trials[number], row))
        crashpoint(f"trial-{number}-epoch-{row.epoch}")

    def end(self, number: int, state: State, reason: str = "") -> None:
        """Takes how a trial ended."""
        self._keep(self.runs.end(self._trials[number], state, reason))

    def stop(self, number: int, reason: str) -> None:
        """Takes that a trial was ended from outside, which after its last epoch is no loss."""
        trial = self._trials[number]
        complete = trial.last >= tried(self.experiment, trial.parameters).training.epochs
        if complete:
            self.end(number, "finished")
        else:
            self.end(number, "stopped", reason)

    def _new(self, number: int) -> Trial | None:
        parameters = suggest(
            self.search,
            self.trials,
            number=number,
            start=start_of(self.experiment, self.search),
            seed=self.experiment.training.seed,
        )
        if parameters is None:
            return None
        return self._keep(self.runs.begin(number, parameters, tags=self.tags))

    def _keep(self, trial: Trial) -> Trial:
        self._trials[trial.number] = trial
        self.report(trial)
        return trial


def _unsettled(trial: Trial) -> bool:
    return trial.state in ("running", "failed") or trial.reason == OUT_OF_TIME
