"""More series than fit in memory: none is lost, none twice, whatever is killed on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import sqlalchemy as sa
from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray

from pipelines.batch_forecast import Summary, forecast_folder
from pipelines.block_forecast import Asked, forecast_block
from pipelines.blocks import Block, blocks, parquet_files
from pipelines.data_section import schema_of
from pipelines.forecast_command import Wanted, forecast_command
from pipelines.material import Material
from pipelines.panel import read_panel
from pipelines.parts import parts_of
from pipelines.store_tables import FORECAST_RECORD
from pipelines.training import fit_all
from pipelines.versions import ModelVersion
from tests.panels import SCHEMA, experiment_on, hourly, waves
from tests.pipelines.watched import watched
from tsformer.errors import ConfigError, DataError, IncompatibleError, UnavailableError
from tsformer.settings import to_mapping

CELLS = 900  # rows of a block: a few series
LEVELS = (0.1, 0.5, 0.9)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A ridge fitted on four series, as the registry would hand it over."""
    return published(tmp_path_factory.mktemp("ridge"), hourly(waves(4, 300)))


def published(folder: Path, table: pl.DataFrame, **sections: object) -> Asked:
    experiment = experiment_on(folder, table, **sections)
    fitted = fit_all(experiment, Material.of(experiment), device="cpu")
    forecaster = next(iter(fitted.values())).forecaster
    digest = forecaster.save(folder / "model")
    version = ModelVersion("sales", "1", "ridge", digest, run_id="", created_at="")
    return Asked(version, folder / "model", experiment.data, None, LEVELS)


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    """Series of many lengths, sorted; one too short, one without a value, one with a gap."""
    lengths = np.random.default_rng(1).integers(100, 400, size=24)
    values = {f"s{i:02d}": waves(1, int(n), seed=i)["s0"] for i, n in enumerate(lengths)}
    values |= {"t short": np.arange(5.0), "u empty": np.full(50, np.nan)}
    whole = hourly(values)
    gap = hourly({"v gap": np.arange(90.0)}).filter(pl.int_range(pl.len()) != 40)
    return pl.concat([whole, gap])


