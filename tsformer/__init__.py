"""Forecasting models that know tensors, and nothing of tables, versions or people.

Axes are words and always come in the same order:

- what is read is `[batch, time, variate]`; covariates are `[batch, time, feature]`;
- what is forecast is `[batch, horizon, variate, level]`;
- inside a network, windows are `[row, patch, width]`, a row being one variate of one window.

    shape = tsformer.Shape(context=336, horizon=96, variates=7)
    model = tsformer.build(tsformer.spec_from_mapping({"kind": "patchtst"}), shape).eval()
    forecast = model(tsformer.Batch(past, observed))  # [batch, horizon, variate, level]

The tree of errors is drawn in `tsformer.errors`; metrics are in `tsformer.metrics`.
"""

from __future__ import annotations

from tsformer.artifact import load, save
from tsformer.batch import Batch, Shape, Target, Windows
from tsformer.conformal import Calibration, calibrate
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
from tsformer.runtime import Runtime, pick_device
from tsformer.train import Fit, Progress, Training, fit

__all__ = [
    "MODELS",
    "ArtifactError",
    "Batch",
    "Calibration",
    "Capabilities",
    "ClosedForm",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Fault",
    "Fit",
    "IncompatibleError",
    "Model",
    "ModelSpec",
    "NotFoundError",
    "Progress",
    "Runtime",
    "Shape",
    "ShapeError",
    "Target",
    "Training",
    "TsformerError",
    "Windows",
    "build",
    "calibrate",
    "fit",
    "load",
    "pick_device",
    "save",
    "spec_from_mapping",
]
