"""Forecasting models that know tensors, and nothing of tables, versions or people.

Axes are words and always come in the same order:

- what is read is `[batch, time, variate]`; covariates are `[batch, time, feature]`;
- what is forecast is `[batch, horizon, variate, level]`;
- inside a network, windows are `[row, patch, width]`, a row being one variate of one window.

    shape = tsformer.Shape(context=336, horizon=96, variates=7)
    model = tsformer.build(tsformer.spec_from_mapping({"kind": "patchtst"}), shape).eval()
    forecast = model(tsformer.Batch(past, observed))
"""

from __future__ import annotations

from tsformer.batch import Batch, Shape, Target, Windows
from tsformer.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    DivergedError,
    Fault,
    IncompatibleError,
    NotFoundError,
    ShapeError,
    TsformerError,
)
from tsformer.model import Capabilities, ClosedForm, Model, ModelSpec
from tsformer.models import MODELS, build, spec_from_mapping

__all__ = [
    "MODELS",
    "ArtifactError",
    "Batch",
    "Capabilities",
    "ClosedForm",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Fault",
    "IncompatibleError",
    "Model",
    "ModelSpec",
    "NotFoundError",
    "Shape",
    "ShapeError",
    "Target",
    "TsformerError",
    "Windows",
    "build",
    "spec_from_mapping",
]
