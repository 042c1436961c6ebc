"""Explanations in the words of the data: real names, real stamps, shares that add up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from rich.console import Console

from pipelines import explain_command, explanations
from pipelines.explain_command import mean_shares, newest, show, verdict
from pipelines.explanations import Asked, explained
from pipelines.forecaster import Forecaster
from pipelines.material import Material
from tests.panels import START, experiment_on, hourly, waves
from tsformer.errors import IncompatibleError
from tsformer.faithfulness import Faithfulness
from tsformer.models import build, spec_from_mapping

IDS = ("s0", "s1", "s2")
SMALL: Mapping[str, Mapping[str, object]] = {
    "tft": {"width": 8, "heads": 2},
    "itransformer": {"width": 8, "heads": 2, "feedforward": 8, "depth": 2},
    "samformer": {"width": 4},
}


@pytest.fixture(autouse=True)
def _few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_command, "ROWS", 24)
    monkeypatch.setattr(explanations, "ROWS", 12)


def table() -> pl.DataFrame:
    """Three shops with a price that differs in time, the temperature, and a city each."""
    plain = hourly(waves(3, 300))
    time = pl.int_range(pl.len()).over("unique_id")
    return plain.with_columns(
        price=(time % 7).cast(pl.Float64),
        heat=(time % 5).cast(pl.Float64),
        city=pl.when(pl.col("unique_id") == "s0").then(pl.lit("north")).otherwise(pl.lit("south")),
    )


def asked_of(folder: Path, kind: str, **data: object) -> tuple[Forecaster, Asked]:
    """A model of `kind` at random weights, and the newest windows of a small table."""
    roles = {"known": ["price"], "past": ["heat"]}
    experiment = experiment_on(
        folder,
        table(),
        data={**roles, **data},
        window={"context": 48, "horizon": 12, "features": ["hour"]},
        model={"kind": "tft"},  # reads every column, so that none is refused
    )
    material = Material.of(experiment)
    spec = spec_from_mapping({"kind": kind, **SMALL.get(kind, {})})
    torch.manual_seed(0)
    recipe = replace(
        material.recipe,
        inputs=material.recipe.inputs.read_by(spec.capabilities),
        joint=material.recipe.joint and spec.capabilities.cross_series,
    )
    model = build(spec, material.shape_for(spec.capabilities, ()))
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    forecaster = Forecaster(model, spec=spec, recipe=recipe, device="cpu")
    return forecaster, newest(experiment, material, forecaster)


def adds_up(shares: pl.DataFrame, *by: str, value: str) -> bool:
    total = shares.group_by(by).agg(pl.col(value).sum())[value].to_numpy()
    return bool((shares[value] >= 0).all()) and np.allclose(total, 1)


def test_variables_have_the_names_of_the_columns(tmp_path: Path) -> None:
    """Importance of \"known 2\" sends the reader to count columns, and to miscount them."""
    found = explained(*asked_of(tmp_path, "tft", static=["city"]))
    variables = found.tables["variables"]
    assert variables.columns == ["unique_id", "role", "variable", "importance", "p10", "p50", "p90"]
    first = variables.filter(pl.col("unique_id") == "s1")
    known = ["hour_cos", "hour_sin", "price"]
    assert [*first.select("role", "variable").iter_rows()] == [
        ("static", "city"),
        *(("encoder", name) for name in ("y", "heat", *known)),
        *(("decoder", name) for name in known),
    ]
    assert tuple(variables["unique_id"].unique(maintain_order=True)) == IDS
    assert adds_up(variables, "unique_id", "role", value="importance")
    assert set(found.checks) == {
        "static variables", "encoder variables", "decoder variables", "attended steps",
    }  # fmt: skip
    assert found.checks["static variables"] is None  # one column: nothing to compare it with
    assert found.checks["attended steps"] is not None


@pytest.mark.parametrize("group", ["none", "all"])
def test_a_series_has_its_own_explanation(tmp_path: Path, group: str) -> None:
    """Shares under another shop's name are worse than none."""
    forecaster, asked = asked_of(tmp_path, "tft", static=["city"], group=group)
    together = explained(forecaster, asked).tables
    rows = np.flatnonzero((asked.ids == "s0").any(axis=1))
    batch = asked.batch[torch.from_numpy(rows)]
    if group == "all":
        batch = batch.only(torch.tensor([0]))
    ids, cutoffs = np.full((len(rows), 1), "s0"), asked.cutoffs.gather(rows)
    alone = explained(forecaster, replace(asked, batch=batch, ids=ids, cutoffs=cutoffs)).tables
    for name, of_one in alone.items():
        of_all = together[name].filter(pl.col("unique_id") == "s0")
        assert_frame_equal(of_all, of_one, rel_tol=1e-4, abs_tol=1e-5)


