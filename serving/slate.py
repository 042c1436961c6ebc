"""What each replica is at work on and what else it has taken, for others to read while it lives and after.

A death does not say its cause, and of all that was on its way to a replica only the batch at work can
be it. Nor does Ray Serve tell a call that waits for its turn from one that nobody will ever answer. What
a process wrote to a file outlives it, and writing costs microseconds.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SIZE = 16  # bytes of a ticket
NOTHING = bytes(SIZE)
SLATES = "[!.]*"  # what begins with a dot is being made


def ticket() -> bytes:
    """What a call is known by."""
    return secrets.token_bytes(SIZE)


class Slate:
    """The file of one process in `folder`; those of the dead before it are removed.

    The ticket of the call at work stands first, those of all calls that the process has taken after it.
    It is locked for as long as its process lives.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_dead(folder)
        name = secrets.token_hex(8)
        self._file = (folder / f".{name}").open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._taken: list[bytes] = []
        self._say(NOTHING)
        (folder / f".{name}").rename(folder / name)

    @contextmanager
    def taken(self, call: bytes) -> Iterator[None]:
        """Says for as long as it lasts that the call with this ticket has come; of one thread.

        A call that was made again may come twice, and is taken until both have left.
        """
        self._taken.append(call)
        self._list()
        try:
            yield
        finally:
            self._taken.remove(call)
            self._list()

    @contextmanager
    def at_work(self, call: bytes) -> Iterator[None]:
        """Says for as long as it lasts that the call with this ticket is being worked on."""
        self._say(call)
        try:
            yield
        finally:
            self._say(NOTHING)

    def _say(self, call: bytes) -> None:
        os.pwrite(self._file.fileno(), call, 0)

    def _list(self) -> None:
        os.pwrite(self._file.fileno(), b"".join(self._taken), SIZE)
        os.ftruncate(self._file.fileno(), SIZE * (1 + len(self._taken)))


def is_at_work(folder: Path, call: bytes) -> bool:
    """Whether a process works on the call with this ticket, or died as it did."""
    return any(said[:1] == [call] for said, _ in _read(folder))


def is_taken(folder: Path, call: bytes) -> bool:
    """Whether a process that lives has taken the call with this ticket."""
    return any(call in said[1:] and not _is_dead(path) for said, path in _read(folder))


def _read(folder: Path) -> Iterator[tuple[list[bytes], Path]]:
    """The tickets on each slate."""
    for path in folder.glob(SLATES):
        with suppress(FileNotFoundError):
            said = path.read_bytes()
            yield [said[at : at + SIZE] for at in range(0, len(said), SIZE)], path


def _is_dead(path: Path) -> bool:
    """Whether the process of a slate has ended."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def _remove_dead(folder: Path) -> None:
    for path in folder.glob(SLATES):
        if _is_dead(path):
            path.unlink(missing_ok=True)
