"""Trials side by side: Ray Tune runs them, ASHA stops the weak ones, MLflow remembers them.

Nothing is restored from Ray's own files, which are pickles and lag behind: a search goes on from
its runs in MLflow and the checkpoints of its trials. So `tune.run`, which keeps no more than it
must, and not `Tuner`, which writes itself as a pickle first.

Import this late: Ray Tune registers an Arrow type that unpickles what it reads.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import Searcher

from pipelines.campaign import OUT_OF_TIME, Campaign, Effort
from pipelines.joint_fit import forget_pickled_columns
from pipelines.lessons import BEST, Lessons, trial
from pipelines.local_ray import last_line
from pipelines.storage import Place
from pipelines.trials import Epoch
from pipelines.workers import Workers
from tsformer.errors import UnavailableError

GRACE = 4  # a trial is left alone for the first of so many parts of its epochs
REDUCTION = 2  # of the trials that come as far as a rung, one in so many goes on
RETRIES = 2  # of a trial whose process dies; it goes on from its checkpoint
ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output can be silent, the new one never is
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no files of its own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the search; MLflow remembers it
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverges at once has no loss
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are told in our words
}


def run_trials(
    campaign: Campaign, lessons: Lessons, *, effort: Effort, checkpoints: Place, scratch: Path
) -> None:
    """Runs all trials of `campaign`; their checkpoints are in `checkpoints`, Ray's files in `scratch`.

    Raises UnavailableError where a disk or MLflow gives out; the search can go on later.
    """
    os.environ |= ENVIRONMENT
    workers = campaign.experiment.workers
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    work = tune.with_parameters(
        trial,
        lessons=lessons,
        experiment=campaign.experiment,
        checkpoints=checkpoints,
        device=effort.device,
        cluster="RAY_ADDRESS" in os.environ,
    )
    try:
        tune.run(
            work,
            search_alg=_Suggestions(campaign),
            scheduler=_halving(campaign),
            callbacks=[_Watch(campaign, checkpoints, seconds=effort.seconds)],
            num_samples=-1,
            max_concurrent_trials=effort.parallel,
            time_budget_s=effort.seconds,
            resources_per_trial=_resources(effort, workers),
            reuse_actors=True,  # a trial that is stopped then comes to its own end
            max_failures=RETRIES,
            raise_on_failed_trial=False,
            storage_path=str(scratch / "tune"),
            trial_dirname_creator=lambda started: started.trial_id,
            verbose=0,
        )
    except (tune.TuneError, RayError) as error:
        raise UnavailableError(f"Ray gave out: {last_line(error)}") from error
    finally:
        forget_pickled_columns()


def _resources(effort: Effort, workers: Workers) -> dict[str, float]:
    """What Ray sets aside for a trial: a byte, which is the least, where it waits for its workers.

    With a processor for each, trials would wait for workers, and these for trials, for ever.
    """
    return {"cpu": 1, "gpu": _gpus(effort)} if workers.here else {"memory": 1}


def _gpus(effort: Effort) -> float:
    """The share of a GPU that a trial gets: all of one where there are enough."""
    there = 0 if effort.device == "cpu" else ray.cluster_resources().get("GPU", 0)
    return min(1.0, there / effort.parallel)


def _halving(campaign: Campaign) -> AsyncHyperBandScheduler:
    """Asynchronous successive halving (arXiv 1810.05934), which knows the trials so far."""
    own = campaign.experiment.training.epochs
    most = campaign.search.most("training.epochs", own=own)
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=BEST,
        mode="min",
        max_t=most,
        grace_period=max(1, most // GRACE),
        reduction_factor=REDUCTION,
    )
    for known in campaign.settled:
        started, best = SimpleNamespace(trial_id=f"known-{known.number}"), float("inf")
        scheduler.on_trial_add(None, started)
        for row in known.epochs:
            best = min(best, row.loss)
            scheduler.on_trial_result(None, started, {"epoch": row.epoch, BEST: best})
    return scheduler


class _Suggestions(Searcher):
    """Ray Tune's question for the next trial."""

    def __init__(self, campaign: Campaign) -> None:
        super().__init__(metric=BEST, mode="min")
        self.campaign = campaign

    def suggest(self, trial_id: str) -> Any:  # noqa: ARG002
        found = self.campaign.next()
        if found is None:
            return Searcher.FINISHED
        return {
            "number": found.number,
            "name": trial_name(found.number),
            "parameters": dict(found.parameters),
        }

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The campaign hears of it elsewhere."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept here."""


class _Watch(tune.Callback):
    """Takes what trials say, and sees which of them Ray has ended.

    All of it at the end of a step: elsewhere Ray takes an error for one of the trial.
    """

    def __init__(self, campaign: Campaign, checkpoints: Place, *, seconds: float | None) -> None:
        self.campaign = campaign
        self.checkpoints = checkpoints
        self.deadline = math.inf if seconds is None else time.monotonic() + seconds
        self.told: list[tuple[int, Mapping[str, Any]]] = []
        self.ended: set[int] = set()

    def on_trial_result(  # its names are Ray's
        self,
        iteration: int,  # noqa: ARG002
        trials: Any,  # noqa: ARG002
        trial: Any,
        result: Mapping[str, Any],
        **info: Any,  # noqa: ARG002
    ) -> None:
        self.told.append((trial.config["number"], dict(result)))

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:  # noqa: ARG002
        told, self.told = self.told, []
        for number, result in told:
            self._take(number, result)
        for started in trials:
            number = started.config["number"]
            if started.is_finished() and number not in self.ended:
                self.ended.add(number)
                self._settle(number, started)

    def _take(self, number: int, result: Mapping[str, Any]) -> None:
        """What a trial said: an epoch, or how it ended."""
        if "state" not in result:
            row = (result["epoch"], result["loss"], result["train_loss"], result["seconds"])
            self.campaign.add(number, Epoch(*row))
            return
        self.ended.add(number)
        self.campaign.end(number, result["state"], result["reason"])
        if result["everywhere"]:
            raise UnavailableError(f"Trial {number} stopped the search. {result['reason']}")
        if result["state"] != "failed":
            (self.checkpoints / trial_name(number)).clear()

    def _settle(self, number: int, started: Any) -> None:
        """A trial that Ray has ended before it could say so itself."""
        if started.status == "ERROR":
            self.campaign.end(number, "failed", last_line(started.get_error()))
        elif time.monotonic() >= self.deadline:
            self.campaign.stop(number, OUT_OF_TIME)
        else:
            self.campaign.stop(number, f"worse than others at epoch {started.last_result['epoch']}")
            (self.checkpoints / trial_name(number)).clear()


def trial_name(number: int) -> str:
    """The folder of a trial's checkpoints."""
    return f"trial-{number:04d}"
