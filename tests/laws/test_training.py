"""What training owes its users, for every kind of model; a new kind joins through the table."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tsformer.windows import ArrayWindows, linear_windows
from tsformer.batch import Shape
from tsformer.model import ClosedForm, Model
from tsformer.models import MODELS, build, spec_from_mapping
from tsformer.train import Fit, Progress, Training, evaluate, fit

SHAPE = Shape(context=48, horizon=4, variates=2)
TRAINING = Training(epochs=3, batch_size=8, learning_rate=0.01)
# What a kind cannot be built without.
# A seasonal ARIMA of a thousand windows takes minutes, so it stands here without a season.
NEEDED: dict[str, dict[str, object]] = {
    **{kind: {"season": 4} for kind in ("seasonal_naive", "ets", "theta")},
    "sarimax": {"season": 1},
}


def fresh(kind: str) -> Model:
    torch.manual_seed(0)
    return build(spec_from_mapping({"kind": kind, **NEEDED.get(kind, {})}), SHAPE)


def data() -> tuple[ArrayWindows, ArrayWindows]:
    return linear_windows(30, shape=SHAPE), linear_windows(10, shape=SHAPE, seed=1)


def is_network(kind: str) -> bool:
    model = fresh(kind)
    return not isinstance(model, ClosedForm) and any(p.requires_grad for p in model.parameters())


NETWORKS = [kind for kind in MODELS if is_network(kind)]


class StopError(Exception):
    """What interrupts a run."""


def fitted(kind: str, **how: object) -> tuple[dict[str, Tensor], Fit]:
    model = fresh(kind)
    train, validation = data()
    result = fit(model, train=train, validation=validation, training=TRAINING, **how)
    assert not model.training
    assert result.validation_loss == evaluate(model, windows=validation, training=TRAINING)
    return model.state_dict(), result


@pytest.mark.parametrize("kind", MODELS)
def test_one_call_fits_and_scores_every_kind(kind: str) -> None:
    # a baseline that needs another call than a network is a special case everywhere above
    _, result = fitted(kind)
    assert math.isfinite(result.validation_loss)
    assert len(result.history) == (TRAINING.epochs if kind in NETWORKS else 0)


@pytest.mark.parametrize("kind", NETWORKS)
def test_resumed_training_ends_with_the_weights_of_uninterrupted(kind: str, tmp_path: Path) -> None:
    # a machine that restarts at night must not change which model is published in the morning
    def report(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (3, 2):
            raise StopError

    with pytest.raises(StopError):
        fitted(kind, checkpoint=tmp_path, report=report)
    resumed, _ = fitted(kind, checkpoint=tmp_path)
    expected, _ = fitted(kind)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", NETWORKS)
def test_training_repeats_and_leaves_the_callers_randomness_alone(kind: str) -> None:
    first, _ = fitted(kind)
    state = torch.get_rng_state()
    again, _ = fitted(kind)
    assert all(torch.equal(first[name], again[name]) for name in first)
    torch.manual_seed(0)
    build(spec_from_mapping({"kind": kind}), SHAPE)
    assert torch.equal(torch.get_rng_state(), state)  # only building drew from it
