"""The cheap dropout is a dropout: its rate, its mean, its gradient, its random state."""

import math

import pytest
import torch

from tsformer.dropout import Dropout


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.51, 0.9])
def test_rate_and_scale_are_those_of_inverted_dropout(share: float) -> None:
    torch.manual_seed(0)
    count = 400_003  # not a multiple of the draws in a word
    dropped = Dropout(share)(torch.ones(count))
    zeros = int((dropped == 0).sum())
    assert abs(zeros - share * count) < 5 * math.sqrt(count * share * (1 - share))
    kept = dropped[dropped != 0]
    assert kept.unique().tolist() == pytest.approx([1 / (1 - share)], rel=1e-3)


def test_neighbours_are_independent() -> None:
    # four values share a word; a carry between its lanes would show as a correlation
    torch.manual_seed(0)
    kept = (Dropout(0.3)(torch.ones(400_000)) != 0).double().view(-1, 4)
    correlation = torch.corrcoef(kept.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(len(kept))


def test_the_gradient_passes_where_values_pass() -> None:
    torch.manual_seed(0)
    values = torch.ones(5, 7, requires_grad=True)
    dropped = Dropout(0.4)(values)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())


def test_it_follows_torchs_random_state() -> None:
    values = torch.ones(1000)
    dropout = Dropout(0.5)
    torch.manual_seed(3)
    first, second = dropout(values), dropout(values)
    torch.manual_seed(3)
    assert torch.equal(dropout(values), first)
    assert not torch.equal(first, second)


def test_evaluation_and_zero_leave_values_as_they_are_and_one_leaves_nothing() -> None:
    values = torch.randn(10)
    assert Dropout(0.5).eval()(values) is values
    assert Dropout(0.0)(values) is values
    assert not Dropout(1.0)(values).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    assert Dropout(0.5)(torch.ones(8, dtype=dtype)).dtype == dtype
