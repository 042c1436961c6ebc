"""Warm start: whether a model may begin with the weights of a registered version.

Only where they mean the same: same settings, same context, same inputs. And a parent must not have
seen the rows that choose or score its child.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from pipelines.covariates import Covariate, Inputs
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.leaks import shown
from pipelines.material import Material, Part
from pipelines.parent import Parent
from pipelines.pretraining import KeptEncoder
from pipelines.registry import Registry
from pipelines.seen import Seen
from pipelines.versions import CANDIDATE, CHAMPION, ENCODER, Reference
from tsformer.errors import ConfigError, NotFoundError
from tsformer.model import ModelSpec
from tsformer.models.patchtst import PatchEncoder
from tsformer.pretrain import NOT_OF_THE_ENCODER
from tsformer.train import is_network

IN_TRAINING_ALONE = ("dropout", "_rate")  # how settings end on which no forecast depends

Difference = tuple[str, object, object]  # what differs, there and here


def parent_of(
    experiment: Experiment,
    material: Material,
    *,
    registry: Registry,
    recorded: str | None = None,
) -> Parent | None:
    """The parent that `from` of the experiment names, fit to begin with.

    None without `from`, and where an experiment names its own champion or candidate before there is
    one: the first of its runs begins afresh. `recorded` is what an interrupted run began with, since
    an alias may have moved: a version, or nothing.
    """
    start = experiment.start
    if start is None or recorded == "":
        return None
    try:
        return begin_from(
            recorded or start.reference,
            experiment,
            material,
            registry=registry,
            probe_epochs=start.probe_epochs,
        )
    except NotFoundError:
        wanted = Reference.parse(start.reference)
        if recorded or wanted.name != experiment.name or wanted.alias not in (CHAMPION, CANDIDATE):
            raise
        return None


def beginning(experiment: Experiment, parent: Parent | None) -> str:
    """With which weights the model of an experiment with `from` begins, as a sentence."""
    kind, start = experiment.model.kind, experiment.start
    if parent is not None:
        return f"{kind} begins with the weights of {parent.version}."
    named = "its parent" if start is None else start.reference
    return f"Note: there was no {named} to begin with, so {kind} begins with fresh weights."


def begin_from(
    reference: str,
    experiment: Experiment,
    material: Material,
    *,
    registry: Registry,
    probe_epochs: int = 0,
) -> Parent:
    """The version behind `reference` as parent of the experiment's model.

    Raises ConfigError where the model has no weights to begin with, where it differs from the
    parent, or where the parent has seen rows of the validation or test part.
    """
    fetched = registry.fetch(reference)
    load = KeptEncoder.load if fetched.version.kind == ENCODER else _forecaster
    source = load(fetched.directory, digest=fetched.version.digest)
    parent = Parent(fetched.version, source, probe_epochs=probe_epochs)
    _has_weights(parent)
    _agrees(parent, experiment, material)
    _has_not_seen(parent, material)
    return parent


def _forecaster(directory: Path, *, digest: str) -> Forecaster:
    return Forecaster.load(directory, digest=digest, device="cpu")


def _has_weights(parent: Parent) -> None:
    """A rule, or the solution of an equation, comes out the same wherever it begins."""
    if isinstance(parent.source, Forecaster) and not is_network(parent.source.model):
        raise ConfigError(
            f"'from': {parent.version} is {parent.source.spec.kind}, which is solved anew from the "
            "rows or has no weights: there is nothing to begin with. Leave 'from' out."
        )


# --- the same make --------------------------------------------------------------------------


def _agrees(parent: Parent, experiment: Experiment, material: Material) -> None:
    source = parent.source
    found = (
        _from_encoder(source.encoder, experiment)
        if isinstance(source, KeptEncoder)
        else _from_forecaster(source, experiment, material)
    )
    for name, there, here in found:
        raise ConfigError(
            f"'from': {name} is {there} of {parent.version}, and {here} here. Weights mean the "
            "same only where both agree: change the one that is not meant, or leave 'from' out. "
            f"{experiment.name}@{CANDIDATE} is always the newest of the experiment's own model."
        )


def _from_encoder(encoder: PatchEncoder, experiment: Experiment) -> Iterator[Difference]:
    yield from _settings(encoder.spec, experiment.model, free=NOT_OF_THE_ENCODER)
    yield from _differing("window.context", encoder.context, experiment.window.context)


def _from_forecaster(
    parent: Forecaster, experiment: Experiment, material: Material
) -> Iterator[Difference]:
    spec, theirs, ours = experiment.model, parent.recipe, material.recipe
    able, window = spec.capabilities, experiment.window
    yield from _settings(parent.spec, spec, free=_in_training_alone(spec))
    yield from _differing("window.context", theirs.context, window.context)
    yield from _differing("window.horizon", theirs.horizon, window.horizon)
    levels = window.levels if able.native_quantiles else ()
    yield from _differing("window.levels", [*parent.native_levels], [*levels])
    yield from _differing("the step of the grid", theirs.frequency, ours.frequency)
    joint = ours.joint and able.cross_series
    yield from _differing("data.group all", theirs.joint, joint)
    before, now = _named(theirs.inputs), _named(ours.inputs.read_by(able))
    for name in before:
        yield from _differing(name, before[name], now[name])


def _settings(there: ModelSpec, here: ModelSpec, *, free: Collection[str]) -> Iterator[Difference]:
    yield from _differing("model.kind", there.kind, here.kind)
    for key, value in there.to_mapping().items():
        if key not in free:
            yield from _differing(f"model.{key}", value, here.to_mapping()[key])


def _in_training_alone(spec: ModelSpec) -> set[str]:
    return {key for key in spec.to_mapping() if key.endswith(IN_TRAINING_ALONE)}


def _named(inputs: Inputs) -> dict[str, list[str]]:
    """What is read, in words: a category is not the number of the same name."""

    def columns(of: Sequence[Covariate]) -> list[str]:
        return [f"{column.name} (category)" if column.size else column.name for column in of]

    return {
        "window.features": [*inputs.features],
        "window.lags": [*map(str, inputs.lags)],
        "data.known": columns(inputs.known),
        "data.past": columns(inputs.past),
        "data.static": columns(inputs.static),
    }


def _differing(name: str, there: object, here: object) -> Iterator[Difference]:
    if there != here:
        yield name, there, here


# --- what the parent has seen ---------------------------------------------------------------


def _has_not_seen(parent: Parent, material: Material) -> None:
    """Refuses a parent that has learnt from rows by which its child is chosen or scored.

    Rows that are counted and rows with stamps cannot be compared: those are not of one table.
    """
    theirs = parent.seen
    if not parent.shares_time_with(material):
        return
    parts: dict[Part, Seen | None] = {"test": theirs.fitted, "validation": theirs.trained}
    for part, seen in parts.items():
        if seen is None:
            raise ConfigError(
                f"'from': {parent.version} does not say which rows it has learnt from, so it may "
                f"have seen those of the {part} part. Train or pretrain it again."
            )
        if found := seen.reach(material.begins(part)):
            last, begins = shown(found, material)
            raise ConfigError(
                f"'from': {parent.version} has seen rows until {last}; the {part} {begins}, so "
                "scores would be too good. Take a version of older rows, or let the parts of this "
                "experiment begin later (data: split)."
            )
