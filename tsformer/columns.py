"""Covariate columns as numbers: categories as indicators."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def indicator_width(sizes: Sequence[int]) -> int:
    """How many numbers `indicators` makes of columns of these `sizes`."""
    return sum(max(1, size - 1) for size in sizes)


def indicators(columns: Tensor, *, sizes: Sequence[int]) -> Tensor:
    """`columns` `[..., column]` with a 0 or 1 for each word of a category, `[..., indicator]`.

    `sizes` has an entry for each column, 0 for a number, which stays as it is. The category 0,
    the unknown, is 0 everywhere, so a map of the indicators gives it no effect at all.
    """
    if not any(sizes):
        return columns
    parts = [
        _indicators(column, size=size) if size else column.unsqueeze(-1)
        for column, size in zip(columns.unbind(-1), sizes, strict=True)
    ]
    return torch.cat(parts, -1)


def _indicators(column: Tensor, *, size: int) -> Tensor:
    if size == 1:  # nothing but the unknown
        return torch.zeros_like(column).unsqueeze(-1)
    return one_hot(column.long(), size)[..., 1:].to(column.dtype)
