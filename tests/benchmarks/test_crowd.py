"""The benchmarks of crowds and of stalls: what is counted is what a server of known answers gave."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from unittest import mock

import pytest

from benchmarks import crowd, machine, stalls
from benchmarks.crowd import Answer, exchange, told
from benchmarks.serving import Ask

ASK = Ask("/v1/forecasts", b"{}")
Reply = Callable[[int], Awaitable[bytes]]  # to the request of this number


def reply(status: int, *, length: int = 2) -> bytes:
    """An answer that promises so many bytes, and has two."""
    return f"HTTP/1.1 {status} -\r\nContent-Length: {length}\r\n\r\n{{}}".encode()


@asynccontextmanager
async def answering(answer: Reply) -> AsyncIterator[int]:
    """The port of a server that answers one request of each connection."""
    count = 0

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal count
        number, count = count, count + 1
        await reader.readuntil(b"\r\n\r\n" + ASK.content)
        writer.write(await answer(number))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def asked(answer: Reply, requests: int) -> list[Answer]:
    """What a crowd of so many gets of that server."""
    async with answering(answer) as port, asyncio.timeout(60):
        return await crowd.crowd(port, ASK, rate=1000 * requests, seconds=0.001)


def test_a_crowd_does_not_wait_for_its_answers() -> None:
    """A load that slows down with the service would show that a crowd is served well."""
    all_came, wanted = asyncio.Event(), 20

    async def when_all_came(number: int) -> bytes:
        if number == wanted - 1:
            all_came.set()
        await all_came.wait()
        return reply(200)

    answers = asyncio.run(asked(when_all_came, wanted))
    assert [each.status for each in answers] == [200] * wanted
    assert all(0 <= each.late_s <= each.seconds for each in answers)


def test_each_end_of_a_request_is_counted_as_what_it_is() -> None:
    """Half an answer, or none, that counted as one would hide that people were cut off."""
    given = [
        reply(200),
        reply(503),
        reply(429),
        reply(500),
        reply(200, length=3),
        b"",
        b"HTTP/1.1 ",
    ]

    async def one_of_each(number: int) -> bytes:
        return given[number]

    answers = asyncio.run(asked(one_of_each, len(given)))
    found = told(answers, rate=1000, seconds=60)
    assert (found["offered"], found["answered"], found["refused"]) == (7, 1, 2)
    assert found["cut_off"] == 3
    assert found["others"] == {"500": 1}
    assert len(crowd.row(found)) == len(crowd.COLUMNS)


def test_an_answer_after_the_crowd_is_gone_is_none_of_its_seconds() -> None:
    """What is worked off afterwards would make a short crowd look better served than a long one."""
    answers = [Answer(at, 200, seconds=1.0, late_s=0.0) for at in (0.0, 0.5, 1.0, 1.5)]
    found = told(answers, rate=2, seconds=2)
    assert found["answered_per_second"] == 3 / 2
    assert found["answered"] == 4


def test_a_crowd_that_got_nothing_has_a_row() -> None:
    """A machine that answered nobody must be told of, not end the measurement."""
    lost = told([Answer(0.0, crowd.CUT_OFF, seconds=60.0, late_s=0.0)], rate=1, seconds=1)
    cells = crowd.row(lost)
    assert cells[:4] == ["1", "0", "–", "0"]
    assert crowd.table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_probe_sees_a_server_that_is_held_up() -> None:
    """A stall that fell between two questions of the probe would be one that nobody saw."""
    held_s, held = 0.2, asyncio.Event()

    async def live(reader: StreamReader, writer: StreamWriter) -> None:
        for number in range(3):
            await reader.readuntil(b"\r\n\r\n")
            if number == 2:
                await asyncio.sleep(held_s)
                held.set()
            writer.write(reply(200))
        writer.close()

    async def probed() -> dict[str, float]:
        async with await asyncio.start_server(live, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return await stalls.probed(port, held.wait())

    found = asyncio.run(probed())
    assert found["probes"] == 3
    assert found["longest_wait_s"] >= 0.99 * held_s
    assert found["median_wait_s"] <= found["longest_wait_s"] <= found["seconds"]
    assert len(stalls.row("held", [found])) == len(stalls.COLUMNS)


def test_an_answer_whose_end_cannot_be_known_is_no_measurement() -> None:
    """Until the connection ends is not until the answer ends: a cut would count as an answer."""

    async def endless(_number: int) -> bytes:
        return b"HTTP/1.1 200 -\r\n\r\n{}"

    async def ask() -> int:
        async with answering(endless) as port:
            return await exchange(port, crowd.once(port, ASK))

    with pytest.raises(RuntimeError, match="Content-Length"):
        asyncio.run(ask())


@pytest.mark.faults
def test_the_benchmark_of_crowds_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed result whose script does not run any more can be checked by nobody."""
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(crowd, "REST_S", 0.0)
    with mock.patch.dict(os.environ):
        crowd.main(["--rates", "5", "10", "--seconds", "1"])
    (file,) = tmp_path.glob("crowd-*.json")
    found = json.loads(file.read_text())["crowds"]
    assert [(each["rate"], each["offered"], each["cut_off"]) for each in found] == [
        (5, 5, 0),
        (10, 10, 0),
    ]


@pytest.mark.faults
def test_the_benchmark_of_stalls_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above; and a kind of request that was left out would be one that nobody looked at."""
    monkeypatch.setattr(machine, "RESULTS", tmp_path)
    monkeypatch.setattr(stalls, "SERIES", 3)
    monkeypatch.setattr(stalls, "STEPS", 200)
    monkeypatch.setattr(stalls, "QUIET_S", 0.1)
    with mock.patch.dict(os.environ):
        stalls.main(["--times", "1"])
    (file,) = tmp_path.glob("stalls-*.json")
    turns = json.loads(file.read_text())["turns"]
    assert [*turns] == ["nothing", *stalls.asks()]
    assert all(turn["probes"] for (turn,) in turns.values())
