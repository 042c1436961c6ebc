"""Warm start: a model begins with another's weights, all of them, and nobody's future."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from benchmarks.pretraining import SIZES
from pipelines.config_files import config_path
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.material import Material
from pipelines.parent import Parent
from pipelines.pretrain_command import Outcome
from pipelines.pretraining import encoder_name, pretrainable
from pipelines.registry import Registry
from pipelines.start import Start
from pipelines.storage import Place
from pipelines.tracking import connect
from pipelines.train_command import train_and_register
from pipelines.training import fit_all, prepared, validation_windows
from pipelines.versions import ModelVersion
from pipelines.warm_start import begin_from, beginning, parent_of
from tests.panels import experiment_on, hourly, waves
from tests.pipelines.homes import new_home
from tests.pipelines.warm import QUIET, SPEC, WINDOW, experiment, pretrained
from tests.serving.running import publish
from tsformer.checkpoint import Checkpoint, newest
from tsformer.errors import ArtifactError, ConfigError, NotFoundError
from tsformer.model import Model
from tsformer.pretrain import encoder_of
from tsformer.train import Progress, evaluate

ENCODER = "models:/waves-encoder@candidate"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def registry(home: Home) -> Registry:
    return Registry(home)


@pytest.fixture(scope="module")
def outcome(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A pretrained encoder, `waves-encoder/1`."""
    return pretrained(home, experiment(tmp_path_factory.mktemp("pretrained")))


def child(folder: Path, start: object = ENCODER, **sections: Any) -> Experiment:
    return experiment(folder, **{"from": start, **sections})


def begun(made: Experiment, registry: Registry) -> Parent:
    parent = parent_of(made, Material.of(made), registry=registry)
    assert parent is not None
    return parent


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# --- the section ----------------------------------------------------------------------------


def test_a_reference_is_written_as_mlflow_or_we_write_it(tmp_path: Path) -> None:
    for text in ("models:/a@candidate", "a@candidate", "models:/a/3", "a/3", "a"):
        assert child(tmp_path, text).start == Start(text)
        assert Start(text).reference == text.removeprefix("models:/")
    start = child(tmp_path, {"model": "a/3", "probe_epochs": 2}).start
    assert start == Start("a/3", probe_epochs=2)


@pytest.mark.parametrize(
    ("start", "named"),
    [
        ("models:/a/Production", "'from': 'Production' is not a version"),
        ("", "'from': '' is not a model name"),
        (3, "'from' must be a registered version.*got 3"),
        ({"model": 3}, "'from': 'model' must be text, got 3"),
        ({"probe_epochs": 3}, "'model' is missing"),
        ({"model": "a", "probe_epochs": -1}, "'probe_epochs' must be 0 or more"),
        ({"model": "a", "epochs": 1}, "unknown key 'epochs'"),
    ],
)
def test_any_other_is_refused_when_the_file_is_read(
    tmp_path: Path, start: object, named: str
) -> None:
    """Found after the fetch it would cost a read of the whole table."""
    with pytest.raises(ConfigError, match=named):
        child(tmp_path, start)


def test_a_parent_is_part_of_the_digest_and_its_absence_is_not(tmp_path: Path) -> None:
    """Runs of before the section are found again by their digest; a run is resumed by it."""
    plain = experiment(tmp_path)
    assert "from" not in plain.resolved()
    assert "pretraining" not in plain.resolved()
    one, other = child(tmp_path, "a/1"), child(tmp_path, "a/2")
    assert len({plain.digest, one.digest, other.digest}) == 3


