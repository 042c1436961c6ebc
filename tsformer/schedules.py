"""Learning-rate schedules: pure functions of the step, so that nothing of them is ever stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi


@dataclass(frozen=True, slots=True)
class Plan:
    """How long a run is: epochs, steps in each, and the share of all steps that warms up."""

    epochs: int
    steps_per_epoch: int
    warmup: float = 0.0

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch


Schedule = Callable[[int, Plan], float]
"""The factor on the learning rate at a step, counted from 0 over the whole run."""


def constant(step: int, plan: Plan) -> float:  # noqa: ARG001
    """The same rate throughout."""
    return 1.0


def halving(step: int, plan: Plan) -> float:
    """1, 1, 1/2, 1/4, ... by epoch: `type1` of LTSF-Linear, iTransformer and TSLib."""
    return 0.5 ** max(0, step // plan.steps_per_epoch - 1)


def decay(step: int, plan: Plan) -> float:
    """1 for four epochs, then a tenth less each epoch: `type3` of PatchTST.

    Deviation: the official first epoch runs at 1/25 of the rate, a side effect of a one-cycle
    scheduler that is built and never stepped; here it runs at the full rate.
    """
    return float(0.9 ** max(0, step // plan.steps_per_epoch - 3))


def onecycle(step: int, plan: Plan) -> float:
    """Cosine from 1/25 up to 1 over the warm-up, then down to 1/250,000 (arXiv 1708.07120).

    The values are those of torch's OneCycleLR. Deviation: Adam's first beta is not cycled.
    """
    start, end = 1 / 25, 1 / 250_000
    peak = plan.warmup * plan.steps - 1
    if step < peak:
        return _cosine(start, 1.0, step / peak)
    fall = max(plan.steps - 1 - max(peak, 0.0), 1.0)
    return _cosine(1.0, end, (step - max(peak, 0.0)) / fall)


def cosine(step: int, plan: Plan) -> float:
    """Linear up to 1 over the warm-up, then half a cosine towards 0 (arXiv 1608.03983)."""
    warm = round(plan.warmup * plan.steps)
    if step < warm:
        return (step + 1) / warm
    return _cosine(1.0, 0.0, (step - warm) / (plan.steps - warm))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + cos(pi * share))


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "halving": halving,
    "decay": decay,
    "onecycle": onecycle,
    "cosine": cosine,
}
