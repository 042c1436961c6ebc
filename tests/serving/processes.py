"""The whole service as processes of its own, as `python -m serving` starts them, for as long as it is asked."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import yaml

from pipelines.home import Home
from serving.ports import own_ports
from serving.run import await_ready, read_config

STOP_S = 60


@dataclass(frozen=True)
class Process:
    """A service that runs: where it listens, what was started and what it keeps."""

    url: str
    pid: int
    home: Home

    @property
    def doors(self) -> tuple[str, str]:
        """Where each of two ingresses listens alone."""
        host, _, port = self.url.rpartition(":")
        first, second = own_ports(int(port), 2)
        return f"{host}:{first}", f"{host}:{second}"

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=60)


def processes(marker: str) -> list[int]:
    """Processes that have `marker`, NAME=value, in their environment: all that the service started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def end(marker: str) -> None:
    """Kills all that has `marker`, so that what failed here does not burden other tests."""
    for pid in processes(marker):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody has."""
    while True:
        with ExitStack() as stack:
            first, *others = [stack.enter_context(socket.socket()) for _ in range(count)]
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            with suppress(OSError, OverflowError):
                for number, probe in enumerate(others, start=port + 1):
                    probe.bind(("127.0.0.1", number))
                return port


def replicas(process: Process, deployment: str) -> list[int]:
    """The processes of a deployment."""
    port = process.url.rpartition(":")[2]
    titles = {
        pid: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        for pid in processes(f"TSFORMER_TEST={port}")
    }
    return [pid for pid, title in titles.items() if title.endswith(f":{deployment}".encode())]


@contextmanager
def started(
    home: Home,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    module: str = "serving",
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Process]:
    """The service of `home` with these settings, ready; its config and log lie in `folder`.

    `module` is what is run: another one may change the service before it starts it. `variables` are
    added to its environment.
    """
    ingresses = settings.get("server", {}).get("replicas", 1)
    port = free_ports(len({0, *own_ports(0, ingresses)}))
    own = {"TSFORMER_HOME": str(home.folder), "TSFORMER_TEST": str(port), **variables}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | own
    config, file = read_config(None), folder / "serve.yaml"
    config["applications"][0]["args"] = dict(settings)
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", module, "--port", str(port), "--config", str(file)]
    log = folder / "log"
    with log.open("w") as output:
        child = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        for each in dict.fromkeys((*own_ports(port, ingresses), port)):  # the shared one opens last
            await_ready(f"http://127.0.0.1:{each}", seconds=120)
        yield Process(url, child.pid, home)
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            code = child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            end(f"TSFORMER_TEST={port}")
            child.wait()
            raise
    text = log.read_text()
    assert code == 0, text
    assert "Traceback" not in text
    until = time.monotonic() + STOP_S
    while left := processes(f"TSFORMER_TEST={port}"):
        if time.monotonic() > until:
            end(f"TSFORMER_TEST={port}")
            raise AssertionError(f"{left} outlived the service")
        time.sleep(0.1)
