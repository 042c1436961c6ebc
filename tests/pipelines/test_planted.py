"""Twenty candidates of which it is known what they are, through real forecasters and real scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.gate import PAGE
from benchmarks.planted import CANDIDATES, verdicts
from pipelines.material import Material
from pipelines.policy import Policy
from pipelines.promotion import Verdict
from pipelines.training import fit_all
from tests.figures import Told
from tests.panels import experiment_on, hourly, waves
from tsformer.settings import from_mapping, to_mapping

GOOD = {planted.name for planted in CANDIDATES if not planted.rule}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    found = verdicts(tmp_path_factory.mktemp("planted"))
    return {planted.name: verdict for planted, verdict, _ in found}


def test_there_are_twenty_of_every_kind() -> None:
    """Worse than naive, worse than the line, leaking, badly calibrated, tied, truly better."""
    assert len(CANDIDATES) == len({planted.name for planted in CANDIDATES}) == 20
    rules = {"naive", "line", "leak", "coverage", "canary", "champion", "slices", ""}
    assert {planted.rule for planted in CANDIDATES} == rules


@pytest.mark.parametrize("planted", CANDIDATES, ids=lambda planted: planted.name)
def test_the_verdict_is_right(planted: object, judged: dict[str, Verdict]) -> None:
    """A bad model that serves costs money every day; a good one that does not, too."""
    candidate = next(one for one in CANDIDATES if one is planted)
    decision = judged[candidate.name].decisions[candidate.name]
    assert decision.promoted == (not candidate.rule), decision.reasons
    if candidate.rule:
        assert candidate.rule in decision.failed, decision.reasons


def test_no_bad_candidate_becomes_champion(
    judged: dict[str, Verdict], record_property: Told
) -> None:
    """D6: 0 of the bad ones. The line in the place of one is no bad one."""
    winners = {name: verdict.winner for name, verdict in judged.items() if verdict.winner}
    assert {name for name, winner in winners.items() if winner == name} == GOOD
    assert {winner for name, winner in winners.items() if name not in GOOD} <= {"ridge"}
    bad = len(judged.keys() - set(GOOD))
    record_property("D6", f"0 of {bad} bad candidates promoted, {len(GOOD)} good ones were")


def test_the_line_is_served_where_the_candidate_is_no_better(judged: dict[str, Verdict]) -> None:
    """A transformer that does not beat the line is not promoted; the line is."""
    verdict = judged["line_again"]
    assert verdict.winner == "ridge"
    assert [*verdict.decisions] == ["line_again", "ridge"]
    assert "ridge is the champion now" in verdict.told()


def test_a_candidate_that_only_lost_to_the_champion_leaves_it(judged: dict[str, Verdict]) -> None:
    """A second candidate each night would be a second ticket in the lottery."""
    for name in ("copy", "hair_better", "ruins_one"):
        assert [*judged[name].decisions] == [name]
        assert "The champion stays" in judged[name].told()


def test_the_table_in_the_documentation_is_what_the_gate_says(judged: dict[str, Verdict]) -> None:
    """A page that says what used to be true is worse than none."""
    text = PAGE.read_text(encoding="utf-8")
    for planted in CANDIDATES:
        (line,) = [row for row in text.splitlines() if row.startswith(f"| {planted.name} |")]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1] == planted.what
        assert cells[-1] == judged[planted.name].decisions[planted.name].word


def test_the_policy_in_the_documentation_is_the_default() -> None:
    """Who copies the page must get what the page says."""
    block = PAGE.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    shown = yaml.safe_load(block)["gate"]
    assert from_mapping(Policy, shown, where="page") == Policy()
    assert {*shown} == {*to_mapping(Policy())}


@pytest.mark.parametrize("kind", ["ridge", "pooled_ridge", "nlinear", "patchtst", "samformer"])
def test_a_spike_after_the_cutoff_changes_no_trained_bit(
    tmp_path: Path, kind: str, record_property: Told
) -> None:
    """D6: whatever sees the test part before it is scored wins by cheating."""
    values = waves(2, 400)
    spiked = {name: series.copy() for name, series in values.items()}
    for series in spiked.values():
        series[320:] += 1e6 * np.abs(np.sin(np.arange(80)))  # the test part alone
    digests = []
    for number, table in enumerate((values, spiked)):
        folder = tmp_path / str(number)
        folder.mkdir()
        experiment = experiment_on(
            folder, hourly(table), model={"kind": kind}, baselines=[],
            window={"context": 48, "horizon": 12},
            training={"epochs": 2, "windows_per_epoch": 64, "batch_size": 16},
        )  # fmt: skip
        fitted = fit_all(experiment, Material.of(experiment), device="cpu")
        digests.append(fitted[kind].forecaster.save(folder / "saved"))
    assert digests[0] == digests[1]  # of all files: weights, recipe, units, calibration
    record_property("D6", f"{kind}: all files alike with and without a spike after the cut-off")
