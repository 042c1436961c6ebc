"""MLflow runs: opened before the work begins, and ended with the reason, whatever happens.

A comparison is a parent run with a child run a model. What a run is says its tag `kind`:
comparison, model, backtest, calibration, tuning or trial.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run as Logged
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.mlflow_tags import (
    MLFLOW_GIT_COMMIT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)
from sqlalchemy.exc import SQLAlchemyError

from pipelines.home import Home, address, reach
from pipelines.locks import own_turn
from pipelines.owner import Owner
from pipelines.run import DataInput, Run, flatten
from tsformer.errors import ConfigError, NotFoundError, UnavailableError

__all__ = ["DataInput", "Run", "connect", "flatten", "ready", "resume", "track"]

PROCESS_TAG = "process"
FAILURE_TAG = "failure"
FAILURE_LENGTH = 1_000
SILENT = "its process ended without a word: killed, or the machine went down"
LOST = (MlflowException, SQLAlchemyError, OSError)  # OSError: what requests raises, a full disk
TABLES_S = 120.0  # of waiting for another process that makes them, which takes some seconds
WHOLE = set[str]()  # addresses of databases that are known to have all tables
Span = tuple[int, int]  # when something began and ended, in milliseconds since 1970


@contextmanager
def track(
    home: Home,
    *,
    experiment: str,
    name: str,
    tags: Mapping[str, object] | None = None,
    parent: Run | None = None,
    span: Span | None = None,
) -> Iterator[Run]:
    """A new run of `experiment`; it ends as finished, as failed with its reason, or as killed.

    `parent` makes it a child; `span` says when that which it records took place, if not now.
    """
    about = {
        **_own_tags(),
        **({MLFLOW_PARENT_RUN_ID: parent.id} if parent else {}),
        **(tags or {}),
    }
    with asking(home):
        client = parent.client if parent else connect(home)
        info = client.create_run(
            experiment_id(client, experiment, home),
            start_time=span[0] if span else None,
            run_name=name,
            tags={key: str(value) for key, value in about.items() if value is not None},
        ).info
    with _ended(Run(client, info.run_id), home, at_ms=span[1] if span else None) as run:
        yield run


@contextmanager
def resume(home: Home, run_id: str) -> Iterator[Run]:
    """A run that was begun before, open again; ended as by `track`."""
    with asking(home):
        run = Run(connect(home), run_id)
        run.client.update_run(run_id, status="RUNNING")
        if FAILURE_TAG in run.client.get_run(run_id).data.tags:
            run.client.delete_tag(run_id, FAILURE_TAG)
        run.tags({key: value for key, value in _own_tags().items() if value is not None})
    with _ended(run, home) as opened:
        yield opened


@contextmanager
def measured(run: Run, home: Home) -> Iterator[None]:
    """System metrics of this machine in `run`, where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING says so."""
    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        yield
        return
    monitor = SystemMetricsMonitor(run.id, resume_logging=True, tracking_uri=home.uri)
    monitor.start()
    try:
        yield
    finally:
        with suppress(UnavailableError):  # without MLflow it would wait for it, for minutes
            reach(home)
            monitor.finish()


def resumable(home: Home, run_id: str, *, kind: str) -> Logged:
    """The run `run_id` as MLflow knows it, if it is of `kind` and no other process works on it."""
    with asking(home):
        reach(home)
        logged = _find(connect(home), run_id)
    if logged is None or logged.data.tags.get("kind") != kind:
        raise NotFoundError(
            f"{address(home)} has no {kind} '{run_id}'. Its id was printed when it began, and "
            "stands on its page in MLflow."
        )
    if logged.info.status == "FINISHED":
        raise ConfigError(f"The run {run_id} has finished: there is nothing to go on with.")
    owner = Owner.parse(logged.data.tags.get(PROCESS_TAG, ""))
    another = owner is not None and owner.alive and owner.pid != os.getpid()
    if logged.info.status == "RUNNING" and another:
        raise ConfigError(f"The run {run_id} is at work: process {owner}. Wait, or end it.")
    return logged


def bury(home: Home, experiment: str) -> None:
    """Ends the runs of `experiment` whose process is known to be gone: none runs for ever."""
    with asking(home):
        client = connect(home)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return
        for logged in client.search_runs([found.experiment_id], "attributes.status = 'RUNNING'"):
            owner = Owner.parse(logged.data.tags.get(PROCESS_TAG, ""))
            if owner is not None and owner.here and not owner.alive:
                client.set_tag(logged.info.run_id, FAILURE_TAG, SILENT)
                client.set_terminated(logged.info.run_id, status="KILLED")


def connect(home: Home) -> MlflowClient:
    """A client of the home's MLflow; a missing SQLite file is made first, private to its owner.

    One process makes its tables: several at a time, as jobs on a new home are, would spoil them for
    good, in spite of MLflow's own lock.
    """
    home.prepare()
    file = home.database
    if file is not None and os.access(home.folder, os.W_OK) and home.uri not in WHOLE:
        with own_turn(home.folder, "mlflow-tables", wait_s=TABLES_S):
            if file.stat().st_size == 0:
                _make_tables(file)
            _client(home.uri).search_registered_models(max_results=1)
        WHOLE.add(home.uri)
    return _client(home.uri)


def _make_tables(file: Path) -> None:
    """Fills an empty `file`, all at once: MLflow cannot go on with tables that are half made.

    That takes seconds, in which a person may press Ctrl-C.
    """
    new = file.with_name(f"{file.name}.new")
    for left in (new, new.with_name(f"{new.name}-journal")):
        left.unlink(missing_ok=True)
    new.touch(mode=0o600)
    _client(f"sqlite:///{new.absolute()}").search_registered_models(max_results=1)
    new.replace(file)


def _client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def asking(home: Home) -> Iterator[None]:
    """Whatever goes wrong on the way to MLflow or in it becomes UnavailableError."""
    try:
        yield
    except (*LOST, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UnavailableError(f"{address(home)} cannot be used: {reason}") from error


def ready(home: Home, experiment: str) -> None:
    """Raises UnavailableError where a run of `experiment` could not be kept: before it is made."""
    if home.database is None or home.database.exists():
        reach(home)
    try:
        with asking(home):
            found = connect(home).get_experiment_by_name(experiment)
    except UnavailableError as error:
        raise UnavailableError(f"{error}. MLFLOW_TRACKING_URI names another.") from error
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


def _find(client: MlflowClient, run_id: str) -> Logged | None:
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None  # nobody's id, or none at all
        raise


def _own_tags() -> dict[str, Any]:
    """Who writes a run: this code, in this process."""
    return {
        MLFLOW_GIT_COMMIT: git_commit(Path.cwd()),
        MLFLOW_SOURCE_NAME: "tsformer",
        MLFLOW_SOURCE_TYPE: "LOCAL",
        PROCESS_TAG: Owner.own(),
    }


@contextmanager
def _ended(run: Run, home: Home, *, at_ms: int | None = None) -> Iterator[Run]:
    try:
        yield run
    except BaseException as error:
        _say(run, home, error)
        raise
    with asking(home):
        run.client.set_terminated(run.id, status="FINISHED", end_time=at_ms)


def _say(run: Run, home: Home, error: BaseException) -> None:
    """Ends `run` with the reason; where MLflow itself is lost, the error alone can tell."""
    failed = isinstance(error, Exception)
    reason = f"{type(error).__name__}: {error}" if failed else _ending(error)
    with suppress(UnavailableError, *LOST):
        reach(home)
        run.tags({FAILURE_TAG: reason[:FAILURE_LENGTH]})
        run.client.set_terminated(run.id, status="FAILED" if failed else "KILLED")


def _ending(error: BaseException) -> str:
    return (
        "interrupted from the keyboard" if isinstance(error, KeyboardInterrupt) else "told to end"
    )
