"""Columns of numbers and categories as vectors of one width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class NumberEmbedding(nn.Module):
    """A linear map of one number for each column: `[..., column]` to `[..., column, width]`."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, width).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(columns, width).uniform_(-1, 1))

    def forward(self, values: Tensor) -> Tensor:
        values = values.to(self.weight.dtype).unsqueeze(-1)
        return torch.addcmul(self.bias, values, self.weight)


class ColumnEmbedding(nn.Module):
    """Covariate columns `[window, time, column]` as vectors `[window, time, column, width]`.

    `sizes` has an entry for each column: 0 for a number, which passes a linear map, and for a
    category how many there are, each a row of a table (arXiv 1912.09363, section 4.2). Row 0 is
    that of the unknown. So that it is trained, each column of categories counts as unknown with
    probability `unknown_rate`, drawn for each window, while training.
    """

    def __init__(self, sizes: Sequence[int], width: int, *, unknown_rate: float) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.unknown_rate = unknown_rate
        numbers = self.sizes.count(0)
        self.numbers = NumberEmbedding(numbers, width) if numbers else None
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes if size)

    def extra_repr(self) -> str:
        return f"sizes={self.sizes}, unknown_rate={self.unknown_rate}"

    def forward(self, columns: Tensor) -> Tensor:
        if not self.tables:
            return self._numbers(columns)
        if len(self.tables) == len(self.sizes):
            return torch.stack(self._categories(columns), -2)
        numbers = iter(self._numbers(columns).unbind(-2))
        categories = iter(self._categories(columns))
        parts = [next(categories if size else numbers) for size in self.sizes]
        return torch.stack(parts, -2)  # [window, time, column, width]

    def _numbers(self, columns: Tensor) -> Tensor:
        assert self.numbers is not None
        vectors: Tensor = self.numbers(self._of_kind(columns, category=False))
        return vectors

    def _categories(self, columns: Tensor) -> list[Tensor]:
        words = self._of_kind(columns, category=True)
        if self.training and self.unknown_rate:
            drawn = torch.rand_like(words[:, :1])  # [window, 1, column]
            words = words * (drawn >= self.unknown_rate)
        pairs = zip(self.tables, words.long().unbind(-1), strict=True)
        return [table(column) for table, column in pairs]

    def _of_kind(self, columns: Tensor, *, category: bool) -> Tensor:
        pairs = zip(self.sizes, columns.unbind(-1), strict=True)
        return torch.stack([column for size, column in pairs if (size > 0) is category], -1)
