"""Trials on a real Ray and a real MLflow: judged by validation, remembered, gone on with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import ray
import torch
import yaml
from mlflow import MlflowClient
from rich.console import Console

from pipelines.campaign import OUT_OF_TIME, Campaign, Effort
from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.lessons import Lessons
from pipelines.local_ray import some_ray
from pipelines.material import Material
from pipelines.registry import Registry
from pipelines.search_display import line, show_importances
from pipelines.search_figures import curves_figure, importance_figure, settings_figure
from pipelines.storage import Place
from pipelines.tracking import connect, resume, track
from pipelines.trial_runs import TrialRuns
from pipelines.trials import Epoch, Trial, best_of
from pipelines.tune_command import Hunt, chosen, note_processors, seconds_of, table_of, tune
from pipelines.workers import Workers
from tests.figures import Told
from tests.panels import hourly, waves
from tests.pipelines.typed import typed
from tsformer.errors import ConfigError, UnavailableError

REPOSITORY = Path(__file__).parents[2]
MODEL = {"kind": "patchtst", "patch": 12, "stride": 12, "depth": 1, "heads": 2, "width": 8,
         "feedforward": 8, "dropout": 0.0}  # fmt: skip
SPACE = {"model.width": [8, 9], "training.learning_rate": [1e-2, 1e-6, 1e30]}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One Ray for all searches of this file."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def experiment_in(folder: Path, space: object, *, spoil: bool = False, **training: Any) -> Path:
    """A search on three days of context; `spoil` changes every row of the test part."""
    values = waves(2, 300)
    if spoil:
        values = {name: np.concatenate([v[:240], -1e3 * v[240:]]) for name, v in values.items()}
    folder.mkdir(exist_ok=True)
    hourly(values).write_parquet(folder / "table.parquet")
    settings = {"epochs": 4, "windows_per_epoch": 64, "learning_rate": 1e-2, **training}
    content = {
        "name": "shop",
        "data": {"source": "table.parquet", "id": "unique_id", "time": "ds", "targets": ["y"],
                 "split": [0.6, 0.2, 0.2]},
        "window": {"context": 48, "horizon": 12},
        "model": MODEL,
        "training": settings,
        "baselines": ["ridge", "seasonal_naive"],
        "backtest": {"stride": 12},
        "search": {"space": space},
    }  # fmt: skip
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The command as a person gives it: exit status, and all that was printed."""
    monkeypatch.setenv("COLUMNS", "120")
    status, out, err = typed(("tune", *words), monkeypatch, capsys)
    return status, out + err


def home_in(folder: Path) -> Home:
    """The home in `folder`, with an MLflow that is made already."""
    home = Home.of({"TSFORMER_HOME": str(folder / "home")})
    assert home.database is not None
    if not home.database.exists():
        home.prepare()
        home.database.write_bytes(blank())
    return home


@cache
def blank() -> bytes:
    """An MLflow database without runs, which takes seconds to make."""
    with TemporaryDirectory() as scratch:
        home = Home.of({"TSFORMER_HOME": scratch})
        connect(home).search_experiments()
        assert home.database is not None
        return home.database.read_bytes()


def runs_of(home: Home, kind: str) -> list[Any]:
    client = connect(home)
    place = client.get_experiment_by_name("shop").experiment_id
    return client.search_runs([place], f"tags.kind = '{kind}'", order_by=["attributes.start_time"])


