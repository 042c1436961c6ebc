"""`tsformer compare`: the table of a training from MLflow alone, and no ranking of unlike things."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.console import Console

from pipelines.compare import apart, compare_command, newest
from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.train_command import Outcome, train_and_register
from tests.panels import experiment_on, hourly, waves
from tests.pipelines.homes import new_home
from tsformer.errors import NotFoundError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    table = hourly(waves(3, 400))
    folder = tmp_path_factory.mktemp("data")
    return experiment_on(
        folder, table, name="ours", model={"kind": "last_value"}, baselines=["ridge"]
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return new_home(tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="module")
def ours(made: Experiment, home: Home) -> Outcome:
    return trained(made, home)


def trained(made: Experiment, home: Home) -> Outcome:
    return train_and_register(made, home=home, console=Console(quiet=True), device="cpu")


def shown(
    names: list[str],
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    monkeypatch.setenv("COLUMNS", "140")
    compare_command(names, home=home)
    return capsys.readouterr().out


def test_the_table_is_that_of_the_training(
    ours: Outcome, home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tables of one comparison that differ leave a person with none."""
    board = newest("ours", home=home).board.sort("wql")
    scored = ours.comparison.scores.leaderboard
    assert board["model"].to_list() == scored["model"].to_list()
    for name in ("wql", "mase", "mse_scaled", "coverage", "fit_seconds"):
        assert board[name].to_list() == pytest.approx(scored[name].to_list())
    printed = shown(["ours"], home, monkeypatch, capsys)
    champion = Registry(home).describe("ours@champion")
    assert f"{champion.version} @champion" in printed
    assert "ridge is the champion now." in printed
    assert "Canary" in printed


def test_the_newest_comparison_counts_and_aliases_are_those_of_now(
    ours: Outcome, made: Experiment, home: Home
) -> None:
    """A champion that was rolled back must not look like one for as long as nobody trains."""
    again = trained(made, home)
    naive = again.versions["seasonal_naive"]
    Registry(home).promote(str(naive), reason="a test")
    kept = newest("ours", home=home)
    assert kept.run_id == again.run_id
    old = str(ours.versions["ridge"])
    told = dict(kept.board.select("model", "version").iter_rows())
    assert told["seasonal_naive"] == f"{naive.version} @champion"
    assert told[f"{old} ridge"] == ours.versions["ridge"].version


@pytest.mark.usefixtures("ours")
def test_names_on_the_same_windows_are_ranked_together(
    made: Experiment,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A look-back of its own does not part two names, as long as the same cutoffs are scored."""
    trained(replace(made, name="mine", window=replace(made.window, context=48)), home)
    printed = shown(["mine", "ours"], home, monkeypatch, capsys)
    assert "not ranked" not in printed
    assert printed.count("80% cov.") == 1
    assert printed.index("mine ridge") < printed.index("ours last_value")


@pytest.mark.usefixtures("ours")
def test_other_windows_and_other_data_are_not_ranked(
    made: Experiment,
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error of 3 on one week and 4 on another says nothing about the models."""
    trained(replace(made, name="shorter", window=replace(made.window, horizon=6)), home)
    printed = shown(["ours", "shorter"], home, monkeypatch, capsys)
    assert printed.count("80% cov.") == 2
    assert "shorter was scored on other windows than ours" in printed
    ours = newest("ours", home=home)
    other = replace(ours, name="other", scored=("another table", ours.scored[1]))
    assert "other was scored on other data than ours" in apart([ours, other])


@pytest.mark.usefixtures("ours")
def test_a_name_without_a_comparison_is_said_with_those_there_are(home: Home) -> None:
    with pytest.raises(NotFoundError, match=r"no comparison of 'unknown'.*There are.* ours"):
        newest("unknown", home=home)