def test_a_search_begins_afresh(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'search' tries settings on fresh weights"):
        child(tmp_path, search={"space": {"model.dropout": [0.1, 0.2]}})


def test_the_shipped_pair_goes_together_and_is_that_of_the_benchmark() -> None:
    """What is shipped is what was measured (docs/results.md)."""
    made, tuned = (
        Experiment.read(config_path(f"etth1/{name}.yaml")) for name in ("pretrain", "finetuned")
    )
    small = SIZES["small"]
    assert (pretrainable(made), made.training) == (small.spec, small.pretraining)
    assert (tuned.model, tuned.training) == (small.forecaster, small.tuning)
    assert (made.window, made.data) == (tuned.window, tuned.data)
    assert tuned.start is not None
    assert tuned.start.reference == f"{encoder_name(made)}@candidate"
    assert tuned.start.probe_epochs == small.probe_epochs


# --- from an encoder ------------------------------------------------------------------------


def test_the_head_is_fitted_on_the_encoder_as_it_is_and_then_everything(
    outcome: Outcome, registry: Registry, tmp_path: Path
) -> None:
    """Bit by bit: one weight that moved in the probe, and it was no probe of that encoder."""
    made = child(tmp_path, {"model": ENCODER, "probe_epochs": 1})
    place = Place(str(tmp_path / "run"))
    told: list[tuple[str, float]] = []

    def report(name: str, progress: Progress | None) -> None:
        if progress is not None and progress.validation_loss is not None:
            told.append((name, progress.learning_rate))

    parent = begun(made, registry)
    fitted = fit_all(
        made, Material.of(made), device="cpu", checkpoints=place, parent=parent, report=report
    )
    assert [name for name, _ in told] == ["patchtst probe", "patchtst", "patchtst"]
    probe = _weights(place / "patchtst" / "probe", part="encoder")
    given = outcome.found.encoder.state_dict()
    assert same(probe, given)
    whole = _weights(place / "patchtst" / "whole", part="encoder")
    assert not same(whole, given)
    assert encoder_of(fitted["patchtst"].forecaster.model).frozen is False


def _weights(place: Place, *, part: str) -> dict[str, Tensor]:
    """The weights under `part` in the newest checkpoint of a fit."""
    data = newest(place)
    assert data is not None
    mark = f".{part}."
    tensors = Checkpoint.decoded(data).tensors.items()
    return {
        name.partition(mark)[2]: tensor
        for name, tensor in tensors
        if name.startswith("weights/") and mark in name
    }


def test_a_training_from_an_encoder_records_its_parent(
    outcome: Outcome, home: Home, tmp_path: Path
) -> None:
    """Who finds the encoder spoiled must find all that were made of it."""
    made = child(tmp_path, {"model": ENCODER, "probe_epochs": 1}, baselines=["ridge"])
    trained = train_and_register(made, home=home, console=QUIET, device="cpu")
    parent = str(outcome.version)
    client = connect(home)
    version = trained.versions["patchtst"]
    assert client.get_run(trained.run_id).data.tags["parent_version"] == parent
    assert client.get_run(version.run_id).data.tags["parent_version"] == parent
    assert version.card["parent"] == parent
    page = client.get_model_version(version.name, version.version).description
    assert f"Parent: [{parent}](#/models/waves-encoder/versions/1)" in page
    other = trained.versions["ridge"]
    assert "parent" not in other.card
    assert "parent_version" not in client.get_run(other.run_id).data.tags


def test_an_interrupted_fine_tuning_ends_with_the_same_weights(
    outcome: Outcome, registry: Registry, tmp_path: Path
) -> None:
    """The probe is over and the head is fitted: a second start must not begin there again."""
    made = child(tmp_path, {"model": str(outcome.version), "probe_epochs": 1})
    material, parent = Material.of(made), begun(made, registry)
    how: dict[str, Any] = {"device": "cpu", "parent": parent}

    def cut(name: str, progress: Progress | None) -> None:
        if progress is not None and (name, progress.epoch, progress.step) == ("patchtst", 2, 1):
            raise KeyboardInterrupt

    place = Place(str(tmp_path / "run"))
    with pytest.raises(KeyboardInterrupt):
        fit_all(made, material, **how, checkpoints=place, report=cut)
    resumed = fit_all(made, material, **how, checkpoints=place)
    at_once = fit_all(made, material, **how)
    one, other = (each["patchtst"].forecaster.model.state_dict() for each in (resumed, at_once))
    assert same(one, other)


def test_an_interrupted_run_goes_on_with_the_parent_that_it_began_with(
    outcome: Outcome, home: Home, registry: Registry, tmp_path: Path
) -> None:
    """Another encoder was made meanwhile: the record would name it, the weights be of the first."""
    made = child(tmp_path)
    newer = pretrained(home, experiment(tmp_path / "newer", training={"epochs": 1, "seed": 9}))
    try:
        assert str(begun(made, registry).version) == str(newer.version)
        recorded = str(outcome.version)
        parent = parent_of(made, Material.of(made), registry=registry, recorded=recorded)
        assert parent is not None
        assert str(parent.version) == recorded
    finally:
        registry.promote(str(outcome.version), alias="candidate")


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"window": {"context": 96, "horizon": 12}}, "window.context is 72 of .*, and 96 here"),
        ({"model": {**SPEC, "width": 16}}, "model.width is 8 of waves-encoder/1, and 16 here"),
        ({"model": {**SPEC, "heads": 4}}, "model.heads is 2 of waves-encoder/1, and 4 here"),
        ({"model": {**SPEC, "patch": 12, "stride": 12}}, "model.patch is 6 .* 12 here"),
        ({"model": {**SPEC, "activation": "relu"}}, "model.activation is gelu .* relu here"),
        ({"model": {**SPEC, "kind": "patchtst_levelled"}}, "model.kind is patchtst of"),
        ({"model": "nlinear"}, "model.kind is patchtst of waves-encoder/1, and nlinear here"),
        ({"model": "ridge"}, "model.kind is patchtst of waves-encoder/1, and ridge here"),
    ],
)
def test_a_model_of_another_make_is_refused(
    outcome: Outcome,
    registry: Registry,
    tmp_path: Path,
    sections: dict[str, Any],
    named: str,
) -> None:
    """What does not fit is skipped by others, and the fit is that of random layers."""
    assert outcome.version.kind == "encoder"
    with pytest.raises(ConfigError, match=named):
        begun(child(tmp_path, **sections), registry)


