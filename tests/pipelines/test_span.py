"""What the foot of a stored table says of its length."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from pipelines.datasets import Datasets, Table
from pipelines.home import Home
from pipelines.orders import experiment_of
from pipelines.span import check_span, span_of
from pipelines.store import Store
from tsformer.errors import DataError


@pytest.mark.parametrize(
    ("times", "freq", "tz", "steps"),
    [
        ([datetime(2026, 1, 1), datetime(2026, 1, 5)], "h", None, 97),
        ([datetime(2026, 1, 31), datetime(2026, 4, 30)], "ME", None, 4),
        ([1, 9], "2", None, 5),
        # Days of Berlin are not those of UTC, in which a file keeps them: one more is let pass.
        ([datetime(2026, 3, 1), datetime(2026, 4, 1)], "D", "Europe/Berlin", 33),
        (["2026-01-01", "2026-01-05"], "D", None, None),
    ],
)
def test_a_table_spans_its_gaps(
    tmp_path: Path, times: list[object], freq: str, tz: str | None, steps: int | None
) -> None:
    """Counted by rows, a table with holes would be refused although it can be learnt from."""
    home = Home.of({"TSFORMER_HOME": str(tmp_path)})
    stamps = pl.Series("ds", times)
    stamps = stamps if tz is None else stamps.dt.replace_time_zone(tz)
    table = Table(
        pl.DataFrame([stamps, pl.Series("y", [1.0, 2.0])]), None, None, "ds", "y", freq, tz, 1
    )
    datasets = Datasets(home, Store.of(home), "ads")
    dataset, _ = datasets.add("t", table, who="me")
    assert span_of(dataset, datasets.path(dataset)) == steps


def test_the_train_part_has_room_for_a_window(tmp_path: Path) -> None:
    """A training that fits by a hair must not be refused, nor one accepted that cannot."""
    home = Home.of({"TSFORMER_HOME": str(tmp_path)})
    times = [datetime(2026, 1, 1) + timedelta(hours=hour) for hour in range(100)]
    frame = pl.DataFrame({"ds": times, "y": [float(hour % 7) for hour in range(100)]})
    datasets = Datasets(home, Store.of(home), "ads")
    dataset, _ = datasets.add("t", Table(frame, None, None, "ds", "y", "h", None, 1), who="me")
    file = datasets.path(dataset)

    def check(context: int, **config: object) -> None:
        config["window"] = {"context": context, "horizon": 12}
        spec = {"name": "m", "kind": "ridge", "config": config}
        check_span(experiment_of(spec, dataset, file), dataset, file)

    check(58)  # 70 rows are the train part
    with pytest.raises(DataError, match=r"spans 100 steps, and 70 are the train part"):
        check(59)
    check(68, data={"split_rows": [80, 10, 10]})
    with pytest.raises(DataError, match="80 are the train part"):
        check(69, data={"split_rows": [80, 10, 10]})
