"""Small panels for tests."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.experiment import Experiment
from pipelines.panel import Panel, read_panel
from pipelines.schema import Schema

SCHEMA = Schema(id="unique_id", time="ds", targets=("y",))
START = datetime(2024, 1, 1)


def hourly(values: dict[str, np.ndarray]) -> pl.DataFrame:
    """Hourly series in long form, each from `START`; NaN becomes null."""
    frames = [
        pl.DataFrame(
            {
                "unique_id": [name] * len(series),
                "ds": [START + timedelta(hours=i) for i in range(len(series))],
                "y": series.astype(float),
            }
        )
        for name, series in values.items()
    ]
    return pl.concat(frames).with_columns(pl.col("y").fill_nan(None))


def panel_of(values: dict[str, np.ndarray]) -> Panel:
    """The panel of hourly series."""
    return read_panel(hourly(values), schema=SCHEMA, freq="h")[0]


def waves(series: int, rows: int, *, season: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    """Noisy daily waves of different level and size."""
    random = np.random.default_rng(seed)
    time = np.arange(rows)
    return {
        f"s{i}": 10.0 ** (i % 3) * (3 + np.sin(2 * np.pi * time / season + i))
        + 10.0 ** (i % 3) * 0.1 * random.normal(size=rows)
        for i in range(series)
    }


def experiment_on(folder: Path, table: pl.DataFrame, **sections: object) -> Experiment:
    """A ridge against seasonal naive on `table`, unless `sections` say otherwise."""
    table.write_parquet(folder / "table.parquet")
    data = {
        "source": "table.parquet",
        "id": "unique_id",
        "time": "ds",
        "targets": ["y"],
        **sections.pop("data", {}),  # type: ignore[dict-item]
    }
    content = {
        "data": data,
        "window": {"context": 72, "horizon": 24},
        "model": {"kind": "ridge"},
        "baselines": ["seasonal_naive"],
        **sections,
    }
    return Experiment.from_mapping(content, where="test", folder=folder)
