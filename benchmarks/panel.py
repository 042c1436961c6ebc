"""How fast tables are read and checked: 10,000 series of 1,000 hourly rows.

    python -m benchmarks.panel

Each case is set against polars sorting the same table by series and time, in the same run, so
that the ratio does not depend on how busy the machine is.
"""

from __future__ import annotations

from time import process_time

import numpy as np
import polars as pl

from pipelines.panel import read_panel
from pipelines.schema import Schema

SERIES, ROWS, ROUNDS = 10_000, 1_000, 3
SCHEMA = Schema(id="id", time="t", targets=("y",))
HOUR = 3_600_000_000  # microseconds


def table() -> pl.DataFrame:
    """Ten million clean rows, sorted."""
    return pl.DataFrame(
        {
            "id": pl.Series([f"s{i}" for i in range(SERIES)]).gather(
                np.repeat(np.arange(SERIES), ROWS)
            ),
            "t": pl.Series(np.tile(np.arange(ROWS) * HOUR, SERIES)).cast(pl.Datetime("us")),
            "y": np.sin(np.arange(SERIES * ROWS)),
        }
    )


def cases() -> dict[str, pl.DataFrame]:
    """The clean table, and the same with a fault in every series."""
    clean = table()
    place = pl.int_range(pl.len()) % ROWS
    endless = pl.when(place == 500).then(float("inf")).otherwise("y").alias("y")
    return {
        "clean": clean,
        "a gap in every series": clean.filter(place != 500),
        "an infinity in every series": clean.with_columns(endless),
        "by time, then series": clean.sort("t", maintain_order=True),
    }


def seconds(frame: pl.DataFrame) -> tuple[float, float]:
    """Processor seconds of reading and of sorting, the best of `ROUNDS` in turns."""
    reading, sorting = [], []
    for _ in range(ROUNDS):
        started = process_time()
        read_panel(frame, schema=SCHEMA, freq="h", on_invalid="skip")
        reading.append(process_time() - started)
        started = process_time()
        frame.sort("id", "t")
        sorting.append(process_time() - started)
    return min(reading), min(sorting)


def main() -> None:
    """Prints a line a case."""
    print(f"{SERIES:,} series x {ROWS:,} rows, processor seconds, best of {ROUNDS}")
    for name, frame in cases().items():
        reading, sorting = seconds(frame)
        print(f"  {name:<28} {reading:5.2f} s = {reading / sorting:4.2f} x a polars sort")


if __name__ == "__main__":
    main()
