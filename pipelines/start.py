"""Where the weights of a model begin: the `from` and `pretraining` sections of an experiment.

from: models:/etth1-encoder@candidate                                # a pretrained encoder
from: {model: models:/etth1-encoder/3, probe_epochs: 3}
from: models:/sales@champion                                         # a whole model
pretraining: {masking: runs, share: 0.15}                            # tsformer pretrain
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.versions import Reference
from tsformer.errors import ConfigError, unlike
from tsformer.masking import Masking, PatchMasking, RunMasking
from tsformer.settings import from_mapping

MODELS_URI = "models:/"  # how MLflow begins a reference
MASKINGS: dict[str, type[PatchMasking] | type[RunMasking]] = {
    "patches": PatchMasking,
    "runs": RunMasking,
}


@dataclass(frozen=True, slots=True)
class Start:
    """The registered version that the experiment's own model begins with; baselines begin afresh.

    `model` is NAME@ALIAS, NAME/VERSION or NAME (its champion), with or without `models:/`. From an
    encoder the head alone is fitted for `probe_epochs`, then everything for those of the training
    section, at half its learning rate. From a forecaster all weights go on at once.
    """

    model: str
    probe_epochs: int = 10

    def __post_init__(self) -> None:
        Reference.parse(self.reference)
        if self.probe_epochs < 0:
            raise unlike("'probe_epochs' must be 0 or more", self.probe_epochs)

    @property
    def reference(self) -> str:
        """The reference as the registry takes it."""
        return self.model.removeprefix(MODELS_URI)

    @staticmethod
    def from_plain(value: object, *, where: str) -> Start:
        """A start from what the YAML says: a reference, or keys and values."""
        mapping: Any = {"model": value} if isinstance(value, str) else value
        if not isinstance(mapping, Mapping):
            raise unlike(
                f"{where} must be a registered version, such as models:/sales@champion", repr(value)
            )
        if not isinstance(mapping.get("model", ""), str):
            raise unlike(f"{where}: 'model' must be text", repr(mapping["model"]))
        try:
            return from_mapping(Start, mapping, where=where)
        except ConfigError as error:
            if where in str(error):
                raise
            raise ConfigError(f"{where}: {error}", told=error.told) from None


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What pretraining hides of each window: whole `patches`, or `runs` of single values.

    `share` is how much of it; 0 for that of its paper (see `tsformer.masking`).
    """

    masking: str = "patches"
    share: float = 0.0

    def __post_init__(self) -> None:
        if self.masking not in MASKINGS:
            raise unlike(
                f"pretraining: 'masking' must be {' or '.join(MASKINGS)}", repr(self.masking)
            )
        try:
            _ = self.hides
        except ConfigError as error:
            raise ConfigError(f"pretraining: 'share' {self.share}: {error}") from None

    @property
    def hides(self) -> Masking:
        """The masking with its share."""
        masking = MASKINGS[self.masking]
        return masking(self.share) if self.share else masking()
