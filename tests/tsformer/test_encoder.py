"""The encoder layer against its definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tsformer.encoder import NORMS, Encoder, EncoderLayer, LayerSpec, TokenBatchNorm

PLAIN = LayerSpec(width=8, heads=2, feedforward=12, dropout=0.0, attention="plain", norm="batch")


def layer(*, dropout: float = 0.0, norm: str = "batch") -> EncoderLayer:
    return EncoderLayer(replace(PLAIN, dropout=dropout, norm=norm))


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


def test_the_attention_branch_keeps_what_two_dropouts_keep() -> None:
    """The official dropouts in series at 0.3 keep 0.49; at 0.7 the papers' settings would not hold."""
    dropout = layer(dropout=0.3).attention_dropout
    kept = dropout(torch.ones(100_000))
    assert (kept > 0).double().mean().item() == pytest.approx(0.49, abs=0.01)
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


def test_scores_travel_up_the_residual_encoder_alone() -> None:
    """A residual encoder must differ from a plain one with the same weights, from layer 2 on."""
    layer = replace(PLAIN, norm="layer")
    tokens = torch.randn(3, 5, 8)
    for depth, same in ((1, True), (2, False)):
        plain = Encoder(layer, depth=depth)
        residual = Encoder(replace(layer, attention="residual"), depth=depth)
        residual.load_state_dict(plain.state_dict())
        assert torch.allclose(plain(tokens), residual(tokens), atol=1e-6) is same
