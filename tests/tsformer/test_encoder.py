"""The encoder layer against its definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tsformer.attention import ATTENTIONS, SelfAttention
from tsformer.encoder import NORMS, Encoder, EncoderLayer, LayerSpec, TokenBatchNorm

PLAIN = LayerSpec(
    width=8,
    heads=2,
    feedforward=12,
    dropout=0.0,
    attention="plain",
    norm="batch",
    attention_dropout=0.0,
)


def layer(*, norm: str = "batch") -> EncoderLayer:
    return EncoderLayer(replace(PLAIN, norm=norm))


def test_batch_norm_has_one_mean_per_feature_over_rows_and_tokens() -> None:
    """The official code norms `[row, width, token]`: the same numbers, running ones included."""
    tokens = torch.randn(6, 5, 8) * 3 + 1
    ours, official = TokenBatchNorm(8), nn.BatchNorm1d(8)
    torch.testing.assert_close(ours(tokens), official(tokens.mT).mT)
    torch.testing.assert_close(ours.running_mean, official.running_mean)
    torch.testing.assert_close(ours.running_var, official.running_var, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.eval()(tokens), official.eval()(tokens.mT).mT)


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_comes_after_each_residual_branch(norm: str) -> None:
    block = layer(norm=norm).eval()
    tokens = torch.randn(3, 5, 8)
    mixed = block.attention_norm(tokens + block.attention(tokens, None)[0])
    expand, shrink = block.feedforward[0], block.feedforward[3]
    hidden = nn.functional.gelu(expand(mixed))
    expected = block.feedforward_norm(mixed + shrink(hidden))
    torch.testing.assert_close(block(tokens, None)[0], expected)


@pytest.mark.parametrize("part", ["dropout", "attention_dropout", "weight_dropout"])
def test_each_dropout_drops_in_its_branch_alone_and_only_in_training(part: str) -> None:
    """Dropped in the wrong place, a paper's settings give another model; in service, noise."""
    block = EncoderLayer(replace(PLAIN, norm="layer", **{part: 0.5}))  # type: ignore[arg-type]
    tokens = torch.randn(3, 5, 8)
    inner = (block.attention, block.feedforward)
    same = [bool(torch.equal(*(_branch(b, tokens) for _ in range(2)))) for b in inner]
    assert same == [part != "weight_dropout", part != "dropout"]
    assert not torch.equal(block(tokens, None)[0], block(tokens, None)[0])
    block.eval()
    assert torch.equal(block(tokens, None)[0], block(tokens, None)[0])


def _branch(module: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    mixed = module(tokens, None)[0] if isinstance(module, SelfAttention) else module(tokens)
    assert isinstance(mixed, torch.Tensor)
    return mixed


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_tokens_that_are_not_attended_to_are_not_there_for_the_others(attention: str) -> None:
    """A sensor that never reported must not move the forecasts of those that did."""
    encoder = Encoder(replace(PLAIN, norm="layer", attention=attention), depth=3).double()
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    attended = torch.tensor([[True, True, False, True, False]]).expand(2, -1)
    masked = encoder(tokens, attended)[attended]
    alone = encoder(tokens[:, attended[0]])
    torch.testing.assert_close(masked, alone.flatten(0, 1))
    torch.testing.assert_close(encoder(tokens, torch.ones_like(attended)), encoder(tokens))


def test_scores_travel_up_the_residual_encoder_alone() -> None:
    """A residual encoder must differ from a plain one with the same weights, from layer 2 on."""
    layer = replace(PLAIN, norm="layer")
    tokens = torch.randn(3, 5, 8)
    for depth, same in ((1, True), (2, False)):
        plain = Encoder(layer, depth=depth)
        residual = Encoder(replace(layer, attention="residual"), depth=depth)
        residual.load_state_dict(plain.state_dict())
        assert torch.allclose(plain(tokens), residual(tokens), atol=1e-6) is same
