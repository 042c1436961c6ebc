"""The Nixtla client of any version, as a test asks it; `make test` puts the versions in place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSIONS = ("0.9.0", "0.8.0", "0.7.3")
CLIENTS = Path(sys.prefix) / "nixtla"  # a folder a version, and one of what all of them need


@dataclass(frozen=True)
class Nixtla:
    """A client in a process of its own; see nixtla_process.py."""

    version: str
    process: subprocess.Popen[str]

    def ask(
        self, method: str, *, kind: str = "pandas", tz: str | None = None,
        frames: dict[str, Any] | None = None, **args: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """`result`, or `status` and `problem`."""
        call = {"method": method, "kind": kind, "tz": tz, "frames": frames or {}, "args": args}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(call) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the client ended; its last words are above"
        found: dict[str, Any] = json.loads(answer)
        return found

    def get(self, method: str, frame: dict[str, Any] | None = None, **more: Any) -> Any:
        """The result of a call that succeeds."""
        frames = {} if frame is None else {"df": frame}
        found = self.ask(method, frames=frames | more.pop("frames", {}), **more)
        assert "result" in found, found
        return found["result"]


@contextmanager
def nixtla(version: str, url: str, key: str = "tsf_none") -> Iterator[Nixtla]:
    """The client of `version` for the service at `url`."""
    if not (CLIENTS / version / "nixtla").is_dir():
        raise RuntimeError(f"The client {version} is not in {CLIENTS}: make clients puts it there.")
    paths = os.pathsep.join(str(CLIENTS / name) for name in (version, "shared"))
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("nixtla_process.py")), url, key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"},
    ) as process:
        yield Nixtla(version, process)
        assert process.stdin is not None
        process.stdin.close()
