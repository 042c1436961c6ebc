"""Embeddings of columns: each by its own map, and an unknown that is trained."""

from __future__ import annotations

import torch

from tsformer.embeddings import ColumnEmbedding

SIZES = (3, 0, 4, 0)


def columns(windows: int, *, time: int = 6) -> torch.Tensor:
    """Two categories, none of them unknown, and two numbers, `[window, time, column]`."""
    size = (windows, time)
    first, second = torch.randint(1, 3, size), torch.randint(1, 4, size)
    return torch.stack((first, torch.randn(size), second, torch.randn(size)), -1).double()


def test_every_column_has_its_own_map_in_its_own_place() -> None:
    """A price read by the table of weekdays is noise that nobody sees."""
    embedding = ColumnEmbedding(SIZES, 5, unknown_rate=0.5).double().eval()
    given = columns(2)
    vectors = embedding(given)
    assert vectors.shape == (2, 6, 4, 5)
    assert embedding.numbers is not None
    for index, table in ((0, embedding.tables[0]), (2, embedding.tables[1])):
        torch.testing.assert_close(vectors[:, :, index], table.weight[given[..., index].long()])
    for index, number in ((1, 0), (3, 1)):
        weight, bias = embedding.numbers.weight[number], embedding.numbers.bias[number]
        expected = given[..., index, None] * weight + bias
        torch.testing.assert_close(vectors[:, :, index], expected)


def test_a_category_is_unknown_now_and_then_for_a_whole_window_while_training() -> None:
    """Without it an unseen word at serving is a row of a table that never moved from random."""
    torch.manual_seed(0)
    embedding = ColumnEmbedding(SIZES, 5, unknown_rate=0.2).double()
    given = columns(4000)
    for index, table in ((0, embedding.tables[0]), (2, embedding.tables[1])):
        unknown = (embedding(given)[:, :, index] == table.weight[0]).all(-1)  # [window, time]
        assert torch.equal(unknown.all(1), unknown.any(1))
        assert abs(unknown[:, 0].double().mean().item() - 0.2) < 0.02
    first, second = (
        (embedding(given)[:, 0, 0::2] == torch.stack([t.weight[0] for t in embedding.tables]))
        .all(-1)
        .double()
        .unbind(-1)
    )
    assert abs((first * second).mean().item() - 0.04) < 0.02  # one column says nothing of another


def test_no_category_becomes_unknown_when_it_is_asked_for() -> None:
    embedding = ColumnEmbedding(SIZES, 5, unknown_rate=0.9).double().eval()
    given = columns(50)
    assert torch.equal(embedding(given), embedding(given))
