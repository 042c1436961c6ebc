"""SAMformer against the published sizes and against its equation, written out in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, ShapeError
from tsformer.model import Model
from tsformer.models.samformer import SAMformer, SAMformerSpec
from tsformer.scale import Scaled

SHAPE = Shape(context=24, horizon=5, variates=4)
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def batch_of(past: Tensor, covariates: Tensor | None = None) -> Batch:
    return Batch(past, torch.ones_like(past, dtype=torch.bool), covariates=covariates)


def at_random(model: Model) -> Model:
    """`model` at weights that no initialisation gives."""
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    return model.eval()


@pytest.mark.parametrize(
    ("horizon", "published"), [(96, 82_590), (192, 131_838), (336, 205_710), (720, 402_702)]
)
def test_parameter_counts_are_the_published_ones_but_for_the_affine(
    horizon: int, published: int
) -> None:
    """Another network under this name (there is one of 328,334 weights) would be found out."""
    for affine, left in (("scalar", 2), ("none", 0)):
        model = SAMformerSpec(affine=affine).build(Shape(512, horizon, variates=7))
        count = sum(parameter.numel() for parameter in model.parameters())
        assert count == published - 2 * 7 + left  # a weight and a bias for each of 7 variates


def reference(past: Array, state: dict[str, Array]) -> Array:
    """One window `[time, variate]` through the paper's equation, `[horizon, variate]`."""

    def affine(values: Array, name: str) -> Array:
        return values @ state[f"inner.{name}.weight"].T + state[f"inner.{name}.bias"]

    mean, std = past.mean(0), past.std(0)
    weight, bias = math.exp(state["affine.log_weight"]), state["affine.bias"]
    rows = ((past - mean) / std * weight + bias).T  # [variate, time]
    query, key = affine(rows, "query"), affine(rows, "key")
    scores = np.exp(query @ key.T / math.sqrt(query.shape[1]))
    mixed = scores / scores.sum(1, keepdims=True) @ affine(rows, "value")
    forecast = affine(rows + affine(mixed, "output"), "head.linear").T
    return (forecast - bias) / weight * std + mean


@torch.no_grad()
def test_the_forecast_is_that_of_the_equation() -> None:
    """A transposed product or a softmax over the wrong axis trains without any complaint."""
    model = at_random(SAMformerSpec(width=3).build(SHAPE)).double()
    past = 5 + 3 * torch.randn(2, 24, 4, dtype=torch.float64)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    expected = [reference(window.numpy(), state) for window in past]
    np.testing.assert_allclose(model(batch_of(past))[..., 0], expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_without_its_output_it_is_the_linear_map_of_each_variate() -> None:
    """The control that the paper's gain is measured against is the model itself, minus one part."""
    model = at_random(SAMformerSpec(affine="none").build(SHAPE))
    inner = inner_of(model)
    inner.output.weight.zero_()
    inner.output.bias.zero_()
    past = torch.randn(3, 24, 4)
    mean, std = past.mean(1, keepdim=True), past.std(1, correction=0, keepdim=True)
    linear = inner.head.linear
    expected = (linear(((past - mean) / std).mT).mT * std + mean).unsqueeze(-1)
    torch.testing.assert_close(model(batch_of(past)), expected)


def inner_of(model: Model) -> SAMformer:
    assert isinstance(model, Scaled)
    assert isinstance(model.inner, SAMformer)
    return model.inner


def test_it_starts_from_glorot_kernels_and_zero_biases() -> None:
    """The settings of the paper belong to its initialisation; torch's own is another."""
    inner = inner_of(SAMformerSpec().build(Shape(512, 96)))
    for name, parameter in inner.named_parameters():
        bound = math.sqrt(6 / sum(parameter.shape)) if parameter.ndim == 2 else 0
        assert parameter.abs().max() <= bound, name
        assert parameter.abs().max() >= 0.99 * bound, name


@torch.no_grad()
@pytest.mark.parametrize("variates", [1, 9])
def test_any_number_of_variates_can_be_forecast(variates: int) -> None:
    """A plant that gains a sensor keeps its model."""
    model = at_random(SAMformerSpec().build(SHAPE))
    forecast = model(batch_of(torch.randn(2, 24, variates)))
    assert forecast.shape == (2, 5, variates, 1)
    assert forecast.isfinite().all()


@torch.no_grad()
def test_attention_is_a_share_of_each_token() -> None:
    """Who reads the matrix as importance counts on shares: not negative, 1 together."""
    inner = inner_of(at_random(SAMformerSpec().build(replace(SHAPE, past=(0, 3)))))
    covariates = torch.stack((torch.randn(2, 24), torch.randint(3, (2, 24)).float()), -1)
    batch = batch_of(torch.randn(2, 24, 4), covariates)
    tokens = inner.tokens(batch)
    assert tokens.shape == (2, 4 + 1 + 2, 24)  # variates, a number, two words beside the unknown
    assert inner.covariate_tokens == ("past 0", "past 1", "past 1")
    shares = inner.scores(tokens, batch).softmax(-1)
    assert shares.shape == (2, 4, 7)
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 4))


@torch.no_grad()
def test_a_covariate_counts_as_one_more_variate_that_is_not_forecast() -> None:
    """A covariate is worth what the same column is worth as a target, and nobody need score it."""
    past = torch.randn(2, 24, 4)
    past = (past - past.mean(1, keepdim=True)) / past.std(1, correction=0, keepdim=True)
    wide = at_random(SAMformerSpec(affine="none").build(SHAPE))
    narrow = SAMformerSpec(affine="none").build(replace(SHAPE, variates=3, past=(0,))).eval()
    narrow.load_state_dict(wide.state_dict())
    forecast = narrow(batch_of(past[..., :3], past[..., 3:]))
    torch.testing.assert_close(forecast, wide(batch_of(past))[:, :, :3])


def test_what_it_cannot_read_is_refused_by_name() -> None:
    """A window of another length, or covariates left out, must not become a forecast."""
    model = SAMformerSpec().build(replace(SHAPE, past=(0,)))
    with pytest.raises(ShapeError, match="reads 24 steps, got 23"):
        model(batch_of(torch.randn(2, 23, 4), torch.randn(2, 23, 1)))
    with pytest.raises(ShapeError, match="1 covariates of the past, got none"):
        model(batch_of(torch.randn(2, 24, 4)))


@pytest.mark.parametrize(
    ("settings", "named"), [({"width": 0}, "width"), ({"affine": "per_variate"}, "affine")]
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, object], named: str) -> None:
    """A width of 0 would be a network without attention, and a division by 0."""
    with pytest.raises(ConfigError, match=named):
        SAMformerSpec.from_mapping(settings)
