"""ETS, Theta and SARIMAX, fitted anew to the context of every window.

They have no weights: `forward` fits each variate of each window by itself, in processes of their
own (`tsformer.fit_pool`), as many at once as torch has threads. A series that has no fit (too
short, not converged, out of time) is forecast as NaN and the reasons are logged; what serves
instead is for the caller to decide.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.columns import indicators
from tsformer.errors import ConfigError, unlike
from tsformer.fit_pool import Answer, Job, answers
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.scale import Scaled, check_choice
from tsformer.series_fit import shortest

# Deviations of a window are rounded to this before a fit. Below it a digit says nothing about the
# series, but steers an optimiser: without it the same series in another unit, equal to 1e-10,
# was forecast up to 0.03 deviations apart.
GRAIN = 2.0**-16

TRENDS = ("n", "c", "t", "ct")

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ETSSpec(ModelSpec):
    """Exponential smoothing with additive errors: ETS(A,Ad,A) by default.

    `season` is in steps; 0 leaves it to the data and must be replaced before the model is built.
    `seconds` is the processor time that the fit of one series may take.
    """

    kind: ClassVar[str] = "ets"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True)

    trend: bool = True
    damped: bool = True
    seasonal: bool = True
    season: int = 0
    seconds: float = 10.0

    def __post_init__(self) -> None:
        check_limits(self.season, self.seconds)
        if self.damped and not self.trend:
            told = "ets: there is no trend to be damped. Say damped: false too."
            raise ConfigError(told, told=told)

    def build(self, shape: Shape) -> Model:
        return classical(self, shape, season=self.season, seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class ThetaSpec(ModelSpec):
    """The Theta method; the season is taken out where a test finds one.

    `season` and `seconds` are those of `ETSSpec`; a season of 1 step is none.
    """

    kind: ClassVar[str] = "theta"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True)

    season: int = 0
    seconds: float = 10.0

    def __post_init__(self) -> None:
        check_limits(self.season, self.seconds)

    def build(self, shape: Shape) -> Model:
        return classical(self, shape, season=self.season, seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class SARIMAXSpec(ModelSpec):
    """ARIMA(p, d, q)(P, D, Q) errors around a regression on what is known ahead.

    `order` is (p, d, q), `seasonal_order` (P, D, Q); `trend` is none, constant, linear or both
    ("n", "c", "t", "ct"), of the differenced series where there is differencing. The cost grows
    with the cube of the season: half a second a series of 504 steps for a season of 24, out of
    reach for one of 168. There a shorter season, or calendar features with `seasonal_order`
    [0, 0, 0] (FPP3, section 12.1), are the way. `season` and `seconds` are those of `ETSSpec`.
    """

    kind: ClassVar[str] = "sarimax"
    capabilities: ClassVar[Capabilities] = Capabilities(known=True, native_quantiles=True)

    order: tuple[int, ...] = (1, 0, 0)
    seasonal_order: tuple[int, ...] = (0, 1, 1)
    trend: str = "n"
    season: int = 0
    seconds: float = 10.0

    def __post_init__(self) -> None:
        check_limits(self.season, self.seconds)
        check_choice(self.trend, TRENDS, name="trend")
        for name in ("order", "seasonal_order"):
            numbers = getattr(self, name)
            if len(numbers) != 3 or min(numbers) < 0:
                raise unlike(f"sarimax: '{name}' must be three numbers like [1, 0, 1]", [*numbers])

    def build(self, shape: Shape) -> Model:
        return classical(self, shape, season=self.season, seconds=self.seconds)


def check_limits(season: int, seconds: float) -> None:
    """Refuses a `season` that is no number of steps, and a time limit without time."""
    if season < 0:
        raise unlike("season must be a whole number of steps", repr(season))
    if not seconds > 0:
        raise unlike("seconds must be a positive time", repr(seconds))


def classical(spec: ModelSpec, shape: Shape, *, season: int, seconds: float) -> Model:
    """The model of `spec` on standardised windows.

    Raises ConfigError where no window of `shape` is long enough for the season.
    """
    if not season:
        raise ConfigError(f"{spec.kind} needs its season in steps, as 24 for hourly days.")
    if shape.context < (least := shortest(spec.kind, spec.to_mapping())):
        raise ConfigError(
            f"{spec.kind} needs {least} steps of context for a season of {season}, got "
            f"{shape.context}. Lengthen window.context, or give the model a shorter season."
        )
    return Scaled(Classical(spec, shape, seconds=seconds))


class Classical(Model):
    """A fit for each variate of each window; expects standardised windows."""

    def __init__(self, spec: ModelSpec, shape: Shape, *, seconds: float) -> None:
        super().__init__(shape)
        self.spec = spec
        self.seconds = seconds

    def forward(self, batch: Batch) -> Tensor:
        past = batch.past.double().masked_fill(~batch.observed, torch.nan)
        found = answers(self.jobs(past, self.known(batch)), at_once=torch.get_num_threads())
        note_failures(self.spec.kind, found)
        size = (len(past), past.shape[2], self.shape.horizon, self.shape.outputs)
        none = np.full(size[2:], np.nan)
        numbers = np.stack([none if isinstance(answer, str) else answer for answer in found])
        # [batch, horizon, variate, level]
        return torch.from_numpy(numbers).view(size).transpose(1, 2).to(past.device)

    def jobs(self, past: Tensor, known: Tensor | None) -> list[Job]:
        """A job for each window and variate of `past` `[batch, time, variate]`, in this order."""
        rows = (torch.round(past / GRAIN) * GRAIN).mT.cpu().numpy()  # [batch, variate, time]
        options = self.spec.to_mapping()
        return [
            Job(
                kind=self.spec.kind,
                values=row,
                options=options,
                horizon=self.shape.horizon,
                levels=self.shape.levels,
                seconds=self.seconds,
                exogenous=None if known is None else known[window].cpu().numpy(),
            )
            for window, variates in enumerate(rows)
            for row in variates
        ]

    def known(self, batch: Batch) -> Tensor | None:
        """The regressors of each window `[batch, time + horizon, column]`; None without any."""
        if not self.shape.known:
            return None
        known = batch.given("known", columns=len(self.shape.known))
        return indicators(known, sizes=self.shape.known).double()


def note_failures(kind: str, found: Sequence[Answer]) -> None:
    """Says in the log how many series of a call have no fit, and why."""
    reasons = Counter(answer for answer in found if isinstance(answer, str))
    if reasons:
        told = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        LOG.warning("%s: %d of %d series have no fit: %s.", kind, reasons.total(), len(found), told)
