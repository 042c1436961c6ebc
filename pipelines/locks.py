"""Locks between processes. Each ends with the process that has it, also by kill -9.

A turn is for whoever shares a store; a lease is on a folder of this machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from pipelines.store import Store
from tsformer.errors import UnavailableError

POLL_SECONDS = 0.02  # flock(2) has no time limit of its own


@contextmanager
def turn(store: Store, name: str, *, wait_s: float) -> Iterator[None]:
    """One at a time for each `name` ([A-Za-z0-9._-]) among all who share `store`.

    Raises UnavailableError where the others take longer than `wait_s` seconds. No transaction of
    the store is held, but for an idle one that PostgreSQL keeps the lock in.
    """
    if store.engine.dialect.name == "postgresql":
        with _advisory(store, name, wait_s=wait_s):
            yield
        return
    with own_turn(Path(store.engine.url.database or "").absolute().parent, name, wait_s=wait_s):
        yield


@contextmanager
def own_turn(home: Path, name: str, *, wait_s: float) -> Iterator[None]:
    """As `turn`, among the processes of this machine that share the folder `home`."""
    folder = home / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(folder / name, os.O_CREAT | os.O_RDWR, mode=0o600)
    except OSError as error:
        raise UnavailableError(f"{folder} cannot be written: {error}") from error
    try:
        if not _flock(file, fcntl.LOCK_EX, wait_s=wait_s):
            raise UnavailableError(_taken(name, wait_s))
        yield
    finally:
        os.close(file)


class Lease:
    """A shared hold on a folder: it is not removed by `removal` while this object lives.

    A file system without locks on folders (NFS) gives leases freely, and no removal.
    """

    def __init__(self, file: int) -> None:
        self._close = weakref.finalize(self, os.close, file)

    @staticmethod
    def on(folder: Path, *, wait_s: float) -> Lease | None:
        """A lease on `folder`; None where there is no such folder, or one that is being removed."""
        try:
            file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return None
        lease = Lease(file)
        try:
            return lease if _flock(file, fcntl.LOCK_SH, wait_s=wait_s) else None
        except OSError:
            return lease

    def end(self) -> None:
        """Ends the lease; without it, it ends when nobody has the object any more."""
        self._close()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


@contextmanager
def removal(folder: Path) -> Iterator[bool]:
    """Whether nobody has a lease on `folder`; nobody gets one meanwhile."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        yield True
        return
    try:
        try:
            free = _flock(file, fcntl.LOCK_EX, wait_s=0)
        except OSError:
            free = False
        yield free
    finally:
        os.close(file)


@contextmanager
def _advisory(store: Store, name: str, *, wait_s: float) -> Iterator[None]:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
    with store.read() as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(wait_s * 1000)}")
        try:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlstate", None) == "55P03":  # lock_not_available
                raise UnavailableError(_taken(name, wait_s)) from error
            raise
        yield


def _flock(file: int, kind: int, *, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_SECONDS)
        else:
            return True


def _taken(name: str, wait_s: float) -> str:
    return f"Another process has '{name}' to itself for more than {wait_s:g} s. Try again later."
