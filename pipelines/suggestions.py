"""What to try next, and what mattered: Optuna asked with the trials so far, keeping nothing.

Each question makes a study of its own from the trials, with a seed of its own from the number of
the trial. So a search that was killed goes on as it would have, from the trials alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from pipelines.search import Choice, Parameters, Range, Search
from pipelines.trials import COMPARED, Trial

STARTUP = 5  # trials drawn at random before the sampler learns from them
DRAWS = 10  # before what was tried already is looked for in the list of all combinations
LISTED = 100_000  # combinations that are listed at most
BETTER = 0.5  # the share of the trials that is held against all
TRIALS_NEEDED = 5  # below as many, or two for each setting, an importance is noise


def suggest(
    search: Search, trials: Sequence[Trial], *, number: int, start: Parameters, seed: int
) -> Parameters | None:
    """The settings of trial `number`; None where every combination was tried.

    The first is `start`, the experiment as it is written, if it lies in the space: the best is
    never worse. Then those of the tree-structured Parzen estimator (Bergstra et al., NeurIPS
    2011; Optuna's TPESampler), which takes running trials for bad ones so that parallel ones
    spread out. What was tried is not tried again.
    """
    if not trials and search.holds(start):
        return start
    tried = [trial.parameters for trial in trials]
    for draw in range(DRAWS):
        asked = _ask(search, trials, seed=_entropy(seed, number, draw))
        if asked not in tried:
            return asked
    if search.size > LISTED:
        return asked
    left = [point for point in search.combinations() if point not in tried]
    return left[_entropy(seed, number, DRAWS) % len(left)] if left else None


def importances(search: Search, trials: Sequence[Trial]) -> dict[str, float] | None:
    """The share of each setting in what made trials good, most first; None of too few trials.

    PED-ANOVA (arXiv 2304.10255) on what tells the better half from all: ranks alone count, so a
    trial that was stopped early is as good as one that ran on. Optuna's default, the best tenth,
    is a single one of few trials.
    """
    told = [_told(search, trial) for trial in trials if trial.state in COMPARED and trial.epochs]
    if len(told) < max(TRIALS_NEEDED, 2 * len(search.space)):
        return None
    study = _study(told, seed=0)
    if len({trial.value for trial in told}) == 1:
        return dict.fromkeys(search.space, 0.0)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BETTER)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _ask(search: Search, trials: Sequence[Trial], *, seed: int) -> dict[str, Any]:
    study = _study([_told(search, trial) for trial in trials], seed=seed)
    drawn = study.ask(fixed_distributions=_distributions(search)).params
    return {
        name: dimension.values[drawn[name]]
        if isinstance(dimension, Choice)
        else dimension.rounded(drawn[name])
        for name, dimension in search.space.items()
    }


def _entropy(*numbers: int) -> int:
    """A random number of its own for each tuple of `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _study(told: Sequence[FrozenTrial], *, seed: int) -> optuna.Study:
    logging.getLogger("optuna").setLevel(logging.WARNING)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
    )
    study.add_trials(told)
    return study


def _distributions(search: Search) -> dict[str, BaseDistribution]:
    """Choices by their place in the list: values of any type, and 1 is not True."""
    return {name: _distribution(dimension) for name, dimension in search.space.items()}


def _distribution(dimension: Choice | Range) -> BaseDistribution:
    if isinstance(dimension, Choice):
        return CategoricalDistribution(tuple(range(len(dimension.values))))
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _told(search: Search, trial: Trial) -> FrozenTrial:
    """A trial as Optuna knows it: without a loss it only shows where not to look."""
    state = TrialState.RUNNING if trial.state == "running" else TrialState.PRUNED
    compared = trial.state in COMPARED and trial.epochs
    return create_trial(
        params={
            name: d.values.index(trial.parameters[name])
            if isinstance(d, Choice)
            else trial.parameters[name]
            for name, d in search.space.items()
        },
        distributions=_distributions(search),
        value=trial.loss if compared else None,
        state=TrialState.COMPLETE if compared else state,
    )
