"""The linear family against its definitions, with weights set by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError
from tsformer.model import Model
from tsformer.models.linear import (
    DLinearSpec,
    LinearSpec,
    NLinearSpec,
    RLinearSpec,
    moving_average,
)

SHAPE = Shape(context=30, horizon=4, variates=2)


def batch_of(past: Tensor) -> Batch:
    return Batch(past, torch.ones_like(past, dtype=torch.bool))


def parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def affine(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The only weight `[horizon, time]` and bias `[horizon]` of `model`."""
    weight, bias = (parameter.detach().numpy() for parameter in model.parameters())
    return weight, bias


@torch.no_grad()
def test_linear_is_its_map() -> None:
    model, past = LinearSpec().build(SHAPE).eval(), torch.randn(3, 30, 2)
    weight, bias = affine(model)
    expected = np.einsum("ht,btv->bhv", weight, past.numpy()) + bias[:, None]
    np.testing.assert_allclose(model(batch_of(past))[..., 0], expected, atol=1e-5)


@torch.no_grad()
def test_nlinear_maps_what_lies_above_the_last_value() -> None:
    model, past = NLinearSpec().build(SHAPE).eval(), 5 + torch.randn(3, 30, 2)
    weight, bias = affine(model)
    last = past.numpy()[:, -1:]
    expected = np.einsum("ht,btv->bhv", weight, past.numpy() - last) + bias[:, None] + last
    np.testing.assert_allclose(model(batch_of(past))[..., 0], expected, atol=1e-5)


@torch.no_grad()
def test_rlinear_maps_the_normalised_window() -> None:
    model, past = RLinearSpec().build(SHAPE).eval(), 5 + 3 * torch.randn(3, 30, 2)
    weight, bias = affine(model)
    x = past.numpy()
    mean, std = x.mean(axis=1, keepdims=True), x.std(axis=1, keepdims=True)
    expected = (np.einsum("ht,btv->bhv", weight, (x - mean) / std) + bias[:, None]) * std + mean
    np.testing.assert_allclose(model(batch_of(past))[..., 0], expected, atol=1e-4)


@torch.no_grad()
def test_dlinear_maps_trend_and_rest() -> None:
    model, past = DLinearSpec(kernel=5).build(SHAPE).eval(), torch.randn(3, 30, 2)
    wt, bt, ws, bs = (parameter.detach().numpy() for parameter in model.parameters())
    x = past.numpy()
    padded = np.concatenate([x[:, :1]] * 2 + [x] + [x[:, -1:]] * 2, axis=1)
    trend = np.stack([padded[:, t : t + 5].mean(axis=1) for t in range(30)], axis=1)
    expected = np.einsum("ht,btv->bhv", wt, trend) + np.einsum("ht,btv->bhv", ws, x - trend)
    expected += (bt + bs)[:, None]
    np.testing.assert_allclose(model(batch_of(past))[..., 0], expected, atol=1e-5)


def test_the_moving_average_of_a_line_is_the_line_inside() -> None:
    """Ends are repeated, so only the last half kernel bends: checked by hand at the end."""
    line = torch.arange(30.0)[None]
    smooth = moving_average(line, kernel=25)
    torch.testing.assert_close(smooth[:, 12:18], line[:, 12:18])
    # The last window holds 17 to 29 and twelve more times 29.
    assert smooth[0, -1].item() == pytest.approx((sum(range(17, 30)) + 12 * 29) / 25)


@pytest.mark.parametrize(
    ("spec", "count"),
    [
        (LinearSpec(), (336 + 1) * 96),
        (NLinearSpec(), (336 + 1) * 96),
        (DLinearSpec(), 2 * (336 + 1) * 96),
        (RLinearSpec(affine="scalar"), (336 + 1) * 96 + 2),
    ],
)
def test_parameters_are_as_published(
    spec: LinearSpec | NLinearSpec | DLinearSpec | RLinearSpec, count: int
) -> None:
    """arXiv 2205.13504, table 8: one shared map, or two for DLinear, for all variates."""
    assert parameters(spec.build(Shape(336, 96, variates=7))) == count


@torch.no_grad()
def test_linear_is_not_free_of_level_and_nlinear_is() -> None:
    """Why the leaderboard must not offer Linear for data that have moved."""
    torch.manual_seed(0)
    past = torch.randn(3, 30, 2)
    for spec, follows in ((LinearSpec(), False), (DLinearSpec(), False), (NLinearSpec(), True)):
        model = spec.build(SHAPE).eval()
        moved = model(batch_of(past + 100)) - 100
        assert torch.allclose(moved, model(batch_of(past)), atol=1e-3) is follows


def test_rlinear_drops_inputs_in_training_alone() -> None:
    torch.manual_seed(0)
    model, batch = RLinearSpec(dropout=0.5).build(SHAPE), batch_of(torch.randn(3, 30, 2))
    assert not torch.equal(model.train()(batch), model(batch))
    assert torch.equal(model.eval()(batch), model(batch))


@pytest.mark.parametrize(
    ("spec", "wrong"),
    [
        (DLinearSpec, {"kernel": 24}),
        (DLinearSpec, {"kernel": 0}),
        (RLinearSpec, {"dropout": 1.0}),
        (RLinearSpec, {"affine": "vector"}),
        (NLinearSpec, {"kernel": 25}),
    ],
)
def test_wrong_settings_are_refused(
    spec: type[DLinearSpec] | type[RLinearSpec] | type[NLinearSpec], wrong: dict[str, object]
) -> None:
    with pytest.raises(ConfigError):
        spec.from_mapping(wrong)
