"""The rivals that every model has to face: seasonal naive and the line."""

from __future__ import annotations

from dataclasses import replace

from pipelines.case import LINES, NAIVE
from pipelines.experiment import Experiment
from tsformer.models.naive import SeasonalNaiveSpec
from tsformer.models.ridge import RidgeSpec


def missing_rivals(experiment: Experiment) -> tuple[RidgeSpec | SeasonalNaiveSpec, ...]:
    """What the gate asks for and the experiment does not name: a linear map, seasonal naive."""
    kinds = {spec.kind for spec in experiment.specs}
    line = () if kinds & {*LINES} else (RidgeSpec(),)
    naive = () if NAIVE in kinds else (SeasonalNaiveSpec(),)
    return (*line, *naive)


def with_rivals(experiment: Experiment) -> Experiment:
    """The experiment with the rivals that it lacks among its baselines."""
    return replace(experiment, baselines=(*experiment.baselines, *missing_rivals(experiment)))


def rivals_note(experiment: Experiment) -> str:
    """Which rivals take part unasked, as a sentence; empty where none do."""
    kinds = [spec.kind for spec in missing_rivals(experiment)]
    if not kinds:
        return ""
    verb = "take" if len(kinds) > 1 else "takes"
    return f"{' and '.join(kinds)} {verb} part too: the gate holds every model against them."
