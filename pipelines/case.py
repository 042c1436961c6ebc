"""What the gate looks at: a candidate and its rivals, on the windows that all were scored on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from pipelines.backtest import Measure, measures, total
from pipelines.duel import WINDOW, Duel, duel, shared
from pipelines.policy import Policy
from pipelines.sections import Backtest

NAIVE = "seasonal_naive"
LINES = ("ridge", "pooled_ridge", "linear", "nlinear", "dlinear", "rlinear")
CHAMPION = "the champion"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a model: its rows of `Scores.windows`, and what was found out beside them.

    `leaks` say what it may have seen of the rows it is scored on; `canary` what was wrong with its
    answers to odd inputs. None is for a model of which that was not asked.
    """

    name: str
    kind: str
    windows: pl.DataFrame
    leaks: tuple[str, ...] | None = None
    canary: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """A candidate, whom it is held against, and by what."""

    champion: Entry | None
    candidate: Entry
    baselines: Mapping[str, Entry]
    policy: Policy
    backtest: Backtest

    @property
    def metric(self) -> str:
        """The column of the leaderboard that decides."""
        return self.policy.metric or self.backtest.metric

    @property
    def measure(self) -> Measure:
        """How that column is made."""
        return measures(self.backtest.coverage)[self.metric]

    @property
    def naive(self) -> Entry | None:
        """Seasonal naive, if it was compared."""
        return next((entry for entry in self.baselines.values() if entry.kind == NAIVE), None)

    @property
    def lines(self) -> tuple[Entry, ...]:
        """The linear maps beside the candidate."""
        return tuple(entry for entry in self.baselines.values() if entry.kind in LINES)

    @property
    def rivals(self) -> dict[str, Entry]:
        """Whom the candidate is held against, by what they are called."""
        held = {n: e for n, e in self.baselines.items() if e.kind in (NAIVE, *LINES)}
        return held if self.champion is None else {**held, CHAMPION: self.champion}

    def score(self, entry: Entry) -> float:
        """The metric over all windows of an entry; NaN if undefined."""
        return total(entry.windows, self.metric, self.measure)

    def duel(self, first: Entry, second: Entry) -> Duel:
        """Two entries against each other."""
        return duel(first.windows, second.windows, metric=self.metric, measure=self.measure)

    def on_shared_windows(self) -> Case:
        """The same case with the windows alone that everybody was scored on."""
        held = self.rivals
        mine, *theirs = shared([self.candidate.windows, *(e.windows for e in held.values())])
        cut = {
            called: replace(entry, windows=windows)
            for (called, entry), windows in zip(held.items(), theirs, strict=True)
        }
        return replace(
            self,
            champion=cut.get(CHAMPION),
            candidate=replace(self.candidate, windows=mine),
            baselines={name: cut.get(name, entry) for name, entry in self.baselines.items()},
        )

    def obstacles(self) -> Iterator[str]:
        """Why nothing can be compared, in sentences; none where all is well."""
        name, mine = self.candidate.name, self.candidate.windows
        if not len(mine):
            yield (
                f"{name} was scored on no window, so nothing is known of it. Give the test part "
                "more rows, or shorten window.context or window.horizon."
            )
            return
        broken = [*self._broken()]
        yield from broken
        if not broken:
            yield from self._apart()

    def _broken(self) -> Iterator[str]:
        """Tables that are not those of a backtest."""
        needed = {*WINDOW, "time", "until"}
        needed |= {f"{m}_{part}" for m in (self.metric, "coverage") for part in ("sum", "weight")}
        for called, entry in {self.candidate.name: self.candidate, **self.rivals}.items():
            windows = entry.windows
            if lacking := sorted(needed - {*windows.columns}):
                yield f"The scores of {called} lack {', '.join(lacking)}. Score all models together."
            elif windows.select(WINDOW).is_duplicated().any():
                yield f"The scores of {called} have a window twice. Score all models together."
            elif windows.select(needed).null_count().sum_horizontal().item():
                yield f"The scores of {called} have holes. Score all models together."

    def _apart(self) -> Iterator[str]:
        """Rivals that were not scored on the same."""
        name, mine = self.candidate.name, self.candidate.windows
        weight = f"{self.metric}_weight"
        for called, entry in self.rivals.items():
            ours, theirs = shared([mine, entry.windows])
            if not len(ours):
                yield f"{name} and {called} were scored on no window in common. Score them together."
            elif not np.allclose(ours[weight], theirs[weight], equal_nan=True):
                yield f"{name} and {called} were scored on other actual values. Score them together."
        if not len(shared([mine, *(entry.windows for entry in self.rivals.values())])[0]):
            yield f"{name} and its rivals have no window that all share. Score them together."
