"""A Ray cluster of this machine for the runs of one home, kept by a process of its own.

The first scheduler that needs it starts the keeper; others find it by the file `ray/head.json` of
the home. The keeper outlives a scheduler that is killed, and so do the jobs. It ends when no
scheduler holds `ray/schedulers` (a lock that ends with its process) and no job is at work.

Its dashboard, where Ray takes jobs, listens on loopback alone; everything wants the token in
`ray/token`, which the owner of the home may read. Ray's own ports listen on all interfaces
whatever it is told (2.60), so a machine that others can reach needs a firewall.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from pipelines.executors import Cluster
from tsformer.errors import UnavailableError

START_S = 180.0  # a busy machine has taken 60
IDLE_S = 5.0
SILENT_S = 300.0  # training may starve the dashboard; after so long the cluster is dead
KEEPER = "pipelines.ray_head"
ANSWER_S = 10.0
OBJECT_STORE_BYTES = 100 * 1024 * 1024  # the least that Ray takes; jobs do not use it
AT_WORK = ("PENDING", "RUNNING")


@dataclass(frozen=True, slots=True)
class Head:
    """A running cluster: its dashboard, and the process that keeps it."""

    address: str
    keeper: int


@dataclass(frozen=True, slots=True)
class RayHead:
    """The cluster of the home whose folder is `home`; started where there is none."""

    home: Path

    @property
    def folder(self) -> Path:
        """What the keeper and the schedulers know of each other."""
        return self.home / "ray"

    @contextmanager
    def needed(self) -> Iterator[None]:
        """The cluster stays as long as this block is open, in any process."""
        with self._lock("schedulers", fcntl.LOCK_SH):
            yield

    def cluster(self) -> Cluster:
        """The cluster; UnavailableError where it does not start."""
        try:
            with self._lock("start", fcntl.LOCK_EX):
                head = self.head() or self._start()
            return Cluster(head.address, self.token(), sys.executable)
        except OSError as error:  # a full disk
            raise UnavailableError(f"Ray does not start on this machine: {error}") from error

    def head(self) -> Head | None:
        """The cluster whose keeper lives; on a busy machine it may be slow to answer."""
        try:
            head = Head(**json.loads(self._file.read_text(encoding="utf-8")))
            is_kept = KEEPER in psutil.Process(head.keeper).cmdline()
        except (OSError, ValueError, TypeError, psutil.Error):
            return None
        return head if is_kept else None

    def token(self) -> str:
        """The secret of this cluster, made on first use."""
        path = self.folder / "token"
        with suppress(FileExistsError):
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode=0o600)
            with os.fdopen(file, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(32))
        return path.read_text(encoding="ascii")

    def keep(self) -> None:
        """The life of the keeper: starts the cluster, says where, and ends it when it is idle."""
        scratch = tempfile.mkdtemp(prefix="tsformer-ray-")  # short: Ray puts sockets there
        try:
            head = Head(_init(scratch), os.getpid())
            _wait_for(lambda: self._at_work(head) is not None)
            self._write(head)
            answered = time.monotonic()
            while time.monotonic() - answered < SILENT_S:
                at_work = self._at_work(head)
                if at_work == 0 and self._hidden():
                    return
                answered = answered if at_work is None else time.monotonic()
                time.sleep(IDLE_S)
        finally:
            _shutdown()
            shutil.rmtree(scratch, ignore_errors=True)

    def _start(self) -> Head:
        self.token()
        self._file.unlink(missing_ok=True)
        log = self.folder / "keeper.log"
        with log.open("ab") as output:
            keeper = subprocess.Popen(
                [sys.executable, "-m", KEEPER, str(self.home)],
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=0o077,
            )
        _wait_for(lambda: self._file.exists() or keeper.poll() is not None)
        head = self.head()
        if head is None:
            keeper.terminate()
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            raise UnavailableError(f"Ray does not start on this machine: {last} ({log})")
        return head

    def _environment(self) -> dict[str, str]:
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # 15 by default, which starves the work on a busy machine
        }

    def _hidden(self) -> bool:
        """Takes the cluster out of sight, if no scheduler needs it."""
        try:
            with self._lock("schedulers", fcntl.LOCK_EX | fcntl.LOCK_NB):
                self._file.unlink(missing_ok=True)
                return True
        except BlockingIOError:
            return False

    def _at_work(self, head: Head) -> int | None:
        """How many jobs are not over; None where the cluster does not answer."""
        headers = {"Authorization": f"Bearer {self.token()}"}
        try:
            answer = httpx.get(
                f"{head.address}/api/jobs/", headers=headers, timeout=ANSWER_S, trust_env=False
            )
            jobs = answer.raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return None
        return sum(job["type"] == "SUBMISSION" and job["status"] in AT_WORK for job in jobs)

    @property
    def _file(self) -> Path:
        return self.folder / "head.json"

    def _write(self, head: Head) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(asdict(head)), encoding="utf-8")
        new.replace(self._file)

    @contextmanager
    def _lock(self, name: str, kind: int) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(self.folder / name, os.O_CREAT | os.O_RDWR, mode=0o600)
        try:
            fcntl.flock(file, kind)
            yield
        finally:
            os.close(file)


def _init(scratch: str) -> str:
    """Starts Ray as the driver of this process; gives the address of the dashboard."""
    import ray

    context = ray.init(
        address="local",
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=0,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="error",
        _temp_dir=scratch,
        _node_ip_address="127.0.0.1",
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # Ray's own ends without a clean-up
    return f"http://{context.dashboard_url}"


def _shutdown() -> None:
    import ray

    ray.shutdown()


def _wait_for(happens: Callable[[], bool]) -> None:
    """Waits until it does, or START_S are over."""
    deadline = time.monotonic() + START_S
    while not happens() and time.monotonic() < deadline:
        time.sleep(0.1)


if __name__ == "__main__":
    RayHead(Path(sys.argv[1])).keep()
