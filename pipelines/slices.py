"""Parts of the windows on which a candidate must not lose what users had."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from pipelines.backtest import total
from pipelines.case import Case, Entry

# A share of the champion's whole score that no slice has to account for: a constant series that
# was forecast without any error is not lost by one of a millionth.
NEGLIGIBLE = 1e-3


@dataclass(frozen=True, slots=True)
class Slice:
    """The scores of candidate and champion on some windows, and whether too much is lost there."""

    called: str
    score: float
    champion: float
    lost: bool


def slices(case: Case, champion: Entry) -> Iterator[Slice]:
    """The slices of the policy on which anything is defined."""
    pair = case.candidate.windows, champion.windows
    whole = case.score(champion)
    for called, rows in (*_newest(case, pair[0]), *_worst(case, *pair)):
        mine, theirs = (total(part.filter(rows), case.metric, case.measure) for part in pair)
        if math.isfinite(mine) or math.isfinite(theirs):
            allowed = max(case.policy.slice_loss * theirs, NEGLIGIBLE * whole)
            yield Slice(called, mine, theirs, lost=not mine - theirs <= allowed)


def _newest(case: Case, mine: pl.DataFrame) -> Iterator[tuple[str, pl.Series]]:
    """The last cutoffs: a model that was good last spring may have lost its way since."""
    times, share = mine["time"].unique().sort(), case.policy.last_cutoffs
    if share and len(times) > 1:
        count = max(1, round(share * len(times)))
        yield f"On the last {count} of {len(times)} cutoffs", mine["time"] >= times[-count]


def _worst(case: Case, mine: pl.DataFrame, theirs: pl.DataFrame) -> Iterator[tuple[str, pl.Series]]:
    """The series that compare worst, found on the older half of the cutoffs, judged on the newer.

    The worst of many by the windows they are judged on would be those with bad luck.
    """
    times, share = mine["time"].unique().sort(), case.policy.worst_series
    series = mine["series"].n_unique()
    if not share or series < 2 or len(times) < 2:
        return
    newer = mine["time"] >= times[len(times) // 2]
    sums = f"{case.metric}_sum"
    rows = pl.DataFrame({"series": mine["series"], "mine": mine[sums], "theirs": theirs[sums]})
    older = rows.filter(~newer).group_by("series", maintain_order=True).sum()
    floor = NEGLIGIBLE * pl.col("theirs").mean()
    loss = (pl.col("mine") - pl.col("theirs")) / (pl.col("theirs") + floor)
    count = max(1, math.floor(share * series))
    worst = older.sort(loss.fill_nan(0.0), descending=True, maintain_order=True)["series"][:count]
    called = f"On the {count} of {series} series that compared worst in the first half, since then"
    yield called, newer & mine["series"].is_in(worst.implode())
