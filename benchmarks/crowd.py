"""What a crowd gets: requests at a steady rate, each on a connection of its own, however others fare.

    python -m benchmarks.crowd [--rates 500 700 900] [--seconds 15]

A client that waits for its answer before it asks again slows down with the service and hides what a
crowd would see. So requests are sent by the clock, and seconds count from when one was due. The service
runs as `tsformer serve` starts it; the model is PatchTST small, 512 -> 96, at random weights, the
requests are those of `benchmarks.serving`, whose 64 clients warm it first and show what it can do.

*Refused* are 429 and 503, *cut off* are connections that ended before a whole answer was read, or
brought none for 60 s. The load is made on the same cores: how late a request was sent is told beside,
and part of its seconds. The result goes to benchmarks/results/crowd-DATE.json.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import sys
from asyncio import StreamReader
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from benchmarks import serving
from benchmarks.machine import keep, machine
from pipelines.home import Home, configure

RATES, CLIENTS = (500.0, 700.0, 900.0), 64
REFUSED, CUT_OFF = (429, 503), 0  # statuses
PATIENCE_S = 60.0  # twice the deadline of the service
REST_S = 4.0  # between two crowds
PIECE = 1 << 16  # bytes of an answer that are read at once
LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
COLUMNS = (
    "requests a second",
    "answered a second",
    "p50 / p99",
    "refused",
    "half of them after",
    "99 % of them after",
    "cut off",
    "others",
    "sent late, p99",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request that was due at `at`, and how long after that; seconds of the crowd.

    It was sent `late_s` after it was due, which is the load generator's own.
    """

    at: float
    status: int
    seconds: float
    late_s: float


def once(port: int, ask: serving.Ask) -> bytes:
    """The request, on a connection that it has to itself."""
    return ask.head(port).removesuffix(b"\r\n") + b"Connection: close\r\n\r\n" + ask.content


async def exchange(port: int, request: bytes) -> int:
    """The status of an answer which is read whole, on a connection that is then closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await status_of(reader)
    finally:
        writer.transport.abort()


async def status_of(reader: StreamReader) -> int:
    """The status of the next answer, which is read whole and dropped; EOFError if it is cut off."""
    head = await reader.readuntil(b"\r\n\r\n")
    if not (length := LENGTH.search(head)):
        raise RuntimeError(f"An answer without a Content-Length cannot be judged: {head!r}")
    left = int(length[1])
    while left:
        piece = await reader.read(min(left, PIECE))
        if not piece:
            raise EOFError(f"{left} bytes of an answer are missing.")
        left -= len(piece)
    return int(head.split(maxsplit=2)[1])


async def crowd(port: int, ask: serving.Ask, *, rate: float, seconds: float) -> list[Answer]:
    """What becomes of `rate` requests a second, each sent when it is due."""
    loop, request = asyncio.get_running_loop(), once(port, ask)
    start = loop.time()

    async def one(due: float) -> Answer:
        sent = loop.time()
        try:
            async with asyncio.timeout_at(due + PATIENCE_S):
                status = await exchange(port, request)
        except (ConnectionError, EOFError, TimeoutError):  # not what this process ran out of
            status = CUT_OFF
        return Answer(due - start, status, loop.time() - due, sent - due)

    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(round(rate * seconds)):
            due = start + number / rate
            if (ahead := due - loop.time()) > 0:
                await asyncio.sleep(ahead)
            tasks.append(group.create_task(one(due)))
    return [task.result() for task in tasks]


def told(answers: Sequence[Answer], *, rate: float, seconds: float) -> dict[str, Any]:
    """What a crowd of so many seconds got; *a second* counts the answers that came within them."""
    served = [each.seconds for each in answers if each.status == 200]
    within = sum(each.status == 200 and each.at + each.seconds <= seconds for each in answers)
    refused = [each.seconds for each in answers if each.status in REFUSED]
    counts = Counter(each.status for each in answers)
    known = {200, CUT_OFF, *REFUSED}
    return {
        "rate": rate,
        "offered": len(answers),
        "answered": len(served),
        "answered_per_second": within / seconds,
        "answered_s": quantiles(served),
        "refused": len(refused),
        "refused_s": quantiles(refused),
        "cut_off": counts[CUT_OFF],
        "others": {str(status): n for status, n in counts.items() if status not in known},
        "late_s": quantiles([each.late_s for each in answers]),
    }


def quantiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """The median, the quantile 0.99 and the most; None of nothing."""
    if not seconds:
        return None
    names = {"p50": 0.5, "p99": 0.99, "most": 1.0}
    return {name: float(np.quantile(seconds, level)) for name, level in names.items()}


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = (columns, ["---"] * len(columns), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def row(found: Mapping[str, Any]) -> list[str]:
    """The cells of a crowd, in the order of COLUMNS."""
    answered, refused = found["answered_s"], found["refused_s"]
    return [
        f"{found['rate']:g}",
        f"{found['answered_per_second']:.0f}",
        f"{answered['p50']:.2f} / {answered['p99']:.2f} s" if answered else "–",
        str(found["refused"]),
        *(f"{refused[name]:.2f} s" if refused else "–" for name in ("p50", "p99")),
        str(found["cut_off"]),
        ", ".join(f"{n} x {status}" for status, n in found["others"].items()) or "0",
        f"{found['late_s']['p99']:.2f} s",
    ]


@contextmanager
def service(**settings: Mapping[str, Any]) -> Iterator[int]:
    """The port of the service with a small PatchTST as its model, which is stopped in the end."""
    with TemporaryDirectory(prefix="tsf-") as scratch:
        configure(os.environ, role="training")
        home = Home.of({"TSFORMER_HOME": f"{scratch}/home"})
        serving.register(home, serving.forecaster("small"), Path(scratch) / "artifact")
        file, port = Path(scratch) / "serve.yaml", serving.free_port()
        file.write_text(yaml.safe_dump({"models": {"default": serving.NAME}, **settings}))
        command = ["-m", "serving", "--port", str(port), "--config", str(file)]
        with serving.running(command, port, {"TSFORMER_HOME": str(home.folder)}):
            yield port


async def measure(port: int, rates: Sequence[float], *, seconds: float) -> dict[str, Any]:
    """What clients who wait for their answers get, and one crowd after the other."""
    ask, crowds = serving.in_json(), list[dict[str, Any]]()
    waiting = await serving.load(port, ask, clients=CLIENTS, seconds=min(seconds, 3.0))
    for rate in rates:
        await asyncio.sleep(REST_S)
        answers = await crowd(port, ask, rate=rate, seconds=seconds)
        crowds.append(told(answers, rate=rate, seconds=seconds))
    return {f"{CLIENTS}_clients_who_wait": waiting, "crowds": crowds}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rates", nargs="+", type=float, default=[*RATES], help="a second")
    parser.add_argument("--seconds", type=float, default=15.0, help="of load at each rate")
    given = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": "univariate 512 -> 96, PatchTST small, JSON, one series a request",
        "machine": machine("ray", "fastapi", "uvicorn"),
        "seconds": given.seconds,
    }
    with service() as port:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket for each who waits
        result |= asyncio.run(measure(port, given.rates, seconds=given.seconds))
    result["load_average_after"] = machine()["load_average"]
    print(table(COLUMNS, map(row, result["crowds"])))
    print(keep("crowd", result))


if __name__ == "__main__":
    main(sys.argv[1:])
