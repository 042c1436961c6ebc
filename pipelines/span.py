"""How many steps a stored table spans: told from the foot of its file, so that it costs nothing."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from pipelines.datasets import Dataset
from pipelines.experiment import Experiment
from pipelines.frequency import Frequency
from pipelines.search import CONTEXT
from tsformer.errors import DataError


def check_span(experiment: Experiment, dataset: Dataset, file: Path) -> None:
    """Raises DataError where no series of the table can have one window to learn from.

    Which begins with the first stamp of the table and ends with its last; that none does after all
    is found by the training.
    """
    search = experiment.search
    if experiment.start is not None or (search is not None and CONTEXT in search.space):
        return
    steps = span_of(dataset, file)
    if steps is None:
        return
    data, window = experiment.data, experiment.window
    train = steps
    if data.split_rows:
        train = min(steps, data.split_rows[0])
    elif not data.split_dates:
        train = int(steps * data.split[0])
    if window.context + window.horizon > train:
        raise DataError(
            f"The table spans {steps:,} steps, and {train:,} are the train part: fewer than one "
            "window takes, window.context and window.horizon. Shorten one of them, or store a "
            "longer table."
        )


def span_of(dataset: Dataset, file: Path) -> int | None:
    """The steps from the first stamp of a version to its last; None where its file does not say."""
    foot = pq.read_metadata(file)
    place = foot.schema.names.index(dataset.time)
    found = [foot.row_group(group).column(place).statistics for group in range(foot.num_row_groups)]
    if not found or any(each is None or not each.has_min_max for each in found):
        return None
    ends = [min(each.min for each in found), max(each.max for each in found)]
    if not all(isinstance(end, int | datetime) for end in ends):
        return None
    steps, exact = Frequency.parse(dataset.freq).steps_along(pl.Series(ends), np.array([0, 2]))
    return int(steps[1]) + (1 if exact.all() else 2)  # the days of a zone are not those of UTC
