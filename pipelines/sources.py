"""Tables by name or path: the shipped sample, public benchmark sets, and a user's own.

A user's own table is a CSV or Parquet file, a folder of Parquet files, or a table of a database
(pipelines.sql_source).

A name is looked for in the folder that TSFORMER_DATA names, then in the cache: TSFORMER_HOME/data,
or ~/.cache/tsformer where TSFORMER_HOME is not set; so is the plain name of a file that is not in
the working directory. `pipelines.panel` decides what a table means;
here it is only found, read and fingerprinted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import polars as pl

from pipelines import tables
from pipelines.blocks import parquet_files
from pipelines.catalogue import CATALOGUE, Dataset, dataset
from pipelines.fingerprint import fingerprint, fingerprint_of
from pipelines.sql_source import is_sql, read_sql
from tsformer.errors import ConfigError, DataError, NotFoundError

SAMPLE = "flights"
SAMPLE_FILE = Path(__file__).parent / "data" / "flights.parquet"


def load(
    source: str | Path, *, id: str = "", environment: Mapping[str, str] = os.environ
) -> tuple[pl.DataFrame, str]:
    """The table that `source` names, and its fingerprint.

    `source` is `flights`, a name of the catalogue, a path to a CSV or Parquet file or to a folder
    of Parquet files, or `sql:` with a table. Nothing is fetched here. In a CSV the column `id`
    stays text byte for byte: "007" is not 7.

    Raises NotFoundError when there is no such file or name, DataError when the file is not a
    table, or not the one that its name promises.
    """
    if is_sql(source):
        table = read_sql(str(source), environment=environment)
        return table, fingerprint(table)
    path = locate(source, environment=environment)
    table = read_table(path, id=id)
    if (known := CATALOGUE.get(str(source).lower())) and (fault := shape_fault(known, table)):
        raise DataError(f"{path} is not the data set '{known.name}': {fault}.")
    return table, fingerprint(table)


def glance(source: str | Path, *, id: str = "") -> tuple[list[str], str]:
    """The columns and the fingerprint of what `load` gives; Parquet is not read whole for them."""
    named = str(source).lower() in (SAMPLE, *CATALOGUE)
    if not is_sql(source) and not named:
        path = locate(source)
        if path.is_dir() or path.name.lower().endswith(tables.PARQUET):
            return glance_at(parquet_files(path, option="source"))
    table, digest = load(source, id=id)
    return table.columns, digest


def glance_at(files: Sequence[Path]) -> tuple[list[str], str]:
    """The columns and the fingerprint of the rows of Parquet `files`, in little memory."""
    heads = [_head(file) for file in files]
    for file, head in zip(files, heads, strict=True):
        _check_alike(file, head, files[0], heads[0])
    whole = pl.concat([head.select(heads[0].columns) for head in heads], how="vertical_relaxed")
    return whole.columns, fingerprint_of(files, whole.schema)


def locate(source: str | Path, *, environment: Mapping[str, str] = os.environ) -> Path:
    """The file or folder behind a name or path; raises NotFoundError with the places looked at."""
    if is_sql(source):
        raise ConfigError("This is a table of a database, and a file is expected.")
    path = Path(source).expanduser()
    if path.is_dir() and str(source).lower() not in ("", SAMPLE, *CATALOGUE):
        return path
    if path.name.lower().endswith((*tables.CSV, *tables.PARQUET)) or path.parent != Path():
        plain = path.parent == Path() and not path.exists()
        places = [folder / path.name for folder in data_folders(environment)] if plain else []
        return next((place for place in places if place.is_file()), None) or _existing(path)
    if str(source).lower() == SAMPLE:
        return SAMPLE_FILE
    if str(source).lower() not in CATALOGUE:
        raise _unknown(str(source))
    wanted = dataset(str(source))
    folders = data_folders(environment)
    if found := find(wanted, folders):
        return found
    looked = ", ".join(str(folder) for folder in folders)
    raise NotFoundError(
        f"The data set '{wanted.name}' is not on this machine (looked for "
        f"{' and '.join(wanted.files)} in {looked}). Get it with 'tsformer data fetch "
        f"{wanted.name}', or name the folder that has it in TSFORMER_DATA."
    )


def find(wanted: Dataset, folders: tuple[Path, ...]) -> Path | None:
    """The first copy of a data set in `folders` or one level below (the usual layout)."""
    places = (
        place
        for folder in folders
        for file in wanted.files
        for place in (folder / file, *sorted(folder.glob(f"*/{file}")))
    )
    return next((place for place in places if place.is_file()), None)


def data_folders(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """Where data sets are looked for, in order; the last one is the cache."""
    own = environment.get("TSFORMER_DATA")
    return (*([Path(own).expanduser()] if own else []), cache_folder(environment))


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where fetched data sets are kept."""
    home = environment.get("TSFORMER_HOME")
    return Path(home) / "data" if home else Path("~/.cache/tsformer").expanduser()


