"""From windows to tokens and back: patches, channels folded into the batch, flat features.

All transposes live here. Patches are cut on the device, inside forward: overlapping patches hold
twice the numbers of the window that crosses the bus.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tsformer.batch import Batch
from tsformer.errors import ConfigError, unlike

Padding = Literal["end", "none"]


def patch_count(context: int, *, patch: int, stride: int, padding: Padding = "end") -> int:
    """Number of patches of a window of `context` steps (arXiv 2211.14730, section 3.1)."""
    if not 1 <= stride <= patch:
        hint = " A longer one leaves steps unread."
        raise unlike(f"stride must be between 1 and patch ({patch})", stride, hint)
    added = stride if padding == "end" else 0
    if context + added < patch:
        raise ConfigError(
            f"a context of {context} steps is too short for patches of {patch} steps at stride "
            f"{stride}. Use a context of at least {patch - added} or a smaller patch."
        )
    return (context + added - patch) // stride + 1


def patches(past: Tensor, *, patch: int, stride: int, padding: Padding = "end") -> Tensor:
    """Overlapping patches of every variate by itself: `[batch * variate, patch, step]`.

    `past` is `[batch, time, variate]`. The newest steps are never cut off: with padding "end" the
    last value is repeated `stride` times, with "none" the first steps that fill no patch go.
    """
    windows = past.mT.flatten(0, 1)  # [batch * variate, time]
    if padding == "end":
        windows = torch.cat((windows, windows[:, -1:].expand(-1, stride)), -1)
    else:
        windows = windows[:, (windows.shape[1] - patch) % stride :]
    return windows.unfold(-1, patch, stride)  # [batch * variate, patch, step]


def flat_features(tokens: Tensor) -> Tensor:
    """Tokens `[row, patch, width]` as `[row, width * patch]`, the order of the official head."""
    return tokens.mT.flatten(-2)


def unfold_variates(forecast: Tensor, *, variates: int) -> Tensor:
    """`[batch * variate, horizon, level]` as `[batch, horizon, variate, level]`."""
    return forecast.unflatten(0, (-1, variates)).transpose(1, 2)


def attended(batch: Batch, *, tokens: int) -> Tensor:
    """Which of the `tokens` have something to say, `[batch, token]` bool.

    Variates with an observed step and all covariates; where nothing has, everything: a softmax
    over nothing is not a number.
    """
    seen = batch.observed.any(1)  # [batch, variate]
    seen = torch.cat((seen, seen.new_ones(seen.shape[0], tokens - seen.shape[1])), 1)
    return seen | ~seen.any(1, keepdim=True)
