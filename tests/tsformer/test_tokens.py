"""Patches against numbers written by hand."""

from __future__ import annotations

import pytest
import torch

from tsformer.errors import ConfigError
from tsformer.tokens import flat_features, patch_count, patches, unfold_variates


def test_patches_by_hand_when_the_stride_divides() -> None:
    past = torch.arange(1.0, 9.0).reshape(1, 8, 1)
    assert patches(past, patch=4, stride=2).tolist() == [
        [[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 7, 8], [7, 8, 8, 8]]
    ]


def test_patches_by_hand_when_it_does_not() -> None:
    """The end padding keeps the newest step, which cutting alone would lose."""
    past = torch.arange(1.0, 10.0).reshape(1, 9, 1)
    assert patches(past, patch=4, stride=2)[0, -1].tolist() == [7, 8, 9, 9]


def test_patches_without_padding_leave_out_the_first_steps() -> None:
    """Pretraining must not see the last value twice, and the newest steps matter most."""
    past = torch.arange(1.0, 10.0).reshape(1, 9, 1)
    assert patches(past, patch=4, stride=4, padding="none").tolist() == [
        [[2, 3, 4, 5], [6, 7, 8, 9]]
    ]
    assert patch_count(9, patch=4, stride=4, padding="none") == 2
    assert patch_count(512, patch=12, stride=12, padding="none") == 42
    with pytest.raises(ConfigError, match="at least 4 or a smaller patch"):
        patch_count(3, patch=4, stride=4, padding="none")


def test_variates_fold_into_the_batch_in_order_and_back() -> None:
    past = torch.randn(2, 8, 3)
    rows = patches(past, patch=4, stride=4)
    for batch in range(2):
        for variate in range(3):
            expected = patches(past[batch : batch + 1, :, variate : variate + 1], patch=4, stride=4)
            assert torch.equal(rows[3 * batch + variate], expected[0])
    forecast = torch.arange(2 * 3 * 5 * 2).reshape(6, 5, 2)  # [batch * variate, horizon, level]
    unfolded = unfold_variates(forecast, variates=3)
    assert unfolded.shape == (2, 5, 3, 2)
    assert torch.equal(unfolded[1, :, 2], forecast[5])


@pytest.mark.parametrize(
    ("context", "patch", "stride", "count"),
    [
        (336, 16, 8, 42),  # PatchTST/42
        (512, 16, 8, 64),  # PatchTST/64, the 64 words of the title
        (96, 16, 8, 12),
        (104, 24, 2, 42),  # ILI in the official script
        (100, 16, 8, 12),  # does not divide
        (12, 16, 8, 1),  # shorter than a patch, filled by the end padding
    ],
)
def test_number_of_patches(context: int, patch: int, stride: int, count: int) -> None:
    assert patch_count(context, patch=patch, stride=stride) == count
    past = torch.zeros(1, context, 1)
    assert patches(past, patch=patch, stride=stride).shape == (1, count, patch)


@pytest.mark.parametrize(("context", "stride"), [(7, 8), (64, 17), (64, 0)])
def test_impossible_patches_are_refused(context: int, stride: int) -> None:
    with pytest.raises(ConfigError):
        patch_count(context, patch=16, stride=stride)


def test_features_are_flattened_width_first() -> None:
    """The official head's order; weights ported in the other order forecast nonsense."""
    tokens = torch.tensor([[[1, 2], [3, 4], [5, 6]]])  # [row, patch, width]
    assert flat_features(tokens).tolist() == [[1, 3, 5, 2, 4, 6]]
