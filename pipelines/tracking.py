"""One MLflow run a training: settings, data, scores, history, tables, figures and files.

Aggregates are metrics; whatever has a value per series or per step is a Parquet table, because
thousands of metric names make MLflow's pages unusable. A name says the metric first, then the
model (`mase/ridge`), so that MLflow draws the models of one metric side by side.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import yaml
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_GIT_COMMIT
from sqlalchemy.exc import SQLAlchemyError

from pipelines.home import Home, address, reach
from tsformer.errors import UnavailableError

METRICS_PER_CALL = 1_000  # MLflow refuses more in one request
PARAMETERS_PER_CALL = 100
PARAMETER_LENGTH = 6_000  # characters; what is longer is whole in config.yaml
DIGEST_LENGTH = 36  # characters of a data set's digest; the whole fingerprint is a tag
FIGURE_DPI = 144

# Values under names that may nest: {"mase": {"ridge": {"h001-024": 0.9}}}
Nested = Mapping[str, "float | Nested"]


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
        parameters = [
            Param(key, value[:PARAMETER_LENGTH]) for key, value in flatten(resolved).items()
        ]
        for batch in _batches(parameters, PARAMETERS_PER_CALL):
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
        entries = [RunTag(key, str(value)) for key, value in tags.items()]
        self.client.log_batch(self.id, tags=entries)

    def metrics(self, values: Nested, *, step: int = 0) -> None:
        """Aggregated numbers; names nest with slashes: `mase/ridge`, `mase/ridge/h001-024`."""
        self._log([(name, value, step) for name, value in _leaves(values)])

    def history(self, epochs: Sequence[Mapping[str, float]], *, model: str) -> None:
        """What changed from epoch to epoch, as curves over the row's `epoch`."""
        self._log(
            [
                (f"{name}/{model}", value, int(row["epoch"]))
                for row in epochs
                for name, value in row.items()
                if name != "epoch"
            ]
        )

    def table(self, frame: pl.DataFrame, path: str) -> None:
        """A table as the artifact `path` (`scores/per_series.parquet`)."""
        with _staged(path) as (file, folder):
            frame.write_parquet(file)
            self.client.log_artifact(self.id, str(file), folder)

    def figure(self, figure: Figure, path: str) -> None:
        """A figure as the artifact `path` (`figures/forecast.png`)."""
        with _staged(path) as (file, folder):
            figure.savefig(file, dpi=FIGURE_DPI)
            self.client.log_artifact(self.id, str(file), folder)

    def files(self, directory: Path, path: str) -> None:
        """All files of `directory` under the artifact folder `path`."""
        self.client.log_artifacts(self.id, str(directory), path)

    def _log(self, values: Sequence[tuple[str, float, int]]) -> None:
        now = time.time_ns() // 1_000_000
        metrics = [Metric(name, float(value), now, step) for name, value, step in values]
        for batch in _batches(metrics, METRICS_PER_CALL):
            self.client.log_batch(self.id, metrics=batch)


@contextmanager
def track(
    home: Home, *, experiment: str, name: str, tags: Mapping[str, object] | None = None
) -> Iterator[Run]:
    """A run of `experiment`; it ends as finished, as failed with its reason, or as killed."""
    client = connect(home)
    about = {MLFLOW_GIT_COMMIT: git_commit(Path.cwd()), **(tags or {})}
    info = client.create_run(
        experiment_id(client, experiment, home),
        run_name=name,
        tags={key: str(value) for key, value in about.items() if value is not None},
    ).info
    run = Run(client, info.run_id)
    try:
        yield run
    except Exception as error:
        run.tags({"failure": f"{type(error).__name__}: {error}"[:1_000]})
        client.set_terminated(run.id, status="FAILED")
        raise
    except BaseException:
        client.set_terminated(run.id, status="KILLED")
        raise
    client.set_terminated(run.id, status="FINISHED")


def connect(home: Home) -> MlflowClient:
    """A client of the home's MLflow; a missing SQLite file is made first, private to its owner."""
    home.prepare()
    return MlflowClient(tracking_uri=home.uri, registry_uri=home.uri)


def ready(home: Home, experiment: str) -> None:
    """Raises UnavailableError where a run of `experiment` could not be kept: before it is made."""
    if home.database is None or home.database.exists():
        reach(home)
    try:
        found = connect(home).get_experiment_by_name(experiment)
    except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnavailableError(
            f"{address(home)} cannot be used: {reason}. MLFLOW_TRACKING_URI names another."
        ) from error
    if found is not None and found.lifecycle_stage == "deleted":
        raise UnavailableError(
            f"The MLflow experiment '{experiment}' is deleted, so no run of it can be kept. "
            f"Restore it (mlflow experiments restore -x {found.experiment_id}), or set 'name'."
        )


def experiment_id(client: MlflowClient, name: str, home: Home) -> str:
    """The experiment called `name`, made on first use; two processes may both come first."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = home.artifacts.as_uri() if home.artifacts else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)


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


def git_commit(directory: Path) -> str | None:
    """The commit checked out in `directory`, or None outside of a repository."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _leaves(values: Nested, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


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