def test_what_no_weight_depends_on_may_differ(
    outcome: Outcome, registry: Registry, tmp_path: Path
) -> None:
    """Dropout, horizon and quantile levels are the child's own affair."""
    made = child(
        tmp_path,
        model={**SPEC, "dropout": 0.0, "head_dropout": 0.5},
        window={"context": 72, "horizon": 5, "levels": [0.1, 0.5, 0.9]},
        backtest={"levels": [0.5]},
    )
    assert str(begun(made, registry).version) == str(outcome.version)


def test_an_altered_version_is_refused_before_it_is_parsed(
    home: Home, registry: Registry, tmp_path: Path
) -> None:
    """Weights from outside would be trained on, and published as ours."""
    other = experiment(tmp_path / "spoiled", name="spoiled", training={"epochs": 1, "seed": 7})
    spoiled = pretrained(home, other).version
    kept = registry.fetch(str(spoiled)).directory / "weights.safetensors"
    whole = kept.read_bytes()
    for file in (home.folder).rglob("weights.safetensors"):
        if file.read_bytes() == whole:  # in MLflow, and in the copy of this machine
            file.write_bytes(bytes([255]) * len(whole))  # a header that no parser should meet
    with pytest.raises(ArtifactError, match=r"weights\.safetensors was altered"):
        begun(child(tmp_path, str(spoiled)), registry)


def test_a_parent_that_nobody_knows_is_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no model 'nobody'"):
        begun(child(tmp_path, "models:/nobody@champion"), registry)


# --- from a whole model ---------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A forecaster with its experiment and its version."""

    made: Experiment
    forecaster: Forecaster
    loss: float
    version: str


def trained(home: Home, made: Experiment, name: str, folder: Path) -> Trained:
    kind = made.model.kind
    fitted = fit_all(replace(made, baselines=()), Material.of(made), device="cpu")[kind]
    number = publish(home, name, fitted.forecaster, folder / name)
    return Trained(made, fitted.forecaster, fitted.fit.validation_loss, f"{name}/{number}")


def first_loss(made: Experiment, parent: Parent) -> tuple[Model, float]:
    """The model of a child before its first step, and its validation loss."""
    spec, material = made.model, parent.material(Material.of(made))
    levels = made.window.levels if spec.capabilities.native_quantiles else ()
    shape = material.shape_for(spec.capabilities, levels)
    model, training = prepared(spec, made.training, shape=shape)
    parent.give(model)
    at_most = validation_windows(model, training)
    windows = material.training_windows("validation", shape, at_most=at_most)
    return model.eval(), evaluate(model, windows=windows, training=training)


TFT = {"kind": "tft", "width": 8, "heads": 2}


