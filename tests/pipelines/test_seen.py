"""What a version has seen of each series, where series begin and end at different times."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.commands import agrees
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.leaks import leaks
from pipelines.material import Material
from pipelines.parent import Parent
from pipelines.pretraining import Origin
from pipelines.recipe import Recipe
from pipelines.seen import Reach, Seen
from pipelines.training import fit_all
from pipelines.versions import ModelVersion
from tests.panels import experiment_on, hourly, waves
from tsformer.errors import ConfigError

LATER = {"a": 0, "b": 365}  # days after the first stamp of all


def daily(folder: Path, *names: str, rows: int = 500, **sections: Any) -> Experiment:
    """Daily series of `rows` each, that begin when `LATER` says."""
    table = hourly(dict(zip(LATER, waves(2, rows, season=7).values(), strict=True)))
    hours = pl.col("ds") - pl.col("ds").min()
    begun = pl.col("unique_id").replace_strict(LATER) * timedelta(days=1)
    table = table.with_columns(ds=pl.col("ds").min() + begun + hours * 24)
    sections.setdefault("window", {"context": 28, "horizon": 7})
    sections.setdefault("baselines", [])
    folder.mkdir(exist_ok=True)
    return experiment_on(folder, table.filter(pl.col("unique_id").is_in(names)), **sections)


def fitted(experiment: Experiment) -> tuple[Forecaster, Material]:
    material = Material.of(experiment)
    return fit_all(experiment, material, device="cpu")["ridge"].forecaster, material


def test_a_champion_that_saw_the_test_part_of_one_series_is_found(tmp_path: Path) -> None:
    """The other series' parts end a year later: their border excuses nothing."""
    champion, _ = fitted(daily(tmp_path / "then", "a", data={"split": [0.9, 0.05, 0.05]}))
    now = Material.of(daily(tmp_path / "now", "a", "b"))
    assert champion.recipe.fitted_until is not None
    assert champion.recipe.fitted_until < (now.recipe.fitted_until or 0)
    (found,) = leaks(champion, now)
    assert "the test part of 'a' begins at 2025-02-04 00:00:00" in found
    with pytest.raises(ConfigError, match="fitted on rows of the test part"):
        agrees("sales/1", champion, now)


def test_the_next_night_of_a_staggered_table_is_compared(tmp_path: Path) -> None:
    """Each series' part begins later than it did: nothing was seen, and the gate stays open."""
    champion, material = fitted(daily(tmp_path / "then", "a", "b"))
    assert leaks(champion, material) == ()
    now = Material.of(daily(tmp_path / "now", "a", "b", rows=505))
    assert leaks(champion, now) == ()
    agrees("sales/1", champion, now)


def test_a_child_has_seen_what_its_parent_has(tmp_path: Path) -> None:
    """Fitted on `a` alone, it began with weights that know `b`, of which it is scored later."""
    champion, _ = fitted(daily(tmp_path / "then", "a", "b"))
    child = Material.of(daily(tmp_path / "child", "a", rows=505))
    parent = Parent(
        ModelVersion("sales", "1", "ridge", digest="", run_id="", created_at=""), champion
    )
    recipe = parent.taught(child.recipe, child)
    both = Material.of(daily(tmp_path / "both", "a", "b", rows=460)).begins("test")
    assert recipe.fitted is not None
    assert child.recipe.fitted is not None
    assert child.recipe.fitted.reach({"b": both["b"]}) is None
    assert recipe.fitted.reach({"b": both["b"]})


def test_an_older_release_said_one_stamp_for_all(tmp_path: Path) -> None:
    """It is believed where the parts begin together; where they do not, it may have seen one."""
    champion, apart = fitted(daily(tmp_path / "two", "a", "b"))
    plain = json.loads(json.dumps(asdict(champion.recipe)))
    assert Recipe.of_mapping(plain) == champion.recipe
    del plain["trained_ends"], plain["fitted_ends"]
    champion.recipe = Recipe.of_mapping(plain)
    (found,) = leaks(champion, apart)
    assert "the test part of 'a'" in found
    lone, together = fitted(daily(tmp_path / "one", "b"))
    assert lone.recipe.fitted_ends == ()
    assert leaks(lone, together) == ()
    said = {"frequency": "D", "trained_until": 1, "fitted_until": 2}
    assert Origin.of_mapping(said) == Origin("D", 1, 2)


def test_a_series_without_a_test_part_is_not_asked_about(tmp_path: Path) -> None:
    """A product that was given up before the test part begins cannot be leaked."""
    dates = ["2025-06-01", "2025-09-01", "2026-06-01"]
    material = Material.of(daily(tmp_path, "a", "b", data={"split_dates": dates}))
    assert [*material.begins("test")] == ["b"]
    assert [*material.begins("validation")] == ["b"]


def test_series_are_told_apart_only_where_they_end_apart() -> None:
    """A recipe of a million series that end together stays as short as that of one."""
    assert Seen.of({"a": 5, "b": 5}) == Seen(5)
    assert Seen.of({"a": 3, "b": 5, "c": 3}) == Seen(5, ((3, ("a", "c")),))


def test_an_unknown_name_counts_as_seen_until_the_last() -> None:
    seen = Seen(9, ((3, ("a",)),))
    assert seen.reach({"a": 4, "b": 10}) is None
    assert seen.reach({"a": 3, "b": 10}) == Reach("a", 3, 3)
    assert seen.reach({"renamed": 4}) == Reach("renamed", 9, 4)


def test_what_was_seen_before_is_not_forgotten() -> None:
    """A version calibrated anew on one series has still been fitted on the other."""
    before = Seen.of({"a": 3, "b": 9})
    assert before.then({"a": 5}) == Seen.of({"a": 5, "b": 9})
    assert before.then({"a": 12}) == Seen(12)  # b is not named apart: nothing is excused
    assert replace(before, ends=()).then({"a": 5}) == Seen(9)
