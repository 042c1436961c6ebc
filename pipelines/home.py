"""Home: the folder of this installation, and where its MLflow lives.

    TSFORMER_HOME, else ./.tsformer
    ├── mlflow.db       runs and model versions, unless MLFLOW_TRACKING_URI names another place
    ├── tsformer.db     schedules, the run ledger, champions, unless TSFORMER_STORE names another
    ├── artifacts/      their files
    ├── locks/          taken by whoever moves an alias, publishes or cleans up
    ├── models/         verified copies of what was fetched: enough to serve without the registry
    ├── graphs/         what ONNX Runtime runs, derived from our code; may be removed at any time
    ├── at_work/        what each replica of the service is at work on
    └── logs/           what the service had to say

Nothing here imports MLflow, which reads its environment as it is imported: `configure` comes
first, at the edge of a process.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from tsformer.errors import UnavailableError

Role = Literal["training", "serving"]

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
# No pickle is ever read and no code of a model run, in any role; the second name counts from 3.18 on.
SAFE = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ALLOW_MODEL_CODE_EXECUTION": "false",
}
# The defaults (7 retries of 120 s) hold a start for minutes when the registry is away; serving
# has its local copies to fall back to.
IMPATIENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
}
# Processor, memory, disk and network while models are fitted, one sample in ten seconds.
MEASURED = {"MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true"}

REACH_SECONDS = 2.0
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
SQLITE_MAGIC = b"SQLite format 3\0"


def configure(environment: MutableMapping[str, str], *, role: Role) -> None:
    """Makes MLflow quiet, safe and, for serving, impatient. Call before anything imports MLflow.

    What the user has set already stays, but for safety, which does not.
    """
    wanted = QUIET | (IMPATIENT if role == "serving" else MEASURED)
    for name, value in wanted.items():
        environment.setdefault(name, value)
    environment.update(SAFE)
    for name in ("mlflow", "alembic"):  # for a process that has imported MLflow already
        logging.getLogger(name).setLevel(environment["MLFLOW_LOGGING_LEVEL"].upper())


@dataclass(frozen=True, slots=True)
class Home:
    """A folder, the address of MLflow's tracking and registry, and that of the project's store."""

    folder: Path
    uri: str
    named_store: str = ""

    @staticmethod
    def of(environment: Mapping[str, str]) -> Home:
        """The home that `environment` names; its MLflow is MLFLOW_TRACKING_URI, or a file of its own."""
        folder = Path(environment.get("TSFORMER_HOME") or ".tsformer").absolute()
        own = f"sqlite:///{folder / 'mlflow.db'}"
        tracking = environment.get("MLFLOW_TRACKING_URI") or own
        return Home(folder, tracking, environment.get("TSFORMER_STORE", ""))

    @property
    def store(self) -> str:
        """The database of pipelines.store: TSFORMER_STORE, else a file of the home."""
        return self.named_store or f"sqlite:///{self.folder / 'tsformer.db'}"

    @property
    def database(self) -> Path | None:
        """The SQLite file behind `uri`, if there is one."""
        scheme, _, path = self.uri.partition(":///")
        if not scheme.startswith("sqlite") or not path:
            return None
        return Path(path.partition("?")[0])

    @property
    def artifacts(self) -> Path | None:
        """Where files of runs go; None where an MLflow server decides."""
        return None if self.uri.startswith(("http://", "https://")) else self.folder / "artifacts"

    @property
    def models(self) -> Path:
        """The verified copies of fetched model versions."""
        return self.folder / "models"

    @property
    def graphs(self) -> Path:
        """The graphs of architectures that ONNX Runtime runs."""
        return self.folder / "graphs"

    @property
    def at_work(self) -> Path:
        """The slates of the replicas."""
        return self.folder / "at_work"

    @property
    def logs(self) -> Path:
        """The logs of the service."""
        return self.folder / "logs"

    def prepare(self) -> None:
        """Makes the folder and the database file, for nobody but their owner to read."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.database is not None and not self.database.exists():
            self.database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.database, os.O_CREAT | os.O_WRONLY, mode=0o600))


def address(home: Home) -> str:
    """Where the registry is, for a person to read; without the password that it may hold."""
    parts = urlsplit(home.uri)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return f"The registry at {home.database or shown}"


def reach(home: Home) -> None:
    """Raises UnavailableError within two seconds where MLflow itself would try for minutes."""
    if home.database is not None:
        _check_file(home.database)
        return
    parts = urlsplit(home.uri)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname is None or port is None:
        return
    try:
        socket.create_connection((parts.hostname, port), timeout=REACH_SECONDS).close()
    except OSError as error:
        raise UnavailableError(f"{address(home)} does not answer: {error}") from error


def _check_file(database: Path) -> None:
    try:
        with database.open("rb") as file:
            start = file.read(len(SQLITE_MAGIC))
    except FileNotFoundError:
        raise UnavailableError(
            f"There is no registry yet: {database} does not exist. `tsformer train` makes it; "
            "TSFORMER_HOME and MLFLOW_TRACKING_URI say where else to look."
        ) from None
    except OSError as error:
        raise UnavailableError(f"The registry at {database} cannot be read: {error}") from error
    if start != SQLITE_MAGIC:
        raise UnavailableError(f"The registry at {database} is not an SQLite database.")
