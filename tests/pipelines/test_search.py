"""The search section: strict before anything runs, and what it makes of the trials so far."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipelines.config_files import config_path
from pipelines.experiment import Experiment
from pipelines.experiment_file import written
from pipelines.search import Choice, Range, Search
from pipelines.suggestions import importances, suggest
from pipelines.trials import Epoch, Trial, best_of, start_of, tried
from tsformer.errors import ConfigError

RATE = {"from": 1e-4, "to": 1e-2, "log": True}
SPACE = {
    "model.width": [16, 32, 64],
    "model.dropout": {"from": 0, "to": 0.5},
    "training.learning_rate": RATE,
}


def read(folder: Path, space: object, **sections: Any) -> Experiment:
    """An experiment with a search, read from a file."""
    content = {
        "data": "etth1",
        "model": {"kind": "patchtst"},
        **sections,
        "search": {"space": space},
    }
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    return Experiment.read(file)


def search_of(folder: Path, space: object, **sections: Any) -> Search:
    found = read(folder, space, **sections).search
    assert found is not None
    return found


def ended(number: int, parameters: Any, loss: float, state: Any = "finished") -> Trial:
    return Trial(number, parameters, "", state, "", (Epoch(1, loss, None, 1.0),))


def test_a_search_is_read_as_it_is_written(tmp_path: Path) -> None:
    """What git and MLflow keep of a search must be the search that ran."""
    search = search_of(tmp_path, SPACE)
    assert search.space["model.width"] == Choice((16, 32, 64))
    assert search.space["model.dropout"] == Range(0.0, 0.5)
    assert search.space["training.learning_rate"] == Range(1e-4, 1e-2, log=True)
    again = search_of(tmp_path, search.to_mapping()["space"])
    assert again == search


def test_an_experiment_without_a_search_is_what_it_was(tmp_path: Path) -> None:
    """Checkpoints and runs are found by the digest: a new section must not change old ones."""
    plain = Experiment.read(config_path("flights/patchtst.yaml"))
    assert "search" not in plain.resolved()
    searched = read(tmp_path, SPACE)
    assert replace(searched, search=None).digest != searched.digest


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"model.widht": [1, 2]}, "unknown key 'model.widht'. Did you mean 'model.width'"),
        ({"modle.width": [1, 2]}, "Did you mean 'model.width'"),
        ({"window.horizon": [24, 48]}, "unknown key 'window.horizon'"),
        ({"data.season": [24, 48]}, "unknown key 'data.season'"),
        ({"model.kind": ["ridge", "tft"]}, "unknown key 'model.kind'"),
        ({"training.loss": ["mse", "mae"]}, "losses of different kinds cannot be compared"),
        ({"training.seed": [0, 1]}, "luck"),
        ({"model.width": ["a", "b"]}, "'width' must be a whole number, got 'a'"),
        ({"model.width": [16, 1.5]}, "'width' must be a whole number, got 1.5"),
        ({"model.width": {"from": 0.5, "to": 8}}, "'width' must be a whole number, got 0.5"),
        ({"training.learning_rate": ["1e-3", 1e-2]}, "1.0e-3"),
        ({"training.learning_rate": {"from": "1e-4", "to": 1e-2}}, "1.0e-3"),
        ({"model.width": 16}, "'model.width' must be a list of choices or {from: LOW, to: HIGH}"),
        ({"model.width": [16]}, "two different choices"),
        ({"model.width": [16, 16]}, "none twice"),
        ({"model.width": []}, "two different choices"),
        ({"model.norm": {"from": 0, "to": 1}}, "no number, so it needs a list"),
        ({"model.dropout": {"from": 0.5, "to": 0.1}}, "'from' 0.5 is not below 'to' 0.1"),
        ({"model.dropout": {"from": 0.5, "to": 0.5}}, "must go up"),
        ({"model.dropout": {"from": 0.0, "to": math.inf}}, "must go up"),
        ({"model.dropout": {"from": 0.0, "to": 0.5, "log": True}}, "must start above 0"),
        ({"model.dropout": {"from": 0.1, "too": 0.5}}, "unknown key 'too'. Did you mean 'to'"),
        ({"model.dropout": {"from": 0.1}}, "'to' is missing"),
        ({"model.dropout": {"from": 0.1, "to": 0.5, "log": "yes"}}, "'log' must be true or false"),
        ({}, "'space' must name one setting at least"),
        ([], "'space' must name one setting at least"),
    ],
)
def test_a_wrong_search_is_refused_with_the_remedy(
    tmp_path: Path, space: object, named: str
) -> None:
    """A night of trials over a mistyped setting is a night lost."""
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, space)
    assert named in str(raised.value)
    assert "mine.yaml: search" in str(raised.value)


def test_unknown_keys_of_the_section_are_refused(tmp_path: Path) -> None:
    """Somebody who writes `trials:` there would wait for the default number of them."""
    file = tmp_path / "mine.yaml"
    file.write_text("data: etth1\nmodel: ridge\nsearch: {trials: 8, space: {}}\n")
    with pytest.raises(ConfigError, match="search: unknown key 'trials'"):
        Experiment.read(file)


def test_settings_that_do_not_go_together_have_a_reason(tmp_path: Path) -> None:
    """The person sees why a combination was left out."""
    experiment = read(tmp_path, SPACE)
    with pytest.raises(ConfigError, match="width must be a multiple of heads"):
        tried(experiment, {"model.width": 30})
    found = tried(experiment, {"model.width": 32, "training.epochs": 3, "window.context": 100})
    settings = found.resolved()
    assert (settings["model"]["width"], settings["training"]["epochs"]) == (32, 3)
    assert (found.window.context, found.search) == (100, None)


def test_the_first_trial_is_the_experiment_itself(tmp_path: Path) -> None:
    """The best of a search must not be worse than what was there before."""
    experiment = read(tmp_path, SPACE)
    search = search_of(tmp_path, SPACE)
    start = start_of(experiment, search)
    assert suggest(search, [], number=0, start=start, seed=0) == {
        "model.width": 16, "model.dropout": 0.3, "training.learning_rate": 1e-3,
    }  # fmt: skip
    elsewhere = {**start, "model.width": 128}
    first = suggest(search, [], number=0, start=elsewhere, seed=0)
    assert first is not None
    assert search.holds(first)


def test_a_search_that_was_killed_asks_for_the_same(tmp_path: Path) -> None:
    """Nothing is kept of the sampler: the trials alone must lead to the same next one."""
    search = search_of(tmp_path, SPACE)
    start = start_of(read(tmp_path, SPACE), search)
    trials: list[Trial] = []
    for number in range(12):
        found = suggest(search, trials, number=number, start=start, seed=0)
        assert found == suggest(search, [*trials], number=number, start=start, seed=0)
        assert found is not None
        assert search.holds(found)
        rate = found["training.learning_rate"]
        assert rate == float(f"{rate:.4g}")
        trials.append(ended(number, found, abs(math.log10(rate) + 3)))
    assert len({str(trial.parameters) for trial in trials}) == 12


def test_trials_gather_where_they_are_good(tmp_path: Path) -> None:
    """A sampler that learns nothing from the losses is a throw of dice."""
    search = search_of(tmp_path, {"training.learning_rate": RATE, "model.width": [16, 32]})
    start = {"training.learning_rate": 1e-4, "model.width": 16}
    trials: list[Trial] = []
    for number in range(40):
        found = suggest(search, trials, number=number, start=start, seed=1)
        assert found is not None
        off = abs(math.log10(found["training.learning_rate"]) + 2.5)
        trials.append(ended(number, found, off + (found["model.width"] == 16)))
    late = [trial.loss for trial in trials[20:]]
    assert np.median(late) < 0.5 * np.median([trial.loss for trial in trials[:6]])
    shares = importances(search, trials)
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)


def test_a_small_space_is_tried_to_its_end_and_no_further(tmp_path: Path) -> None:
    """A trial with the settings of another gives its result again and costs as much."""
    search = search_of(tmp_path, {"model.width": [16, 32], "training.epochs": {"from": 1, "to": 3}})
    assert search.size == 6
    trials: list[Trial] = []
    while (
        found := suggest(
            search, trials, number=len(trials), start={"model.width": 16, "training.epochs": 2},
            seed=0,
        )
    ) is not None:  # fmt: skip
        trials.append(ended(len(trials), found, float(len(trials))))
    assert len(trials) == 6
    assert {str(t.parameters) for t in trials} == {str(p) for p in search.combinations()}


def test_the_best_is_the_lowest_of_those_that_came_through() -> None:
    """A trial that blew up after a lucky epoch would blow up again."""
    trials = [
        ended(0, {}, 0.5),
        ended(1, {}, 0.2, "stopped"),
        ended(2, {}, 0.2),
        ended(3, {}, 0.1, "diverged"),
        Trial(4, {}, state="stopped"),
    ]
    assert best_of(trials) is trials[1]
    assert best_of(trials[3:]) is None


def test_importance_finds_what_matters_and_keeps_silent_of_too_few(tmp_path: Path) -> None:
    """A share drawn from three trials would send people after noise."""
    search = search_of(tmp_path, SPACE)
    random = np.random.default_rng(0)
    trials = []
    for number in range(60):
        rate = float(10 ** random.uniform(-4, -2))
        parameters = {
            "model.width": int(random.choice([16, 32, 64])),
            "model.dropout": float(random.uniform(0, 0.5)),
            "training.learning_rate": rate,
        }
        trials.append(ended(number, parameters, abs(math.log10(rate) + 3)))
    shares = importances(search, trials)
    assert shares is not None
    assert next(iter(shares)) == "training.learning_rate"
    assert shares["training.learning_rate"] > 0.8
    assert importances(search, trials[:5]) is None
    assert importances(search, [ended(t.number, t.parameters, 1.0) for t in trials]) is not None


def test_the_best_is_a_file_that_says_only_what_differs(tmp_path: Path) -> None:
    """The file goes to git: it must be read as what was trained, from where it lies."""
    (tmp_path / "table.csv").write_text("hour,sold\n")
    data = {"source": "table.csv", "time": "hour", "targets": ["sold"], "freq": "h"}
    experiment = read(
        tmp_path,
        {"training.learning_rate": RATE, "window.context": [96, 168]},
        data=data,
        window={"horizon": 24},
        baselines=["ridge", {"kind": "seasonal_naive", "season": 24}],
        name="shop",
        workers=2,
    )
    best = replace(
        tried(experiment, {"training.learning_rate": 2e-5, "window.context": 96}), notes="Why."
    )
    out = tmp_path / "out"
    out.mkdir()
    text = written(best, folder=out)
    (out / "best.yaml").write_text(text)
    again = Experiment.read(out / "best.yaml")
    assert again.resolved()["data"].pop("source") == str(out / "../table.csv")
    assert replace(again, data=best.data) == best
    assert again.notes == "Why."
    assert yaml.safe_load(text) == {
        "name": "shop",
        "notes": "Why.",
        "data": {"name": "table", **data, "source": "../table.csv"},
        "model": {"kind": "patchtst"},
        "window": {"context": 96, "horizon": 24},
        "training": {"learning_rate": 2e-5},
        "workers": {"count": 2, "gpus": 0},
        "baselines": [{"kind": "ridge"}, {"kind": "seasonal_naive", "season": 24}],
    }


def test_a_shipped_data_set_is_named_in_the_file() -> None:
    """The best of the shipped search is as short as a shipped experiment."""
    shipped = Experiment.read(config_path("flights/tune.yaml"))
    best = tried(shipped, {"model.width": 64})
    content = yaml.safe_load(written(best, folder=Path()))
    assert content["data"] == "flights"
    assert content["model"] == {
        "kind": "patchtst",
        "patch": 24,
        "stride": 24,
        "width": 64,
        "dropout": 0.0,
    }
