"""The parent of a model: a registered version whose weights it begins with, all or not at all.

What a whole model knows of its inputs goes along (words, scalings, units, numbers of series), so
that on new data each weight meets what it was fitted to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipelines.forecaster import Forecaster
from pipelines.frequency import Frequency
from pipelines.material import Material
from pipelines.pretraining import KeptEncoder, Origin
from pipelines.recipe import Recipe
from pipelines.versions import ModelVersion
from pipelines.windows import Scaler
from tsformer import artifact
from tsformer.model import Model
from tsformer.pretrain import WHOLE, head_first, transfer
from tsformer.train import Fit, Training

PARENT_TAG = "parent_version"  # of an MLflow run

Fitting = Callable[[str, Training], Fit]  # fits a model in place: the part's name, and how


@dataclass(frozen=True, slots=True)
class Parent:
    """A registered version whose verified weights a model begins with."""

    version: ModelVersion
    source: KeptEncoder | Forecaster
    probe_epochs: int = 0

    @property
    def seen(self) -> Origin | Recipe:
        """The grid and the last stamps of the rows it has learnt from."""
        return self.source.origin if isinstance(self.source, KeptEncoder) else self.source.recipe

    def material(self, given: Material) -> Material:
        """`given` as the child reads it: with what a whole model knows of its inputs."""
        return given if isinstance(self.source, KeptEncoder) else _known_to(self.source, given)

    def shares_time_with(self, material: Material) -> bool:
        """Whether both have stamps, or both count their rows."""
        frequencies = (self.seen.frequency, material.recipe.frequency)
        counted = [Frequency.parse(frequency).is_integer for frequency in frequencies]
        return counted[0] == counted[1]

    def taught(self, recipe: Recipe, material: Material) -> Recipe:
        """The `recipe` of a child fitted on `material`: what its parent has seen, it has seen."""
        trained, fitted = self.seen.trained, self.seen.fitted
        if trained is None or fitted is None or not self.shares_time_with(material):
            return recipe
        return recipe.having_seen(
            trained=trained.then(material.seen("validation")),
            fitted=fitted.then(material.seen("test")),
        )

    def give(self, model: Model) -> None:
        """Sets all weights and statistics of `model` that are the parent's, or raises."""
        if isinstance(self.source, KeptEncoder):
            transfer(self.source.encoder, model)
            return
        weights = self.source.model.state_dict()
        artifact.check_tensors(model.state_dict(), weights, where=f"'from' {self.version}")
        model.load_state_dict(weights, strict=True)

    def fit(self, model: Model, *, training: Training, fitting: Fitting) -> Fit:
        """The fit of `model`, which has the weights: from an encoder in two parts, else in one."""
        if isinstance(self.source, KeptEncoder):
            return head_first(
                model, training=training, probe_epochs=self.probe_epochs, fitting=fitting
            )
        return fitting(WHOLE, training)


def _known_to(parent: Forecaster, given: Material) -> Material:
    """`given` with the words, scalings, units and numbers of series that `parent` has learnt."""
    read, theirs = given.read_by(parent), parent.recipe
    scaler = _scaler(parent, given)
    series = theirs.series or given.recipe.series
    return replace(
        read,
        recipe=replace(given.recipe, inputs=theirs.inputs, series=series),
        shape=replace(read.shape, series=series.size if series else 0),
        scaler=scaler,
        scaled=read.grid.standardised(scaler),
    )


def _scaler(parent: Forecaster, given: Material) -> Scaler:
    """Mean and deviation of each series: those of the parent where it knows one and is bound to it."""
    if parent.units is None:
        return given.scaler
    own = zip(given.scaler.mean.ravel(), given.scaler.std.ravel(), strict=True)
    known = parent.units.known
    rows = np.array(
        [known.get(str(name), unit) for name, unit in zip(given.panel.ids, own, strict=True)]
    )
    mean, std = rows.T.reshape(2, *given.scaler.mean.shape)
    return Scaler(mean, std)
