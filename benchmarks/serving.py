"""How fast the service is: univariate 512 -> 96 PatchTST over HTTP on this machine.

    python -m benchmarks.serving [small] [base] [--seconds 3] [--rounds 3]

`small` is PatchTST with the paper's settings for ETTh1, `base` with those for its larger sets.

All is measured in turns, so that a busy machine slows all alike:

- `raw`: the forward pass of the same model in this process, at its best batch size;
- `plain` and `mlflow`: an endpoint without batching and MLflow's scoring server (benchmarks/rivals.py);
- `service`: this project on Ray Serve, as `tsformer serve` starts it, with ONNX Runtime where the
  extra `onnx` is installed (the others run by torch);
- `pair`: the same with two ingresses, `server: {replicas: 2}`.

Before that, the memory of each service at rest: the proportional set sizes of all its processes.
Last, one request of 1,000 series to the service, in JSON and in Arrow, against `raw`; and 10,000
series through a job, from its submission to its result.

Weights are random: speed does not depend on them. Only 127.0.0.1 is used; everything started
here is stopped here. The result goes to benchmarks/results/serving-DATE.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import polars as pl
import psutil
import torch

from benchmarks.machine import keep, machine
from pipelines.forecaster import Forecaster
from pipelines.home import Home, configure
from pipelines.query import Query
from pipelines.recipe import Recipe
from serving.client import Client
from serving.frames import MEDIA, pack
from serving.graphs import Graphs, installed
from serving.ports import check_free
from tsformer import artifact
from tsformer.batch import Shape
from tsformer.errors import ConfigError, UnavailableError
from tsformer.models.patchtst import PatchTSTSpec

CONTEXT, HORIZON = 512, 96
CLIENTS = (1, 16, 64)
REST_S = 15.0
LARGE, JOB = 1_000, 10_000  # series in one request, and in one job
BATCHES = (1, 8, 16, 32, 64, 128)
NAME = "benchmark"
# arXiv 2211.14730, appendix A.1.4: ETTh1 and ILI have the reduced sizes.
SPECS = {
    "small": PatchTSTSpec(),
    "base": PatchTSTSpec(width=128, heads=16, feedforward=256, dropout=0.2),
}


def forecaster(size: str) -> Forecaster:
    """PatchTST at random weights."""
    torch.manual_seed(0)
    spec = SPECS[size]
    model = spec.build(Shape(context=CONTEXT, horizon=HORIZON))
    recipe = Recipe(frequency="h", season=24, context=CONTEXT, min_context=96, horizon=HORIZON)
    return Forecaster(model, spec=spec, recipe=recipe, device="cpu")


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of a server, and how many series that are."""

    path: str
    content: bytes
    media: str = "application/json"
    series: int = 1

    def head(self, port: int) -> bytes:
        """The head of the request."""
        return (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {self.media}\r\n"
            f"Content-Type: {self.media}\r\nContent-Length: {len(self.content)}\r\n\r\n"
        ).encode()


def rows(series: int) -> dict[str, list[Any]]:
    """The table of so many series."""
    first, random = datetime(2026, 1, 1), np.random.default_rng(0)
    stamps = [(first + timedelta(hours=i)).isoformat() for i in range(CONTEXT)]
    day = np.sin(np.arange(CONTEXT) / 24 * 2 * np.pi)
    y = day + random.normal(size=(series, CONTEXT))
    return {
        "unique_id": [f"s{i}" for i in range(series) for _ in range(CONTEXT)],
        "ds": stamps * series,
        "y": y.round(4).ravel().tolist(),
    }


def in_json(series: int = 1) -> Ask:
    """A request in JSON."""
    content = json.dumps({"data": rows(series), "freq": "h"}).encode()
    return Ask("/v1/forecasts", content, series=series)


def in_arrow(series: int) -> Ask:
    """A request in Arrow, with real stamps."""
    table = pl.DataFrame(rows(series)).with_columns(pl.col("ds").str.to_datetime())
    return Ask("/v1/forecasts", pack({"freq": "h"}, {"data": table}), MEDIA, series)


def as_split() -> Ask:
    """The same series as MLflow's scoring server reads it."""
    table = rows(1)
    data = [list(row) for row in zip(*table.values(), strict=True)]
    sent = {"dataframe_split": {"columns": [*table], "data": data}, "params": {"freq": "h"}}
    return Ask("/invocations", json.dumps(sent).encode())


# --- load ----------------------------------------------------------------------------------


