"""The table of models. A new one is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tsformer.batch import Shape
from tsformer.errors import ConfigError, nearest, unlike
from tsformer.model import Model, ModelSpec
from tsformer.models.autoregression import AutoregressionSpec
from tsformer.models.classical import ETSSpec, SARIMAXSpec, ThetaSpec
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.linear import DLinearSpec, LinearSpec, NLinearSpec, RLinearSpec
from tsformer.models.naive import LastValueSpec, SeasonalNaiveSpec
from tsformer.models.patchtst import LevelledPatchTSTSpec, PatchTSTSpec
from tsformer.models.pooled_ridge import PooledRidgeSpec
from tsformer.models.ridge import RidgeSpec
from tsformer.models.samformer import SAMformerSpec
from tsformer.models.tft import TFTSpec

MODELS: dict[str, type[ModelSpec]] = {
    "patchtst": PatchTSTSpec,
    "patchtst_levelled": LevelledPatchTSTSpec,
    "itransformer": ITransformerSpec,
    "samformer": SAMformerSpec,
    "tft": TFTSpec,
    "ridge": RidgeSpec,
    "pooled_ridge": PooledRidgeSpec,
    "linear": LinearSpec,
    "nlinear": NLinearSpec,
    "dlinear": DLinearSpec,
    "rlinear": RLinearSpec,
    "autoregression": AutoregressionSpec,
    "ets": ETSSpec,
    "theta": ThetaSpec,
    "sarimax": SARIMAXSpec,
    "last_value": LastValueSpec,
    "seasonal_naive": SeasonalNaiveSpec,
}


def build(spec: ModelSpec, shape: Shape) -> Model:
    """A model of `spec` for `shape`, with fresh weights from torch's current random state."""
    return spec.build(shape)


def spec_from_mapping(mapping: Mapping[str, Any], *, where: str = "model") -> ModelSpec:
    """The specification that `{"kind": ..., hyperparameters}` describes.

    Raises ConfigError with `where` and the nearest valid word for an unknown kind or key.
    """
    kind = mapping.get("kind") if isinstance(mapping, Mapping) else None
    known = f" Kinds: {', '.join(sorted(MODELS))}."
    if not isinstance(kind, str):
        raise unlike(f"{where}: expected a mapping with a 'kind'", repr(mapping), known)
    if kind not in MODELS:
        hint = nearest(kind, MODELS) + known
        raise ConfigError(
            f"{where}: unknown kind '{kind}'.{hint}", told=f"This kind is not known.{hint}"
        )
    rest = {key: value for key, value in mapping.items() if key != "kind"}
    return MODELS[kind].from_mapping(rest, where=where)
