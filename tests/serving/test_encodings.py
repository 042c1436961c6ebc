"""Compressed bodies: the same numbers, and no bomb goes off (laws 2 and 10)."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Callable

import httpx
import orjson
import pyarrow as pa
import pytest
from starlette.types import Message, Receive, Scope, Send

from serving import packing
from serving.encodings import BLOCK_BYTES, decode, room_for
from serving.limits import MIB
from serving.problems import Problem
from tests.figures import Told
from tests.peaks import growth, peaks
from tests.serving.running import Running, series, table

PLAIN = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
# A frame of zstd that announces a window of 128 MiB; the head of one of blocks without end.
WIDE = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([17 << 3]) + b"\x01\x00\x00"
ENDLESS = b"\x28\xb5\x2f\xfd" + b"\x00" + bytes([7 << 3])


def zstd(body: bytes) -> bytes:
    packed: bytes = pa.compress(body, codec="zstd", asbytes=True)
    return packed


PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd}
BODY = orjson.dumps({"data": table(series(), series(seed=1)), "freq": "h", "quantiles": [0.1, 0.9]})


def unpacked(packed: bytes, name: str) -> bytes:
    """As the body of a request, of at most 1 MiB."""
    room = room_for(packed, name, most=MIB)
    return decode(packed, name, room=room, limit="body_json_mib", mib=1)


def post(service: Running, content: bytes, **headers: str) -> httpx.Response:
    return service.client.post("/v1/forecasts", content=content, headers={**PLAIN, **headers})


@pytest.mark.parametrize("name", PACK)
def test_a_compressed_body_gives_the_same_bits(service: Running, name: str) -> None:
    """Law 2: the Nixtla client compresses what is long, and must not get other forecasts for it."""
    plain = post(service, BODY).json()
    packed = post(service, PACK[name](BODY), **{"Content-Encoding": name}).json()
    assert packed["forecast"] == plain["forecast"]


@pytest.mark.parametrize("name", PACK)
def test_an_answer_is_compressed_for_who_accepts_it(
    service: Running, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 2: 10,000 series are tens of MiB of text on the way back."""
    monkeypatch.setattr(packing, "SMALLEST", 100)
    plain = post(service, BODY)
    headers = {**PLAIN, "Accept-Encoding": name}
    with service.client.stream("POST", "/v1/forecasts", content=BODY, headers=headers) as reply:
        raw = b"".join(reply.iter_raw())
    assert (reply.headers["content-encoding"], reply.headers["vary"]) == (name, "Accept-Encoding")
    assert len(raw) == int(reply.headers["content-length"]) < len(plain.content)
    answer = orjson.loads(unpacked(raw, name))
    assert answer["forecast"] == plain.json()["forecast"]
    assert "content-encoding" not in plain.headers


def test_a_stream_of_events_begins_before_its_first_event() -> None:
    """Who follows a job must see that it is connected, however long nothing happens."""
    sent: list[str] = []

    async def quiet(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        assert sent == ["http.response.start"]

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "headers": [(b"accept-encoding", b"gzip")]}
    asyncio.run(packing.Packed(quiet)(scope, receive, send))


@pytest.mark.parametrize(
    ("header", "best"),
    [
        ("", None), ("identity", None), ("gzip", "gzip"), ("gzip, deflate, br, zstd", "zstd"),
        ("zstd;q=0.1, gzip;q=0.9", "gzip"), ("zstd;q=0", None), ("*", "zstd"), ("*;q=0", None),
        ("br, *;q=0.5, zstd;q=0", "gzip"),
    ],
)  # fmt: skip
def test_the_encoding_that_is_liked_best(header: str, best: str | None) -> None:
    """An answer in an encoding that was ruled out cannot be read at all."""
    assert packing.accepted(header) == best


@pytest.mark.parametrize("name", ["gzip, gzip", "gzip, zstd", "br", "deflate", "zstd, identity"])
def test_other_encodings_and_several_are_refused(service: Running, name: str) -> None:
    """Law 10: each layer multiplies what a byte stands for."""
    reply = post(service, BODY, **{"Content-Encoding": name})
    assert (reply.status_code, reply.json()["type"]) == (415, "/problems/unsupported-media-type")


