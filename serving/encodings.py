"""Compressed bodies, in and out: one layer of gzip (RFC 1952) or zstd (RFC 8878).

A few bytes may stand for gigabytes, so what comes in is unpacked no further than its limit, and the
headers of a zstd frame are read before its decoder is asked for the window that they name.
"""

from __future__ import annotations

import zlib

import pyarrow as pa
from starlette.requests import Request

from serving.limits import MIB
from serving.problems import Problem, too_large

GZIP, ZSTD, PLAIN = "gzip", "zstd", "identity"
NAMES = {"": PLAIN, PLAIN: PLAIN, GZIP: GZIP, "x-gzip": GZIP, ZSTD: ZSTD}
GZIP_BITS = 16 + zlib.MAX_WBITS  # gzip alone: neither zlib nor raw deflate
WINDOW_MIB = 8  # what every decoder of zstd should take (RFC 8878, 3.1.1.1.2)
MAGIC = b"\x28\xb5\x2f\xfd"
FRAMES = (b"\x1f\x8b", MAGIC)  # how what is packed begins
ONE_LAYER = "Content-Encoding may be gzip or zstd, one layer of it."
BLOCK_BYTES = 128 * 1024  # that a block stands for at most
BLOCKS = 100_000  # of a zstd frame: headers of 3 bytes that are walked one by one
SIZE_BYTES, DICTIONARY_BYTES = (0, 2, 4, 8), (0, 1, 2, 4)  # of frame headers, by their flags
CHECKSUM_BYTES = 4
RUN = 1  # the type of a block that repeats one byte
RESERVED = 3  # the type of a block that does not exist
BROKEN = (pa.ArrowException, OSError, zlib.error)


def encoding_of(request: Request) -> str:
    """How the body is packed: identity, gzip or zstd; `unsupported-media-type` for all else."""
    named = ",".join(request.headers.getlist("content-encoding")).strip().lower()
    if named not in NAMES:
        raise Problem("unsupported-media-type", ONE_LAYER)
    return NAMES[named]


def decode(packed: bytes, encoding: str, *, room: int, limit: str, mib: int) -> bytes:
    """What `packed` by gzip or zstd stands for, of at most `mib`; `limit` is the name of that limit.

    `room` is what `room_for` says of it. Raises `malformed-body` for what is not one whole frame,
    `unsupported-media-type` for a frame in a frame, and `too-large`.
    """
    unpack = _gunzipped if encoding == GZIP else _unzstd
    try:
        body = unpack(packed, room + 1)
    except BROKEN as error:
        raise _broken(encoding) from error
    if len(body) > mib * MIB:
        raise too_large(limit, maximum=mib)
    if len(body) > room:
        raise _broken(encoding)
    if body.startswith(FRAMES):  # neither JSON nor Arrow begins so
        raise Problem("unsupported-media-type", ONE_LAYER)
    return body


def room_for(packed: bytes, encoding: str, *, most: int) -> int:
    """How many bytes `packed` may become, of at most `most`: by its trailer, or by its blocks.

    What becomes more is broken; for what is more than `most`, it is `most`.
    """
    if encoding == GZIP:
        return min(int.from_bytes(packed[-4:], "little"), most)
    return min(_blocks_of(packed) * BLOCK_BYTES, most)


def _gunzipped(packed: bytes, maximum: int) -> bytes:
    """The first `maximum` bytes of one gzip member that is whole."""
    decoder = zlib.decompressobj(GZIP_BITS)
    body = decoder.decompress(packed, maximum)
    if len(body) < maximum and (not decoder.eof or decoder.unused_data):
        raise _broken(GZIP)
    return body


def _unzstd(packed: bytes, maximum: int) -> bytes:
    """The first `maximum` bytes of one zstd frame that is whole."""
    with pa.input_stream(pa.py_buffer(packed), compression=ZSTD) as stream:
        return bytes(stream.read(maximum))


def _blocks_of(packed: bytes) -> int:
    """The blocks of a frame.

    Refuses what is not exactly one frame without a dictionary, or needs too large a window.
    """
    if packed[:4] != MAGIC or len(packed) < 6:
        raise _broken(ZSTD)
    flags = packed[4]
    single = bool(flags & 0x20)
    size_bytes = SIZE_BYTES[flags >> 6] or int(single)
    at = 5 + (not single) + DICTIONARY_BYTES[flags & 3]
    size = int.from_bytes(packed[at : at + size_bytes], "little")
    if flags & 3 or flags & 0x08:  # a dictionary nobody has, or a reserved bit
        raise _broken(ZSTD)
    if (size if single else _window(packed[5])) > WINDOW_MIB * MIB:
        detail = f"The window of zstd may have {WINDOW_MIB} MiB. Compress without --long."
        members = {"limit": "zstd_window_mib", "maximum": WINDOW_MIB}
        raise Problem("too-large", detail, members=members)
    blocks, end = _blocks_at(packed, at + size_bytes)
    if end + CHECKSUM_BYTES * bool(flags & 0x04) != len(packed):
        raise _broken(ZSTD)
    return blocks


def _window(descriptor: int) -> int:
    """The bytes of a window, from its exponent and mantissa (3.1.1.1.2)."""
    base = 1 << (10 + (descriptor >> 3))
    return base + base // 8 * (descriptor & 7)


def _blocks_at(packed: bytes, at: int) -> tuple[int, int]:
    """How many blocks a frame has, the first of them at `at`, and where they end (3.1.1.2)."""
    for blocks in range(1, BLOCKS + 1):
        header = int.from_bytes(packed[at : at + 3], "little")
        kind = (header >> 1) & 3
        if at + 3 > len(packed) or kind == RESERVED:
            break
        at += 3 + (1 if kind == RUN else header >> 3)
        if header & 1:
            return blocks, at
    raise _broken(ZSTD)


def _broken(encoding: str) -> Problem:
    return Problem("malformed-body", f"The body is not one whole frame of {encoding}.")
