"""A forecast in blocks of the trained horizon: each block reads those before it as history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.query import Floats, Floats32, Query


@dataclass(frozen=True, slots=True)
class Course:
    """The inputs of some windows over all `blocks` of `horizon` steps.

    `whole` is a query whose `past` begins as many steps before the context as the longest of
    `lags`, and whose known columns reach over all blocks; its `lagged` is left out.
    """

    whole: Query
    context: int
    horizon: int
    blocks: int = 1
    lags: tuple[int, ...] = ()

    def question(self, done: Sequence[Floats] = ()) -> Query:
        """What the next block asks after the answers `[window, horizon, variate, 1 + level]`.

        Points stand for the values that are yet to come. Columns known to the cutoff count as
        their training mean (or unknown) after it.
        """
        whole, ahead = self.whole, len(done) * self.horizon
        values = _latest(whole.past, [answer[..., 0] for answer in done])
        steps = slice(ahead, ahead + self.context + self.horizon)
        return replace(
            whole,
            past=values[:, values.shape[1] - self.context :],
            known=None if whole.known is None else whole.known[:, steps],
            covariates=_forgotten(whole.covariates, ahead),
            lagged=self._lagged(values) if self.lags else None,
        )

    def _lagged(self, values: Floats) -> Floats:
        first = values.shape[1] - self.context  # step at which the context begins
        length = self.context + self.horizon
        return np.stack([values[:, first - lag :][:, :length] for lag in self.lags], axis=-1)


def follow(blocks: Sequence[Floats]) -> Floats:
    """The answers `[window, horizon, variate, 1 + level]` to all blocks as one, over all steps.

    A block knows nothing of the error of the points it was fed with, so its quantiles alone would
    be too narrow. The error at the end of each block before it is taken as independent of its
    own: distances from the point add up in squares, as in a random walk. A square counts below
    zero where its quantile lies below the point; what adds up is then in the order of the levels,
    so quantiles cannot cross. Deviations: they add up to less where a series returns to its
    level, so there the quantiles are too wide; and where all of them lie on one side of the
    point, they may be too narrow.
    """
    carried = np.zeros_like(blocks[0][:, -1:, :, 1:])  # [window, 1, variate, level]
    answers: list[Floats] = []
    for block in blocks:
        point, away = block[..., :1], block[..., 1:] - block[..., :1]
        squares = away * np.abs(away)
        total = squares + carried
        wide = point + np.sign(total) * np.sqrt(np.abs(total))
        answers.append(np.concatenate([point, wide], axis=-1) if len(answers) else block)
        carried = carried + squares[:, -1:]
    return np.concatenate(answers, axis=1)


def _latest(past: Floats, done: Sequence[Floats]) -> Floats:
    """As many values as `past` `[window, time, variate]` has, ending with those `done`."""
    if not done:
        return past
    length, horizon = past.shape[1], done[0].shape[1]
    read = done[-(length // horizon + 1) :]
    values = np.concatenate([past[:, len(done) * horizon :], *read], axis=1)
    return values[:, values.shape[1] - length :]


def _forgotten(covariates: Floats32 | None, steps: int) -> Floats32 | None:
    """`covariates` `[window, time, column]` as they look `steps` later, with nothing new known."""
    if covariates is None or not steps:
        return covariates
    windows, context, columns = covariates.shape
    later = np.zeros((windows, min(steps, context), columns), dtype=np.float32)
    return np.concatenate([covariates[:, steps:], later], axis=1)
