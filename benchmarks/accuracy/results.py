"""The lines of results: added whole, read with what is torn left out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.accuracy.cells import Cell
from tsformer.errors import ConfigError


def append(file: Path, line: dict[str, Any]) -> None:
    """Adds one line in one write, so that readers and other processes see all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(line, allow_nan=False) + "\n"
    if _torn(file):
        text = "\n" + text
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def read(file: Path) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each cell with its line, those that failed included.

    A line that was torn by a crash, or of a setting that no longer exists, is left out: its cell
    counts as not run.
    """
    if not file.is_file():
        return
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
            yield Cell.from_mapping(line["cell"]), line
        except (json.JSONDecodeError, ConfigError):
            continue


def done(file: Path) -> set[Cell]:
    """The cells that have a score."""
    return {cell for cell, line in read(file) if "error" not in line}


def _torn(file: Path) -> bool:
    """Whether the last line has no end."""
    if not file.is_file() or not file.stat().st_size:
        return False
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"
