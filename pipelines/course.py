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
        values = np.concatenate([whole.past, *(answer[..., 0] for answer in done)], axis=1)
        first = whole.past.shape[1] - self.context + ahead  # step at which the context begins
        steps = slice(ahead, ahead + self.context + self.horizon)
        return replace(
            whole,
            past=values[:, first:],
            known=None if whole.known is None else whole.known[:, steps],
            covariates=_forgotten(whole.covariates, ahead),
            lagged=self._lagged(values, first) if self.lags else None,
        )

    def _lagged(self, values: Floats, first: int) -> Floats:
        length = self.context + self.horizon
        return np.stack([values[:, first - lag :][:, :length] for lag in self.lags], axis=-1)


def _forgotten(covariates: Floats32 | None, steps: int) -> Floats32 | None:
    """`covariates` `[window, time, column]` as they look `steps` later, with nothing new known."""
    if covariates is None or not steps:
        return covariates
    later = np.zeros((len(covariates), steps, covariates.shape[2]), dtype=np.float32)
    return np.concatenate([covariates, later], axis=1)[:, steps:]