def test_the_newest_windows_of_each_series_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a model looked at last summer is not what was asked."""
    monkeypatch.setattr(explain_command, "ROWS", 6)
    _, asked = asked_of(tmp_path, "ridge")
    last = START + timedelta(hours=300 - 12)
    assert asked.ids[:, 0].tolist() == ["s0", "s0", "s1", "s1", "s2", "s2"]
    assert asked.cutoffs.to_list() == 3 * [last - timedelta(hours=1), last]


def test_attention_is_by_lag_and_regimes_by_stamp(tmp_path: Path) -> None:
    """A weight without its place in time cannot be checked against the calendar."""
    found = explained(*asked_of(tmp_path, "tft"))
    attention = found.tables["attention"]
    assert adds_up(attention, "unique_id", "step", value="weight")
    lags = attention.group_by("step").agg(pl.col("lag").min().alias("a"), pl.col("lag").max())
    assert sorted(lags.iter_rows()) == [(1, 0, 48), (5, 0, 52), (8, 0, 55), (12, 0, 59)]
    regimes = found.tables["regimes"]
    assert regimes["cutoff"].max() == START + timedelta(hours=300 - 12)
    assert regimes.n_unique(["unique_id", "cutoff"]) == len(regimes)
    assert ((regimes["distance"] >= 0) & (regimes["distance"] <= 1)).all()


@pytest.mark.parametrize(
    ("kind", "columns"),
    [("itransformer", ("hour_cos", "hour_sin", "price", "heat")), ("samformer", ("heat",))],
)
def test_variates_are_the_series(tmp_path: Path, kind: str, columns: tuple[str, ...]) -> None:
    """Who takes from whom is the question; numbers of columns are no answer."""
    found = explained(*asked_of(tmp_path, kind, group="all"))
    weights = found.tables["variate_attention"]
    assert weights.columns == ["layer", "from", "to", "weight"]
    assert tuple(weights["from"].unique(maintain_order=True)) == IDS
    assert tuple(weights["to"].unique(maintain_order=True)) == (*IDS, *columns)
    assert adds_up(weights, "layer", "from", value="weight")
    assert found.tables["resemblance"].columns == ["layer", "past", "future"]
    assert found.checks["variates"] is not None
    alone = explained(*asked_of(tmp_path, kind))
    assert adds_up(alone.tables["variate_attention"], "layer", "from", value="weight")
    assert (alone.tables["variate_attention"].select("from").to_series().n_unique()) == 3


def test_lags_are_those_of_the_one_map(tmp_path: Path) -> None:
    """The matrix of a linear model is its explanation, in steps before the one it serves."""
    forecaster, asked = asked_of(tmp_path, "ridge")
    found = explained(forecaster, asked)
    lags = found.tables["lags"]
    assert len(lags) == 12 * 48
    assert adds_up(lags, "step", value="importance")
    weight = lags.filter((pl.col("step") == 3) & (pl.col("lag") == 24))["weight"].item()
    plain = forecaster.model.weight[2, 48 + 2 - 24]
    rest = 1 - forecaster.model.weight[2].sum()
    assert weight == pytest.approx(float(plain + rest / 48), rel=1e-4)


def test_who_cannot_explain_says_who_can(tmp_path: Path) -> None:
    """An empty table would be read as: nothing matters."""
    with pytest.raises(IncompatibleError, match=r"'patchtst' explains nothing.*tft.*ridge"):
        explained(*asked_of(tmp_path, "patchtst"))


@pytest.mark.parametrize(
    ("important", "others", "said"),
    [
        (0.4, (0.1, 0.1), "4 times as much. The model depends on these more than on others."),
        (0.004, (0.001, 0.001), "Yet it hardly depends on either"),
        (0.11, (0.1, 0.1), "do not read much into"),
        (0.1, (0.05, 0.12), "says nothing"),
        (0.01, (0.1, 0.1), "misleads"),
        (0.0, (0.0, 0.0), "no forecast moves"),
    ],
)
def test_the_check_is_said_in_words(important: float, others: tuple[float, ...], said: str) -> None:
    """Nobody reads a ratio of 1.1 as what it is: nothing."""
    assert said in verdict("lags", Faithfulness(important, others, count=3, windows=9))


def test_a_check_that_cannot_be_made_is_not_passed_over() -> None:
    """Silence would pass for approval."""
    assert "not possible" in verdict("static variables", None)


def test_the_largest_are_shown_and_the_rest_counted(tmp_path: Path) -> None:
    """A terminal full of shares hides the few that count."""
    console = Console(width=100, record=True, file=StringIO())
    found = explained(*asked_of(tmp_path, "tft", static=["city"]))
    show(found, console=console)
    printed = console.export_text()
    assert "hour_sin" in printed
    assert "... and 50 more with less each" in printed  # lags 0 to 59, of which 10 are shown
    assert "Attention strays" in printed
    assert printed.count("Check of") == len(found.checks)


def test_shares_are_means_over_steps() -> None:
    """A lag that two of three steps read is not worth what all three read."""
    weights = pl.DataFrame(
        {
            "step": [1, 1, 2, 2, 3, 3],
            "lag": [24, 1, 24, 2, 24, 25],
            "importance": [0.7, 0.3, 0.6, 0.4, 0.2, 0.8],
        }
    )
    shares = mean_shares(weights, whole=[], part="lag", value="importance")
    assert shares["lag"].to_list() == [24, 25, 2, 1]
    np.testing.assert_allclose(shares["importance"], [0.5, 0.8 / 3, 0.4 / 3, 0.1])
