"""What is written into one MLflow run: settings, data, scores, curves, tables, figures.

Aggregates are metrics with plain names (`mase`), so that MLflow draws models side by side; whatever
has a value per series or per step is a Parquet table, because thousands of metric names make
MLflow's pages unusable.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import polars as pl
import yaml
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_RUN_NOTE

if TYPE_CHECKING:  # those who draw have imported it; a server does not wait for it
    from matplotlib.figure import Figure

METRICS_PER_CALL = 1_000  # MLflow refuses more in one request
PARAMETERS_PER_CALL = 100
PARAMETER_LENGTH = 6_000  # characters; what is longer is whole in config.yaml
TAG_LENGTH = 5_000
DIGEST_LENGTH = 36  # characters of a data set's digest; the whole fingerprint is a tag
FIGURE_DPI = 144


@dataclass(frozen=True, slots=True)
class DataInput:
    """The table that a run was trained on; `fingerprint` is the digest of its content."""

    name: str
    fingerprint: str
    source: str
    series: int
    rows: int
    columns: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """An open run; every method writes through, so that a crash loses nothing before it."""

    client: MlflowClient
    id: str

    def config(self, resolved: Mapping[str, Any]) -> None:
        """The resolved settings: flat as parameters, whole as `config.yaml`."""
        plain = json.loads(json.dumps(resolved, default=str))
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        self.client.log_text(self.id, text, "config.yaml")
        self.parameters(resolved)

    def parameters(self, settings: Mapping[str, Any]) -> None:
        """Settings as parameters, nested ones under dotted names."""
        flat = [Param(key, value[:PARAMETER_LENGTH]) for key, value in flatten(settings).items()]
        for batch in _batches(flat, PARAMETERS_PER_CALL):
            self.client.log_batch(self.id, params=batch)

    def data(self, table: DataInput) -> None:
        """The table as an input of the run, found again by its fingerprint."""
        schema = {"mlflow_colspec": [{"name": k, "type": v} for k, v in table.columns.items()]}
        dataset = Dataset(
            name=table.name,
            digest=table.fingerprint[:DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": table.source}),
            schema=json.dumps(schema),
            profile=json.dumps({"series": table.series, "rows": table.rows}),
        )
        context = InputTag(MLFLOW_DATASET_CONTEXT, "training")
        self.client.log_inputs(self.id, datasets=[DatasetInput(dataset, tags=[context])])
        self.tags({"data": table.name, "data_fingerprint": table.fingerprint})

    def tags(self, tags: Mapping[str, object]) -> None:
        """Words to filter runs by."""
        entries = [RunTag(key, str(value)[:TAG_LENGTH]) for key, value in tags.items()]
        self.client.log_batch(self.id, tags=entries)

    def note(self, text: str) -> None:
        """The description at the top of the run's page, in Markdown."""
        self.tags({MLFLOW_RUN_NOTE: text})

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Aggregated numbers by name."""
        self._log([(name, value, step) for name, value in values.items()])

    def curve(self, name: str, values: Mapping[int, float]) -> None:
        """One number at many steps: epochs of a training, or steps of the horizon."""
        self._log([(name, value, step) for step, value in values.items()])

    def table(self, frame: pl.DataFrame, path: str) -> None:
        """A table as the artifact `path` (`scores/series.parquet`)."""
        with _staged(path) as (file, folder):
            frame.write_parquet(file)
            self.client.log_artifact(self.id, str(file), folder)

    def figure(self, figure: Figure, path: str) -> None:
        """A figure as the artifact `path` (`figures/forecast.png`)."""
        with _staged(path) as (file, folder):
            figure.savefig(file, dpi=FIGURE_DPI)
            self.client.log_artifact(self.id, str(file), folder)

    def _log(self, values: Sequence[tuple[str, float, int]]) -> None:
        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, float(value), now, step) for name, value, step in values]
        for batch in _batches(metrics, METRICS_PER_CALL):
            self.client.log_batch(self.id, metrics=batch)


def flatten(settings: Mapping[str, Any]) -> dict[str, str]:
    """Nested settings as dotted names and short texts: `model.width: 16`, `baselines.0.kind`."""
    flat: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": text for inner, text in flatten(value).items()}
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            members = {str(i): member for i, member in enumerate(value)}
            flat |= {f"{key}.{inner}": text for inner, text in flatten(members).items()}
        else:
            flat[str(key)] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def _batches(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


@contextmanager
def _staged(path: str) -> Iterator[tuple[Path, str | None]]:
    """A file to write, and the artifact folder it belongs to."""
    folder, _, name = path.rpartition("/")
    with TemporaryDirectory() as scratch:
        yield Path(scratch) / name, folder or None
