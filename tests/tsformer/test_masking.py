"""What masked pretraining hides, counted."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from tsformer.errors import ConfigError
from tsformer.masking import Masking, PatchMasking, RunMasking


def drawn(masking: Masking, *, rows: int, patches: int = 42, patch: int = 12) -> Tensor:
    chance = Generator().manual_seed(0)
    return masking.draw(rows, patches=patches, patch=patch, chance=chance)


def runs(states: Tensor) -> Tensor:
    """Lengths of the hidden runs of each row that touch neither end."""
    found = []
    for row in states.int():
        change = row.diff()
        starts, ends = (change == 1).nonzero()[:, 0], (change == -1).nonzero()[:, 0]
        ends = ends[ends > starts[0]]
        found.append(ends - starts[: len(ends)])
    return torch.cat(found)


def test_seventeen_of_forty_two_patches_are_hidden_in_every_row() -> None:
    """The paper's task: with a count that varies, losses of two runs cannot be compared."""
    hidden = drawn(PatchMasking(), rows=200).unflatten(1, (42, 12))  # [row, patch, step]
    assert torch.equal(hidden.all(-1), hidden.any(-1))
    assert (hidden.all(-1).sum(-1) == 17).all()


def test_every_patch_is_hidden_equally_often_and_by_each_row_for_itself() -> None:
    """Patches that were never hidden would never be learnt."""
    hidden = drawn(PatchMasking(), rows=20_000)[:, ::12].double()
    assert (hidden.mean(0) - 17 / 42).abs().max() < 5 * (0.25 / 20_000) ** 0.5
    assert (hidden[0] != hidden[1]).any()


@pytest.mark.parametrize(
    ("ratio", "patches", "visible"), [(0.4, 42, 25), (0.4, 5, 3), (0.9, 10, 1)]
)
def test_the_visible_are_the_floor_of_their_share(ratio: float, patches: int, visible: int) -> None:
    """(1 - 0.9) x 10 is 0.9999999999999998 to a computer, and not to its user."""
    assert PatchMasking(ratio).visible(patches) == visible


def test_runs_have_the_share_and_the_lengths_of_their_chain() -> None:
    """Single hidden values are filled in by a line between neighbours; runs have to be learnt."""
    hidden = drawn(RunMasking(), rows=2000)
    assert hidden.double().mean().item() == pytest.approx(0.15, abs=0.003)
    assert hidden[:, 0].double().mean().item() == pytest.approx(0.15, abs=0.04)
    lengths = runs(hidden).double()
    assert lengths.mean().item() == pytest.approx(3, rel=0.02)
    for length in (1, 2, 3):  # geometric: (2/3)^(n-1) / 3
        share = (lengths == length).double().mean().item()
        assert share == pytest.approx((2 / 3) ** (length - 1) / 3, rel=0.03)
    assert runs(~hidden).double().mean().item() == pytest.approx(17, rel=0.03)


@pytest.mark.parametrize("masking", [PatchMasking(), RunMasking()])
def test_chance_decides_alone(masking: Masking) -> None:
    """A validation error that moves by luck hides what an epoch was worth."""
    assert torch.equal(drawn(masking, rows=3), drawn(masking, rows=3))
    torch.manual_seed(0)
    first = masking.draw(3, patches=42, patch=12, chance=None)
    assert not torch.equal(masking.draw(3, patches=42, patch=12, chance=None), first)


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        PatchMasking(1.0)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        RunMasking(0.0)
    with pytest.raises(ConfigError, match="run must be at least 2"):
        RunMasking(0.5, run=1.5)
    with pytest.raises(ConfigError, match="leaves 0 visible"):
        PatchMasking(0.9).visible(3)
    with pytest.raises(ConfigError, match="leaves 0 visible"):
        drawn(PatchMasking(0.4), rows=1, patches=1)
