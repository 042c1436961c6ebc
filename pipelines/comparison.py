"""A comparison: models that were scored on the same windows, and what makes two comparable."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from pipelines.backtest import Scores
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.material import Material
from pipelines.tracking import Span
from pipelines.versions import ModelVersion
from tsformer.train import Fit


@dataclass(frozen=True, slots=True)
class Entrant:
    """A model of a comparison: fitted for it, or registered before as `version`.

    `span` is when it was fitted, in milliseconds since 1970; `parent` the version whose weights it
    began with, if any.
    """

    name: str
    forecaster: Forecaster
    fit: Fit | None = None
    span: Span | None = None
    version: ModelVersion | None = None
    parent: ModelVersion | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models that were scored on the same windows of one material."""

    experiment: Experiment
    material: Material
    entrants: tuple[Entrant, ...]
    scores: Scores

    @property
    def windows(self) -> str:
        """A digest of what was scored: equal ones can be ranked in one table.

        The windows, the levels and the interval, and what sets the scales (parts and season).
        """
        data, scored = self.experiment.data, self.experiment.backtest
        places = self.scores.windows.select("series", "cutoff").unique().sort("series", "cutoff")
        asked = (self.material.recipe.horizon, [*scored.levels], scored.coverage)
        parts = ([*data.split], [*data.split_rows], [*data.split_dates])
        columns = ([*data.targets], data.fill, self.material.recipe.season)
        text = json.dumps([places.rows(), asked, parts, columns])
        return hashlib.sha256(text.encode()).hexdigest()[:16]