@pytest.fixture(scope="module")
def file(table: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sorted by series, with row groups that end anywhere."""
    path = tmp_path_factory.mktemp("table") / "big.parquet"
    table.write_parquet(path, row_group_size=333)
    return path


@pytest.fixture(scope="module")
def done(
    cluster: None,  # noqa: ARG001
    asked: Asked,
    file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Summary]:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("done") / "out"
    return folder, forecast_folder(asked, file, future=None, folder=folder, cells=CELLS)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of the tables, byte for byte."""
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*/*"))
    }


# --- what comes out -------------------------------------------------------------------------------


def test_the_folder_holds_what_one_process_would_forecast(
    done: tuple[Path, Summary], asked: Asked, table: pl.DataFrame
) -> None:
    """A user who outgrows one machine's memory must not get other numbers."""
    folder, _ = done
    found = pl.read_parquet(folder / "forecast")
    good = table.filter(~pl.col("unique_id").is_in(["u empty", "v gap"]))
    forecaster = asked.forecaster()
    expected = forecaster.predict(read_panel(good, schema=SCHEMA)[0], levels=LEVELS).table
    assert found.select("unique_id", "ds").equals(expected.select("unique_id", "ds"))
    values = found.select("mean", "q0.1", "q0.5", "q0.9").to_numpy()
    np.testing.assert_allclose(values, expected.drop("unique_id", "ds").to_numpy(), rtol=1e-5)


def test_every_series_is_answered_or_rejected_with_its_reason(
    done: tuple[Path, Summary], table: pl.DataFrame
) -> None:
    """A shop that silently has no forecast gets no goods."""
    folder, summary = done
    series, rejected = (pl.read_parquet(folder / name) for name in ("series", "rejected"))
    every = [*series["unique_id"], *rejected["unique_id"]]
    assert sorted(every) == sorted(set(table["unique_id"]))
    reasons = dict(rejected.select("unique_id", "reason").iter_rows())
    assert reasons == {"u empty": "all_missing", "v gap": "gap"}
    assert "1 row is missing" in rejected.filter(reason="gap")["message"][0]
    (short,) = series.filter(unique_id="t short").to_dicts()
    assert (short["status"], short["fallback"]) == ("insufficient_history", "seasonal_naive")
    assert summary.series == 25
    assert summary.rows == 25 * 24
    assert summary.fallbacks == {"insufficient_history": 1}
    assert summary.rejected == {"all_missing": 1, "gap": 1}


def by_block(
    asked: Asked, table: Path, *, future: Path | None = None, cells: int = CELLS
) -> list[dict[str, pl.DataFrame]]:
    """The tables of every block, made in this process."""
    files = parquet_files(table, option="TABLE")
    ahead = parquet_files(future, option="--future") if future else ()
    schema = schema_of(asked.data, pl.read_parquet(files[0]).columns)
    forecaster = asked.forecaster()
    cut = blocks(files, id=asked.data.id, least=96, future=ahead, cells=cells)
    return [forecast_block(forecaster, asked, schema, block).tables for block in cut]


def test_integer_ids_and_days_stay_what_they_are(tmp_path: Path) -> None:
    """Whoever joins the forecasts with his own table must not meet other types."""
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 6, 1), eager=True)
    values = np.arange(float(len(days)))
    table = pl.DataFrame(
        {"unique_id": pl.repeat(7, len(days), eager=True), "ds": days, "y": values}
    )
    asked = published(tmp_path, table, window={"context": 14, "horizon": 3})
    (tables,) = by_block(asked, tmp_path / "table.parquet")
    assert tables["forecast"].schema["unique_id"] == pl.Int64
    assert tables["rejected"].schema["unique_id"] == pl.Int64
    assert tables["forecast"]["ds"].to_list() == [date(2024, 6, day) for day in (2, 3, 4)]


def test_series_of_another_step_are_not_filled_into_the_model(asked: Asked, tmp_path: Path) -> None:
    """Daily numbers on an hourly grid with 23 holes a day have a forecast, of nothing."""
    day = pl.duration(days=pl.int_range(pl.len()).over("unique_id"))
    daily = hourly(waves(3, 40)).with_columns((datetime(2024, 1, 1) + day).alias("ds"))
    daily.write_parquet(tmp_path / "daily.parquet")
    filling = replace(asked, data=replace(asked.data, fill="mask"))
    (tables,) = by_block(filling, tmp_path / "daily.parquet")
    assert tables["forecast"].is_empty()
    assert set(tables["rejected"]["reason"]) == {"gap"}


# --- where series lie -----------------------------------------------------------------------------


def rows_of(block: Block) -> pl.DataFrame:
    parts = [pl.read_parquet(span.file).slice(span.start, span.rows) for span in block.table]
    return pl.concat(parts)


@pytest.mark.parametrize("files", [1, 3, 25])
def test_blocks_hold_every_series_whole_and_once(
    table: pl.DataFrame, tmp_path: Path, files: int
) -> None:
    """A series cut in two is forecast from half of its history."""
    names = table["unique_id"].unique(maintain_order=True)
    for number in range(files):
        part = table.filter(pl.col("unique_id").is_in(names[number::files].implode()))
        part.write_parquet(tmp_path / f"{number:02d}.parquet", row_group_size=150)
    cut = blocks(parquet_files(tmp_path, option="TABLE"), id="unique_id", least=96, cells=CELLS)
    found = [rows_of(block) for block in cut]
    ids = [part["unique_id"].unique(maintain_order=True).to_list() for part in found]
    assert [block.series for block in cut] == [len(block) for block in ids]
    assert sorted(name for block in ids for name in block) == sorted(names)
    assert pl.concat(found).sort("unique_id", "ds").equals(table.sort("unique_id", "ds"))
    assert max(len(part) for part in found) <= CELLS + 400
    assert len(cut) > 5  # small files share a block, a large one is cut


def test_a_small_file_need_not_be_sorted(asked: Asked, table: pl.DataFrame, tmp_path: Path) -> None:
    """Exports are often sorted by time; what fits in a block is read whole."""
    some = table.filter(pl.col("unique_id").is_in(["s00", "s01"]))
    some.sort("ds", "unique_id").write_parquet(tmp_path / "by_time.parquet")
    some.write_parquet(tmp_path / "by_series.parquet")
    by_time, by_series = (
        by_block(asked, tmp_path / f"{name}.parquet")[0]["forecast"]
        for name in ("by_time", "by_series")
    )
    assert by_time.equals(by_series)


def test_a_large_file_must_be_sorted(table: pl.DataFrame, tmp_path: Path) -> None:
    """Else each block would read the whole file, which does not fit in memory."""
    table.sort("ds", "unique_id").write_parquet(tmp_path / "by_time.parquet")
    with pytest.raises(
        DataError, match=r"do not stand together \(s00, s01, s02, \.\.\.\)"
    ) as caught:
        blocks([tmp_path / "by_time.parquet"], id="unique_id", least=1, cells=CELLS)
    assert "sink_parquet" in str(caught.value)


def test_a_series_in_two_files_is_refused_by_name(table: pl.DataFrame, tmp_path: Path) -> None:
    """Its forecast would be made from half of its history, twice."""
    table.head(500).write_parquet(tmp_path / "a.parquet")
    table.tail(-500).write_parquet(tmp_path / "b.parquet")
    torn = table["unique_id"][500]
    assert table["unique_id"][499] == torn
    with pytest.raises(
        DataError, match=rf"1 series lie in more than one file: {torn} in .*a\.parquet"
    ):
        blocks(parquet_files(tmp_path, option="TABLE"), id="unique_id", least=1)


def test_rows_without_an_id_are_counted_not_lost(
    asked: Asked, table: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand somewhere in the file and belong to nobody; their neighbours are whole."""
    monkeypatch.setattr("pipelines.blocks.ROWS_AT_ONCE", 38)
    own = pl.col("unique_id")
    holes = table.with_columns(
        pl.when(pl.int_range(pl.len()).is_in([0, 37, 38]))
        .then(None)
        .otherwise(own)
        .alias("unique_id")
    )
    holes.write_parquet(tmp_path / "holes.parquet", row_group_size=38)
    first = by_block(
        replace(asked, data=replace(asked.data, fill="mask")), tmp_path / "holes.parquet"
    )[0]
    ((name, reason, message),) = first["rejected"].iter_rows()
    assert (name, reason) == (None, "id_invalid")
    assert message.startswith("3 rows have no id")
    assert "s00" in first["forecast"]["unique_id"]


def test_a_column_that_runs_code_is_refused_by_the_footer(asked: Asked, tmp_path: Path) -> None:
    """Ray registers an Arrow type that unpickles whatever a file holds as soon as it is decoded."""
    marker = tmp_path / "ran"
    column = ArrowPythonObjectArray.from_objects([Bomb(str(marker))])
    rows = {"unique_id": ["a"], "ds": [datetime(2024, 1, 1)], "y": column}
    pq.write_table(pa.table(rows), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="extension type"):
        forecast_folder(asked, tmp_path / "bad.parquet", future=None, folder=tmp_path / "out")
    assert not marker.exists()


class Bomb:
    """Makes a file as it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mknod, (self.path,)


# --- covariates of the horizon --------------------------------------------------------------------


@pytest.fixture(scope="module")
def priced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Asked, pl.DataFrame, pl.DataFrame]:
    """A ridge that reads a price, its table, and the prices of the horizon."""
    price = pl.col("ds").dt.hour().cast(pl.Float64).alias("price")
    whole = hourly(waves(6, 324)).with_columns(price)
    last = whole["ds"].max()
    table = whole.filter(pl.col("ds") <= last - timedelta(hours=24))
    future = whole.filter(pl.col("ds") > last - timedelta(hours=24)).drop("y")
    folder = tmp_path_factory.mktemp("priced")
    return published(folder, table, data={"known": ["price"]}), table, future


def test_future_covariates_come_from_files_partitioned_alike(
    priced: tuple[Asked, pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    """Next week's prices of ten thousand shops do not fit in memory either."""
    asked, table, future = priced
    for number in range(2):
        mine = pl.col("unique_id").is_in([f"s{3 * number + k}" for k in range(3)])
        for name, rows in (("table", table), ("future", future)):
            (tmp_path / name).mkdir(exist_ok=True)
            rows.filter(mine).write_parquet(tmp_path / name / f"{number}.parquet")
    tables = by_block(asked, tmp_path / "table", future=tmp_path / "future")
    found = pl.concat(each["forecast"] for each in tables)
    panel = read_panel(table, schema=replace(SCHEMA, known=("price",)))[0]
    forecaster = asked.forecaster()
    expected = forecaster.predict(panel, levels=LEVELS, future=future).table
    assert len(tables) > 1
    np.testing.assert_allclose(found["mean"].to_numpy(), expected["mean"].to_numpy(), rtol=1e-5)


def test_a_series_whose_future_has_a_hole_is_rejected_alone(
    priced: tuple[Asked, pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    """One shop without prices must not cost its block."""
    asked, table, future = priced
    table.write_parquet(tmp_path / "table.parquet")
    holes = future.filter((pl.col("unique_id") != "s4") | (pl.int_range(pl.len()) % 2 == 0))
    holes.write_parquet(tmp_path / "future.parquet")
    (tables,) = by_block(
        asked, tmp_path / "table.parquet", future=tmp_path / "future.parquet", cells=10_000
    )
    assert tables["rejected"]["reason"].to_list() == ["future_missing"]
    assert tables["series"]["unique_id"].to_list() == ["s0", "s1", "s2", "s3", "s5"]
    with pytest.raises(ConfigError, match="needs price over the horizon"):
        forecast_folder(asked, tmp_path / "table.parquet", future=None, folder=tmp_path / "out")


def test_a_block_without_any_future_is_rejected_series_by_series(
    priced: tuple[Asked, pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    """A file that is missing among the futures must not stop the others, nor fill a screen."""
    asked, table, future = priced
    table.write_parquet(tmp_path / "table.parquet")
    future.filter(pl.col("unique_id") < "s3").write_parquet(tmp_path / "future.parquet")
    tables = by_block(asked, tmp_path / "table.parquet", future=tmp_path / "future.parquet")
    rejected = pl.concat(each["rejected"] for each in tables)
    assert rejected["unique_id"].to_list() == ["s3", "s4", "s5"]
    assert set(rejected["reason"]) == {"future_missing"}
    assert rejected["message"].str.ends_with("And 21 more.").all()
    numbers = future.with_columns(pl.col("unique_id").str.slice(1).cast(pl.Int64))
    numbers.write_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(DataError, match="The ids of --future are Int64, those of the table String"):
        forecast_folder(
            asked, tmp_path / "table.parquet", future=tmp_path / "numbers.parquet",
            folder=tmp_path / "out",
        )  # fmt: skip


@pytest.mark.usefixtures("cluster")
def test_the_command_forecasts_a_folder_and_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version says what the columns mean; what is done is kept for the actuals to come."""
    values = waves(5, 120) | {"t short": np.arange(5.0), "u empty": np.full(50, np.nan)}
    registry = watched(tmp_path, waves(5, 120))
    (tmp_path / "table").mkdir()
    hourly(values).write_parquet(tmp_path / "table" / "all.parquet")
    wanted = Wanted(
        table=str(tmp_path / "table"), future=None, horizon=None, levels="0.1,0.9",
        out=tmp_path / "out", workers=1, record=True,
    )  # fmt: skip
    forecast_command("load", wanted, home=registry.home)
    said = capsys.readouterr().out
    assert "1 series were forecast by a fallback (insufficient_history 1)" in said
    assert "1 series have no forecast (all_missing 1)" in said
    assert "6 series, 144 rows by load/1 seasonal_naive" in said
    found = pl.read_parquet(tmp_path / "out" / "forecast")
    assert found.columns == ["unique_id", "ds", "mean", "q0.1", "q0.9"]
    with registry.store.read() as connection:
        rows = connection.execute(sa.select(FORECAST_RECORD)).all()
    assert sorted(row.unique_id for row in rows) == sorted(found["unique_id"].unique())
    assert {row.fallback for row in rows} == {None, "seasonal_naive"}
    with pytest.raises(ConfigError, match="another record"):
        forecast_command("load", replace(wanted, record=False), home=registry.home)


# --- what is killed on the way --------------------------------------------------------------------

RUN = """
import json, os, signal, sys
from pathlib import Path
from pipelines.batch_forecast import forecast_folder
from pipelines.block_forecast import Asked
from pipelines.sections import Data
from pipelines.versions import ModelVersion
from tsformer.settings import from_mapping

directory, digest, data, table, folder, cells, kill_at = json.loads(sys.argv[1])
data = from_mapping(Data, data, where="test")
version = ModelVersion("sales", "1", "ridge", digest, run_id="", created_at="")
asked = Asked(version, Path(directory), data, None, (0.1, 0.5, 0.9))

def report(done, blocks):
    if done == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

forecast_folder(asked, Path(table), future=None, folder=Path(folder), cells=cells, workers=1, report=report)
"""


def run(
    asked: Asked, table: Path, folder: Path, *, kill_at: int = 0, crash: str = ""
) -> tuple[int, str]:
    """A batch in a process of its own; its exit status and its last words."""
    data = to_mapping(asked.data)
    words = [
        str(asked.directory),
        asked.version.digest,
        data,
        str(table),
        str(folder),
        CELLS,
        kill_at,
    ]
    ended = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(words)],
        env={**os.environ, "TSF_CRASH": crash},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_a_run_that_was_interrupted_goes_on_and_ends_with_the_same_bytes(
    done: tuple[Path, Summary], asked: Asked, file: Path, tmp_path: Path
) -> None:
    """What somebody had to end in the evening is gone on with in the morning."""

    def interrupt(ready: int, _: int) -> None:
        if ready == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forecast_folder(
            asked, file, future=None, folder=tmp_path, cells=CELLS, workers=1, report=interrupt
        )
    check_goes_on(done[0], asked, file, tmp_path)


@pytest.mark.faults
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    done: tuple[Path, Summary], asked: Asked, file: Path, tmp_path: Path
) -> None:
    """A night's work must survive a restart: nothing twice, nothing missing, nothing else."""
    assert run(asked, file, tmp_path, kill_at=2)[0] == -signal.SIGKILL
    check_goes_on(done[0], asked, file, tmp_path)


def check_goes_on(whole: Path, asked: Asked, file: Path, folder: Path) -> None:
    """What is in `folder` stays; with the rest it is as the `whole`, byte for byte."""
    before = {path: path.stat().st_mtime_ns for path in folder.glob("forecast/part-*")}
    assert 2 <= len(before) < len(contents(whole)) / 3
    told: list[tuple[int, int]] = []
    again = forecast_folder(
        asked, file, future=None, folder=folder, cells=CELLS, workers=1,
        report=lambda *counts: told.append(counts),
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # an actor outlives its driver by a moment, and may have finished the block it had begun
    assert len(told) <= told[0][1] - len(before)
    assert told[-1][0] == told[-1][1]
    assert contents(folder) == contents(whole)
    assert again.series == 25


@pytest.mark.faults
def test_a_block_that_kills_its_process_is_named_and_the_others_are_done(
    done: tuple[Path, Summary], asked: Asked, file: Path, tmp_path: Path
) -> None:
    """One series that crashes native code must not cost the others, nor be tried for ever."""
    folder, _ = done
    status, said = run(asked, file, tmp_path, crash="part-3-rejected")
    assert status == 1
    assert re.search(r"1 of \d+ blocks were not forecast", said)
    assert "died 2 times" in said
    missing = contents(folder).keys() - contents(tmp_path).keys()
    assert {name for name in missing if name.startswith("forecast")} == {
        "forecast/part-000003.parquet"
    }
    forecast_folder(asked, file, future=None, folder=tmp_path, cells=CELLS)
    assert contents(tmp_path) == contents(folder)


# --- what is refused ------------------------------------------------------------------------------


def test_a_folder_goes_on_with_its_own_plan_alone(
    done: tuple[Path, Summary], asked: Asked, file: Path, tmp_path: Path
) -> None:
    """Half a forecast of one table and half of another look like one forecast."""
    folder, _ = done
    with pytest.raises(ConfigError, match="another horizon"):
        forecast_folder(replace(asked, horizon=3), file, future=None, folder=folder, cells=CELLS)
    other = tmp_path / "big.parquet"
    other.write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="another table"):
        forecast_folder(asked, other, future=None, folder=folder, cells=CELLS)
    with pytest.raises(ConfigError, match="no forecast was begun there"):
        forecast_folder(asked, file, future=None, folder=tmp_path, cells=CELLS)


def test_a_folder_of_forecasts_does_not_lie_in_its_table(asked: Asked, file: Path) -> None:
    """The second run would take the forecasts of the first for rows of the table."""
    with pytest.raises(ConfigError, match="lies in the table's own folder"):
        forecast_folder(asked, file.parent, future=None, folder=file.parent / "out")


def test_a_cluster_that_is_away_is_said_at_once(
    asked: Asked, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself tries for more than ten minutes, in silence."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(UnavailableError, match=r"RAY_ADDRESS names, 127.0.0.1:9, cannot be joined"):
        forecast_folder(asked, file, future=None, folder=tmp_path / "out", cells=CELLS)


def test_a_store_that_is_away_is_said_before_any_work(
    asked: Asked, file: Path, tmp_path: Path
) -> None:
    """Each process of the pool would fail to start, with pages of tracebacks."""
    away = replace(asked, store="postgresql+psycopg://u@127.0.0.1:9/x")
    with pytest.raises(UnavailableError, match=r"The store at .* cannot be read"):
        forecast_folder(away, file, future=None, folder=tmp_path / "out", cells=CELLS)
    assert not list(tmp_path.glob("out/*"))


def test_a_table_without_rows_is_said_to_have_none(
    asked: Asked, table: pl.DataFrame, tmp_path: Path
) -> None:
    """An export that failed must not look like a forecast that succeeded."""
    table.clear().write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="has no rows"):
        forecast_folder(asked, tmp_path / "empty.parquet", future=None, folder=tmp_path / "out")


def test_two_runs_do_not_write_into_one_folder(tmp_path: Path) -> None:
    """They would do all work twice, and clear away each other's unfinished files."""
    plan = {"version": "m/1"}
    with (
        parts_of(plan, tmp_path),
        pytest.raises(ConfigError, match="another process"),
        parts_of(plan, tmp_path),
    ):
        pass


def test_what_no_block_can_give_is_said_once(asked: Asked, file: Path, tmp_path: Path) -> None:
    """A level that the model lacks is one sentence, not one for each of ten thousand blocks."""
    wanted = replace(asked, levels=(0.0001, 0.5))
    with pytest.raises(IncompatibleError, match="levels must lie between"):
        forecast_folder(wanted, file, future=None, folder=tmp_path / "out", cells=CELLS)
