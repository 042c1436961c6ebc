"""How long one large request holds up all others: waits of /health/live while it is answered.

    python -m benchmarks.stalls [--times 3]

The request asks for 4,096 steps of 1,000 series at once, as forecasts and as a comparison, in JSON and
in Arrow; the service is that of `benchmarks.crowd`, with 120 s for an answer so that a busy machine
can finish. A probe asks /health/live on a connection of its own, every 5 ms unless it waits: its longest
wait is what the event loop, and whoever else holds its process, kept from everybody. `nothing` is
a probe while nobody asks, `probe late` how late the probe itself was, by the same machine. The result
goes to benchmarks/results/stalls-DATE.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from benchmarks import serving
from benchmarks.crowd import exchange, once, service, status_of, table
from benchmarks.machine import keep, machine
from serving.frames import MEDIA, pack

SERIES, STEPS = serving.LARGE, 4_096  # the most steps that the limits admit
PROBE_S = 0.005  # between an answer to the probe and its next question
QUIET_S = 5.0  # of a probe while nobody asks
DEADLINE_MS = 120_000
COLUMNS = (
    "meanwhile",
    "took",
    "probes",
    "median wait",
    "longest wait: median of turns (most)",
    "probe late, at most",
)


def asks() -> dict[str, serving.Ask]:
    """The large requests by name."""
    data, about = serving.rows(SERIES), {"freq": "h", "h": STEPS}
    frame = pl.DataFrame(data).with_columns(pl.col("ds").str.to_datetime())
    alone = {"models": [serving.NAME], "options": {"baselines": False}}  # more would be too much
    found = {}
    for path, more in (("forecasts", {}), ("compare", alone)):
        route, content = f"/v1/{path}", json.dumps({"data": data, **about, **more}).encode()
        found[f"{path}, JSON"] = serving.Ask(route, content, series=SERIES)
        packed = pack({**about, **more}, {"data": frame})
        found[f"{path}, Arrow"] = serving.Ask(route, packed, MEDIA, SERIES)
    return found


async def answered(port: int, ask: serving.Ask) -> None:
    """Sends `ask` and reads its answer, which must be one."""
    if (status := await exchange(port, once(port, ask))) != 200:
        raise RuntimeError(f"HTTP status {status} of {ask.path}.")


async def probed(port: int, work: Awaitable[object]) -> dict[str, float]:
    """How long `work` took, and /health/live meanwhile."""
    loop, waits, late = asyncio.get_running_loop(), list[float](), list[float]()
    request = f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start, task = loop.time(), asyncio.ensure_future(work)
    while not task.done():
        asked = loop.time()
        writer.write(request)
        await status_of(reader)
        waits.append(loop.time() - asked)
        due = loop.time() + PROBE_S
        await asyncio.sleep(PROBE_S)
        late.append(loop.time() - due)
    writer.transport.abort()
    await task
    return {
        "seconds": loop.time() - start,
        "probes": len(waits),
        "median_wait_s": float(np.median(waits)),
        "longest_wait_s": max(waits),
        "longest_late_s": max(late),
    }


async def measure(
    port: int, asked: Mapping[str, serving.Ask], *, times: int
) -> dict[str, list[dict[str, float]]]:
    """In turns, each so many times after one that is not counted."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ("nothing", *asked)}
    for number in range(times + 1):
        print(f"turn {number} of {times} ...", flush=True)
        turn = {"nothing": await probed(port, asyncio.sleep(QUIET_S))}
        for name, ask in asked.items():
            turn[name] = await probed(port, answered(port, ask))
        for name, one in turn.items() if number else ():
            found[name].append(one)
    return found


def row(name: str, turns: Sequence[Mapping[str, float]]) -> list[str]:
    """The cells of one kind of request, in the order of COLUMNS."""
    middle = {key: median(turn[key] for turn in turns) for key in turns[0]}
    longest = [turn["longest_wait_s"] for turn in turns]
    return [
        name,
        f"{middle['seconds']:.1f} s",
        f"{sum(turn['probes'] for turn in turns):.0f}",
        f"{1000 * middle['median_wait_s']:.1f} ms",
        f"{1000 * median(longest):.0f} ms ({1000 * max(longest):.0f})",
        f"{1000 * max(turn['longest_late_s'] for turn in turns):.0f} ms",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and stores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=3, help="each request, beside the first")
    given = parser.parse_args(arguments)
    result: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": f"{SERIES} series x {STEPS} steps, PatchTST small",
        "machine": machine("ray", "fastapi", "uvicorn"),
    }
    with service(limits={"deadline_ms": DEADLINE_MS}) as port:
        found = asyncio.run(measure(port, asks(), times=given.times))
    result |= {"turns": found, "load_average_after": machine()["load_average"]}
    print(table(COLUMNS, (row(name, turns) for name, turns in found.items())))
    print(keep("stalls", result))


if __name__ == "__main__":
    main(sys.argv[1:])
