"""Unattended training: nothing new is left alone, what is spoiled is named, no version comes twice."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from pipelines.attempt import DEFECT, attempt
from pipelines.audit import entries
from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.ledger import Ledger
from pipelines.ledger_rows import Run
from pipelines.registry import Registry
from pipelines.retrain import RUN_TAG, Input, check_columns, retrain
from pipelines.schedule import Schedule
from pipelines.store import Store
from pipelines.store_tables import RUN
from pipelines.timetable import Timetable
from pipelines.tracking import connect
from tests.figures import Told
from tests.panels import START, hourly, waves
from tests.pipelines.disks import disk_full
from tests.pipelines.homes import new_home
from tests.pipelines.processes import retrain_in, start

HOUR = timedelta(hours=1)


@dataclass
class Place:
    """An experiment on a table that grows, its schedule, and its home."""

    folder: Path
    home: Home
    name: str
    ledger: Ledger

    @property
    def table(self) -> Path:
        return self.folder / "table.parquet"

    @property
    def yaml(self) -> Path:
        return self.folder / f"{self.name}.yaml"

    def write(self, rows: int, *, seed: int = 0, **columns: np.ndarray) -> None:
        """A wide table of noisy daily waves."""
        random, hours = np.random.default_rng(seed), np.arange(rows)
        wave = np.sin(2 * np.pi * hours / 24)
        values = {name: 5 + wave + 0.3 * random.normal(size=rows) for name in ("north", "south")}
        frame = {"ds": [START + HOUR * int(h) for h in hours], **values, **columns}
        pl.DataFrame(frame).write_parquet(self.table)

    def change(self, **sections: object) -> None:
        content = yaml.safe_load(self.yaml.read_text())
        self.yaml.write_text(yaml.safe_dump({**content, **sections}))

    def enter(self) -> str:
        return Timetable(self.ledger.store).trigger(self.name, ledger=self.ledger, reason="by hand")

    def run(self) -> Run:
        """One run, from due to its end, in this process."""
        run_id = self.enter()
        self.attempt(run_id, 1)
        return self.ledger.run(run_id)

    def attempt(self, run_id: str, number: int) -> None:
        job = partial(retrain, home=self.home)
        assert attempt(self.ledger, run_id, number, job, lost=lambda: None) != "nothing to do"

    def said(self, run: Run) -> str:
        return "\n".join(event.text for event in self.ledger.events(run.id))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture
def place(home: Home, tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    name = re.sub("[^a-z0-9]+", "-", request.node.name)[5:60].strip("-")
    place = Place(tmp_path, home, name, Ledger(Store.of(home)))
    content = {
        "name": name,
        "data": {"source": "table.parquet", "time": "ds"},
        "window": {"context": 48, "horizon": 12},
        "model": {"kind": "ridge"},
        "baselines": ["seasonal_naive"],
        "backtest": {"stride": 12},
    }
    place.yaml.write_text(yaml.safe_dump(content), encoding="utf-8")
    schedule = Schedule(name, str(place.yaml), name, "interval", every_s=3600)
    Timetable(place.ledger.store).add(schedule)
    return place


def versions(place: Place) -> int:
    return len(Registry(place.home).versions(place.name))


def test_a_table_that_has_not_changed_is_left_alone(place: Place) -> None:
    """A night without new data must not cost an hour, nor make a version that is the same."""
    place.write(600)
    first = place.run()
    assert first.state == "succeeded", first.error
    assert first.result_version == f"{place.name}/1"
    assert "ridge is the champion now" in place.said(first)
    with place.ledger.store.read() as connection:
        who = [entry.who for entry in entries(connection) if entry.subject.startswith(place.name)]
    assert who == [f"schedule {place.name}, run {first.id}"] * 2  # its two aliases
    again = place.run()
    assert (again.state, again.result_version) == ("succeeded", None)
    assert f"Nothing new since run {first.id}" in place.said(again)
    assert versions(place) == 2
    place.write(700)
    third = place.run()
    assert third.state == "succeeded", third.error
    assert versions(place) == 4
    before = Input.of(Experiment.read(place.yaml)).digest
    place.change(window={"context": 72, "horizon": 12})
    assert Input.of(Experiment.read(place.yaml)).digest != before, "other settings are new too"


def test_names_are_shown_as_they_are(place: Place) -> None:
    """A bracket in the name of a series must not end a night's training after the last fit."""
    wide = {"north": waves(1, 400)["s0"], "[/west]": waves(1, 400)["s0"][:50]}
    hourly(wide).write_parquet(place.table)
    columns = {"id": "unique_id", "time": "ds", "targets": ["y"]}
    place.change(data={"source": "table.parquet", **columns})
    run = place.run()
    assert run.state == "succeeded", run.error
    assert "not scored: [/west]" in place.said(run)


SPOILED: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "without south": lambda table: table.drop("south"),
    "with east": lambda table: table.with_columns(east=pl.col("north")),
    "'ds'": lambda table: table.drop("ds"),
    "'north'": lambda table: table.with_columns(north=pl.lit("n/a?")),
    "row": lambda table: table.head(20),
}


