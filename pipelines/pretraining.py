"""Pretraining of an encoder on the training rows of an experiment, and the encoder as sealed files.

ENCODER
├── spec.json, weights.safetensors   see `tsformer.pretrain.save_encoder`
├── origin.json                      the rows it has learnt from, for whoever must not see them
└── manifest.json                    the digests of all files
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.material import Material
from pipelines.published import data_card, table_card
from pipelines.seen import ENDS, Ends, Witness, ends_of_json
from pipelines.start import Pretraining
from pipelines.versions import ENCODER, checked_new_name
from tsformer import artifact
from tsformer.checkpoint import Storage
from tsformer.errors import ArtifactError, ConfigError
from tsformer.models.patchtst import PatchEncoder, PatchTSTSpec
from tsformer.pretrain import Pretrained, load_encoder, pretrain, save_encoder
from tsformer.runtime import pick_device
from tsformer.train import Report, Training

ORIGIN = "origin.json"
ENDING = f"-{ENCODER}"


@dataclass(frozen=True, slots=True)
class Origin(Witness):
    """Which rows an encoder has seen: their grid, and the last stamps as in a `Recipe`."""

    frequency: str
    trained_until: int | None
    fitted_until: int | None
    trained_ends: Ends = ()
    fitted_ends: Ends = ()

    @staticmethod
    def of_mapping(plain: object) -> Origin:
        """The origin that `asdict` made plain, by this release or an older one; or ValueError."""
        known = {field.name for field in fields(Origin)}
        if not isinstance(plain, Mapping) or {*plain, *ENDS} != known:
            raise ValueError("other names were expected")
        ends = {name: ends_of_json(plain.get(name, ())) for name in ENDS}
        return Origin(**{**plain, **ends})


@dataclass(frozen=True, slots=True)
class KeptEncoder:
    """An encoder and where it comes from."""

    encoder: PatchEncoder
    origin: Origin

    def save(self, directory: Path) -> str:
        """Writes the encoder to the new or empty `directory`, sealed; gives the digest."""
        save_encoder(self.encoder, directory)
        text = json.dumps(asdict(self.origin), indent=2, sort_keys=True)
        (directory / ORIGIN).write_text(text + "\n", encoding="utf-8")
        return artifact.seal(directory)

    @staticmethod
    def load(directory: Path, *, digest: str | None = None) -> KeptEncoder:
        """The encoder in `directory`; ArtifactError before anything is parsed if a byte differs."""
        encoder = load_encoder(directory, digest=digest)
        said = artifact.read_json(directory / ORIGIN)
        try:
            return KeptEncoder(encoder, Origin.of_mapping(said))
        except (TypeError, ValueError) as error:
            raise ArtifactError(
                f"{directory / ORIGIN} is not as this version of tsformer writes it ({error}). "
                "Pretrain the encoder again."
            ) from error


def pretrainable(experiment: Experiment) -> PatchTSTSpec:
    """The model of `experiment`, if masked pretraining can make its encoder; else ConfigError."""
    spec = experiment.model
    if experiment.start is not None:
        raise ConfigError("Pretraining begins with fresh weights: leave 'from' out.")
    if not isinstance(spec, PatchTSTSpec):
        raise ConfigError(
            f"model: '{spec.kind}' has no encoder that masked pretraining could make. "
            "Take patchtst or patchtst_levelled."
        )
    if spec.stride != spec.patch or spec.padding != "none":
        raise ConfigError(
            "model: in pretraining patches share no step and repeat none, or what is hidden is "
            f"seen in the next one. Set stride: {spec.patch} and padding: none "
            f"(got patch {spec.patch}, stride {spec.stride}, padding {spec.padding})."
        )
    encoder_name(experiment)
    return spec


def encoder_name(experiment: Experiment) -> str:
    """The name of the encoder's versions: no forecaster has it."""
    return checked_new_name(experiment.name + ENDING)


def pretrain_encoder(
    experiment: Experiment,
    material: Material,
    *,
    device: str = "auto",
    checkpoint: Storage | None = None,
    report: Report | None = None,
) -> Pretrained:
    """The encoder of the experiment's model, made on its training rows, judged on validation.

    The test part is not looked at.
    """
    spec, training = pretrainable(experiment), masked_training(experiment.training)
    shape = material.shape_for(spec.capabilities, ())
    return pretrain(
        spec,
        train=material.training_windows("train", shape),
        validation=material.training_windows(
            "validation", shape, at_most=training.windows_per_epoch
        ),
        training=training,
        masking=masking_of(experiment).hides,
        device=pick_device(device),
        checkpoint=checkpoint,
        report=report,
    )


def masked_training(training: Training) -> Training:
    """`training`, but for the pinball loss: what was hidden is one number, without levels."""
    return replace(training, loss="mse") if training.loss == "pinball" else training


def masking_of(experiment: Experiment) -> Pretraining:
    """What is hidden: as the experiment says, or 40 % of the patches."""
    return experiment.pretraining or Pretraining()


def kept(found: Pretrained, material: Material) -> KeptEncoder:
    """What pretraining found, with the rows it was found on."""
    recipe = material.recipe
    origin = Origin(
        recipe.frequency,
        recipe.trained_until,
        recipe.fitted_until,
        recipe.trained_ends,
        recipe.fitted_ends,
    )
    return KeptEncoder(found.encoder, origin)


def scores(found: Pretrained) -> dict[str, float]:
    """What is known of a pretraining: the error on hidden values, beside that of filling in 0."""
    return {
        "masked_error": found.fit.validation_loss,
        "mean_fill": found.mean_fill,
        "masked_share": found.fit.validation_loss / found.mean_fill,
        "steps": float(found.steps),
        "parameters": float(sum(p.numel() for p in found.encoder.parameters())),
    }


def card_of(
    experiment: Experiment, material: Material, found: Pretrained, home: Home
) -> dict[str, Any]:
    """What a person must know of the encoder before a model begins with it."""
    return {
        "kind": ENCODER,
        "model": experiment.model.kind,
        "context": experiment.window.context,
        "freq": material.recipe.frequency,
        "masking": repr(masking_of(experiment).hides),
        "left_plateau": found.left_plateau,
        "metrics": scores(found),
        "data": data_card(experiment.data),
        "table": table_card(experiment.data, material, home),
    }


def sentence(experiment: Experiment, found: Pretrained) -> str:
    """How the pretraining went, in words."""
    told = (
        f"An encoder of {experiment.model.kind}, pretrained on {experiment.data.name} for "
        f"{found.steps:,} steps: what is hidden is filled in with an error of "
        f"{found.fit.validation_loss:.3f}; filling in the mean has {found.mean_fill:.3f}."
    )
    return f"{told} {found.warning}".strip()
