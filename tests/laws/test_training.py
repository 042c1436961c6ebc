"""What training owes its users, for every kind of model; a new kind joins through the table."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tsformer.windows import ArrayWindows, linear_windows
from tsformer.batch import Batch, Shape, Target
from tsformer.errors import ConfigError
from tsformer.model import ClosedForm, Model, ModelSpec
from tsformer.models import MODELS, build, spec_from_mapping
from tsformer.train import Fit, Progress, Training, evaluate, fit

SHAPE = Shape(context=48, horizon=4, variates=2)
TRAINING = Training(epochs=3, batch_size=8, learning_rate=0.01)
# What a kind cannot be built without.
# A seasonal ARIMA of a thousand windows takes minutes, so it stands here without a season.
NEEDED: dict[str, dict[str, object]] = {
    **{kind: {"season": 4} for kind in ("seasonal_naive", "autoregression", "ets", "theta")},
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


CLOSED = [kind for kind in MODELS if isinstance(fresh(kind), ClosedForm)]

# Windows that name their series and tell a category ahead: more parts of models are built.
TOLD = replace(SHAPE, known=(3,), series=3)


class ToldWindows(ArrayWindows):
    @property
    def shape(self) -> Shape:
        return TOLD

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        batch, target = super().batch(index)
        steps = torch.arange(SHAPE.context + SHAPE.horizon)
        known = ((index[:, None] + steps) % 3).unsqueeze(-1)  # [batch, time + horizon, column]
        series = torch.tensor([1, 2]).expand(len(index), -1)
        return replace(batch, known=known.to(batch.past), series=series), target


def told() -> tuple[ToldWindows, ToldWindows]:
    train, validation = (ToldWindows(plain.past, plain.future) for plain in data())
    return train, validation


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


@pytest.mark.parametrize("kind", CLOSED)
def test_a_closed_form_is_solved_wherever_its_weights_are(kind: str) -> None:
    """Windows lie on the CPU, and `fit` moves the model to the GPU before it is solved.

    The device of nothing but shapes refuses what a GPU refuses: to meet tensors of the CPU.
    """
    model = build(spec_from_mapping({"kind": kind}), TOLD).to("meta")
    assert isinstance(model, ClosedForm)
    model.solve(*told())


@pytest.mark.parametrize("kind", CLOSED)
def test_a_closed_form_is_fitted_in_every_precision(kind: str) -> None:
    """One line of a configuration that suits the networks must not break the baseline."""
    losses = []
    for precision in ("float32", "bfloat16"):
        model = build(spec_from_mapping({"kind": kind}), TOLD)
        train, validation = told()
        training = replace(TRAINING, precision=precision)
        result = fit(model, train=train, validation=validation, training=training)
        losses.append(result.validation_loss)
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


# Values of every field of a network, of which one is not what it is built with by default.
OTHERS: dict[str, tuple[object, ...]] = {
    "patch": (12,),
    "stride": (7,),
    "depth": (1,),
    "width": (32,),
    "heads": (2,),
    "feedforward": (64,),
    "dropout": (0.25,),
    "head_dropout": (0.25,),
    "unknown_rate": (0.25,),
    "attention": ("plain",),
    "norm": ("layer",),
    "activation": ("relu",),
    "padding": ("none",),
    "affine": ("none", "scalar"),
    "level_width": (16,),
    "kernel": (13,),
}


@pytest.mark.parametrize(
    ("kind", "field"), [(kind, field.name) for kind in NETWORKS for field in fields(MODELS[kind])]
)
def test_a_checkpoint_of_another_specification_is_refused(
    kind: str, field: str, tmp_path: Path
) -> None:
    """Weights of eight heads fit into two: the run would go on, as a model that nobody asked for."""
    spec = spec_from_mapping({"kind": kind})
    train, validation = told()

    def run(spec: ModelSpec) -> None:
        training = replace(TRAINING, epochs=1, batch_size=30)
        model = build(spec, TOLD)
        fit(model, train=train, validation=validation, training=training, checkpoint=tmp_path)

    run(spec)
    other = next(value for value in OTHERS[field] if value != getattr(spec, field))
    with pytest.raises(ConfigError, match="belongs to another run"):
        run(replace(spec, **{field: other}))
