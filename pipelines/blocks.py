"""A table of more series than fit in memory, cut into blocks of whole series.

Only the ids are read for it, and of each series eight bytes of a hash are kept. A block is the
same rows every time, so what was made of it once need not be made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.axis import number_ids
from pipelines.tables import PARQUET, read_rows
from tsformer.errors import ConfigError, DataError

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]

BLOCK_CELLS = 500_000  # rows of a block of three columns; some 200 MiB while it is forecast
ROWS_AT_ONCE = 1_000_000  # ids read in one go
NAMED = 3  # series, in an error


@dataclass(frozen=True, slots=True)
class Span:
    """Some rows of a file."""

    file: Path
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Block:
    """Whole series: how many, their rows, and where their future covariates are."""

    series: int
    table: tuple[Span, ...]
    future: tuple[Span, ...] = ()

    def text(self) -> str:
        """The block as JSON."""
        spans = {"table": self.table, "future": self.future}
        plain = {key: [[str(s.file), s.start, s.rows] for s in spans[key]] for key in spans}
        return json.dumps({"series": self.series, **plain})

    @staticmethod
    def of_text(text: str) -> Block:
        """The block that `text` wrote."""
        plain = json.loads(text)
        table, future = (
            tuple(Span(Path(file), start, rows) for file, start, rows in plain[key])
            for key in ("table", "future")
        )
        return Block(plain["series"], table, future)


@dataclass(frozen=True, slots=True)
class Places:
    """Where every series of some files lies, in the order of the files `[series]`.

    A file of `scattered` rows is small and is read whole, so its series share their rows.
    """

    files: tuple[Path, ...]
    ids: Hashes
    file: Rows
    start: Rows
    stop: Rows
    scattered: frozenset[int]


def parquet_files(path: Path, *, option: str) -> tuple[Path, ...]:
    """The Parquet file `path`, or those in the folder and below it, by name."""
    if path.is_file():
        if path.name.lower().endswith(PARQUET):
            return (path,)
        raise ConfigError(
            f"{option}: {path} is no Parquet file, which is what a folder of forecasts is made "
            f"from. Convert it, such as with pl.read_csv({path.name!r}).write_parquet(...), or "
            "forecast into a file: --out forecast.csv."
        )
    found = sorted(file for ending in PARQUET for file in path.rglob(f"*{ending}"))
    found = [file for file in found if not _hidden(file.relative_to(path))]
    if not found:
        raise ConfigError(f"{option}: {path} is neither a Parquet file nor a folder with any.")
    return tuple(found)


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def check_files(files: Sequence[Path], columns: Mapping[str, str]) -> pl.DataFrame:
    """The columns of the files, without rows.

    Refuses files without one of the columns, or with another type of id or time than the first.
    """
    first = read_rows(files[0], columns=columns, start=0, rows=0)
    for file in files:
        head = read_rows(file, columns=columns, start=0, rows=0)
        for name, kind in head.schema.items():
            if columns[name] == "id":
                number_ids(head[name])
            if columns[name] in ("id", "time") and kind != first.schema[name]:
                raise DataError(
                    f"{file}: the column '{name}' is {kind}, in {files[0]} it is "
                    f"{first.schema[name]}. Give it one type in all files."
                )
    return first


def blocks(
    table: Sequence[Path],
    *,
    id: str,
    least: int,
    future: Sequence[Path] = (),
    cells: int = BLOCK_CELLS,
) -> tuple[Block, ...]:
    """The series of `table` in blocks of about `cells` rows, each series in one block.

    A series counts as `least` rows at least, since it is laid out over so many steps. Raises
    DataError where a series spans files, or lies scattered in a file of more than `cells` rows.
    """
    places = find(table, id=id, cells=cells)
    ahead = find(future, id=id, cells=cells) if future else None
    sizes = np.maximum(places.stop - places.start, least)
    begins = np.cumsum(sizes) - sizes
    for number in places.scattered:  # its series stay together
        of_file = np.flatnonzero(places.file == number)
        begins[of_file] = begins[of_file[0]] if len(of_file) else 0
    edges = np.flatnonzero(np.diff(begins // cells)) + 1
    parts = np.split(np.arange(len(sizes)), edges) if len(sizes) else []
    return tuple(
        Block(
            series=len(part),
            table=_spans(places, part),
            future=() if ahead is None else _ahead(ahead, places.ids[part], cells),
        )
        for part in parts
    )


def find(files: Sequence[Path], *, id: str, cells: int) -> Places:
    """Where every series of `files` lies."""
    scattered = set()
    found = []
    for place, file in enumerate(files):
        ids, starts = _runs(file, id)
        start, stop = starts[:-1], starts[1:]
        distinct, first = np.unique(ids, return_index=True)
        if len(distinct) < len(ids):
            if starts[-1] > cells:
                raise DataError(_scattered(file, id, _names_twice(file, id, ids)))
            scattered.add(place)
            ids = ids[np.sort(first)]
            start, stop = np.zeros(len(ids), int), np.full(len(ids), starts[-1])
        found.append((ids, np.full(len(ids), place), start, stop))
    ids, number, start, stop = (np.concatenate(parts) for parts in zip(*found, strict=True))
    places = Places(tuple(files), ids, number, start, stop, frozenset(scattered))
    _check_whole(places, id)
    return places


def _runs(file: Path, id: str) -> tuple[Hashes, Rows]:
    """The id of each run of equal ids, hashed, and where the runs begin, and the end.

    Rows without an id go with those before them: whoever reads the block names them.
    """
    ids, starts, seen = [], [], 0
    last: int | None = None
    while len(column := read_rows(file, columns={id: "id"}, start=seen, rows=ROWS_AT_ONCE)[id]):
        hashes = _hashes(column, last)
        changed = np.flatnonzero(np.diff(hashes)) + 1
        if last is None or hashes[0] != last:
            changed = np.concatenate([[0], changed])
        ids.append(hashes[changed])
        starts.append(changed + seen)
        last, seen = int(hashes[-1]), seen + len(column)
    if not seen:
        return np.empty(0, np.uint64), np.zeros(1, np.int64)
    return np.concatenate(ids), np.concatenate([*starts, [seen]])


def _hashes(column: pl.Series, last: int | None) -> Hashes:
    whole = column.cast(pl.Int64) if column.dtype.is_integer() else column
    hashes = whole.hash()
    if column.has_nulls():
        known = pl.select(pl.when(column.is_not_null()).then(hashes)).to_series()
        before = known.forward_fill()
        hashes = before.fill_null(last) if last is not None else before.backward_fill().fill_null(0)
    found: Hashes = hashes.to_numpy()
    return found


def _spans(places: Places, series: Rows) -> tuple[Span, ...]:
    """The rows of neighbouring series, file by file."""
    spans = []
    for number in np.unique(places.file[series]):
        here = series[places.file[series] == number]
        start, stop = int(places.start[here].min()), int(places.stop[here].max())
        spans.append(Span(places.files[number], start, stop - start))
    return tuple(spans)


def _ahead(ahead: Places, ids: Hashes, cells: int) -> tuple[Span, ...]:
    """Where the future covariates of some series lie."""
    series = np.flatnonzero(np.isin(ahead.ids, ids))
    spans = _spans(ahead, series)
    own = int((ahead.stop - ahead.start)[series].sum())
    if sum(span.rows for span in spans) > own + cells:
        raise DataError(
            f"{spans[0].file}: the series do not stand in the order of the table, so reading those "
            "of a block means reading much of the file. Sort both by series."
        )
    return spans


# --- what cannot be cut ---------------------------------------------------------------------------


def _check_whole(places: Places, id: str) -> None:
    """Refuses a series that lies in several files."""
    order = np.argsort(places.ids, kind="stable")
    twice = np.flatnonzero(np.diff(places.ids[order].astype(object)) == 0) if len(order) else order
    if not len(twice):
        return
    first, second = (places.files[places.file[order[twice[0] + k]]] for k in (0, 1))
    shared = _ids(first, id).filter(_ids(first, id).is_in(_ids(second, id).implode()))
    raise DataError(
        f"{len(twice)} series lie in more than one file: {_listed(shared)} in {first} and in "
        f"{second}. A series must lie whole in one file. {_remedy(id)}"
    )


def _scattered(file: Path, id: str, names: pl.Series) -> str:
    return (
        f"{file}: the rows of a series do not stand together ({_listed(names)}), and the file is "
        f"too large to be read at once. {_remedy(id)}"
    )


def _remedy(id: str) -> str:
    return (
        f"Sort the table into one file: pl.scan_parquet('FOLDER').sort('{id}', 'TIME')"
        ".sink_parquet('sorted.parquet'), and forecast that."
    )


def _names_twice(file: Path, id: str, ids: Hashes) -> pl.Series:
    """Some series of a file whose rows stand in several places."""
    distinct, counts = np.unique(ids, return_counts=True)
    names = _ids(file, id)
    return names.filter(pl.Series(np.isin(_hashes(names, None), distinct[counts > 1])))


def _ids(file: Path, id: str) -> pl.Series:
    return (
        pl.scan_parquet(file, glob=False, hive_partitioning=False)
        .select(pl.col(id).drop_nulls().unique(maintain_order=True))
        .collect()[id]
    )


def _listed(names: pl.Series) -> str:
    more = ", ..." if len(names) > NAMED else ""
    return ", ".join(map(str, names.head(NAMED).to_list())) + more
