"""How often the actuals lay inside the interval: in all, by series and by step of the horizon.

A pooled share hides a series whose interval is never right behind many whose is, and far steps
behind near ones.
"""

from __future__ import annotations

import polars as pl

from pipelines.backtest import Scores


def by_series(windows: pl.DataFrame) -> pl.DataFrame:
    """The coverage of each series: `model`, `series`, `coverage`; null where nothing was observed.

    `windows` are those of `Scores`.
    """
    inside, points = pl.col("coverage_sum").sum(), pl.col("coverage_weight").sum()
    share = pl.when(points > 0).then(inside / points).alias("coverage")
    return windows.group_by("model", "series", maintain_order=True).agg(share)


def sentence(scores: Scores, model: str, *, nominal: float) -> str:
    """What the interval of `nominal` coverage covered, the worst and the best series named."""
    pooled, steps, series = (
        table.filter((pl.col("model") == model) & pl.col("coverage").is_finite())
        for table in (scores.leaderboard, scores.steps, by_series(scores.windows))
    )
    if pooled.is_empty() or series.is_empty():
        return f"{model}: what its {nominal:.0%} interval covers is not known."
    parts = [f"{model}: its {nominal:.0%} interval covers {pooled['coverage'][0]:.1%}"]
    if len(series) > 1:
        ranked = series.sort("coverage", maintain_order=True).select("series", "coverage").rows()
        (worst, low), (best, high) = ranked[0], ranked[-1]
        mean = sum(share for _, share in ranked) / len(ranked)
        parts.append(f"by series {low:.1%} ({worst}) to {high:.1%} ({best}), mean {mean:.1%}")
    if len(steps) > 1:
        shares = steps["coverage"].to_list()
        parts.append(f"by step {min(shares):.1%} to {max(shares):.1%}")
    return "; ".join(parts) + "."