@pytest.mark.usefixtures("cluster")
def test_a_search_ends_with_its_best_registered(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record_property: Told,
) -> None:
    """F14: from the YAML to a served model: what diverges, fits nobody or lags behind harms no other."""
    file = experiment_in(tmp_path, SPACE)
    monkeypatch.setenv("TSFORMER_HOME", str(home_in(tmp_path).folder))
    out = tmp_path / "best.yaml"
    status, printed = run(monkeypatch, capsys, str(file), "--trials", "8", "--out", str(out))
    assert status == 0, printed
    home = home_in(tmp_path)
    (parent,) = runs_of(home, "tuning")
    trials = runs_of(home, "trial")
    states = {tuple(r.data.params.values()): r.data.tags["state"] for r in trials}
    assert states == {
        ("8", "0.01"): "finished",
        ("8", "1e-06"): "stopped",
        ("8", "1e+30"): "diverged",
        **{("9", rate): "pruned" for rate in ("0.01", "1e-06", "1e+30")},
    }
    assert {r.data.tags["mlflow.parentRunId"] for r in trials} == {parent.info.run_id}
    assert trials[0].info.status == parent.info.status == "FINISHED"
    curve = connect(home).get_metric_history(trials[0].info.run_id, "validation_loss")
    assert [m.step for m in curve] == [1, 2, 3, 4]
    best = Experiment.read(out)
    assert (best.training.learning_rate, best.search) == (1e-2, None)
    assert min(m.value for m in curve) == parent.data.metrics["best_validation_loss"]
    _check_what_is_kept(home, parent, best)
    assert "width must be a multiple of heads" in printed
    assert "Every combination of the search space has been tried" in printed
    assert "Importance of the settings: 2 trials came through, too few to tell" in printed
    connect(home).update_run(parent.info.run_id, status="FAILED")  # killed before its last word
    status, printed = run(
        monkeypatch, capsys, str(file), "--trials", "6", "--out", str(out), "--resume",
        parent.info.run_id,
    )  # fmt: skip
    assert status == 0, printed
    assert f"trained already, in MLflow run {parent.data.tags['best_run']}" in printed
    assert len(runs_of(home, "comparison")) == 1
    spoilt = {r.info.run_id for r in trials if r.data.tags["state"] == "diverged"}
    assert spoilt.isdisjoint(version.run_id for version in Registry(home).versions("shop"))
    record_property("F14", f"{len(spoilt)} trial diverged, none of it registered; the others ended")


def _check_what_is_kept(home: Home, parent: Any, best: Experiment) -> None:
    client: MlflowClient = connect(home)
    files = {f.path for folder in ("", "search", "figures")
             for f in client.list_artifacts(parent.info.run_id, folder)}  # fmt: skip
    assert {"best.yaml", "config.yaml", "search/trials.parquet"} <= files
    assert {"figures/trials.png", "figures/settings.png"} <= files
    version = Registry(home).describe("shop@candidate")
    comparison = client.get_run(parent.data.tags["best_run"])
    assert comparison.data.tags["tuning"] == parent.info.run_id
    child = client.get_run(version.run_id)
    assert child.data.tags["mlflow.parentRunId"] == comparison.info.run_id
    assert version.kind == best.model.kind == "patchtst"
    assert not list((home.folder / "checkpoints").glob("*"))


