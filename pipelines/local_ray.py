"""Where work in many processes goes: a Ray of this machine, gone when it is done, or a cluster."""

from __future__ import annotations

import gc
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from pipelines.home import REACH_SECONDS
from tsformer.errors import UnavailableError

LOG = logging.getLogger(__name__)

OBJECT_STORE_AT_LEAST = 100 * 1024 * 1024  # bytes; Ray itself would take 30 % of the memory
PREFIX = "tsformer-"  # of a scratch folder, before the number of its process
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default, which starves the work on a busy machine
    **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),  # for nobody from outside
}


@contextmanager
def local_ray(*, processors: int, shared_bytes: int) -> Iterator[Path]:
    """The Ray that this process is part of, or else one of its own, ended after.

    Yields a scratch folder. `processors` is how many it may believe to have, whatever the machine
    has; `shared_bytes` is what its object store must hold.
    """
    _sweep()
    # short: Ray puts sockets there
    scratch = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    os.environ |= ENVIRONMENT
    if "ray" not in sys.modules:  # which reads, as it is imported, whether it wants a token
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    own = not ray.is_initialized()
    try:
        if own:
            _start(scratch, processors, OBJECT_STORE_AT_LEAST + 2 * shared_bytes)
        yield scratch
    finally:
        if own:
            _leave()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def some_ray(*, processors: int, shared_bytes: int) -> Iterator[Path]:
    """The cluster that RAY_ADDRESS names, or else `local_ray`; yields a scratch folder."""
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        with local_ray(processors=processors, shared_bytes=shared_bytes) as scratch:
            yield scratch
        return
    _reach(address)
    import ray

    joined = not ray.is_initialized()
    _join(address)
    try:
        with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-") as folder:
            yield Path(folder)
    finally:
        if joined:
            _leave()


def _join(address: str) -> None:
    import ray

    if ray.is_initialized():
        return
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        raise _away(address, error) from error


def _reach(address: str) -> None:
    """Raises UnavailableError in two seconds; Ray itself would try for many minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        place = (host.rpartition("/")[2], int(port))
        socket.create_connection(place, REACH_SECONDS).close()
    except OSError as error:
        raise _away(address, error) from error


def _away(address: str, error: Exception) -> UnavailableError:
    reason = str(error).strip().partition("\n")[0]
    return UnavailableError(
        f"The Ray cluster that RAY_ADDRESS names, {address}, cannot be joined: {reason}"
    )


def last_line(error: BaseException | None) -> str:
    """What an error of Ray says at its end, below the tracebacks of other processes."""
    return str(error or "").strip().rpartition("\n")[2] or "its process ended"


def _sweep() -> None:
    """Removes the scratch folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        number = folder.name.removeprefix(PREFIX).partition("-")[0]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _start(scratch: Path, processors: int, store_bytes: int) -> None:
    """Starts Ray, a second time where its processes did not come up in time."""
    for last in (False, True):
        try:
            _init(scratch, processors, store_bytes)
            return
        except Exception as error:  # Ray has no type of its own for this
            _end(scratch)
            if last:
                raise UnavailableError(
                    f"Ray did not start on this machine, twice: {last_line(error)} Is it very busy, "
                    "or is there no room in its memory or for temporary files?"
                ) from error
            LOG.warning("Ray is started again: %s", last_line(error))


def _init(scratch: Path, processors: int, store_bytes: int) -> None:
    import ray

    # By default that of the real processors: Ray would print that there are too many processes.
    os.environ |= {"RAY_worker_maximum_startup_concurrency": str(processors)}
    leave = signal.getsignal(signal.SIGTERM)
    ray.init(
        address="local",
        num_cpus=processors,
        include_dashboard=False,
        object_store_memory=store_bytes,
        log_to_driver=False,
        logging_level="error",
        _temp_dir=str(scratch),
        _node_ip_address="127.0.0.1",
    )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, leave)  # Ray's own ends the process without a clean-up


def _leave() -> None:
    """Shuts Ray down. A handle in a cycle that another thread collected meanwhile would end this process."""
    import ray

    gc.collect()
    ray.shutdown()


def _end(scratch: Path) -> None:
    """Ends what a start that failed has left: its processes name the folder."""
    left = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if str(scratch) in " ".join(process.cmdline()):
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=10)
