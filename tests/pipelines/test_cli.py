"""The command line as a person uses it: one clear line for every mistake, files for every success."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
import pytest
import yaml

from pipelines.home import Home
from pipelines.record import children
from pipelines.registry import Registry
from pipelines.run import Run
from pipelines.tracking import connect, experiment_id
from tests.panels import hourly, waves
from tests.pipelines.homes import new_home
from tests.pipelines.typed import typed

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    new_home(folder / "home")
    return folder


@pytest.fixture
def tsformer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs a command in `folder`; gives its exit status and all it printed."""
    monkeypatch.setenv("TSFORMER_HOME", str(folder / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> tuple[int, str]:
        status, out, err = typed(arguments, monkeypatch, capsys)
        return status, out + err

    return run


@pytest.fixture(scope="module")
def experiment(folder: Path) -> Path:
    hourly(waves(3, 400)).rename({"unique_id": "shop", "ds": "hour", "y": "sold"}).write_csv(
        folder / "sales.csv"
    )
    content = {
        "data": {"source": "sales.csv", "id": "shop", "time": "hour", "targets": ["sold"]},
        "window": {"context": 72, "horizon": 12},
        "model": {"kind": "nlinear"},
        "training": {"epochs": 2, "windows_per_epoch": 128},
        "baselines": ["ridge", "seasonal_naive"],
    }
    path = folder / "sales.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def trained(tsformer: Command, experiment: Path, folder: Path) -> str:
    """What `tsformer train` printed; the first use trains."""
    said = folder / "said.txt"
    if not said.exists():
        status, printed = tsformer("train", str(experiment))
        assert status == 0, printed
        said.write_text(printed)
    return said.read_text()


def test_training_says_who_won_and_registers_all(trained: str, folder: Path) -> None:
    assert "WQL" in trained
    for kind in ("nlinear", "ridge", "seasonal_naive"):
        assert kind in trained
    registry = Registry(Home.of({"TSFORMER_HOME": str(folder / "home")}))
    versions = registry.versions("sales")
    assert {version.kind for version in versions} == {"nlinear", "ridge", "seasonal_naive"}
    assert registry.describe("sales@candidate").kind == "nlinear"
    assert "is the champion now." in trained
    champion = registry.describe("sales@champion")
    wql = {version.kind: version.card["metrics"]["wql"] for version in versions}
    assert champion.kind == min(wql, key=lambda kind: wql[kind])
    assert champion.description.startswith("It passed the gate:")


def test_every_model_has_a_run_of_its_own_under_one_parent(trained: str, folder: Path) -> None:
    """MLflow ranks and draws runs; models that share one run it cannot tell apart."""
    home = Home.of({"TSFORMER_HOME": str(folder / "home")})
    client = mlflow.MlflowClient(tracking_uri=home.uri)
    candidate = Registry(home).describe("sales@candidate")
    child = client.get_run(candidate.run_id)
    parent = client.get_run(child.data.tags["mlflow.parentRunId"])
    assert f"--resume {parent.info.run_id}" in trained
    assert parent.data.params["window.context"] == "72"
    assert parent.inputs.dataset_inputs[0].dataset.name == "sales"
    runs = children(Run(client, parent.info.run_id), "sales")
    assert runs.keys() == {"nlinear", "ridge", "seasonal_naive"}
    for version in Registry(home).versions("sales"):
        if version.kind in runs and version.card["metrics"] == candidate.card["metrics"]:
            assert version.run_id == runs[version.kind][0]
    for run_id, status in runs.values():
        run = client.get_run(run_id)
        assert status == "FINISHED"
        assert {"wql", "mase", "mse_scaled", "coverage", "fit_seconds"} <= run.data.metrics.keys()
        assert run.data.tags["windows"] == parent.data.tags["windows"]
        assert run.data.tags["data_fingerprint"] == parent.data.tags["data_fingerprint"]
        assert len(client.get_metric_history(run_id, "mae_by_step")) == 12
    assert child.data.params["kind"] == "nlinear"
    assert len(client.get_metric_history(child.info.run_id, "validation_loss")) == 2


def test_tables_and_figures_stand_where_they_are_looked_for(trained: str, folder: Path) -> None:
    assert trained
    home = Home.of({"TSFORMER_HOME": str(folder / "home")})
    client = mlflow.MlflowClient(tracking_uri=home.uri)
    child = Registry(home).describe("sales@candidate").run_id
    parent = client.get_run(child).data.tags["mlflow.parentRunId"]

    def files(run: str, place: str) -> set[str]:
        return {file.path.removeprefix(f"{place}/") for file in client.list_artifacts(run, place)}

    assert files(parent, "figures") == {"leaderboard.png", "error_by_step.png", "calibration.png"}
    assert files(child, "figures") == {"forecast.png", "training.png"}
    tables = {"leaderboard", "windows", "steps", "calibration"}
    assert files(parent, "scores") == {f"{name}.parquet" for name in tables}
    tables = {"series", "steps", "calibration"}
    assert files(child, "scores") == {f"{name}.parquet" for name in tables}


def test_backtest_compares_versions_and_leaves_tables(
    trained: str, tsformer: Command, experiment: Path, folder: Path
) -> None:
    assert trained
    status, printed = tsformer("backtest", str(experiment), "--out", str(folder / "scores"))
    assert status == 0, printed
    board = pl.read_parquet(folder / "scores" / "leaderboard.parquet")
    assert board["model"].str.contains(r"^sales/\d+ [a-z]").all()
    assert len(board) >= 3
    assert board["wql"].is_sorted()
    status, printed = tsformer("backtest", str(experiment), "--model", "sales/9")
    assert status == 2
    assert "no version 9" in printed


def test_forecast_writes_the_users_own_columns(
    trained: str, tsformer: Command, folder: Path
) -> None:
    assert trained
    out = folder / "forecast.csv"
    status, printed = tsformer(
        "forecast", "sales", "--levels", "0.1,0.9", "--horizon", "5", "--out", str(out)
    )
    assert status == 0, printed
    table = pl.read_csv(out)
    assert table.columns == ["shop", "hour", "mean", "q0.1", "q0.9"]
    assert len(table) == 3 * 5
    assert np.isfinite(table.select("mean", "q0.1", "q0.9").to_numpy()).all()


def test_explain_writes_tables_and_says_whether_they_are_true(
    trained: str, tsformer: Command, experiment: Path, folder: Path
) -> None:
    """Weights are believed by whoever sees them; the check must stand beside them."""
    assert trained
    status, printed = tsformer(
        "explain", str(experiment), "--model", "sales@candidate", "--out", str(folder / "why")
    )
    assert status == 0, printed
    assert "nlinear" in printed
    assert "Check of lags: without" in printed
    assert len(pl.read_parquet(folder / "why" / "lags.parquet")) == 12 * 72
    registry = Registry(Home.of({"TSFORMER_HOME": str(folder / "home")}))
    naive = f"sales/{_version(registry, 'seasonal_naive')}"
    status, printed = tsformer("explain", str(experiment), "--model", naive)
    assert status == 2
    assert "'seasonal_naive' explains nothing of itself. Kinds that do: tft" in printed


def test_a_series_too_short_to_be_scored_is_named(tsformer: Command, folder: Path) -> None:
    """A young shop must not vanish from the leaderboard in silence."""
    values = waves(2, 300) | {"young": waves(1, 40)["s0"]}
    hourly(values).write_csv(folder / "young.csv")
    content = {
        "data": {"source": "young.csv", "id": "unique_id", "targets": ["y"]},
        "window": {"context": 48, "horizon": 12},
        "model": {"kind": "seasonal_naive"},
    }
    (folder / "young.yaml").write_text(yaml.safe_dump(content))
    status, printed = tsformer("train", "young.yaml")
    assert status == 0, printed
    assert "1 series have no window in the test part and are not scored: young" in printed


def test_a_worse_model_does_not_replace_the_champion(
    trained: str, tsformer: Command, folder: Path
) -> None:
    """Who trains one bad model must not find it serving: the champion is scored beside it."""
    assert trained
    registry = Registry(Home.of({"TSFORMER_HOME": str(folder / "home")}))
    before = registry.describe("sales@champion")
    content = yaml.safe_load((folder / "sales.yaml").read_text())
    bad = {**content, "name": "sales", "model": {"kind": "last_value"}, "baselines": []}
    (folder / "bad.yaml").write_text(yaml.safe_dump(bad))
    status, printed = tsformer("train", "bad.yaml")
    assert status == 0, printed
    assert f"The champion stays: {before} {before.kind}." in printed
    assert registry.describe("sales@champion").version == before.version
    assert registry.describe("sales@candidate").kind == "last_value"
    assert (
        tsformer("promote", f"sales/{_version(registry, 'nlinear')}", "--alias", "candidate")[0]
        == 0
    )


def test_a_champion_that_looks_further_back_is_beaten_on_its_own_windows(
    trained: str, tsformer: Command, folder: Path
) -> None:
    """A change of context is the commonest change; it must not decide by not comparing."""
    assert trained
    registry = Registry(Home.of({"TSFORMER_HOME": str(folder / "home")}))
    before = registry.describe("sales@champion")
    content = yaml.safe_load((folder / "sales.yaml").read_text())
    short = {"model": "last_value", "baselines": [], "window": {"context": 48, "horizon": 12}}
    (folder / "short.yaml").write_text(yaml.safe_dump({**content, "name": "sales", **short}))
    status, printed = tsformer("train", "short.yaml")
    assert status == 0, printed
    assert f"The champion stays: {before} {before.kind}." in printed
    assert registry.describe("sales@champion").version == before.version
    number = _version(registry, "nlinear")
    assert tsformer("promote", f"sales/{number}", "--alias", "candidate")[0] == 0


def _version(registry: Registry, kind: str) -> str:
    return next(v.version for v in registry.versions("sales") if v.kind == kind)


def test_a_version_is_not_scored_on_rows_it_was_fitted_on(
    trained: str, tsformer: Command, folder: Path
) -> None:
    """A model that has seen the test part wins every leaderboard, and fails in use."""
    assert trained
    content = yaml.safe_load((folder / "sales.yaml").read_text())
    early = {**content, "name": "sales", "data": {**content["data"], "split_rows": [200, 40, 40]}}
    (folder / "early.yaml").write_text(yaml.safe_dump(early))
    status, printed = tsformer("backtest", "early.yaml", "--model", "sales@candidate")
    assert status == 2
    assert "fitted on rows of the test part" in printed


def test_promote_moves_the_alias(trained: str, tsformer: Command, folder: Path) -> None:
    assert trained
    registry = Registry(Home.of({"TSFORMER_HOME": str(folder / "home")}))
    before = registry.describe("sales@champion")
    other = f"sales/{_version(registry, 'seasonal_naive')}"
    status, printed = tsformer("promote", other)
    assert status == 0, printed
    assert str(registry.describe("sales")) == other
    assert tsformer("promote", str(before))[0] == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "nowhere.yaml"), "nowhere.yaml"),
        (("forecast", "unknown"), "unknown"),
        (("forecast", "sales@best"), "no alias 'best'"),
        (("forecast", "sales.yaml"), "takes a model, not an experiment: tsformer forecast sales"),
        (("forecast", "sales", "--levels", "0.1,2"), "between 0 and 1"),
        (("forecast", "sales", "--levels", "low"), "numbers like"),
        (("forecast", "sales", "--horizon", "0"), "at least 1 step, got 0"),
        (("forecast", "sales", "--out", "a.xlsx"), ".csv or .parquet"),
        (("forecast", "sales", "none.csv"), "none.csv"),
        (("promote", "sales/99"), "no version 99"),
        (("promote", "../etc"), "model name"),
    ],
)
def test_mistakes_get_one_clear_message(
    trained: str, tsformer: Command, arguments: tuple[str, ...], named: str
) -> None:
    assert trained
    status, printed = tsformer(*arguments)
    assert status == 2
    assert "Error:" in printed
    assert named in printed.replace("\n", " ")
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("name", "table", "named"),
    [
        ("columns", "shop,hour\na,2024-01-01\n", "sold"),
        ("dates", "shop,hour,sold\na,2024-01-01,1\na,yesterday,2\na,2024-01-03,3\n", "row 1"),
        ("twice", "shop,hour,sold\na,2024-01-01,1\na,2024-01-01,2\na,2024-01-02,3\n", "row 1"),
        ("one", "shop,hour,sold\na,2024-01-01,1\n", "one|1 row|step"),
        ("words", "shop,hour,sold\na,2024-01-01,1\na,2024-01-02,many\n", "row 1"),
        ("endless", "shop,hour,sold\na,2024-01-01,1\na,2024-01-02,inf\n", "row 1"),
        ("empty", "shop,hour,sold\n", "no rows"),
        (
            "mixed",
            "shop,hour,sold\n"
            + "".join(f"a,2024-01-0{d},1\n" for d in range(1, 7))
            + "".join(f"b,2024-01-01T0{h}:00:00,1\n" for h in range(1, 7)),
            "a|b",
        ),
    ],
)
def test_a_table_that_cannot_be_used_names_the_place(
    tsformer: Command, folder: Path, name: str, table: str, named: str
) -> None:
    """Every one of these once cost somebody an afternoon."""
    (folder / f"{name}.csv").write_text(table)
    content = {
        "data": {"source": f"{name}.csv", "id": "shop", "time": "hour", "targets": ["sold"]},
        "window": {"context": 4, "horizon": 2},
        "model": {"kind": "ridge"},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    status, printed = tsformer("train", f"{name}.yaml")
    assert status == 2, printed
    assert printed.startswith("Error:")
    assert "Traceback" not in printed
    assert any(word in printed for word in named.split("|")), printed


@pytest.mark.usefixtures("experiment")
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("forecast", "sales", "--out", "sales.csv/x.csv"), "sales.csv is a file"),
        (("forecast", "sales", "--out", "folder.csv"), "folder.csv is a folder"),
        (("backtest", "sales.yaml", "--out", "sales.csv"), "--out must be a folder"),
        (("train", "sales.yaml", "--resume", "sales.csv"), "no comparison 'sales.csv'"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_any_work(
    tsformer: Command, folder: Path, arguments: tuple[str, ...], named: str
) -> None:
    """Not after minutes of training: here nothing is trained, and that would be said first."""
    (folder / "folder.csv").mkdir(exist_ok=True)
    before = (folder / "sales.csv").read_bytes()
    status, printed = tsformer(*arguments)
    assert status == 2
    assert named in printed
    assert "series" not in printed
    assert (folder / "sales.csv").read_bytes() == before


def test_a_missing_folder_is_made(trained: str, tsformer: Command, folder: Path) -> None:
    assert trained
    status, printed = tsformer("forecast", "sales", "--out", "new/deep/x.csv")
    assert status == 0, printed
    assert (folder / "new" / "deep" / "x.csv").is_file()


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("http://127.0.0.1:9", "does not answer"),
        ("sqlite:///sales.csv", "not an SQLite database"),
        ("nonsense://somewhere", "cannot be used"),
    ],
)
def test_a_wrong_registry_is_told_before_training(
    tsformer: Command, experiment: Path, monkeypatch: pytest.MonkeyPatch, uri: str, named: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    status, printed = tsformer("train", str(experiment))
    assert status == 2, printed
    assert named in printed
    assert "epoch" not in printed
    assert "Traceback" not in printed


def test_a_deleted_mlflow_experiment_is_told_before_training(
    tsformer: Command, experiment: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow keeps the name of what was deleted in its page, and then refuses every run of it."""
    monkeypatch.setenv("TSFORMER_HOME", str(folder / "other"))
    home = new_home(folder / "other")
    client = connect(home)
    client.delete_experiment(experiment_id(client, "sales", home))
    status, printed = tsformer("train", str(experiment))
    assert status == 2, printed
    assert "'sales' is deleted" in printed
    assert "epoch" not in printed


@pytest.mark.parametrize(
    ("error", "status", "named"),
    [
        (OSError(28, "No space left on device", "/data"), 2, "No space left on device"),
        (ZeroDivisionError("inner"), 1, "defect of tsformer (ZeroDivisionError)"),
    ],
)
def test_what_nobody_foresaw_is_one_line_too(
    tsformer: Command,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    named: str,
) -> None:
    def fail() -> Home:
        if seen:
            return Home.of({"TSFORMER_HOME": str(folder / "crashed")})
        seen.append(True)
        raise error

    seen: list[bool] = []
    monkeypatch.setattr("pipelines.cli.home", fail)
    got, printed = tsformer("promote", "sales/1")
    assert got == status
    assert named in printed
    assert "Traceback" not in printed
    log = folder / "crashed" / "crash.log"
    if status == 1:
        assert str(log) in printed
        assert "ZeroDivisionError: inner" in log.read_text()


def test_a_champion_that_cannot_be_compared_stays(
    trained: str, tsformer: Command, folder: Path
) -> None:
    """Another horizon on the same table: nobody may lose a good model to one never held beside it."""
    assert trained
    registry = Registry(Home.of({"TSFORMER_HOME": str(folder / "home")}))
    before = registry.describe("sales@champion")
    content = yaml.safe_load((folder / "sales.yaml").read_text())
    shorter = {"model": "last_value", "baselines": [], "window": {"context": 72, "horizon": 6}}
    (folder / "shorter.yaml").write_text(yaml.safe_dump({**content, **shorter}))
    status, printed = tsformer("train", "shorter.yaml")
    assert status == 0, printed
    assert registry.describe("sales@champion") == before
    stays = f"{before} {before.kind}, the champion, stays. {before} has horizon 12"
    assert stays in printed
    (judged,) = [v for v in registry.versions("sales")[:3] if v.kind == "last_value"]
    assert stays in judged.description
