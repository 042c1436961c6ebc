"""Categories as indicators: one number a word, none for the unknown."""

import torch

from tsformer.columns import indicator_width, indicators


def test_numbers_stay_and_words_become_indicators() -> None:
    """Word 2 of 3 and a price, side by side."""
    columns = torch.tensor([[1.5, 2.0], [-1.0, 0.0]])
    made = indicators(columns, sizes=(0, 4))
    assert made.tolist() == [[1.5, 0, 1, 0], [-1.0, 0, 0, 0]]
    assert indicator_width((0, 4)) == made.shape[-1]


def test_a_category_without_words_is_one_silent_column() -> None:
    """Training saw nothing but nulls: the column is there and says nothing."""
    assert indicators(torch.zeros(3, 1), sizes=(1,)).tolist() == [[0], [0], [0]]
    assert indicator_width((1,)) == 1


def test_leading_axes_stay() -> None:
    assert indicators(torch.zeros(2, 7, 2), sizes=(3, 0)).shape == (2, 7, 3)
