"""An open loop of requests: each is sent when it is due, however the ones before it fare.

A client that waits for its answer before it asks again slows down with the service and hides what
a crowd would see. Latency counts from when a request was due. Each has a connection of its own,
written to and read from directly: a library's pool takes more of the processor than the service.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

LEFT, LOST = 0, -1  # statuses of requests whose client did not wait, and of those nobody answered


@dataclass(frozen=True, slots=True)
class Ask:
    """A request: when it is due, how long its client waits, and whose it is."""

    at: float  # seconds after the start
    content: bytes
    patience_s: float = 90.0
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = "/v1/forecasts"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of `ask`: `seconds` after it was due, by which version of a model."""

    ask: Ask
    seconds: float
    status: int
    version: str = ""
    retry_after: str = ""


def body(data: Mapping[str, Sequence[Any]], **more: Any) -> bytes:
    """The body of a request for the forecasts of an hourly table."""
    return json.dumps({"data": data, "freq": "h", **more}).encode()


def steady(
    rate: float, *contents: bytes, seconds: float, start: float = 0.0, **more: Any
) -> list[Ask]:
    """`rate` requests a second with each of the bodies in turn."""
    turns = itertools.cycle(contents)
    return [Ask(start + i / rate, next(turns), **more) for i in range(round(rate * seconds))]


def ask_all(
    url: str, asks: Sequence[Ask], told: Callable[[Answer], None] = lambda _: None
) -> list[Answer]:
    """What became of all of them, in their order; `told` hears of each as it comes."""
    return asyncio.run(_ask_all(_port(url), asks, told))


async def _ask_all(port: int, asks: Sequence[Ask], told: Callable[[Answer], None]) -> list[Answer]:
    start = asyncio.get_running_loop().time()

    async def one(ask: Ask) -> Answer:
        told(answer := await _ask(port, ask, start + ask.at))
        return answer

    return list(await asyncio.gather(*map(one, asks)))


def ask_in_turn(url: str, asks: Sequence[Ask], *, clients: int) -> list[Answer]:
    """What became of all of them, asked by so many clients that each wait for their answer."""
    return asyncio.run(_closed(_port(url), asks, clients))


async def _closed(port: int, asks: Sequence[Ask], clients: int) -> list[Answer]:
    waiting, answers = iter(asks), list[Answer]()

    async def client() -> None:
        for ask in waiting:
            answers.append(await _ask(port, ask, asyncio.get_running_loop().time()))

    await asyncio.gather(*(client() for _ in range(clients)))
    return answers


def _port(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


async def _ask(port: int, ask: Ask, due: float) -> Answer:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(due - loop.time())
    try:
        async with asyncio.timeout_at(due + ask.patience_s):
            status, headers, content = await _exchange(port, ask)
    except TimeoutError:
        return Answer(ask, loop.time() - due, LEFT)
    except (OSError, EOFError):
        return Answer(ask, loop.time() - due, LOST)
    seconds, again = loop.time() - due, headers.get("retry-after", "")
    return Answer(ask, seconds, status, _version(status, headers, content), again)


async def _exchange(port: int, ask: Ask) -> tuple[int, dict[str, str], bytes]:
    """A request and its answer, on a connection that is cut if nobody waits any more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    headers = {"Content-Type": "application/json", **ask.headers}
    lines = [
        f"POST {ask.path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Connection: close",
        f"Content-Length: {len(ask.content)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    try:
        writer.write("\r\n".join([*lines, "", ""]).encode() + ask.content)
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.transport.abort()
    first, *others = head.decode().split("\r\n")
    if not first:
        raise EOFError
    found = {name.lower(): value for name, _, value in (line.partition(": ") for line in others)}
    return int(first.split()[1]), found, content


def _version(status: int, headers: Mapping[str, str], content: bytes) -> str:
    if status != 200 or headers.get("content-type") != "application/json":
        return ""
    return str(json.loads(content).get("model", {}).get("version", ""))


def statuses(answers: Sequence[Answer]) -> Counter[int]:
    """How many answers had which status."""
    return Counter(answer.status for answer in answers)


def accepted(answers: Sequence[Answer]) -> list[Answer]:
    """Those that brought a forecast."""
    return [answer for answer in answers if answer.status == 200]


def between(answers: Sequence[Answer], start: float, end: float) -> list[Answer]:
    """The answers to what was due from `start` to `end`."""
    return [answer for answer in answers if start <= answer.ask.at < end]


def quantile(answers: Sequence[Answer], level: float) -> float:
    """The quantile of their latency in seconds."""
    return float(np.quantile([answer.seconds for answer in answers], level))