def read_table(path: Path, *, id: str = "") -> pl.DataFrame:
    """The table in a CSV or Parquet file, or in the Parquet files of a folder; see `load`."""
    if path.is_dir():
        return _folder(path)
    parquet = path.name.lower().endswith(tables.PARQUET)
    with _reading(path):
        return _parquet(path) if parquet else _csv(path, id)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{path} cannot be read ({_first_line(error)}). Expected a CSV with a header line, or Parquet."
        ) from error


def _first_line(error: Exception) -> str:
    """What polars found; the lines after it are about arguments of its own."""
    return str(error).strip().partition("\n")[0]


def _folder(path: Path) -> pl.DataFrame:
    """The rows of all its files, in the order of their names; they must have the same columns."""
    files = parquet_files(path, option="source")
    parts = [read_table(file) for file in files]
    for file, part in zip(files, parts, strict=True):
        _check_alike(file, part, files[0], parts[0])
    return pl.concat([p.select(parts[0].columns) for p in parts], how="vertical_relaxed")


def _check_alike(file: Path, part: pl.DataFrame, first: Path, model: pl.DataFrame) -> None:
    """Refuses a file of a folder whose columns are not those of the first one."""
    if strange := {*part.columns} ^ {*model.columns}:
        raise DataError(
            f"{file} has other columns than {first}: {', '.join(sorted(strange))}. Give all files "
            "of a folder the same."
        )
    for name, kind in part.schema.items():
        if pl.Null not in (kind, model[name].dtype) and _kind(kind) != _kind(model[name].dtype):
            raise DataError(
                f"{file}: the column '{name}' is {kind}, in {first} it is {model[name].dtype}. "
                "Give it one type in all files."
            )


def _kind(dtype: pl.DataType) -> str:
    """Whole numbers and fractions go together; so does nothing else."""
    return "number" if dtype.is_numeric() else str(dtype)


def _parquet(path: Path) -> pl.DataFrame:
    return tables.read_table(path, columns=dict.fromkeys(pl.read_parquet_schema(path), "value"))


def _head(path: Path) -> pl.DataFrame:
    """The columns of a Parquet file, without rows."""
    with _reading(path):
        columns = dict.fromkeys(pl.read_parquet_schema(path), "value")
        return tables.read_rows(path, columns=columns, start=0, rows=0)


def _csv(path: Path, id: str) -> pl.DataFrame:
    header = pl.read_csv(path, n_rows=0, infer_schema=False).columns
    benchmark = any(path.name in dataset.files for dataset in CATALOGUE.values())
    return pl.read_csv(
        path,
        schema_overrides={id: pl.String} if id in header else {},
        null_values=[*tables.MISSING],
        infer_schema_length=None,
        # The dates of the benchmark files are year first. Of others the panel decides, which
        # refuses what can be read in two ways (01/02/2024).
        try_parse_dates=benchmark,
    )


def shape_fault(known: Dataset, table: pl.DataFrame) -> str | None:
    """How the shape of `table` differs from that of the data set, in words; None if it does not."""
    expected = (known.rows, known.variates + 1)
    if table.shape == expected:
        return None
    came = f"{table.height:,} rows and {table.width} columns"
    return f"it has {came}, expected {expected[0]:,} and {expected[1]} (date and variates)"


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise NotFoundError(
            f"There is no file {path.absolute()}, and none of that name in the folder that "
            "TSFORMER_DATA names."
        )
    return path


def _unknown(name: str) -> NotFoundError:
    valid = [SAMPLE, *CATALOGUE]
    near = get_close_matches(name.lower(), valid, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return NotFoundError(
        f"'{name}' is neither a data set nor a path to a .csv or .parquet file.{hint} "
        f"Data sets: {', '.join(valid)}."
    )
