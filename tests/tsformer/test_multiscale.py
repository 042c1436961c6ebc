"""NuTime's embedding of numbers against its equations, and levels as inputs of PatchTST."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, ShapeError
from tsformer.models.patchtst import LevelledPatchTSTSpec, PatchTST, PatchTSTSpec
from tsformer.multiscale import SCALES, LevelledEmbedding, MultiScaledEmbedding, nearness

NUMBERS = (0.0, 3e-5, -0.02, 1.0, 4.0, 7.3, -250.0, 8e3)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("number", [2e-4, 0.03, -0.9, 1.0, 3.0, -40.0, 600.0, 1.2e4, 1e9])
def test_the_scale_next_to_a_number_counts_most(number: float) -> None:
    """If all scales counted alike, the small ones would be lost beside the large."""
    share = nearness(torch.tensor(number, dtype=torch.float64), torch.tensor(SCALES).double())
    assert share.sum().item() == pytest.approx(1)
    distance = np.abs(np.log(np.abs(number) / np.array(SCALES)))
    assert share.argmax().item() == distance.argmin()


def test_the_embedding_is_the_papers_equation() -> None:
    """e(x) = sum over k of alpha_k LN(w_k x / k + b_k), in float64."""
    embedding = MultiScaledEmbedding(6).double()
    weight, bias = (p.detach().numpy() for p in (embedding.weight, embedding.bias))
    for number in NUMBERS[1:]:
        found = embedding(torch.tensor([number])).detach().numpy()[0]
        logs = np.log(abs(number) / np.array(SCALES) + 1e-6)
        alpha = 1 / (np.abs(logs) + 1e-6)
        lines = weight * (number / np.array(SCALES))[:, None] + bias
        spread = lines - lines.mean(1, keepdims=True)
        # without an epsilon: the paper's makes a difference where all of a line is small
        vectors = spread / lines.std(1, keepdims=True)
        expected = (alpha[:, None] * vectors).sum(0) / alpha.sum()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("number", [0.0, 1e-300, -1e-30, 1e30, 1e300])
def test_any_number_has_a_finite_embedding_and_gradient(number: float) -> None:
    """One counter in microseconds must not end a training run over a hundred data sets."""
    embedding = MultiScaledEmbedding(4)
    vector = embedding(torch.tensor([number], dtype=torch.float64))
    vector.square().sum().backward()
    assert vector.isfinite().all()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.isfinite().all()


def test_a_token_knows_its_shape_and_the_level_and_deviation_of_its_window() -> None:
    """Beside the level, where a patch lies in its window must stay exactly as without it."""
    embedding = LevelledEmbedding(4, width=8, level_width=6)
    patches, unit = torch.randn(3, 5, 4), torch.tensor([[300.0, 20.0], [0.1, 0.0], [-7e9, 1e5]])
    numbers = torch.cat((embedding.level(unit[:, 0]), embedding.level(unit[:, 1])), -1)
    expected = embedding.shape(patches) + embedding.mix(numbers)[:, None]
    torch.testing.assert_close(embedding(patches, unit), expected)


def forecast(spec: PatchTSTSpec, past: Tensor) -> Tensor:
    torch.manual_seed(1)
    model = spec.build(Shape(32, 4, variates=past.shape[2])).eval()
    with torch.no_grad():
        return model(Batch(past, torch.ones_like(past, dtype=torch.bool)))


def test_the_level_counts_only_where_it_is_an_input() -> None:
    """Instance normalisation forgets whether a shop sells one or a thousand; this network does not."""
    past = torch.randn(2, 32, 3, dtype=torch.float64)
    for spec, blind in ((PatchTSTSpec(), True), (LevelledPatchTSTSpec(), False)):
        here, there = forecast(spec, past), forecast(spec, 1000 * past + 5000)
        assert torch.allclose(1000 * here + 5000, there, rtol=1e-6, atol=1e-2) is blind
    assert LevelledPatchTSTSpec.capabilities.unit_free is False


def test_impossible_use_is_refused() -> None:
    with pytest.raises(ConfigError, match="level_width must be at least 2"):
        LevelledPatchTSTSpec(level_width=1)
    with pytest.raises(ConfigError, match="width must be a multiple of heads"):
        LevelledPatchTSTSpec(width=18)
    past = torch.randn(2, 32, 3)
    with pytest.raises(ShapeError, match="reads the level of its windows"):
        PatchTST(LevelledPatchTSTSpec(), Shape(32, 4))(
            Batch(past, torch.ones_like(past, dtype=torch.bool))
        )
