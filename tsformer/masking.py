"""What masked pretraining hides: whole patches, or runs of single values.

A masking draws anew for every variate of every window. It knows nothing of the values.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import Protocol

import torch
from torch import Generator, Tensor

from tsformer.errors import ConfigError

ROUNDING = 1e-9  # (1 - 0.9) * 10 is a hair below 1


class Masking(Protocol):
    """A way to hide values; a frozen value whose `repr` says all about it."""

    def draw(self, rows: int, *, patches: int, patch: int, chance: Generator | None) -> Tensor:
        """What is hidden, bool `[row, time]`, of `rows` of `patches` times `patch` steps.

        Chance is `chance`, or torch's current random state where that is None.
        """
        ...


@dataclass(frozen=True, slots=True)
class PatchMasking:
    """Hides a share of the patches: of N, floor(N (1 - ratio)) stay visible.

    arXiv 2211.14730, section 3.2; 40 % in its experiments. Every row hides equally many.
    """

    ratio: float = 0.4

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)

    def visible(self, patches: int) -> int:
        """How many of `patches` stay visible; raises ConfigError where that is all or none."""
        count = floor(patches * (1 - self.ratio) + ROUNDING)
        if not 0 < count < patches:
            raise ConfigError(
                f"hiding a share of {self.ratio} of {patches} patches leaves {count} visible: "
                "nothing to learn from, or nothing to learn. Use smaller patches, a longer "
                "context or another ratio."
            )
        return count

    def draw(self, rows: int, *, patches: int, patch: int, chance: Generator | None) -> Tensor:
        order = torch.rand(rows, patches, generator=chance).argsort(1)
        hidden = torch.zeros(rows, patches, dtype=torch.bool)
        hidden.scatter_(1, order[:, self.visible(patches) :], True)
        return hidden.repeat_interleave(patch, dim=1)  # [row, time]


@dataclass(frozen=True, slots=True)
class RunMasking:
    """Hides runs of values of geometric length, `run` steps in the mean, a share `ratio` in all.

    The masked-value objective of TST, Zerveas et al., KDD 2021 (arXiv 2010.02803, section 3.3):
    a chain of two states in which hidden runs last `run` steps in the mean and visible ones
    run (1 - ratio) / ratio. In TST a token is one step; here the values lie in patches, so the
    visible values of a patch are seen along with its hidden ones.
    """

    ratio: float = 0.15
    run: float = 3.0

    def __post_init__(self) -> None:
        _check_ratio(self.ratio)
        if self.run * (1 - self.ratio) < 1:
            raise ConfigError(
                f"runs of {self.run} steps in the mean cannot hide a share of {self.ratio}: "
                f"run must be at least {1 / (1 - self.ratio):.3g}."
            )

    def draw(self, rows: int, *, patches: int, patch: int, chance: Generator | None) -> Tensor:
        # Each step hides, shows, or goes on as the step before. Hiding has the chance of leaving
        # a visible run and showing that of leaving a hidden one: the same chain as with a state,
        # but the state of a step is what the latest step that did not go on has said.
        time = patches * patch
        hide = self.ratio / (self.run * (1 - self.ratio))
        draws = torch.rand(rows, time, generator=chance)
        hides = draws < hide
        decides = hides | (draws >= 1 - 1 / self.run)
        hides[:, 0] = draws[:, 0] < self.ratio
        decides[:, 0] = True
        latest = torch.where(decides, torch.arange(time), 0).cummax(1).values
        return hides.gather(1, latest)  # [row, time]


def _check_ratio(ratio: float) -> None:
    if not 0 < ratio < 1:
        raise ConfigError(f"ratio is the share that is hidden, between 0 and 1, got {ratio}.")
