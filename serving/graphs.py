"""The graphs of this installation: derived once for each architecture, kept in a folder.

    TSFORMER_HOME/graphs/<key>         the graph, without weights; or why there can be none
    TSFORMER_HOME/graphs/<key>.slow    what was measured, where torch is as fast

The key is a digest of the model's description, of our code and of the libraries that take part, so
a graph is never older than what it was derived from. The folder may be removed at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tsformer
from tsformer.errors import IncompatibleError, UnavailableError

LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")
LONGEST_S = 900.0  # of a machine that is busy with forecasts, which go first


def installed() -> bool:
    """Whether all that graphs need is there: the extra `onnx`."""
    return all(importlib.util.find_spec(name) is not None for name in LIBRARIES)


class Graphs:
    """A folder of graphs, of which each is derived by one process at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def file(self, described: Mapping[str, Any]) -> Path:
        """Where the graph of the model that is `described` is kept."""
        told = json.dumps([described, _code(), {name: version(name) for name in LIBRARIES}])
        return self._folder / hashlib.sha256(told.encode()).hexdigest()

    def find(self, described: Mapping[str, Any]) -> bytes | None:
        """The graph of the model that is `described` (see `tsformer.artifact.description`).

        None where none was derived yet; IncompatibleError where there can be none.
        """
        try:
            graph = self.file(described).read_bytes()
        except OSError:
            return None
        if graph.startswith(b"null\n"):
            why = graph.decode(errors="replace").split("\n")[1]
            raise IncompatibleError(f"it cannot be exported as a graph ({why}).")
        return graph

    def slow(self, described: Mapping[str, Any]) -> str:
        """What was said of the graph's speed, where it brings nothing."""
        note = self.file(described).with_suffix(".slow")
        return note.read_text(encoding="utf-8") if note.exists() else ""

    def note_slow(self, described: Mapping[str, Any], why: str) -> None:
        """Lets no replica of this installation run by a graph that brings nothing."""
        self.file(described).with_suffix(".slow").write_text(why, encoding="utf-8")

    def forget(self, described: Mapping[str, Any]) -> None:
        """Removes the graph of a model, which is derived again when it is wanted."""
        self.file(described).unlink(missing_ok=True)

    def derive(self, described: Mapping[str, Any]) -> bytes:
        """The graph, derived in a process of its own if it is not there, which takes seconds.

        Raises IncompatibleError where there can be none, and UnavailableError where it could not
        be derived this time.
        """
        file = self.file(described)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with _alone(file.with_suffix(".lock")):
                if not file.exists():
                    _export(described, file)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UnavailableError(f"the graph could not be derived: {error}") from error
        graph = self.find(described)
        assert graph is not None
        return graph


def _export(described: Mapping[str, Any], file: Path) -> None:
    """Writes `file`, in one step."""
    draft = file.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    here = str(Path(tsformer.__file__).parents[1])
    command = [sys.executable, "-m", "serving.graph_export", str(draft)]
    silent = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, cwd=here
    ) as child:
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps(described).encode() + b"\n")
            child.stdin.flush()  # and stays open: the child ends when it is closed
            code = child.wait(LONGEST_S)
        finally:
            child.kill()
    if code:
        raise OSError(f"the exporter ended with {code}")
    draft.replace(file)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@cache
def _code() -> str:
    """The digest of the code that a graph is derived from."""
    package = Path(tsformer.__file__).parent
    own = Path(__file__).with_name("graph_export.py")
    digest = hashlib.sha256()
    for file in (*sorted(package.rglob("*.py")), own):
        digest.update(file.read_bytes())
    return digest.hexdigest()
