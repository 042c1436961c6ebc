"""Arrow IPC streams as the tables of a request.

Native code reads foreign bytes here, so the order is that of the gate: messages are measured and
their headers looked at, schemas are held against the list of types, and only then are buffers
read and fully validated, before any value is touched. A type registered with pyarrow could run the
sender's code, so the mark of extension types is refused as bytes, before a schema is made of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc
from pyarrow import types

from pipelines import times
from serving.body import pointer_to
from serving.limits import MIB, Limits
from serving.problems import Item, Problem, too_large
from serving.schemas.tables import TABLES
from tsformer.errors import ConfigError

TABLE_KEY, REQUEST_KEY = b"forecast.table", b"forecast.request"
EXTENSION = b"ARROW:extension:"
PICKLED = "ray.data.arrow_pickled_object"  # registered by ray.train; unpickles what it reads
HEADER_BYTES = MIB  # of one message; that of a schema holds the request as JSON
BATCHES = 20_000  # messages of a body
CHUNKS = 250_000  # batches x columns of a body
ALLOWED = (
    types.is_boolean, types.is_integer, types.is_float32, types.is_float64, types.is_string,
    types.is_large_string, types.is_date32, types.is_timestamp, types.is_null,
)  # fmt: skip
BROKEN = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, struct.error)
READ = ipc.IpcReadOptions(ensure_alignment=ipc.Alignment.DataTypeSpecific, use_threads=False)
# Microseconds; what lies further out is brought to the edge, where it is named as out of range.
EARLIEST, LATEST = times.FIRST - 2 * times.DAY, times.LAST + 2 * times.DAY
MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as Arrow has it: the JSON without tables, and the tables by name, in columns."""

    request: bytes
    tables: Mapping[str, Mapping[str, pl.Series]]


def decode(body: bytes, limits: Limits) -> Sent:
    """The request in `body`.

    Raises `malformed-body` for what is no Arrow, `unsupported-media-type` for compressed buffers,
    `invalid-request` for types that are not read, and `too-large`.
    """
    with suppress(pa.ArrowKeyError):
        pa.unregister_extension_type(PICKLED)
    try:
        streams = [*_streams(pa.py_buffer(body))]
        read = [_read(stream, limits) for stream in streams]
    except BROKEN as error:
        raise _malformed("The body is not Arrow IPC streams, each of them whole.") from error
    tables: dict[str, Mapping[str, pl.Series]] = {}
    for name, table in read:
        if name in tables:
            raise _invalid(f"The table '{name}' came twice.")
        tables[name] = {
            field.name: _column(field, table.column(i)) for i, field in enumerate(table.schema)
        }
    if "data" not in tables:
        raise _invalid("One stream must be the table 'data'.")
    _check_finite(tables)
    request = (read[0][1].schema.metadata or {}).get(REQUEST_KEY)
    if request is None:
        raise _invalid("The schema of the first stream needs the metadata 'forecast.request'.")
    return Sent(request, tables)


# --- the gate -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Stream:
    bytes: pa.Buffer
    batches: int


def _streams(body: pa.Buffer) -> Iterator[_Stream]:
    """The streams of a body, every header of their messages looked at, no value read."""
    source, count, messages = pa.BufferReader(body), 0, 0
    while (start := source.tell()) < body.size:
        count += 1
        if count > len(TABLES):
            raise _malformed(f"A body holds at most {len(TABLES)} streams.")
        first = messages
        for message in ipc.MessageReader.open_stream(source):
            messages += 1
            if messages > BATCHES:
                raise _too_many(messages)
            _check_message(message, first=messages == first + 1)
        if source.tell() == start or messages == first:
            raise _malformed("A stream is empty.")
        yield _Stream(body.slice(start, source.tell() - start), messages - first)


def _check_message(message: ipc.Message, *, first: bool) -> None:
    if message.metadata.size > HEADER_BYTES:
        raise _invalid(f"The header of a message, or a schema, has at most {HEADER_BYTES} bytes.")
    header = message.metadata.to_pybytes()
    if (message.type == "schema") != first:
        raise _malformed("A stream starts with its schema, and has one.")
    table = _follow(header, _field(header, _follow(header, 0), 2))
    if first:
        if EXTENSION in header:
            raise _invalid("Extension types are not read. Store the column as a plain type.")
        order = _field(header, table, 0)
        if order and struct.unpack_from("<h", header, order)[0]:
            raise _malformed("Send little-endian buffers.")
        return
    if message.type == "dictionary":
        table = _follow(header, _field(header, table, 1))
    elif message.type != "record batch":
        raise _malformed("A stream holds batches and dictionaries alone.")
    if _field(header, table, 3):
        detail = "Compressed buffers are not read. Write the streams without compression."
        raise Problem("unsupported-media-type", detail)


def _field(flat: bytes, table: int, number: int) -> int:
    """The place of a field of a FlatBuffers table; 0 where the table lacks it."""
    vtable = table - struct.unpack_from("<i", flat, table)[0]
    size = struct.unpack_from("<H", flat, vtable)[0]
    slot = 4 + 2 * number
    offset = struct.unpack_from("<H", flat, vtable + slot)[0] if slot + 2 <= size else 0
    return table + offset if offset else 0


def _follow(flat: bytes, place: int) -> int:
    """What the offset at `place` points to."""
    return place + int(struct.unpack_from("<I", flat, place)[0])


