"""Attention against softmax written out in float64, and against numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tsformer.attention import (
    ATTENTIONS,
    InterpretableAttention,
    ResidualSelfAttention,
    SelfAttention,
)
from tsformer.errors import ConfigError


def reference(
    layer: SelfAttention, tokens: Tensor, scores: list[Tensor] | None
) -> tuple[Tensor, list[Tensor]]:
    """One layer for one row `[token, width]`, head by head; `scores` are those of the layer below."""
    width = tokens.shape[-1]
    each = width // layer.heads
    query, key, value = (tokens @ layer.project.weight.T + layer.project.bias).split(width, -1)
    mixed, now = [], []
    for head in range(layer.heads):
        cut = slice(head * each, (head + 1) * each)
        score = query[:, cut] @ key[:, cut].T / math.sqrt(each)
        if scores is not None:
            score = score + scores[head]
        weight = score.exp() / score.exp().sum(-1, keepdim=True)
        mixed.append(weight @ value[:, cut])
        now.append(score)
    return torch.cat(mixed, -1) @ layer.output.weight.T + layer.output.bias, now


def test_residual_attention_adds_up_scores_over_layers() -> None:
    """The concatenated product must be the sum of scores that the official code carries."""
    layers = [ResidualSelfAttention(6, heads=2).double() for _ in range(4)]
    tokens = torch.randn(3, 5, 6, dtype=torch.float64)
    rows, below, scores = tokens, None, [None] * 3
    expected = [*tokens]
    for layer in layers:
        rows, below = layer(rows, below)
        pairs = [reference(layer, row, score) for row, score in zip(expected, scores, strict=True)]
        expected, scores = [list(column) for column in zip(*pairs, strict=True)]
    torch.testing.assert_close(rows, torch.stack(expected), rtol=1e-10, atol=1e-12)
    assert below is not None
    summed = below.query @ below.key.mT * 3**-0.5
    torch.testing.assert_close(summed[0], torch.stack(scores[0]), rtol=1e-10, atol=1e-12)  # type: ignore[arg-type]


def test_plain_attention_is_softmax_of_the_products() -> None:
    layer = SelfAttention(6, heads=2).double()
    tokens = torch.randn(3, 5, 6, dtype=torch.float64)
    mixed, _ = layer(tokens, None)
    expected = torch.stack([reference(layer, row, None)[0] for row in tokens])
    torch.testing.assert_close(mixed, expected, rtol=1e-10, atol=1e-12)


def test_two_tokens_by_hand() -> None:
    """With weights of 1 the tokens 0 and 1 compare as x_i x_j: the logistic function of 1, then 2."""
    layer = ResidualSelfAttention(1, heads=1)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    tokens = torch.tensor([[[0.0], [1.0]]])
    first, below = layer(tokens, None)
    second, _ = layer(tokens, below)
    assert first.flatten().tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-1))])
    assert second.flatten().tolist() == pytest.approx([0.5, 1 / (1 + math.exp(-2))])


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_the_order_of_tokens_is_not_known(kind: str) -> None:
    """Order comes from positions alone; an attention that knew it would hide a broken table."""
    layer = ATTENTIONS[kind](8, heads=2)
    tokens, order = torch.randn(2, 7, 8), torch.randperm(7)
    torch.testing.assert_close(layer(tokens, None)[0][:, order], layer(tokens[:, order], None)[0])


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_parameters_are_four_projections_with_bias(kind: str) -> None:
    count = sum(p.numel() for p in ATTENTIONS[kind](16, heads=4).parameters())
    assert count == 4 * (16 * 16 + 16)


def test_width_must_divide_by_heads() -> None:
    with pytest.raises(ConfigError, match="multiple of heads"):
        SelfAttention(10, heads=4)


def interpretable(
    layer: InterpretableAttention, tokens: Tensor, queries: int
) -> tuple[Tensor, Tensor]:
    """One row `[token, width]` by arXiv 1912.09363, equations 14 to 16: a mean of heads."""
    count, width = tokens.shape
    each = width // layer.heads
    query, key = tokens @ layer.query.weight.T, tokens @ layer.key.weight.T
    value = tokens @ layer.value.weight.T  # one map for all heads
    mixed, weights = [], []
    for place in range(count - queries, count):
        heads = []
        for head in range(layer.heads):
            cut = slice(head * each, (head + 1) * each)
            score = key[: place + 1, cut] @ query[place, cut] / math.sqrt(each)
            heads.append(score.exp() / score.exp().sum())
        mixed.append(torch.stack([head @ value[: place + 1] for head in heads]).mean(0))
        mean = torch.stack(heads).mean(0)
        weights.append(torch.cat((mean, mean.new_zeros(count - place - 1))))
    return torch.stack(mixed) @ layer.output.weight.T, torch.stack(weights)


@pytest.mark.parametrize("queries", [1, 3, 7])
def test_interpretable_attention_is_a_mean_of_heads_over_one_value(queries: int) -> None:
    """Its weights are shown to people as what was read; a step ahead must not be among it."""
    layer = InterpretableAttention(6, heads=2).double()
    tokens = torch.randn(3, 7, 6, dtype=torch.float64)
    mixed, weights = layer(tokens, queries=queries)
    for row in range(3):
        expected = interpretable(layer, tokens[row], queries)
        torch.testing.assert_close(mixed[row], expected[0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(weights[row], expected[1], rtol=1e-10, atol=1e-12)


def test_interpretable_attention_has_no_bias_and_one_value_map() -> None:
    count = sum(p.numel() for p in InterpretableAttention(16, heads=4).parameters())
    assert count == 2 * 16 * 16 + 2 * 16 * 4
    with pytest.raises(ConfigError, match="multiple of heads"):
        InterpretableAttention(10, heads=4)
