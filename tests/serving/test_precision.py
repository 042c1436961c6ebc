"""Half precision serves only where its forecasts are near enough to those of float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.forecaster import Forecaster
from serving.graphs import Graphs
from serving.runtimes import PRECISION_TOLERANCE, Runtimes
from serving.samples import distance, sample
from serving.settings import Settings
from tests.serving.running import forecaster
from tsformer.batch import Shape
from tsformer.errors import ConfigError
from tsformer.model import Model
from tsformer.models.linear import RLinearSpec


def in_precision(made: Forecaster, precision: str, folder: Path) -> Forecaster:
    Runtimes(Graphs(folder), "auto", precision).equip(made, name="m/1")
    return made


def test_a_precision_that_is_near_enough_is_used(tmp_path: Path) -> None:
    """An operator who asks for twice the speed gets it, and forecasts that are as good."""
    made = in_precision(forecaster(seed=1), "bfloat16", tmp_path)
    assert made.runtime.precision == torch.bfloat16
    batch = sample(made.model.shape, windows=20, seed=5)
    apart = distance(made.runtime.predict(batch), forecaster(seed=1).runtime.predict(batch), batch)
    assert 0 < apart.square().mean().sqrt() < 2 * PRECISION_TOLERANCE


def sensitive() -> Model:
    """A map of large weights that cancel: in bfloat16 little is left of what they say."""
    model = RLinearSpec().build(Shape(context=96, horizon=24))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("weight"):
                weight.copy_(50 * torch.randn(weight.shape[0], weight.shape[1]))
    return model


def test_a_precision_that_is_too_far_off_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that cannot bear it would forecast worse than its backtest says, unnoticed."""
    torch.manual_seed(0)
    kept = forecaster(seed=1)
    made = Forecaster(sensitive(), spec=RLinearSpec(), recipe=kept.recipe, device="cpu")
    in_precision(made, "bfloat16", tmp_path)
    assert made.runtime.precision == torch.float32
    assert "m/1 runs in float32" in caplog.text


def test_a_precision_that_the_device_has_not_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A setting for GPUs must not take a model out of service on a machine without one."""
    made = in_precision(forecaster(seed=1), "float16", tmp_path)
    assert made.runtime.precision == torch.float32
    assert "needs a GPU" in caplog.text


@pytest.mark.parametrize("wrong", [{"runtime": "onnxx"}, {"precision": "int8"}])
def test_an_unknown_runtime_or_precision_is_refused(wrong: dict[str, str]) -> None:
    """A typing error in the settings is told at the start, not by slow forecasts."""
    with pytest.raises(ConfigError, match="must be one of"):
        Settings.read({"models": wrong})