def sales(folder: Path, *, rows: int = 400, shops: int = 3, **sections: Any) -> Experiment:
    """Waves with a covariate known ahead, one of the past, and a word for each series."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(rows)
    table = hourly(waves(shops, rows)).with_columns(
        price=pl.Series(rows + 3 * random.normal(size=shops * rows)),
        visits=pl.Series(random.normal(size=shops * rows)),
        town=pl.col("unique_id").replace({"s0": "Bonn", "s1": "Kiel", "s2": "Ulm", "s3": "Jena"}),
    )
    columns = {"known": ["price"], "past": ["visits"], "static": ["town"]}
    given = {
        "name": "sales",
        "data": columns,
        "model": TFT,
        "window": {"context": 48, "horizon": 6, "features": ["hour"]},
        "training": {"epochs": 1, "windows_per_epoch": 64},
        **sections,
    }
    return experiment_on(folder, table, **given)


@pytest.fixture(scope="module")
def parents(home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    folder = tmp_path_factory.mktemp("parents")
    of = {
        "patchtst": experiment(folder / "patchtst"),
        "nlinear": experiment(folder / "nlinear", model="nlinear"),
        "tft": sales(folder / "tft"),
        "ridge": experiment(folder / "ridge", model="ridge"),
    }
    return {kind: trained(home, made, f"old-{kind}", folder) for kind, made in of.items()}


@pytest.mark.parametrize("kind", ["patchtst", "nlinear", "tft"])
def test_a_whole_model_begins_where_its_parent_ended(
    parents: dict[str, Trained], registry: Registry, kind: str
) -> None:
    """The first validation loss is the parent's last, to the bit: nothing was lost on the way."""
    old = parents[kind]
    parent = begin_from(old.version, old.made, Material.of(old.made), registry=registry)
    model, loss = first_loss(old.made, parent)
    assert same(model.state_dict(), old.forecaster.model.state_dict())
    assert loss == old.loss


def test_on_new_data_weights_meet_what_they_were_fitted_to(
    parents: dict[str, Trained], registry: Registry, tmp_path: Path
) -> None:
    """Words, scalings and numbers of series are the parent's, or each weight means another thing."""
    old = parents["tft"]
    made = sales(tmp_path, rows=500, shops=4)
    material = Material.of(made)
    parent = begin_from(old.version, made, material, registry=registry)
    ours, theirs = material.recipe.inputs, old.forecaster.recipe.inputs
    assert ours.known[0].mean == pytest.approx(500, abs=1)
    assert theirs.known[0].mean == pytest.approx(400, abs=1)
    fitted = fit_all(replace(made, baselines=()), material, device="cpu", parent=parent)
    recipe = fitted["tft"].forecaster.recipe
    assert recipe.inputs == theirs
    assert recipe.series == old.forecaster.recipe.series
    assert recipe.fitted_until == material.recipe.fitted_until
    read = parent.material(material)
    row = read.scaled.known
    assert row is not None
    assert row[:, -1].mean().item() == pytest.approx(100 / theirs.known[0].std, rel=0.05)


def test_a_model_bound_to_units_keeps_those_of_its_parent(
    parents: dict[str, Trained], registry: Registry, tmp_path: Path
) -> None:
    """In newer deviations the same weights give another forecast of the same rows."""
    old = parents["nlinear"]
    values = waves(4, 500)
    for series in values.values():
        series[350:] *= 3
    made = experiment_on(
        tmp_path, hourly(values), name="waves", model="nlinear", window=WINDOW, baselines=[],
        training={"epochs": 1, "windows_per_epoch": 64},
    )  # fmt: skip
    material = Material.of(made)
    parent = begin_from(old.version, made, material, registry=registry)
    units = fit_all(made, material, device="cpu", parent=parent)["nlinear"].forecaster.units
    before = old.forecaster.units
    assert units is not None
    assert before is not None
    assert {name: units.known[name] for name in before.known} == before.known
    assert units.known["s3"] == material.units().known["s3"]


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"model": {**TFT, "width": 16}}, "model.width is 8 of old-tft/1, and 16 here"),
        ({"window": {"context": 48, "horizon": 5, "features": ["hour"]}}, "window.horizon is 6"),
        ({"window": {"context": 40, "horizon": 6, "features": ["hour"]}}, "window.context is 48"),
        (
            {"window": {"context": 48, "horizon": 6, "features": ["hour"],
                        "levels": [0.1, 0.5, 0.9]}, "backtest": {"levels": [0.5]}},
            r"window.levels is \[\] of old-tft/1, and \[0.1, 0.5, 0.9\] here",
        ),
        ({"window": {"context": 48, "horizon": 6}}, r"window.features is \['hour'\]"),
        ({"data": {"known": ["price"], "static": ["town"]}}, r"data.past is \['visits'\] .* \[\]"),
        (
            {"data": {"known": ["price"], "past": ["visits"], "static": ["town"],
                      "categories": ["price"]}},
            r"data.known is \['price'\] of old-tft/1, and \['price \(category\)'\] here",
        ),
        ({"data": {"known": ["price"], "past": ["visits"], "static": ["town"], "freq": "1"},
          "window": {"context": 48, "horizon": 6}}, "the step of the grid is h of old-tft/1, and 1 here"),
    ],
)  # fmt: skip
def test_a_whole_model_takes_the_same_inputs(
    parents: dict[str, Trained],
    registry: Registry,
    tmp_path: Path,
    sections: dict[str, Any],
    named: str,
) -> None:
    """Two inputs that changed places fit in shape, and are nonsense."""
    made = sales(tmp_path, rows=420, **sections)
    with pytest.raises(ConfigError, match=named):
        begin_from(parents["tft"].version, made, Material.of(made), registry=registry)


