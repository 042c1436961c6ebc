"""The order of an epoch: every window once, in an order that nobody chose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tsformer import chance
from tsformer.chance import shuffled


def order(count: int, *, kept: int, parts: int, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    return [*shuffled(count, kept=kept, parts=parts)]


@pytest.fixture(params=["written down", "computed"])
def _large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "computed":
        monkeypatch.setattr(chance, "WRITTEN_DOWN", 0)


@pytest.mark.usefixtures("_large")
@pytest.mark.parametrize("count", [1, 2, 3, 5, 64, 1000, 4097])
def test_every_window_comes_once(count: int) -> None:
    """A window that comes twice is learnt twice; one that never comes is lost."""
    parts = order(count, kept=count, parts=min(3, count))
    assert sorted(torch.cat(parts).tolist()) == [*range(count)]
    assert {len(part) for part in parts} <= {count // len(parts), count // len(parts) + 1}


@pytest.mark.usefixtures("_large")
def test_a_part_of_them_is_drawn_without_replacement_and_anew() -> None:
    """An epoch of 100 of 1,000 windows must not see the same 100 each time."""
    first, again, other = (torch.cat(order(1000, kept=100, parts=7, seed=s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert len({*first.tolist()}) == 100
    assert len({*first.tolist(), *other.tolist()}) > 150


def test_the_computed_order_is_as_random_as_the_drawn_one() -> None:
    """Neighbours overlap by all but one step: a batch of neighbours is hardly more than one."""
    count = chance.WRITTEN_DOWN + 1
    found = torch.cat(order(count, kept=100_000, parts=10)).numpy()
    assert len(np.unique(found)) == 100_000
    assert (found < count).all()
    expected = 100_000 / 64
    shares = np.bincount(found * 64 // count, minlength=64)
    assert ((shares - expected) ** 2 / expected).sum() < 120  # chi-square of 63 degrees: p < 1e-5
    lags = found / count - 0.5
    assert abs(np.mean(lags[1:] * lags[:-1]) * 12) < 0.02  # 6 deviations
    assert (np.abs(np.diff(found)) < 1000).mean() < 5e-4


def test_what_is_drawn_is_drawn_at_once() -> None:
    """What follows an epoch's order, dropout say, must not depend on when the order is read."""
    torch.manual_seed(0)
    parts = shuffled(10, kept=10, parts=2)
    state = torch.get_rng_state()
    assert sorted(torch.cat([*parts]).tolist()) == [*range(10)]
    assert torch.equal(torch.get_rng_state(), state)
