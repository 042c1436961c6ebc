"""Where an attempt at a run is executed: as a Ray job, or as a process of this machine.

Both start `python -m pipelines.job RUN ATTEMPT`, detached: it outlives the scheduler. Both know
a submission by run and attempt, so that one that comes twice starts one process.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from pipelines.home import Home
from tsformer.errors import ConfigError, UnavailableError

MODULE = "pipelines.job"
SUBMIT_SECONDS = 30.0  # a cluster that is busy starting workers needs some
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Executor(Protocol):
    """Somewhere to run."""

    def submit(self, run_id: str, attempt: int) -> None:
        """Starts this attempt, if it was not started before.

        Raises UnavailableError where that is not possible now.
        """


@dataclass(frozen=True, slots=True)
class LocalProcesses:
    """Processes of this machine. What they print is in a file of `folder` for each attempt.

    By `niceness` they leave the processor to this one, and to whoever else wants it.
    """

    folder: Path
    command: tuple[str, ...] = (sys.executable, "-m", MODULE)
    environment: Mapping[str, str] | None = None  # by default that of this process
    niceness: int = 0
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list, repr=False)

    def submit(self, run_id: str, attempt: int) -> None:
        """Its file is made by the first one who submits it, and only by that one."""
        self._started[:] = [process for process in self._started if process.poll() is None]
        path = self.folder / f"{run_id}-{attempt}.log"
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            log = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode=0o600)
        except FileExistsError:
            return
        except OSError as error:
            raise UnavailableError(f"{path} cannot be written: {error}") from error
        try:
            self._started.append(self._start(run_id, attempt, log))
        except OSError as error:
            path.unlink()  # nothing was started: whoever tries again may
            raise UnavailableError(f"{self.command[0]} cannot be started: {error}") from error
        finally:
            os.close(log)

    def _start(self, run_id: str, attempt: int, log: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*self.command, run_id, str(attempt)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            start_new_session=True,  # Ctrl-C is meant for the scheduler
        )
        if self.niceness:
            _step_back(process.pid, self.niceness)
        return process


def _step_back(pid: int, niceness: int) -> None:
    """Lowers the priority of a process that leads a session.

    Linux weighs sessions first, and within them processes (sched(7), "The autogroup feature").
    """
    own = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, pid, own + niceness)
    session = Path(f"/proc/{pid}/autogroup")
    for _ in range(10):
        try:
            session.write_text(str(niceness))
        except BlockingIOError:  # who is not root may weigh one session in 0.1 s
            time.sleep(0.15)
        except OSError:  # where sessions are not weighed
            return
        else:
            return


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster: the address of its dashboard, its token, and the Python of its machines."""

    address: str
    token: str = ""
    python: str = "python"


@dataclass(frozen=True, slots=True)
class RayJobs:
    """Jobs of a Ray cluster, by the HTTP interface of its dashboard (Ray Jobs, 2.60).

    `cluster` is asked before each submission: one that is gone may be started again. Ray knows
    `RUN-ATTEMPT` for ever and refuses it a second time, which counts as submitted. Jobs ask for
    no processor: they begin at once, so that their lease says whether they live.
    """

    cluster: Callable[[], Cluster]
    variables: Mapping[str, str]

    def submit(self, run_id: str, attempt: int) -> None:
        """See `Executor`."""
        cluster = self.cluster()
        submission = f"{run_id}-{attempt}"
        job = {
            "entrypoint": shlex.join([cluster.python, "-m", MODULE, run_id, str(attempt)]),
            "submission_id": submission,
            "runtime_env": {"env_vars": dict(self.variables)},
        }
        headers = {"Authorization": f"Bearer {cluster.token}"} if cluster.token else {}
        try:
            with httpx.Client(
                base_url=cluster.address, headers=headers, timeout=SUBMIT_SECONDS, trust_env=False
            ) as client:
                answer = client.post("/api/jobs/", json=job)
                known = answer.is_success or client.get(f"/api/jobs/{submission}").is_success
        except httpx.HTTPError as error:
            raise UnavailableError(f"{_named(cluster)} does not answer: {error}") from error
        if not known:
            raise UnavailableError(f"{_named(cluster)} takes no job: {_reason(answer)}")


def cluster_at(address: str, environment: Mapping[str, str]) -> Cluster:
    """The cluster at `address`, with the token that Ray's own clients would take."""
    if not _is_address(address):
        raise ConfigError(
            f"'{address}' is no place for runs. Expected ray, processes, or the address of a Ray "
            "dashboard such as http://127.0.0.1:8265."
        )
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    token = environment.get("RAY_AUTH_TOKEN", "")
    if not token and path.is_file():
        token = path.read_text(encoding="utf-8").strip()
    return Cluster(address.rstrip("/"), token, sys.executable if _is_here(address) else "python")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number, a bracket that is not closed
        return False


def check_shared(cluster: Cluster, home: Home) -> None:
    """Other machines cannot reach a file of this one: there a run would find an empty ledger."""
    files = [each for each in (home.store, home.uri) if each.startswith("sqlite")]
    if files and not _is_here(cluster.address):
        raise ConfigError(
            f"{_named(cluster)} cannot reach {files[0]}. Name databases that all machines share "
            "in TSFORMER_STORE and MLFLOW_TRACKING_URI."
        )


def _is_here(address: str) -> bool:
    return urlsplit(address).hostname in LOOPBACK


def job_variables(home: Home) -> dict[str, str]:
    """What a job must know of `home`. No passwords: Ray shows the variables of a job to its users.

    An address with one must stand in the environment of the cluster's machines.
    """
    wanted = {
        "TSFORMER_HOME": str(home.folder),
        "TSFORMER_STORE": home.store,
        "MLFLOW_TRACKING_URI": home.uri,
    }
    return {name: value for name, value in wanted.items() if not _has_password(value)}


def _has_password(address: str) -> bool:
    try:
        return make_url(address).password is not None
    except ArgumentError:
        return False


def _named(cluster: Cluster) -> str:
    return f"The Ray cluster at {cluster.address}"


def _reason(answer: httpx.Response) -> str:
    if answer.status_code in (401, 403):
        return "it wants a token (RAY_AUTH_TOKEN_PATH names the file)."
    lines = answer.text.strip().splitlines()
    return f"status {answer.status_code}, {lines[-1] if lines else 'without a word'}"
