"""Checkpoints of a training run: one safetensors file an epoch, never a pickle.

The name of a file ends in the SHA-256 of its bytes. A file appears under that name only when
it is complete, and the one before stays, so a run that is killed at any moment, or a disk that
tears the newest file, costs one epoch at most. Where files are kept is a `Storage`: a folder here,
whatever has the four methods elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safetensors.torch import load, save
from torch import Tensor

from tsformer.errors import UnavailableError

KEPT = 2  # the newest, and the one to fall back to
ENDING, DRAFT = ".safetensors", ".draft"


class Storage(Protocol):
    """Files of one run by their names; every method raises OSError where it cannot be done."""

    def names(self) -> list[str]:
        """The names of all files; none where there is no place for them yet."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Adds a file. Until it is complete it is not there, or its name ends in `DRAFT`."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of this machine, made with its first file; satisfies `Storage`."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        return [file.name for file in self.path.iterdir()] if self.path.is_dir() else []

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """See `Storage`; the file and its name survive a power cut from then on."""
        self.path.mkdir(parents=True, exist_ok=True)
        draft = self.path / f"{name}{DRAFT}"
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path / name)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after `epoch` epochs: tensors by name, and facts that JSON can hold."""

    epoch: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def encoded(self) -> bytes:
        """The checkpoint as the bytes of a safetensors file."""
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors.items()}
        return save(tensors, {"facts": json.dumps(self.facts), "epoch": str(self.epoch)})

    @staticmethod
    def decoded(data: bytes) -> Checkpoint:
        """What `encoded` gave."""
        # eight bytes say how long the header is, in which strings stand under "__metadata__"
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        told = header["__metadata__"]
        return Checkpoint(int(told["epoch"]), json.loads(told["facts"]), load(data))


def write(checkpoint: Checkpoint, storage: Storage) -> str:
    """Adds `checkpoint` to `storage`; older ones go once the new one is safe. Gives its name.

    Raises OSError when the disk refuses; what was there before is there still.
    """
    data = checkpoint.encoded()
    digest = hashlib.sha256(data).hexdigest()
    name = f"epoch-{checkpoint.epoch:06d}-{digest}{ENDING}"
    storage.write(name, data)
    for older in _newest_first(storage.names())[KEPT:]:
        storage.remove(older)
    return name


def keep(checkpoint: Checkpoint, storage: Storage) -> None:
    """As `write`; raises UnavailableError, which says what is still there, where it cannot be."""
    try:
        write(checkpoint, storage)
    except OSError as error:
        before = (
            f"That of epoch {checkpoint.epoch - 1} is kept"
            if checkpoint.epoch > 1
            else "None is kept"
        )
        raise UnavailableError(
            f"The checkpoint of epoch {checkpoint.epoch} cannot be written to {storage}: "
            f"{error.strerror or error}. {before}; make room, and resume."
        ) from error


def newest(storage: Storage) -> bytes | None:
    """The newest checkpoint of `storage` whose bytes are what they were, or None without any.

    Drafts of a writer that was interrupted, and files that are torn, are removed.
    """
    names = storage.names()
    for draft in names:
        if draft.endswith(DRAFT):
            storage.remove(draft)
    for name in _newest_first(names):
        data = storage.read(name)
        if hashlib.sha256(data).hexdigest() == _digest(name):
            return data
        with suppress(OSError):  # it is passed over in any case
            storage.remove(name)
    return None


def _newest_first(names: list[str]) -> list[str]:
    ours = [n for n in names if n.startswith("epoch-") and n.endswith(ENDING)]
    return sorted(ours, key=lambda name: int(name.split("-")[1]), reverse=True)


def _digest(name: str) -> str:
    return name.removesuffix(ENDING).split("-")[2]
