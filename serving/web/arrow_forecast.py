"""Tables of Arrow out, tables of Arrow back: POST /v1/forecasts. Needs httpx and pyarrow."""

import json
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.ipc as ipc

MEDIA = "application/vnd.apache.arrow.stream"


def pack(request: dict[str, Any], tables: dict[str, pa.Table]) -> bytes:
    """One stream a table, each with its name; the first carries the request."""
    sink = pa.BufferOutputStream()
    for place, (name, table) in enumerate(tables.items()):
        named = {"forecast.table": name}
        if place == 0:
            named["forecast.request"] = json.dumps(request)
        table = table.replace_schema_metadata(named)
        with ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def unpack(content: bytes) -> tuple[dict[str, Any], dict[str, pa.Table]]:
    """The members of the answer, and its tables by name."""
    source, tables = pa.BufferReader(content), dict[str, pa.Table]()
    while source.tell() < source.size():
        table = ipc.open_stream(source).read_all()
        tables[table.schema.metadata[b"forecast.table"].decode()] = table
    return json.loads(tables["forecast"].schema.metadata[b"forecast.response"]), tables


ROWS, HOUR_US = 48, 3_600_000_000
LAST_US = 1_774_735_200_000_000  # 2026-03-28 23:00 in Berlin
stamps = [LAST_US + (row + 1 - ROWS) * HOUR_US for row in range(ROWS + 2)]
berlin = pa.timestamp("us", tz="Europe/Berlin")
body = pack(
    {"model": "tft", "h": 2, "freq": "h", "quantiles": [0.1, 0.9]},
    {
        "data": pa.table(
            {
                "unique_id": ["s1"] * ROWS,
                "ds": pa.array(stamps[:ROWS], berlin),
                "y": [28 + row % 24 / 4 for row in range(ROWS - 2)] + [31.0, 29.0],
                "price": [2.0] * ROWS,
            }
        ),
        "future": pa.table(
            {
                "unique_id": ["s1"] * 2,
                "ds": pa.array(stamps[ROWS:], berlin),
                "price": [2.0, 1.5],
            }
        ),
        "static": pa.table({"unique_id": ["s1"], "store": ["X1"]}),
    },
)
with httpx.Client(
    base_url="http://127.0.0.1:8000", headers={"Authorization": "Bearer tsf_KEY"}
) as client:
    reply = client.post(
        "/v1/forecasts", content=body, headers={"Content-Type": MEDIA, "Accept": MEDIA}
    )
if reply.is_error:
    raise SystemExit(reply.json()["detail"])
members, answered = unpack(reply.content)
print(members["model"])
print(answered["forecast"].to_pandas())