def test_training_in_its_own_way_is_no_other_make(
    parents: dict[str, Trained], registry: Registry, tmp_path: Path
) -> None:
    made = sales(tmp_path, model={**TFT, "dropout": 0.4, "unknown_rate": 0.2})
    assert begin_from(parents["tft"].version, made, Material.of(made), registry=registry)


def test_what_is_solved_has_nothing_to_begin_with(
    parents: dict[str, Trained], registry: Registry
) -> None:
    """It would be recorded as the child of a parent that had no part in it."""
    old = parents["ridge"]
    with pytest.raises(ConfigError, match="old-ridge/1 is ridge, which is solved anew"):
        begin_from(old.version, old.made, Material.of(old.made), registry=registry)


# --- what a parent has seen -----------------------------------------------------------------


def test_a_schedule_may_begin_with_its_own_last_version(
    outcome: Outcome, registry: Registry, tmp_path: Path
) -> None:
    """The first run has none, and must not fail for it; a typing error still must."""
    assert outcome.version.kind == "encoder"
    own = child(tmp_path, "models:/fresh@candidate", name="fresh")
    assert parent_of(own, Material.of(own), registry=registry) is None
    assert "no fresh@candidate to begin with, so patchtst begins with fresh" in beginning(own, None)
    for reference in ("fresh/3", "fresh@candidte", "other@candidate"):
        with pytest.raises(NotFoundError):
            begun(child(tmp_path, reference, name="fresh"), registry)


def test_a_run_that_began_afresh_goes_on_afresh(
    outcome: Outcome, registry: Registry, tmp_path: Path
) -> None:
    """Its checkpoints are of fresh weights, whatever was registered meanwhile."""
    assert outcome.version.kind == "encoder"
    made = child(tmp_path)
    assert parent_of(made, Material.of(made), registry=registry, recorded="") is None


@pytest.mark.parametrize("kind", ["encoder", "patchtst"])
@pytest.mark.parametrize(
    ("split", "named"),
    [
        ([0.6, 0.1, 0.3], "the test part of 's0' begins at 2024-01-12"),
        ([0.6, 0.2, 0.2], "the validation part of 's0' begins at 2024-01-11"),
    ],
)
def test_a_parent_that_has_seen_the_answers_is_refused(
    outcome: Outcome,
    parents: dict[str, Trained],
    registry: Registry,
    tmp_path: Path,
    kind: str,
    split: list[float],
    named: str,
) -> None:
    """The child would win every comparison, and lose in use."""
    reference = str(outcome.version) if kind == "encoder" else parents[kind].version
    made = child(tmp_path, reference, data={"split": split})
    with pytest.raises(ConfigError, match=f"has seen rows until 2024-01-1.*; {named}"):
        begun(made, registry)


def test_newer_rows_of_the_same_table_are_the_usual_case(
    parents: dict[str, Trained], registry: Registry, tmp_path: Path
) -> None:
    """What a scheduled retraining does: each part ends later than it did."""
    made = child(tmp_path, parents["patchtst"].version, rows=450)
    assert begun(made, registry).version.kind == "patchtst"


def test_rows_that_are_counted_have_no_place_in_time(
    outcome: Outcome, registry: Registry, tmp_path: Path
) -> None:
    """An encoder of a table with stamps may be taken to one without, and the other way round."""
    assert outcome.version.kind == "encoder"
    made = child(tmp_path, data={"freq": "1", "season": 24, "split": [0.5, 0.2, 0.3]})
    assert begun(made, registry)


def test_a_version_is_what_its_reference_says_now(
    parents: dict[str, Trained], registry: Registry
) -> None:
    """A retraining begins with the champion, by the name alone."""
    old = parents["patchtst"]
    found: ModelVersion = begin_from(
        "old-patchtst", old.made, Material.of(old.made), registry=registry
    ).version
    assert str(found) == old.version