def search_on(
    file: Path,
    folder: Path,
    effort: Effort,
    *,
    resumed: str | None = None,
    report: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """The trials of a search in the home of `folder`, without what follows them."""
    from pipelines.tuning import run_trials

    experiment = Experiment.read(file)
    assert experiment.search is not None
    lessons = Lessons.of(Material.of(experiment), experiment, experiment.search)
    home = home_in(folder)
    new = {"experiment": "shop", "name": "tune", "tags": {"kind": "tuning"}}
    with (
        resume(home, resumed) if resumed else track(home, **new) as parent,
        TrialRuns(home, parent, experiment="shop") as runs,
    ):
        campaign = Campaign(
            experiment, experiment.search, runs, trials=effort.trials, tags={}, report=report
        )  # fmt: skip
        place = Place.of(home) / parent.id
        run_trials(campaign, lessons, effort=effort, checkpoints=place, scratch=folder / "ray")
    return campaign.trials


def outcome(trials: list[Trial]) -> list[Any]:
    rows = [[(r.epoch, r.loss, r.train_loss) for r in t.epochs] for t in trials]
    told = [(t.number, t.parameters, t.state, t.reason) for t in trials]
    return [*zip(told, rows, strict=True)]


OTHER = {"training.learning_rate": [1e-3, 1e-2, 2e-2], "window.context": [36, 48]}


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
    cluster: None,  # noqa: ARG001
) -> list[Trial]:
    """A search that nothing happened to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    file = experiment_in(folder, OTHER, learning_rate=1e-3)
    return search_on(file, folder, Effort(trials=4, parallel=1))


def test_the_test_part_has_no_say(tmp_path: Path, undisturbed: list[Trial]) -> None:
    """A search that sees the test part reports a score that nobody will get."""
    file = experiment_in(tmp_path, OTHER, spoil=True, learning_rate=1e-3)
    spoilt = search_on(file, tmp_path, Effort(trials=4, parallel=1))
    assert outcome(spoilt) == outcome(undisturbed)
    assert best_of(spoilt) is not None


@pytest.mark.usefixtures("cluster")
def test_no_row_of_the_test_part_leaves_for_a_trial(tmp_path: Path) -> None:
    """What is not there cannot be read by mistake; what is there is not copied for each."""
    experiment = Experiment.read(experiment_in(tmp_path, {"window.context": [36, 60]}))
    assert experiment.search is not None
    material = Material.of(experiment)
    lessons = Lessons.of(material, experiment, experiment.search)
    there = ray.get(ray.put(lessons))
    train, validation = there.windows(36, judged=0)
    rows = material.borders.validation
    assert len(validation.grid.values) == rows.sum() == 2 * 240
    assert len(validation) == 2 * (60 - 12 + 1)  # those of a context of 60, too
    assert int(validation.cutoffs.numpy().max()) + 12 == rows.sum()
    batch, target = validation.batch(torch.tensor([0]))
    longer, same = there.windows(60, judged=0)[1].batch(torch.tensor([0]))
    assert (target.values == same.values).all()
    assert (longer.past[:, -36:] == batch.past).all()
    assert int(train.cutoffs.numpy().max()) + 12 <= rows.sum() - 60
    assert not there.shared.grid["values"].flags.owndata
    assert not there.shared.grid["values"].flags.writeable


def test_a_search_that_was_interrupted_goes_on(tmp_path: Path, undisturbed: list[Trial]) -> None:
    """A night of trials must not begin anew because somebody had to end it."""
    file = experiment_in(tmp_path, OTHER, learning_rate=1e-3)
    number = long_one(undisturbed)

    def interrupt(trial: Trial) -> None:
        if (trial.number, trial.last) == (number, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_on(file, tmp_path, Effort(trials=4, parallel=1), report=interrupt)
    check_goes_on(file, tmp_path, number, undisturbed)


@pytest.mark.faults
def test_a_search_that_was_killed_goes_on(tmp_path: Path, undisturbed: list[Trial]) -> None:
    """Nor because its process died in it."""
    file = experiment_in(tmp_path, OTHER, learning_rate=1e-3)
    number = long_one(undisturbed)
    killed = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()",
         "tune", str(file), "--trials", "4"],
        env={**os.environ, "TSFORMER_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY),
             "TSF_CRASH": f"trial-{number}-epoch-3"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert killed.returncode == 9, killed.stderr
    check_goes_on(file, tmp_path, number, undisturbed)


def long_one(trials: list[Trial]) -> int:
    """A trial, not the first, that is there long enough to be interrupted in its third epoch."""
    return next(trial.number for trial in trials[1:] if trial.last >= 3)


def check_goes_on(file: Path, folder: Path, number: int, undisturbed: list[Trial]) -> None:
    """What was interrupted in trial `number` ends as what was not, and does nothing twice."""
    home = home_in(folder)
    *ended, broken = before = runs_of(home, "trial")
    assert [r.data.tags["state"] for r in ended] == [t.state for t in undisturbed[:number]]
    assert broken.data.tags["state"] == "running"
    kept = {f.name for f in (home.folder / "checkpoints").glob("*/*")}
    assert kept == {f"trial-{number:04d}"}
    (parent,) = runs_of(home, "tuning")
    effort = Effort(trials=4, parallel=1)
    trials = search_on(file, folder, effort, resumed=parent.info.run_id)
    assert outcome(trials) == outcome(undisturbed)
    after = runs_of(home, "trial")[: number + 1]
    assert [r.info.run_id for r in after] == [r.info.run_id for r in before]
    assert [r.info.end_time for r in after[:number]] == [r.info.end_time for r in ended]
    curve = connect(home).get_metric_history(broken.info.run_id, "validation_loss")
    assert [m.step for m in curve] == [1, 2, 3, 4][: trials[number].last]  # each epoch once


def campaign_of(file: Path, runs: TrialRuns, **changes: Any) -> Campaign:
    experiment = Experiment.read(file)
    assert experiment.search is not None
    settings = {"trials": 4, "tags": {}, "report": lambda _: None, **changes}
    return Campaign(experiment, experiment.search, runs, **settings)


def test_what_failed_or_ran_out_of_time_is_tried_again(tmp_path: Path) -> None:
    """A full disk or a short budget is no word about the settings."""
    file = experiment_in(tmp_path, {"training.learning_rate": [1e-2, 2e-2, 3e-2, 4e-2, 5e-2]})
    home = home_in(tmp_path)
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt),
        track(home, experiment="shop", name="t") as parent,
        TrialRuns(home, parent, experiment="shop") as runs,
    ):
        campaign = campaign_of(file, runs)
        started = [campaign.next() for _ in range(4)]
        assert all(started)
        assert campaign.next() is None
        campaign.add(0, Epoch(1, 0.5, 0.6, 1.0))
        campaign.end(0, "diverged", "why")
        campaign.end(1, "failed", "no space left")
        campaign.add(2, Epoch(1, 0.4, 0.6, 1.0))
        campaign.stop(2, OUT_OF_TIME)
        raise KeyboardInterrupt
    statuses = [connect(home).get_run(t.run_id).info.status for t in campaign.trials]
    assert statuses == ["FAILED", "FAILED", "FINISHED", "KILLED"]
    with resume(home, parent.id) as parent, TrialRuns(home, parent, experiment="shop") as runs:
        campaign = campaign_of(file, runs, trials=5)
        assert [t.number for t in campaign.settled] == [0]
        order = [campaign.next() for _ in range(4)]
        assert [t.number for t in order if t] == [1, 2, 3, 4]
        assert [t.parameters for t in order[:3] if t] == [t.parameters for t in started[1:] if t]
        campaign.add(2, Epoch(1, 0.4, 0.6, 1.0))  # told anew by its checkpoint
        campaign.add(2, Epoch(4, 0.3, 0.6, 1.0))
        campaign.stop(2, "worse than others at epoch 4")
        assert campaign.trials[2].state == "finished"  # it was its last epoch
        assert [row.epoch for row in campaign.trials[2].epochs] == [1, 4]


@pytest.mark.usefixtures("cluster")
def test_a_budget_that_is_too_short_says_so(tmp_path: Path) -> None:
    """The remedy is more time, not another search space."""
    file = experiment_in(tmp_path, {"training.learning_rate": [1e-2, 2e-2]}, epochs=100)
    trials = search_on(file, tmp_path, Effort(trials=2, parallel=1, seconds=0.1))
    assert {(trial.state, trial.reason) for trial in trials} <= {("stopped", OUT_OF_TIME)}
    with pytest.raises(ConfigError, match="No trial came through"):
        chosen(trials)


@pytest.mark.usefixtures("cluster")
def test_where_no_checkpoint_can_be_written_the_search_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a full disk every trial would fail alike: one sentence, and how to go on."""
    file = experiment_in(tmp_path, {"training.learning_rate": [1e-2, 2e-2]})
    monkeypatch.setenv("TSFORMER_HOME", str(home_in(tmp_path).folder))
    monkeypatch.setenv("TSFORMER_STORAGE", str(file / "no-folder"))
    status, printed = run(monkeypatch, capsys, str(file), "--trials", "2")
    assert status == 2, printed
    (parent,) = runs_of(home_in(tmp_path), "tuning")
    assert f"Go on with: tsformer tune {file} --resume {parent.info.run_id}" in printed
    assert "cannot be written" in printed
    assert parent.info.status == "FAILED"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--trials", "0"), "--trials must be at least 1, got 0"),
        (("--parallel", "0"), "--parallel must be at least 1, got 0"),
        (("--time-budget", "soon"), "--time-budget must be like 600, 90s, 10m or 1.5h, got 'soon'"),
        (("--time-budget", "0s"), "got '0s'"),
        (("--resume", "nothing"), "has no tuning 'nothing'"),
    ],
)
def test_bad_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: tuple[str, str], named: str,
) -> None:  # fmt: skip
    """Before any work, in one line."""
    file = experiment_in(tmp_path, SPACE)
    monkeypatch.setenv("TSFORMER_HOME", str(home_in(tmp_path).folder))
    status, printed = run(monkeypatch, capsys, str(file), *words)
    assert (status, named in printed) == (2, True), printed


