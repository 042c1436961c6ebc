"""Forecasting models that know tensors, and nothing of tables, versions or people.

Axes are words and always come in the same order:

- what is read is `[batch, time, variate]`; covariates are `[batch, time, feature]`;
- what is forecast is `[batch, horizon, variate, level]`;
- inside a network, windows are `[row, patch, width]`, a row being one variate of one window.

    shape = tsformer.Shape(context=336, horizon=96, variates=7)
    model = tsformer.build(tsformer.spec_from_mapping({"kind": "patchtst"}), shape).eval()
    forecast = model(tsformer.Batch(past, observed))  # [batch, horizon, variate, level]

The tree of errors is drawn in `tsformer.errors`; metrics are in `tsformer.metrics`. What stands here
is imported when it is first asked for: a command that fits nothing does not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

MODULES = {
    "artifact": ("load", "save"),
    "batch": ("Batch", "Shape", "Target", "Windows"),
    "conformal": ("Calibration", "calibrate"),
    "errors": (
        "ArtifactError",
        "ConfigError",
        "DataError",
        "DivergedError",
        "Fault",
        "IncompatibleError",
        "NotFoundError",
        "ShapeError",
        "TsformerError",
    ),
    "model": ("Capabilities", "ClosedForm", "Model", "ModelSpec"),
    "models": ("MODELS", "build", "spec_from_mapping"),
    "runtime": ("Runtime", "pick_device"),
    "train": ("Fit", "Progress", "Training", "fit"),
}
SUBMODULES = (*MODULES, "explain", "losses", "metrics", "scale")
HOME = {name: module for module, names in MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in SUBMODULES:
        return import_module(f"tsformer.{name}")
    if name not in HOME:
        raise AttributeError(f"module 'tsformer' has no attribute '{name}'")
    return getattr(import_module(f"tsformer.{HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
