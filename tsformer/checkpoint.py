"""Checkpoints of a training run: one safetensors file an epoch, never a pickle.

The name of a file ends in the SHA-256 of its bytes. A file appears under that name only when
it is complete, and the one before stays, so a run that is killed at any moment, or a disk that
tears the newest file, costs one epoch at most.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load, save
from torch import Tensor

KEPT = 2  # the newest, and the one to fall back to


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state after `epoch` epochs: tensors by name, and facts that JSON can hold."""

    epoch: int
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def write(checkpoint: Checkpoint, directory: Path) -> Path:
    """Adds `checkpoint` to `directory`; older ones go once the new one is safe on the disk.

    Raises OSError when the disk refuses; nothing half-written is left behind.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    data = save(tensors, {"facts": json.dumps(checkpoint.facts)})
    digest = hashlib.sha256(data).hexdigest()
    path = directory / f"epoch-{checkpoint.epoch:06d}-{digest}.safetensors"
    _write_atomically(data, path)
    for older in _newest_first(directory)[KEPT:]:
        older.unlink()
    return path


def read_newest(directory: Path) -> Checkpoint | None:
    """The newest checkpoint whose bytes are what they were, or None without any.

    Drafts of an interrupted writer are removed.
    """
    for draft in directory.glob("*.draft"):
        draft.unlink()
    for path in _newest_first(directory):
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() == _digest(path):
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
            return Checkpoint(_epoch(path), facts, load(data))
        path.unlink()
    return None


def _write_atomically(data: bytes, path: Path) -> None:
    draft = path.with_suffix(".draft")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself must survive a power cut
    finally:
        os.close(folder)


def _newest_first(directory: Path) -> list[Path]:
    return sorted(directory.glob("epoch-*-*.safetensors"), key=_epoch, reverse=True)


def _epoch(path: Path) -> int:
    return int(path.name.split("-")[1])


def _digest(path: Path) -> str:
    return path.stem.split("-")[2]