def test_what_cannot_be_searched_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No section, or no MLflow to keep the trials: an hour of them would be lost."""
    file = experiment_in(tmp_path, SPACE)
    content = yaml.safe_load(file.read_text())
    monkeypatch.setenv("TSFORMER_HOME", str(home_in(tmp_path).folder))
    del content["search"]
    file.write_text(yaml.safe_dump(content))
    assert "there is no 'search' section" in run(monkeypatch, capsys, str(file))[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    status, printed = run(monkeypatch, capsys, str(experiment_in(tmp_path, SPACE)))
    assert (status, "does not answer" in printed) == (2, True), printed


def test_a_cluster_that_is_away_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself tries for more than ten minutes, in silence."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with (
        pytest.raises(UnavailableError, match=r"RAY_ADDRESS names, 127.0.0.1:9, cannot be joined"),
        some_ray(processors=1, shared_bytes=0),
    ):
        pass


def test_only_the_same_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Losses of another table or another space cannot be compared with those that are there."""
    home = home_in(tmp_path)
    file = experiment_in(tmp_path, SPACE)
    monkeypatch.setenv("TSFORMER_HOME", str(home.folder))
    experiment = Experiment.read(file)
    tags = {"kind": "tuning", "experiment_digest": experiment.digest, "data_fingerprint": "other"}
    with pytest.raises(OSError), track(home, experiment="shop", name="t", tags=tags) as parent:  # noqa: PT011
        raise OSError
    assert "The table has changed" in run(monkeypatch, capsys, str(file), "--resume", parent.id)[1]
    file = experiment_in(tmp_path, {"model.width": [8, 16]})
    assert "other settings" in run(monkeypatch, capsys, str(file), "--resume", parent.id)[1]