async def load(port: int, ask: Ask, *, clients: int, seconds: float) -> dict[str, float]:
    """Requests a second and latency, from clients that ask again as soon as they are answered."""
    request, waited = ask.head(port) + ask.content, list[float]()
    start = time.perf_counter()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() - start < seconds:
            asked = time.perf_counter()
            writer.write(request)
            status, length = 0, 0
            while (line := await reader.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if line.startswith(b"HTTP/"):
                    status = int(line.split()[1])
                if name.lower() == b"content-length":
                    length = int(value)
            await reader.readexactly(length)
            if status != 200:
                raise RuntimeError(f"HTTP status {status} at port {port}.")
            waited.append(time.perf_counter() - asked)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    elapsed = time.perf_counter() - start
    p50, p99 = np.quantile(waited, [0.5, 0.99]) * 1000
    return {"per_second": len(waited) / elapsed, "p50_ms": float(p50), "p99_ms": float(p99)}


def raw(model: Forecaster, *, seconds: float) -> dict[str, float]:
    """Series a second of the forward pass in this process, at its best batch size."""
    torch.set_num_threads(1)
    best = {"per_second": 0.0}
    for size in BATCHES:
        batch = Query(np.random.default_rng(0).normal(size=(size, CONTEXT, 1))).batch()
        model.runtime.predict(batch)
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds / len(BATCHES):
            model.runtime.predict(batch)
            done += size
        rate = done / (time.perf_counter() - start)
        if rate > best["per_second"]:
            best = {"per_second": rate, "batch": size, "batch_ms": 1000 * size / rate}
    return best


def by_job(port: int, series: int) -> dict[str, float]:
    """Series a second of a job from when it was submitted, and the seconds that its process took."""
    with Client(f"http://127.0.0.1:{port}", seconds=300) as client:
        table = pl.DataFrame(rows(series)).with_columns(pl.col("ds").str.to_datetime())
        dataset = client.upload("benchmark", table)
        asked = time.perf_counter()
        done = client.submit("forecast", {"dataset": dataset, "freq": "h"}).wait()
        waited = time.perf_counter() - asked
    if done["state"] != "succeeded":
        raise RuntimeError(f"The job {done['state']}: {done['error']}")
    started, ended = (datetime.fromisoformat(done[name]) for name in ("started_at", "finished_at"))
    work_s = (ended - started).total_seconds()
    return {"per_second": series / waited, "seconds": waited, "work_s": work_s}


# --- processes -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """A process that serves, and the seconds until it was ready."""

    pid: int
    seconds: float

    def resting_mib(self) -> dict[str, float]:
        """The memory of its processes by what they are, and in all, after `REST_S` without work."""
        time.sleep(REST_S)
        first = psutil.Process(self.pid)
        found: dict[str, float] = {"in all": 0.0}
        for process in [first, *first.children(recursive=True)]:
            mib = process.memory_full_info().pss / 2**20
            title = process.cmdline()[0].rpartition(":")[2] if process.cmdline() else ""
            name = title if title in ("ingress", "model") else "other"
            found[name] = found.get(name, 0.0) + mib
            found["in all"] += mib
        return found


@contextmanager
def running(
    command: Sequence[str], port: int, environment: dict[str, str], *, ready: str = "/health/ready"
) -> Iterator[Started]:
    """A server as a process, ready."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], env={**os.environ, **environment})
    try:
        await_answer(f"http://127.0.0.1:{port}{ready}", seconds=120)
        yield Started(process.pid, time.perf_counter() - started)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def await_answer(url: str, *, seconds: float) -> None:
    """Waits until `url` answers 200."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=5).is_success:
                return
        time.sleep(0.1)
    raise UnavailableError(f"{url} is not ready after {seconds:.0f} s.")


def free_port() -> int:
    """A port nobody listens on at the moment, nor on the two after it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        with suppress(ConfigError):
            check_free("127.0.0.1", range(port, port + 3))
            return port


def register(home: Home, model: Forecaster, directory: Path) -> None:
    """Makes `model` the champion of a registry of its own, in an installation that knows its graph."""
    from pipelines.registry import Registry  # after the environment is set
    from pipelines.tracking import track

    with track(home, experiment=NAME, name="benchmark") as run:
        digest = model.save(directory)
        registry = Registry(home)
        made = registry.publish(NAME, directory, digest=digest, run_id=run.id, card=model.card)
    registry.promote(str(made))
    if installed():  # else the model would earn it while it is measured
        Graphs(home.graphs).derive(artifact.description(model.model, model.spec))


# --- the measurement -----------------------------------------------------------------------


def measure(size: str, *, seconds: float, rounds: int) -> dict[str, Any]:
    """All in turns; the median of the rounds counts."""
    model, large = forecaster(size), {"json": in_json(LARGE), "arrow": in_arrow(LARGE)}
    asks = {"plain": in_json(), "mlflow": as_split(), "service": in_json(), "pair": in_json()}
    with TemporaryDirectory(prefix="tsf-") as scratch:
        configure(os.environ, role="training")
        home = Home.of({"TSFORMER_HOME": f"{scratch}/home"})
        register(home, model, Path(scratch) / "artifact")
        ports = {name: free_port() for name in asks}
        config = Path(scratch) / "pair.yaml"
        config.write_text("server: {replicas: 2}\n")
        rivals = ["-m", "benchmarks.rivals"]
        service = ["-m", "serving", "--model", NAME, "--port"]
        commands = {
            "plain": [*rivals, "plain", size, str(ports["plain"])],
            "mlflow": [*rivals, "mlflow", size, str(ports["mlflow"])],
            "service": [*service, str(ports["service"])],
            "pair": [*service, str(ports["pair"]), "--config", str(config)],
        }
        environment = {"TSFORMER_HOME": str(home.folder)}
        registry = {"MLFLOW_TRACKING_URI": home.uri, "MLFLOW_REGISTRY_URI": home.uri}
        with (
            running(commands["plain"], ports["plain"], environment),
            running(commands["mlflow"], ports["mlflow"], registry, ready="/ping"),
            running(commands["service"], ports["service"], environment) as service,
            running(commands["pair"], ports["pair"], environment) as pair,
        ):
            memory = {"service": service.resting_mib(), "pair": pair.resting_mib()}
            split = _split(ports["service"], asks["service"].content)
            found: dict[str, list[dict[str, float]]] = {}
            for number in range(rounds):
                print(f"round {number + 1} of {rounds} ...", flush=True)
                found.setdefault("raw", []).append(raw(model, seconds=seconds))
                for clients in CLIENTS:
                    for name, port in ports.items():
                        row = asyncio.run(load(port, asks[name], clients=clients, seconds=seconds))
                        found.setdefault(f"{name} {clients}", []).append(row)
                for name, ask in large.items():
                    row = asyncio.run(load(ports["service"], ask, clients=1, seconds=seconds))
                    row["per_second"] *= ask.series
                    found.setdefault(f"{name} of {ask.series}", []).append(row)
            found[f"job of {JOB}"] = [by_job(ports["service"], JOB)]
    medians = {
        name: {key: median(row[key] for row in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    ready = {"start_to_ready_s": service.seconds, "pair_to_ready_s": pair.seconds}
    return {**ready, "resting_mib": memory, "timing_ms": split, **medians}


def _split(port: int, sent: bytes) -> dict[str, float]:
    """Where a single request's time goes inside the service: medians of 50 answers."""
    url = f"http://127.0.0.1:{port}/v1/forecasts"
    headers = {"content-type": "application/json"}
    with httpx.Client() as client:
        parts = [
            client.post(url, content=sent, headers=headers).json()["timing_ms"] for _ in range(60)
        ][10:]
    return {name: median(part[name] for part in parts) for name in parts[0]}


def show(size: str, found: dict[str, Any]) -> None:
    """The result as a table of ratios."""
    base = found["raw"]["per_second"]
    print(f"PatchTST {size}, raw: {base:.0f} series/s at batch {found['raw']['batch']:.0f}")
    print(
        f"start to ready: {found['start_to_ready_s']:.1f} s, the pair {found['pair_to_ready_s']:.1f} s; "
        f"one request: {found['timing_ms']}"
    )
    for name, mib in found["resting_mib"].items():
        print(f"{name} at rest, MiB: { ({part: round(size) for part, size in mib.items()}) }")
    print(
        f"{'clients':>7} {'':8} {'req/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'/raw':>6} {'/plain':>7} "
        f"{'/mlflow':>8}"
    )
    for clients in CLIENTS:
        plain, other = (found[f"{name} {clients}"]["per_second"] for name in ("plain", "mlflow"))
        for name in ("plain", "mlflow", "service", "pair"):
            row = found[f"{name} {clients}"]
            rate = row["per_second"]
            print(
                f"{clients:>7} {name:8} {rate:8.0f} {row['p50_ms']:8.1f} {row['p99_ms']:8.1f} "
                f"{rate / base:6.2f} {rate / plain:7.2f} {rate / other:8.2f}"
            )
    for name in ("json", "arrow"):
        rate = found[f"{name} of {LARGE}"]["per_second"]
        print(
            f"{LARGE} series in one request, {name}: {rate:.0f} series/s, {rate / base:.2f} of raw"
        )
    job = found[f"job of {JOB}"]
    print(
        f"{JOB} series by a job: {job['per_second']:.0f} series/s, {job['per_second'] / base:.2f} of "
        f"raw; {job['work_s']:.1f} of {job['seconds']:.1f} s in its process"
    )


def main(arguments: Sequence[str]) -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sizes", nargs="*", default=[*SPECS], help=f"of {', '.join(SPECS)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, each time")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    if unknown := set(given.sizes) - set(SPECS):
        parser.error(f"unknown size: {', '.join(sorted(unknown))}")
    result: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": f"univariate {CONTEXT} -> {HORIZON}, PatchTST, JSON, one series a request",
        "machine": machine("ray", "fastapi", "uvicorn"),
    }
    for size in given.sizes:
        result[size] = measure(size, seconds=given.seconds, rounds=given.rounds)
        show(size, result[size])
    result["load_average_after"] = machine()["load_average"]
    print(keep("serving", result))


if __name__ == "__main__":
    main(sys.argv[1:])