def test_a_spoiled_table_is_one_sentence_and_no_version(place: Place) -> None:
    """A broken export must not make a champion of a model of something else."""
    place.write(600)
    assert place.run().state == "succeeded"
    before, good = versions(place), pl.read_parquet(place.table)
    for said, spoil in SPOILED.items():
        spoil(good).write_parquet(place.table)
        run = place.run()
        assert run.state == "failed", said
        assert run.error is not None
        assert said in run.error
    assert versions(place) == before
    east = good.with_columns(east=pl.col("north"))
    east.write_parquet(place.table)
    place.change(data={"source": "table.parquet", "time": "ds", "targets": ["north", "south"]})
    last = place.ledger.last_success(run)
    assert last is not None
    check_columns(Input.of(Experiment.read(place.yaml)), last)  # named: others may come and go


def test_what_is_not_there_ends_the_run(place: Place) -> None:
    """A missing file, experiment or MLflow is said, and the scheduler lives on."""
    run = place.run()
    assert run.state == "failed"
    assert run.error is not None
    assert "table.parquet" in run.error
    place.write(600)
    away = Place(
        place.folder, Home(place.home.folder, "http://127.0.0.1:1"), place.name, place.ledger
    )
    run = away.run()
    assert run.state == "failed"
    assert run.error is not None
    assert "does not answer" in run.error
    place.yaml.unlink()
    run = place.run()
    assert run.state == "failed"
    assert run.error is not None
    assert "There is no file" in run.error


def lapse(place: Place, run_id: str) -> None:
    """As if its lease were over."""
    with place.ledger.store.begin() as connection:
        connection.execute(RUN.update().where(RUN.c.id == run_id).values(lease_until_ms=0))


@pytest.mark.parametrize(
    "crash",
    [
        "settled",
        "finish",
        *(
            pytest.param(name, marks=pytest.mark.faults)
            for name in (
                "work",
                "publish-uploaded",
                "publish-registered",
                "publish-linked",
                "promote-moved",
            )
        ),
    ],
)
def test_a_second_attempt_goes_on_with_the_first(place: Place, crash: str) -> None:
    """A machine that goes down while it publishes must not leave the same model twice."""
    place.write(600)
    run_id = place.enter()
    dying = start(retrain_in, place.home, run_id, 1, crash)
    dying.join()
    assert dying.exitcode == 9
    lapse(place, run_id)
    place.attempt(run_id, 2)
    run = place.ledger.run(run_id)
    assert (run.state, run.attempt) == ("succeeded", 2), run.error
    assert run.result_version == f"{place.name}/1"
    assert run.outcome == "ridge is the champion now."
    assert versions(place) == 2
    assert str(Registry(place.home).describe(place.name)) == f"{place.name}/1"
    client = connect(place.home)
    known = client.get_experiment_by_name(place.name)
    assert known is not None
    runs = client.search_runs([known.experiment_id], f"tags.{RUN_TAG} = '{run_id}'")
    assert [logged.info.status for logged in runs] == ["FINISHED"]


def test_other_settings_are_not_taken_for_trained(place: Place) -> None:
    """Changed between two attempts, they would never be trained: the next run finds nothing new."""
    place.write(600)
    run_id = place.run().id
    with place.ledger.store.begin() as connection:  # as if it had died before it said so
        connection.execute(RUN.update().where(RUN.c.id == run_id).values(state="running"))
    lapse(place, run_id)
    place.change(model={"kind": "last_value"})
    place.attempt(run_id, 2)
    kinds = [version.kind for version in Registry(place.home).versions(place.name)]
    assert "last_value" in kinds, place.ledger.run(run_id).error


def test_a_full_disk_ends_the_run_and_says_so(place: Place, record_property: Told) -> None:
    """F12: the night's training fails by a sentence, yesterday's champion serves on."""
    place.write(600)
    assert place.run().state == "succeeded"
    registry = Registry(place.home)
    known, champion = versions(place), registry.champion(place.name)
    place.write(700)
    for after in (0, 5_000):
        with disk_full(place.home.folder / "artifacts", after=after):
            run = place.run()
        assert run.state == "failed"
        assert run.error is not None
        assert "No space left on device" in run.error
        assert DEFECT not in run.error
        assert versions(place) == known
        assert registry.champion(place.name) == champion
    record_property("F12", "2 of 2 runs failed by 'No space left on device', the champion stayed")


def test_an_attempt_that_hangs_is_ended_by_its_successor(place: Place) -> None:
    """F16: a process that wakes up after its lease must find nothing left to spoil."""
    place.change(
        model={"kind": "nlinear"},
        training={"epochs": 40, "patience": 40, "windows_per_epoch": 128},
    )
    place.write(600)
    run_id = place.enter()
    hung = subprocess.Popen(
        [sys.executable, "-m", "pipelines.job", run_id, "1"],
        env={**os.environ, "TSFORMER_HOME": str(place.home.folder)},
    )
    deadline = time.monotonic() + 120
    while not progress(place, run_id):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(hung.pid, signal.SIGSTOP)
    lapse(place, run_id)
    place.attempt(run_id, 2)
    hung.wait(10)  # stopped as it was, it can only have been killed
    run = place.ledger.run(run_id)
    assert (run.state, run.attempt) == ("succeeded", 2), run.error
    assert versions(place) == 2
    assert progress(place, run_id)[0].startswith("nlinear: epoch 1/40")


def progress(place: Place, run_id: str) -> list[str]:
    """What somebody who follows the run sees of it."""
    return [event.text for event in place.ledger.events(run_id) if event.kind == "progress"]
