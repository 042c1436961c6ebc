"""A table that grows, to watch a schedule retrain on it (docs/training.md).

python examples/nightly/grow.py 350            # the first 350 days of the flights
python examples/nightly/grow.py 357 --spoiled  # a week more, but the older rows in disorder
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from pipelines.sources import SAMPLE_FILE

TABLE = Path(__file__).with_name("departures.parquet")
SPOILT = 0.7  # the share of the rows that `--spoiled` shuffles: what a model is fitted on


def grow(days: int, *, spoiled: bool = False) -> None:
    """Writes the first `days` of every series to `TABLE`, at once as its readers see it."""
    table = pl.read_parquet(SAMPLE_FILE, columns=["series", "time", "departures"])
    table = table.group_by("series", maintain_order=True).head(24 * days)
    if spoiled:
        old = pl.int_range(pl.len()).over("series") < int(SPOILT * 24 * days)
        shuffled = pl.col("departures").shuffle(seed=0).over("series", old)
        table = table.with_columns(pl.when(old).then(shuffled).otherwise("departures"))
    new = TABLE.with_suffix(".new")
    table.write_parquet(new)
    new.replace(TABLE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("days", type=int)
    parser.add_argument("--spoiled", action="store_true")
    given = parser.parse_args()
    grow(given.days, spoiled=given.spoiled)
    print(f"{TABLE} has {given.days} days.")


if __name__ == "__main__":
    main()
