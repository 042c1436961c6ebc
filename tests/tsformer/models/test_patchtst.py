"""PatchTST against the published sizes and against its definition, written out in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tsformer.attention import SelfAttention
from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, ShapeError
from tsformer.models.patchtst import SELF_SUPERVISED, PatchEncoder, PatchTST, PatchTSTSpec

SMALL = PatchTSTSpec()
BASE = PatchTSTSpec(width=128, heads=16, feedforward=256, dropout=0.2)
HORIZONS = (96, 192, 336, 720)
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("spec", "context", "counts"),
    [
        (SMALL, 336, (81_728, 146_336, 243_248, 501_680)),
        (SMALL, 512, (115_872, 214_272, 361_872, 755_472)),
        (BASE, 336, (921_184, 1_437_376, 2_211_664, 4_276_432)),
        (BASE, 512, (1_194_336, 1_980_864, 3_160_656, 6_306_768)),
    ],
)
def test_parameter_counts_are_those_of_the_official_class(
    spec: PatchTSTSpec, context: int, counts: tuple[int, ...]
) -> None:
    """Many a "PatchTST" has another norm, embedding or head; the count tells."""
    built = tuple(parameters(spec.build(Shape(context, horizon))) for horizon in HORIZONS)
    assert built == counts


def test_the_self_supervised_encoder_has_its_published_sizes() -> None:
    """42 patches of 12 steps; 10,720 parameters at width 16, as in others' measurements of it."""
    small = replace(SELF_SUPERVISED, width=16, heads=4, feedforward=64)
    assert parameters(PatchEncoder(small, context=512)) == 10_720
    paper = PatchEncoder(SELF_SUPERVISED, context=512)
    assert paper.position.shape == (42, 128)
    assert type(paper.stack.layers[0].attention) is SelfAttention  # scores do not travel up
    assert any(isinstance(module, nn.ReLU) for module in paper.modules())


def test_without_padding_the_first_steps_of_the_window_fill_no_patch() -> None:
    """Forecasting must read the very patches that pretraining knew."""
    model = PatchTST(replace(SELF_SUPERVISED, width=16), Shape(512, 4)).eval()
    past = torch.randn(2, 512, 1)
    changed = past.clone()
    changed[:, :8] = 1e6
    read = torch.ones_like(past, dtype=torch.bool)
    assert torch.equal(model(Batch(past, read)), model(Batch(changed, read)))


def test_the_attention_branch_keeps_what_two_dropouts_keep() -> None:
    """The official dropouts in series at 0.3 keep 0.49; at 0.7 the papers' settings would not hold."""
    model = PatchTSTSpec(dropout=0.3).build(Shape(336, 96))
    found = [m for name, m in model.named_modules() if name.endswith("attention_dropout")]
    assert len(found) == 3
    kept = found[0].train()(torch.ones(100_000))
    assert (kept > 0).double().mean().item() == pytest.approx(0.49, abs=0.01)
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


def norm(tokens: Array, state: dict[str, Array], name: str) -> Array:
    centered = tokens - state[f"{name}.running_mean"]
    normal = centered / np.sqrt(state[f"{name}.running_var"] + 1e-5)
    return normal * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(values: Array, state: dict[str, Array], name: str) -> Array:
    return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def gelu(values: Array) -> Array:
    return values * (1 + np.vectorize(math.erf)(values / math.sqrt(2))) / 2