def _read(stream: _Stream, limits: Limits) -> tuple[str, pa.Table]:
    """The name and the validated table of a stream; polars reads none of it yet."""
    reader = ipc.open_stream(stream.bytes, options=READ)
    name = _check_schema(reader.schema, limits)
    columns = len(reader.schema)
    if stream.batches * columns > CHUNKS:
        raise _too_many(stream.batches)
    maximum = limits.body_arrow_mib * MIB
    rows = weight = 0
    batches = []
    for batch in reader:
        rows += batch.num_rows
        limits.check_size(series=0, values=rows * max(columns, 1))
        batch.validate()
        weight += _weight(batch)
        # Columns that share buffers, or a dictionary that every batch repeats, would otherwise
        # make validation the longer, the more often they are named.
        if weight > 2 * maximum:
            raise too_large("body_arrow_mib", maximum=limits.body_arrow_mib)
        batches.append(batch)
    table = pa.Table.from_batches(batches, reader.schema)
    table.validate(full=True)
    return name, _decoded(table, maximum)


def _check_schema(schema: pa.Schema, limits: Limits) -> str:
    """The name of the table; raises for types that are not read and names that occur twice."""
    name = (schema.metadata or {}).get(TABLE_KEY, b"").decode()
    if name not in TABLES:
        expected = ", ".join(TABLES)
        raise _invalid(f"The metadata 'forecast.table' of every schema is one of {expected}.")
    limits.check_count("columns", f"/{name}", count=len(schema), maximum=limits.columns)
    if len(set(schema.names)) < len(schema):
        raise _invalid("Two columns have the same name.", f"/{name}")
    limits.check_name_lengths(schema.names, f"/{name}")
    for field in schema:
        place = pointer_to(name, field.name)
        if not _is_allowed(field.type):
            message = "This Arrow type is not read. Use numbers, bool, utf8, date32 or timestamp."
            raise _invalid(message, place)
        zone = getattr(field.type, "tz", None)
        try:
            _ = zone is None or times.check_zone(zone)
        except ConfigError:
            raise _invalid("The time zone of this column is not an IANA one.", place) from None
    return name


def _is_allowed(kind: pa.DataType) -> bool:
    if types.is_dictionary(kind):
        return types.is_string(kind.value_type) or types.is_large_string(kind.value_type)
    return any(test(kind) for test in ALLOWED)


def _weight(batch: pa.RecordBatch) -> int:
    """The bytes that validation will look at."""
    arrays = [*batch.columns]
    arrays += [column.dictionary for column in arrays if types.is_dictionary(column.type)]
    return sum(buffer.size for array in arrays for buffer in array.buffers() if buffer)


def _decoded(table: pa.Table, maximum: int) -> pa.Table:
    """`table` with its dictionaries as text: one long word in many rows must not become many."""
    total = 0
    for place, field in enumerate(table.schema):
        if not types.is_dictionary(field.type):
            continue
        chunks = table.column(place).chunks
        for chunk in chunks:
            lengths = pc.binary_length(chunk.dictionary)
            total += pc.sum(pc.take(lengths, chunk.indices).cast("int64")).as_py() or 0
            if total > maximum:
                raise too_large("body_arrow_mib", maximum=maximum // MIB)
        texts = pa.chunked_array(
            [chunk.dictionary_decode() for chunk in chunks], field.type.value_type
        )
        table = table.set_column(place, field.name, texts)
    return table


# --- columns as JSON would have given them --------------------------------------------------------


def _column(field: pa.Field, values: pa.ChunkedArray) -> pl.Series:
    """A column of plain kind: Int64, Float64 without NaN, String, Boolean, dates or instants."""
    if types.is_timestamp(values.type):
        return _instants(values).rename(field.name)
    column = pl.Series(field.name, values).rechunk()
    if column.dtype.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        beyond = whole.null_count() > column.null_count()  # JSON, too, reads these as numbers
        return column.cast(pl.Float64) if beyond else whole
    return column.cast(pl.Float64).fill_nan(None) if column.dtype.is_float() else column


def _instants(values: pa.ChunkedArray) -> pl.Series:
    """Stamps in microseconds, in their zone; at a fixed offset, which polars lacks, as ISO text."""
    unit, tz = values.type.unit, values.type.tz
    physical = pl.Series(values.cast("int64")).rechunk()
    if unit == "ns":
        physical = physical // 1_000
    else:
        factor = MICROSECONDS[unit]
        physical = physical.clip(EARLIEST // factor, LATEST // factor) * factor
    stamps = physical.clip(EARLIEST, LATEST).cast(pl.Datetime("us"))
    if tz is None:
        return stamps
    if times.is_offset(tz):
        return times.text(stamps + timedelta(seconds=times.offset_seconds(tz)), tz)
    return stamps.dt.replace_time_zone("UTC").dt.convert_time_zone(tz)


def _check_finite(tables: Mapping[str, Mapping[str, pl.Series]]) -> None:
    """Infinities of `future` and `static`; those of `data` are named series by series."""
    for name in TABLES[1:]:
        for column, cells in tables.get(name, {}).items():
            infinite = cells.is_infinite() if cells.dtype.is_float() else None
            if infinite is not None and infinite.any():
                place = pointer_to(name, column, infinite.arg_max() or 0)
                item = Item("Infinite. Give a finite number, or null.", place, "non_finite")
                raise Problem("invalid-data", "A value is not finite.", [item])


# --- problems -------------------------------------------------------------------------------------


def _malformed(detail: str) -> Problem:
    return Problem("malformed-body", detail)


def _invalid(message: str, pointer: str = "") -> Problem:
    return Problem("invalid-request", message, [Item(message, pointer)])


def _too_many(batches: int) -> Problem:
    return _malformed(f"{batches} batches are too many. Write larger ones.")
