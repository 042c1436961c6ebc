"""The fingerprint of a table: the same wherever it lies, and however much memory there is.

A long table is digested part by part, so that one that is larger than the memory has the same
fingerprint as on a machine that holds it whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from pipelines.tables import read_rows
from tsformer.errors import DataError

ROWS = 2**17  # digested at once


def fingerprint(table: pl.DataFrame) -> str:
    """The SHA-256 of names, types and values, in order.

    It depends on neither the file format nor how the table lies in memory. Raises DataError for
    columns of lists or structs.
    """
    return _digest(table.iter_slices(ROWS) if len(table) else [table])


def fingerprint_of(files: Sequence[Path], schema: pl.Schema) -> str:
    """The fingerprint of the rows of Parquet `files` in a table of `schema`, read part by part."""
    return _digest(_parts(files, schema))


def _parts(files: Sequence[Path], schema: pl.Schema) -> Iterator[pl.DataFrame]:
    """The rows of all files, `ROWS` at a time wherever one ends and the next begins."""
    columns = dict.fromkeys(schema, "value")
    held, empty = schema.to_frame(), True
    for file in files:
        start = 0
        while len(rows := read_rows(file, columns=columns, start=start, rows=ROWS - len(held))):
            start += len(rows)
            held = pl.concat([held, rows.cast(schema)])
            if len(held) == ROWS:
                yield held
                held, empty = held.clear(), False
    if empty or len(held):
        yield held


def _digest(parts: Iterable[pl.DataFrame]) -> str:
    found = [_digest_of(part) for part in parts]
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def _digest_of(table: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for column in table:
        if column.dtype.is_nested() or column.dtype == pl.Object:
            raise DataError(
                f"Column '{column.name}' holds {column.dtype}; expected numbers, text, dates or "
                "true/false. Give each entry a column of its own."
            )
        digest.update(f"{column.name}\0{column.dtype}\0{len(column)}\0".encode())
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        digest.update(_content(column))
    return digest.hexdigest()


def _content(column: pl.Series) -> bytes:
    """The values as bytes, zeros in place of nulls."""
    if column.dtype.is_numeric() and not column.dtype.is_decimal():
        return column.fill_null(0).to_numpy().tobytes()
    if column.dtype.is_temporal():
        return column.to_physical().fill_null(0).to_numpy().tobytes()
    text = column.cast(pl.String).fill_null("")
    return text.str.len_bytes().to_numpy().tobytes() + "".join(text).encode()