def test_where_mlflow_gives_out_after_the_trials_the_search_goes_on(tmp_path: Path) -> None:
    """A night of trials must not end in an error that does not say that they are kept."""
    experiment = Experiment.read(experiment_in(tmp_path, SPACE))
    assert experiment.search is not None
    home = home_in(tmp_path)
    command = "tsformer tune shop.yaml --resume"
    hunt = Hunt(
        experiment, experiment.search, Material.of(experiment), home, Console(quiet=True), command
    )
    tags = {"kind": "tuning"}
    with (
        track(home, experiment="shop", name="tune", tags=tags) as parent,
        TrialRuns(home, parent, experiment="shop") as runs,
    ):
        parameters = {"model.width": 8, "training.learning_rate": 1e-2}
        trial = runs.add(runs.begin(0, parameters, tags={}), Epoch(1, 0.5, 0.5, 1.0))
        runs.end(trial, "finished")
    assert home.artifacts is not None
    home.artifacts.touch()  # a file in the place of the folder: nothing can be written
    effort = Effort(trials=1, parallel=1)
    with pytest.raises(UnavailableError, match=rf"are kept. Go on with: {command} {parent.id}"):
        tune(hunt, effort=effort, resumed=parent.id, folder=tmp_path, out=None)


def test_budgets_are_read_in_seconds_minutes_and_hours() -> None:
    """`10m` taken for ten seconds ends a search before it began."""
    assert [seconds_of(text) for text in ("600", "90s", "10m", "1.5h")] == [600, 90, 600, 5400]


def test_too_many_at_once_is_noted() -> None:
    """Eight trials on two processors take as long as two at once, and more memory."""
    console = Console(record=True, width=200)
    note_processors(Effort(trials=4, parallel=10_000), Workers(), console)
    note_processors(Effort(trials=4, parallel=1), Workers(), console)
    note_processors(Effort(trials=4, parallel=1), Workers(10_000), console)
    told = console.export_text()
    assert told.count("trials wait for each other") == 2
    assert "--parallel 1 of 10000 workers on" in told


def test_lines_and_figures_are_made_of_whatever_came(tmp_path: Path) -> None:
    """A trial without an epoch, or with a bracket in its reason, must not end the report."""
    experiment = Experiment.read(experiment_in(tmp_path, SPACE))
    assert experiment.search is not None
    trials = [
        Trial(0, {"model.width": 8, "training.learning_rate": 1e-2}, "", "finished", "",
              (Epoch(1, 0.5, 0.6, 1.0), Epoch(2, 0.4, 0.5, 1.0))),
        Trial(1, {"model.width": 9, "training.learning_rate": 1e-2}, "", "pruned", "[red]why"),
        Trial(2, {"model.width": 8, "training.learning_rate": 1e30}, "", "diverged", "NaN",
              (Epoch(1, 0.7, None, 1.0),)),
    ]  # fmt: skip
    console = Console(record=True, width=200)
    for trial in trials:
        console.print(line(trial, trials[0]), highlight=False)
    show_importances({"model.width": 0.75, "training.learning_rate": 0.25}, trials, console)
    text = console.export_text()
    assert "[red]why" in text
    assert "the best so far" in text
    assert "75%" in text
    assert curves_figure(trials, loss="mse", title="t").axes[0].lines
    panels = settings_figure(trials, experiment.search, None, title="t").axes
    assert [panel.get_title(loc="left") for panel in panels] == [*experiment.search.space]
    assert importance_figure({"a": 1.0}, trials=1).axes
    assert table_of(trials)["loss"].to_list() == [0.4, None, 0.7]