def reference(series: Array, state: dict[str, Array], spec: PatchTSTSpec) -> Array:
    """One window of one variate through the paper's equations, step by step."""
    mean, std = series.mean(), series.std()
    normal = (series - mean) / std
    padded = np.concatenate([normal, np.repeat(normal[-1], spec.stride)])
    starts = range(0, len(padded) - spec.patch + 1, spec.stride)
    tokens = np.stack([padded[start : start + spec.patch] for start in starts])
    tokens = linear(tokens, state, "embedding") + state["position"]
    each = spec.width // spec.heads
    scores: list[Array | float] = [0.0] * spec.heads
    for depth in range(spec.depth):
        name = f"stack.layers.{depth}"
        query, key, value = np.split(linear(tokens, state, f"{name}.attention.project"), 3, -1)
        mixed = []
        for index in range(spec.heads):
            cut = slice(index * each, (index + 1) * each)
            score = query[:, cut] @ key[:, cut].T / math.sqrt(each) + scores[index]
            weight = np.exp(score) / np.exp(score).sum(-1, keepdims=True)
            mixed.append(weight @ value[:, cut])
            scores[index] = score
        branch = linear(np.concatenate(mixed, -1), state, f"{name}.attention.output")
        tokens = norm(tokens + branch, state, f"{name}.attention_norm")
        hidden = gelu(linear(tokens, state, f"{name}.feedforward.0"))
        branch = linear(hidden, state, f"{name}.feedforward.3")
        tokens = norm(tokens + branch, state, f"{name}.feedforward_norm")
    return linear(tokens.T.reshape(-1), state, "head.linear") * std + mean


@pytest.mark.parametrize("context", [24, 27])
def test_forward_is_the_papers_equations(context: int) -> None:
    spec = PatchTSTSpec(patch=6, stride=4, depth=3, width=8, heads=2, feedforward=10)
    model = spec.build(Shape(context, 5, variates=2)).double().eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if "running_var" in name else tensor.uniform_(-0.5, 0.5)
    named = {k.removeprefix("inner."): v for k, v in model.state_dict().items()}
    state = {k.removeprefix("encoder."): v.numpy() for k, v in named.items()}
    past = torch.randn(3, context, 2, dtype=torch.float64) * 7 + 40
    forecast = model(Batch(past, torch.ones_like(past, dtype=torch.bool))).detach()
    assert forecast.shape == (3, 5, 2, 1)
    for batch in range(3):
        for variate in range(2):
            expected = reference(past[batch, :, variate].numpy(), state, spec)
            np.testing.assert_allclose(forecast[batch, :, variate, 0], expected, rtol=1e-9)


def test_positions_start_within_the_official_bound() -> None:
    position = PatchTSTSpec().build(Shape(336, 96)).state_dict()["inner.encoder.position"]
    assert position.shape == (42, 16)
    assert 0.019 < position.abs().max() <= 0.02


def test_one_model_forecasts_any_number_of_variates() -> None:
    model = PatchTSTSpec().build(Shape(32, 4, variates=1)).eval()
    past = torch.randn(2, 32, 5)
    assert model(Batch(past, torch.ones_like(past, dtype=torch.bool))).shape == (2, 4, 5, 1)


def test_another_context_is_refused_with_the_remedy() -> None:
    model = PatchTSTSpec().build(Shape(32, 4))
    past = torch.randn(1, 33, 1)
    with pytest.raises(ShapeError, match=r"reads 32 steps, got 33\. Cut or pad"):
        model(Batch(past, torch.ones_like(past, dtype=torch.bool)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 18}, "width must be a multiple of heads"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"norm": "instance"}, "norm must be one of batch, layer"),
        ({"attention": "sparse"}, "attention must be one of plain, residual"),
        ({"affine": "variate"}, "affine must be one of none, scalar"),
        ({"activation": "tanh"}, "activation must be one of gelu, relu"),
        ({"padding": "start"}, "padding must be one of end, none"),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PatchTSTSpec(**wrong)  # type: ignore[arg-type]


def test_patch_larger_than_the_context_is_refused_when_built() -> None:
    with pytest.raises(ConfigError, match="too short for patches"):
        PatchTSTSpec(patch=64, stride=8).build(Shape(32, 4))


def test_the_whole_forward_traces_as_one_graph() -> None:
    """A graph break would silently cost what compiling should gain."""
    model = PatchTSTSpec().build(Shape(32, 4, variates=2)).eval()
    past = torch.randn(2, 32, 2)
    batch = Batch(past, torch.ones_like(past, dtype=torch.bool))
    traced = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(batch), model(batch))