def test_arrow_is_not_compressed(service: Running) -> None:
    """The contract: its buffers are bounded before they are read, which a layer would hide."""
    arrow = {"Content-Type": "application/vnd.apache.arrow.stream", "Content-Encoding": "zstd"}
    assert post(service, zstd(b"x"), **arrow).status_code == 415


BOMBS = {
    "gzip of 200 MiB": ("gzip", gzip.compress(b"0" * 200 * MIB, 9), 413),
    "zstd of 300 MiB": ("zstd", zstd(b"0" * 300 * MIB), 413),
    "gzip in gzip": ("gzip", gzip.compress(gzip.compress(b"0" * MIB)), 415),
    "zstd in gzip": ("gzip", gzip.compress(zstd(b"0" * MIB)), 415),
    "gzip in zstd": ("zstd", zstd(gzip.compress(b"0" * MIB)), 415),
    "two layers": ("gzip, gzip", gzip.compress(gzip.compress(BODY)), 415),
    "br, gzip, gzip": ("br, gzip, gzip", BODY, 415),
    "window": ("zstd", WIDE, 413),
    "blocks": ("zstd", ENDLESS + b"\x00\x00\x00" * 5_000_000, 400),
}


def test_a_bomb_is_refused_at_once(service: Running, record_property: Told) -> None:
    """B2: 200 KiB that stand for 200 MiB must cost neither memory nor a second."""
    found, longest, largest = {}, 0.0, 0.0
    for case, (name, packed, status) in BOMBS.items():
        before, start = peaks(), time.monotonic()
        reply = post(service, packed, **{"Content-Encoding": name})
        longest = max(longest, time.monotonic() - start)
        largest = max(largest, growth(before) - len(packed) / MIB)  # of which the client has one
        assert (case, reply.status_code) == (case, status)
        assert len(reply.content) < 2_048
        found[case] = f"{len(packed):,} bytes of {case}: {status}"
    for name, pack in PACK.items():
        assert post(service, pack(BODY), **{"Content-Encoding": name}).status_code == 200
    record_property(
        "B2", f"{'; '.join(found.values())}; within {longest:.2f} s, by at most {largest:.0f} MiB"
    )
    assert largest <= 64
    assert longest < 5  # 0.5 s on a quiet machine


WHOLE = {name: pack(BODY) for name, pack in PACK.items()}
TORN = {
    f"{name}: {what}": (name, packed)
    for name, whole in WHOLE.items()
    for what, packed in {
        "empty": b"",
        "text": BODY,
        "cut": whole[:-9],
        "two": whole + whole,
        "more": whole + b"\x00",
        "the other": WHOLE["zstd" if name == "gzip" else "gzip"],
    }.items()
}


@pytest.mark.parametrize(("name", "packed"), TORN.values(), ids=TORN)
def test_what_is_not_one_whole_frame_is_malformed(name: str, packed: bytes) -> None:
    """A body that was cut on the way must not be forecast in part."""
    with pytest.raises(Problem) as caught:
        unpacked(packed, name)
    assert caught.value.type == "malformed-body"


@pytest.mark.parametrize("name", PACK)
def test_the_limit_counts_after_decompression(name: str) -> None:
    """A body at the limit passes, one byte more does not."""
    assert len(unpacked(PACK[name](b"0" * MIB), name)) == MIB
    with pytest.raises(Problem) as caught:
        unpacked(PACK[name](b"0" * (MIB + 1)), name)
    assert caught.value.members["limit"] == "body_json_mib"
    assert caught.value.members["maximum"] == 1


@pytest.mark.parametrize("name", PACK)
def test_its_room_is_known_before_it_is_unpacked(name: str) -> None:
    """Many bombs at once are refused by what they would hold together, not after they hold it."""
    assert len(BODY) <= room_for(PACK[name](BODY), name, most=MIB) < len(BODY) + BLOCK_BYTES
    assert room_for(PACK[name](b"0" * 4 * MIB), name, most=MIB) == MIB


def test_a_trailer_that_says_too_little_is_not_believed() -> None:
    """Else it would be a way to more memory than is counted."""
    packed = gzip.compress(b"0" * MIB)
    with pytest.raises(Problem) as caught:
        unpacked(packed[:-4] + (10).to_bytes(4, "little"), "gzip")
    assert caught.value.type == "malformed-body"
