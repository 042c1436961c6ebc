"""A folder of Parquet parts that appear at once and whole, so that an interrupted run goes on.

FOLDER
├── plan.json                    what was asked, of which version, of which files
├── series/part-000000.parquet   how each series was answered: status, method, fallback, warnings
├── rejected/part-000000.parquet series without a forecast, and why
└── forecast/part-000000.parquet the numbers; written last: with it the part is done
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.crashpoint import crashpoint
from pipelines.outputs import output_folder
from tsformer.errors import ConfigError

SERIES, REJECTED, FORECAST = "series", "rejected", "forecast"
PLAN = "plan.json"
UNFINISHED = ".unfinished-"


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of one plan."""

    folder: Path

    def done(self, number: int) -> bool:
        """Whether a part is there, whole."""
        return self._file(FORECAST, number).exists()

    def tries(self, number: int) -> int:
        """How often this run has begun a part, this time included."""
        with self._tries(number).open("ab") as file:
            file.write(b".")
            return file.tell()

    def write(self, number: int, tables: Mapping[str, pl.DataFrame]) -> None:
        """Puts a part in its place; until the forecast is there it does not count."""
        for name in (SERIES, REJECTED, FORECAST):
            _put(tables[name], self._file(name, number))
            crashpoint(f"part-{number}-{name}")
        self._tries(number).unlink(missing_ok=True)

    def table(self, name: str) -> pl.LazyFrame:
        """All parts of a table, one after the other."""
        return pl.scan_parquet(self.folder / name / "part-*.parquet", hive_partitioning=False)

    def _file(self, name: str, number: int) -> Path:
        return self.folder / name / f"part-{number:06d}.parquet"

    def _tries(self, number: int) -> Path:
        return self.folder / FORECAST / f"{UNFINISHED}{number:06d}-tries"


@contextmanager
def parts_of(plan: Mapping[str, Any], folder: Path) -> Iterator[Parts]:
    """The parts of `plan` in `folder`, for this process alone: begun, or as they were left.

    Raises ConfigError where the folder holds parts of another plan, or another process writes them.
    """
    output_folder(folder, option="--out")
    with _alone(folder):
        file = folder / PLAN
        if file.exists():
            _agree(plan, folder)
        elif any(not path.name.startswith(UNFINISHED) for path in folder.iterdir()):
            raise ConfigError(
                f"--out: {folder} is not empty, and no forecast was begun there. Choose another "
                "folder."
            )
        else:
            _put(json.dumps(plan, indent=1).encode(), file)
        for name in (SERIES, REJECTED, FORECAST):
            (folder / name).mkdir(exist_ok=True)
            for left in (folder / name).glob(f"{UNFINISHED}*"):
                left.unlink(missing_ok=True)
        yield Parts(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the folder; the system lets it go with the process, however that ends."""
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--out: another process is writing to {folder}.") from None
        yield
    finally:
        os.close(held)


def _agree(plan: Mapping[str, Any], folder: Path) -> None:
    try:
        before = json.loads((folder / PLAN).read_bytes())
        differs = [key.replace("_", " ") for key in plan if before.get(key) != plan[key]]
    except (ValueError, AttributeError):
        differs = ["plan"]
    if differs:
        raise ConfigError(
            f"--out: {folder} holds a forecast with another {', '.join(differs)}. To go on with "
            "it, ask for the same of the same files; for a new one choose another folder."
        )


def _put(content: pl.DataFrame | bytes, place: Path) -> None:
    """Writes so that after a power cut `place` has all of it or does not exist."""
    scratch = place.with_name(f"{UNFINISHED}{place.stem}-{os.getpid()}")
    with scratch.open("wb") as file:
        if isinstance(content, bytes):
            file.write(content)
        else:
            content.write_parquet(file)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(place)
    folder = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
