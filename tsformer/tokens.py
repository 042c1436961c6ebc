"""From windows to tokens and back: patches, channels folded into the batch, flat features.

All transposes live here. Patches are cut on the device, inside forward: overlapping patches hold
twice the numbers of the window that crosses the bus.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsformer.errors import ConfigError


def patch_count(context: int, *, patch: int, stride: int) -> int:
    """Number of patches of a window of `context` steps (arXiv 2211.14730, section 3.1)."""
    if not 1 <= stride <= patch:
        raise ConfigError(
            f"stride must be between 1 and patch ({patch}), got {stride}: a longer one leaves "
            "steps unread."
        )
    if context + stride < patch:
        raise ConfigError(
            f"a context of {context} steps is too short for patches of {patch} steps at stride "
            f"{stride}. Use a context of at least {patch - stride} or a smaller patch."
        )
    return (context - patch) // stride + 2


def patches(past: Tensor, *, patch: int, stride: int) -> Tensor:
    """Overlapping patches of every variate by itself: `[batch * variate, patch, step]`.

    `past` is `[batch, time, variate]`. The last value is repeated `stride` times at the end, so
    that the newest steps are never cut off.
    """
    windows = past.mT.flatten(0, 1)  # [batch * variate, time]
    end = windows[:, -1:].expand(-1, stride)
    return torch.cat((windows, end), -1).unfold(-1, patch, stride)  # [batch * variate, patch, step]


def flat_features(tokens: Tensor) -> Tensor:
    """Tokens `[row, patch, width]` as `[row, width * patch]`, the order of the official head."""
    return tokens.mT.flatten(-2)


def unfold_variates(forecast: Tensor, *, variates: int) -> Tensor:
    """`[batch * variate, horizon, level]` as `[batch, horizon, variate, level]`."""
    return forecast.unflatten(0, (-1, variates)).transpose(1, 2)
