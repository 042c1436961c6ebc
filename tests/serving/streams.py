"""Requests and answers as Arrow streams, as a client of the HTTP contract writes and reads them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.ipc as ipc

from tests.serving.running import Running

MEDIA = "application/vnd.apache.arrow.stream"
TABLES = ("data", "future", "static")


def pack(
    request: dict[str, Any], *, options: ipc.IpcWriteOptions | None = None, **tables: pa.Table
) -> bytes:
    """One stream a table; the first carries the request."""
    sink = pa.BufferOutputStream()
    for place, (name, table) in enumerate(tables.items()):
        first = {} if place else {"forecast.request": json.dumps(request)}
        table = table.replace_schema_metadata({"forecast.table": name, **first})
        with ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def packed(body: dict[str, Any]) -> bytes:
    """The body of a JSON request as streams."""
    tables = {name: pa.table(body[name]) for name in TABLES if name in body}
    return pack({name: value for name, value in body.items() if name not in TABLES}, **tables)


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, pa.Table]]:
    """The rest of an answer, and its tables."""
    source, tables = pa.BufferReader(content), {}
    while source.tell() < source.size():
        table = ipc.open_stream(source).read_all()
        tables[table.schema.metadata[b"forecast.table"].decode()] = table
    return json.loads(tables["forecast"].schema.metadata[b"forecast.response"]), tables


def ask(
    service: Running, content: bytes, *, path: str = "/v1/forecasts", accept: str = MEDIA
) -> httpx.Response:
    headers = {"content-type": MEDIA, "accept": accept}
    return service.client.post(path, content=content, headers=headers)
