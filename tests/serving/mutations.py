"""Mutated Arrow streams for the decoder, also as a process whose memory and time are bounded."""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc as ipc

from serving import forms
from serving.limits import Limits
from serving.problems import Problem
from serving.schemas.forecasts import ForecastRequest
from tests.serving.streams import pack

HOUR = 3_600_000_000
WORDS = (b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff\xff\xff\xff", bytes(4))
MEMORY, SECONDS = 2**30, 120


def every_type() -> dict[str, pa.Table]:
    """Tables with a column of each type that is read."""
    rows = 24
    data = pa.table(
        {
            "unique_id": pa.array(["s1", "s2"] * (rows // 2)).dictionary_encode(),
            "ds": pa.array([HOUR * row for row in range(rows)], pa.timestamp("us", "Asia/Tokyo")),
            "y": np.linspace(0, 1, rows),
            "i": pa.array(range(rows), pa.int32()),
            "u": pa.array(range(rows), pa.uint64()),
            "b": [True, None] * (rows // 2),
            "t": ["a", "bb"] * (rows // 2),
            "l": pa.array(["a", None] * (rows // 2), pa.large_string()),
            "d": pa.array(range(rows), pa.int32()).cast(pa.date32()),
            "z": pa.nulls(rows),
            "f": pa.array(np.linspace(0, 1, rows), pa.float32()),
        }
    )
    return {"data": data, "static": data.select(["unique_id", "t"]).slice(0, 2)}


def mutated(count: int, *, seed: int) -> Counter[str]:
    """What becomes of so many streams with some bytes changed."""
    rng, found = random.Random(seed), Counter[str]()
    source = pack({"h": 3, "freq": "h"}, **every_type())
    for _ in range(count):
        content = bytearray(source)
        for _ in range(rng.choice((1, 1, 2, 8))):
            place = rng.randrange(len(content) - 4)
            if rng.random() < 0.6:
                content[place] ^= 1 << rng.randrange(8)
            else:
                content[place : place + 4] = rng.choice(WORDS)
        found[read(bytes(content))] += 1
    return found


def read(content: bytes) -> str:
    """The type of the problem that a body is; `read` where all its values could be read."""
    try:
        asked = forms.parse(ForecastRequest, content, Limits(), is_arrow=True)
    except Problem as problem:
        return problem.type if problem.kind.status < 500 else "defect"
    for cells in (c for t in (asked.data, asked.static) for c in t.values()):
        assert isinstance(cells, pl.Series)
        cells.to_physical().to_list()  # every value is there to be read
    return "read"


def unreadable() -> list[bytes]:
    """Bodies that must never be read: compressed, wide, of views and extensions, Parquet."""
    small = {"ds": pa.array([1, 2]), "y": pa.array([1.0, 2.0])}
    mark = {"ARROW:extension:name": "ray.data.arrow_pickled_object"}
    marked = pa.schema([pa.field("ds", pa.int64()), pa.field("y", pa.float64(), metadata=mark)])
    tables = (
        pa.table({str(i): [1] for i in range(200_000)}),
        pa.table(small | {"x": pa.array(["a", "b"], pa.string_view())}),
        pa.table(small | {"x": pa.array([b"a", b"b"], pa.binary_view())}),
        pa.table(small, schema=marked),
    )
    packed = [ipc.IpcWriteOptions(compression=codec) for codec in ("zstd", "lz4")]
    return [
        b"PAR1" * 20,
        *(pack({}, options=options, data=pa.table(small)) for options in packed),
        *(pack({}, data=table) for table in tables),
    ]


def main(count: int, seed: int) -> None:
    """In a process with `MEMORY` more than it has now, and `SECONDS` of the processor."""
    hostile = unreadable()  # which takes more memory to make
    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115, PTH123
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    told = {"mutated": mutated(count, seed=seed), "refused": Counter(map(read, hostile))}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(json.dumps({**told, "mib": grown, "seconds": round(time.process_time() - began, 1)}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
