"""Answers compressed as the caller accepts (RFC 9110, 12.5.3): zstd, or gzip."""

from __future__ import annotations

import asyncio
import gzip

import pyarrow as pa
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.accept import quality
from serving.encodings import GZIP, ZSTD
from serving.limits import MIB

SMALLEST = 8 * 1024  # bytes; below that a packet or two more cost less than the compression
FAST = 1  # level of both: numbers as text shrink little more at higher ones
# Arrow stays as it is, since numbers in binary hardly shrink; events go as they come.
TEXTS = ("application/json", "text/plain", "text/html", "text/csv")


class Packed:
    """Compresses answers that are text, long and complete; streams of events go as they come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        encoding = accepted(Headers(scope=scope).get("accept-encoding", ""))
        start: Message | None = None

        async def send_packed(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_text(message):
                start = message
                return
            if start is not None:
                held = start
                start = None
                if _worth_it(message):
                    message = await _pack(held, message, encoding)
                await send(held)
            await send(message)

        await self._app(scope, receive, send_packed)


def accepted(header: str) -> str | None:
    """The encoding that the caller likes best of those there are; None for none of them."""
    weights = dict(quality(part) for part in header.lower().split(",") if part.strip())
    general = weights.get("*", 0.0)
    best = max((ZSTD, GZIP), key=lambda name: weights.get(name, general))
    return best if weights.get(best, general) > 0 else None


def _is_text(start: Message) -> bool:
    headers = Headers(raw=start["headers"])
    kind = headers.get("content-type", "")
    return kind.startswith(TEXTS) and "content-encoding" not in headers


def _worth_it(message: Message) -> bool:
    whole = message["type"] == "http.response.body" and not message.get("more_body", False)
    return whole and len(message.get("body", b"")) >= SMALLEST


async def _pack(start: Message, message: Message, encoding: str | None) -> Message:
    """The body packed and the headers of `start` with it; other callers may get another form."""
    headers = MutableHeaders(raw=start["headers"])
    headers.add_vary_header("Accept-Encoding")
    if encoding is None:
        return message
    body: bytes = message["body"]
    if len(body) > MIB:  # others would wait
        packed = await asyncio.to_thread(compress, body, encoding)
    else:
        packed = compress(body, encoding)
    headers["Content-Encoding"] = encoding
    headers["Content-Length"] = str(len(packed))
    return {**message, "body": packed}


def compress(body: bytes, encoding: str) -> bytes:
    """`body` as one frame of gzip or zstd."""
    if encoding == GZIP:
        return gzip.compress(body, FAST, mtime=0)
    packed: bytes = pa.Codec(ZSTD, FAST).compress(body, asbytes=True)
    return packed
