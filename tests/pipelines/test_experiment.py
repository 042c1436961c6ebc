"""Experiments: strict, complete, and every shipped file says only what differs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.backtest import measures
from pipelines.config_files import config_path
from pipelines.experiment import Experiment
from pipelines.policy import METRICS
from pipelines.sections import Data
from pipelines.versions import checked_name
from pipelines.workers import Asked, Workers
from tsformer.errors import ConfigError
from tsformer.settings import to_mapping

SHIPPED = sorted(
    path for path in config_path("").rglob("*.yaml") if path.parent.name not in ("configs", "data")
)


def read(tmp_path: Path, **content: Any) -> Experiment:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    return Experiment.read(file)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_shipped_experiments_are_read(path: Path) -> None:
    experiment = Experiment.read(path)
    assert experiment.name
    assert len(experiment.digest) == 64


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_no_shipped_line_repeats_a_default(path: Path) -> None:
    """A repeated default goes stale in silence when the default moves."""
    content = yaml.safe_load(path.read_text())
    experiment = Experiment.read(path)
    settings = {
        "window": type(experiment.window)(),
        "training": type(experiment.training)(),
        "backtest": type(experiment.backtest)(),
        "gate": type(experiment.gate)(),
    }
    for section, defaults in settings.items():
        for key, value in content.get(section, {}).items():
            assert to_mapping(defaults)[key] != value, f"{path}: {section}.{key}"
    for key, value in content["model"].items():
        if key != "kind" and hasattr(type(experiment.model), key):
            default = to_mapping(type(experiment.model)())[key]
            assert default != value, f"{path}: model.{key}"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"model": {"kind": "ridge"}}, "'data' is missing"),
        ({"data": "etth1"}, "'model' is missing"),
        ({"data": "etth1", "modle": {"kind": "ridge"}}, "Did you mean 'model'"),
        ({"data": "etth9", "model": {"kind": "ridge"}}, "etth1"),
        ({"data": "etth1", "model": {"kind": "rigde"}}, "ridge"),
        ({"data": "etth1", "model": {"kind": "patchtst", "widht": 8}}, "Did you mean 'width'"),
        ({"data": "etth1", "model": {"kind": "patchtst", "width": "big"}}, "whole number"),
        (
            {"data": "etth1", "model": {"kind": "patchtst"}, "training": {"learning_rate": "1e-3"}},
            "1.0e-3",
        ),
        ({"data": "etth1", "model": {"kind": "ridge"}, "window": {"contxt": 3}}, "context"),
        ({"data": {"source": "a.csv", "group": "some"}, "model": {"kind": "ridge"}}, "group"),
        ({"data": {"source": "a.csv", "split": [0.5, 0.5]}, "model": {"kind": "ridge"}}, "split"),
        ({"data": 7, "model": {"kind": "ridge"}}, "data"),
    ],
)
def test_what_is_wrong_is_named_with_the_remedy(
    tmp_path: Path, content: dict[str, Any], named: str
) -> None:
    """Someone who mistypes a key must learn it now, and not by a silent default."""
    with pytest.raises(ConfigError, match=named) as raised:
        read(tmp_path, **content)
    assert "mine.yaml" in str(raised.value) or "data" in str(raised.value)


RIDGE = {"model": {"kind": "ridge"}, "data": "etth1"}
QUANTILES = {"data": "etth1", "model": {"kind": "patchtst"}}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({**RIDGE, "name": "my sales"}, "'name': 'my sales' is not a model name"),
        ({**RIDGE, "name": 7}, "'name' must be text, got 7"),
        ({**RIDGE, "name": None}, "'name' must be text, got None"),
        ({**RIDGE, "notes": ["why"]}, "'notes' must be text"),
        ({"data": {"source": "销售.csv"}, "model": "ridge"}, "Set it, such as name: sales"),
        ({**RIDGE, "backtest": {"metric": "wqll"}}, "got 'wqll'. Did you mean 'wql'"),
        ({**RIDGE, "backtest": {"metric": "coverage"}}, "'metric' must be one of mse_scaled"),
        ({**RIDGE, "backtest": {"stride": 0}}, "'stride' must be at least 1 step, got 0"),
        ({**RIDGE, "backtest": {"coverage": 1.0}}, "'coverage' must lie between 0 and 1, got 1.0"),
        ({**RIDGE, "backtest": {"coverage": float("nan")}}, "'coverage'"),
        ({**RIDGE, "backtest": {"coverage": 0.999}}, "calibrated from 0.005 to 0.995"),
        ({**RIDGE, "backtest": {"levels": [0.5, 0.1]}}, "ascend without repeats"),
        ({**RIDGE, "backtest": {"levels": [0.5, 0.5]}}, "ascend without repeats"),
        ({**RIDGE, "backtest": {"levels": [0.5, 1]}}, "between 0 and 1"),
        ({**RIDGE, "backtest": {"levels": []}}, "backtest: 'levels' is empty"),
        ({**RIDGE, "backtest": {"levels": ["a"]}}, "each entry of 'levels' must be a number"),
        ({**QUANTILES, "window": {"levels": [0.9, 0.5, 0.1]}}, "window: 'levels'.*ascend"),
        ({**QUANTILES, "window": {"levels": [0.1, 0.9]}}, "must have 0.5"),
        ({**QUANTILES, "window": {"levels": [0.2, 0.5, 0.9]}}, "Add 0.1 to window.levels"),
        (
            {**QUANTILES, "window": {"levels": [0.1, 0.5, 0.9]}, "backtest": {"coverage": 0.9}},
            "Add 0.05, 0.95",
        ),
        ({**RIDGE, "window": {"context": 0}}, "'context' must be at least 1 step, got 0"),
        ({**RIDGE, "window": {"horizon": -1}}, "'horizon'"),
        ({**RIDGE, "window": {"features": ["huor"]}}, "huor"),
        ({"data": {"source": "a.csv", "season": -1}, "model": "ridge"}, "'season'.*got -1"),
        ({"data": "flights_late", "model": "nlinear"}, "'data.known' names scheduled.*ridge"),
        ({**QUANTILES, "window": {"features": ["hour"]}}, "'window.features' names hour.*ridge"),
        ({"data": {"source": "a.csv", "past": ["x"]}, "model": "ridge"}, "data.past.*Take a model"),
        ({"data": {"source": "a.csv", "static": ["x"]}, "model": "ridge"}, "data.static.*tft"),
        ({**RIDGE, "gate": {"margn": 0.1}}, "gate: unknown key 'margn'. Did you mean 'margin'"),
        ({**RIDGE, "gate": {"metric": "wqll"}}, "gate: 'metric'.*Did you mean 'wql'"),
        ({**RIDGE, "gate": {"metric": "coverage"}}, "gate: 'metric' must be one of mse_scaled"),
        ({**RIDGE, "gate": {"margin": 1.0}}, "gate: 'margin' must be a share.*got 1.0"),
        ({**RIDGE, "gate": {"margin": float("nan")}}, "gate: 'margin'.*got nan"),
        ({**RIDGE, "gate": {"significance": 0}}, "gate: 'significance' must lie above 0"),
        ({**RIDGE, "gate": {"coverage_band": [0.1]}}, "'coverage_band' must say how much less"),
        ({**RIDGE, "gate": {"coverage_band": [0.1, 2]}}, "'coverage_band'.*got .0.1, 2.0"),
        ({**RIDGE, "gate": {"slice_loss": -0.1}}, "'slice_loss' must be 0 or more"),
        ({**RIDGE, "gate": {"worst_series": -1}}, "'worst_series' must be a share"),
        ({**RIDGE, "gate": ["wql"]}, "gate: expected keys and values"),
        ({**RIDGE, "baselines": None}, "'baselines' must be a list of kinds.*got None"),
        ({**RIDGE, "baselines": 3}, "got 3"),
        ({**RIDGE, "baselines": {"kind": "linear"}}, "must be a list of kinds"),
        ({**RIDGE, "baselines": [3]}, "got 3"),
        ({"data": "etth1", "model": {"kind": "ridge", "penalties": ["a"]}}, "'penalties'.*'a'"),
        ({"data": {"source": "a.csv", "split": [0.5, "a", 0.2]}, "model": "ridge"}, "'split'.*'a'"),
        (
            {"data": {"source": "a.csv", "split": [0.5, 0.5, float("nan")]}, "model": "ridge"},
            "three positive fractions",
        ),
        ({"data": {"source": "a.csv", "split_rows": ["a"]}, "model": "ridge"}, "'split_rows'.*'a'"),
        (
            {"data": {"source": "a.csv", "split_dates": ["2024-01-01", "soon", "2024-03-01"]},
             "model": "ridge"},
            "three days like 2013-10-01.*soon",
        ),
        (
            {"data": {"source": "a.csv", "split_dates": ["2024-03-01", "2024-02-01", "2024-04-01"]},
             "model": "ridge"},
            "one after the other",
        ),
        ({**RIDGE, "window": None}, "window: expected keys and values, got None"),
        ({**RIDGE, "training": 3}, "training: expected keys and values, got 3"),
    ],
)  # fmt: skip
def test_parts_that_disagree_are_refused_when_read(
    tmp_path: Path, content: dict[str, Any], named: str
) -> None:
    """Each of these cost minutes of training before it was told, or was never told."""
    with pytest.raises(ConfigError, match=named) as raised:
        read(tmp_path, **content)
    assert "mine.yaml" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"- data: etth1\n- model: ridge\n", "at the top.*got .*etth1"),
        (b"", "at the top.*got None"),
        (b"data: etth1\nmodel: ridge\nnotes: caf\xe9\n", "not UTF-8"),
        (b"data: {source: a.csv, split_dates: [2024-02-31]}\nmodel: ridge\n", "not YAML"),
        (b"? [a]\n: 3\n", "not YAML"),
        (b"[" * 5_000, "not YAML"),
    ],
)
def test_files_that_are_no_experiment(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=named) as raised:
        Experiment.read(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(raised.value)


def test_days_need_no_quotes(tmp_path: Path) -> None:
    """YAML makes dates of them; the setting is the same text either way."""
    line = "data: {{source: a.csv, split_dates: [{0}2024-01-01{0}, {0}2024-02-01{0}, {0}2024-03-01{0}]}}"
    for name, quote in (("bare", ""), ("quoted", "'")):
        (tmp_path / f"{name}.yaml").write_text(line.format(quote) + "\nmodel: ridge\n")
    bare, quoted = (Experiment.read(tmp_path / f"{name}.yaml") for name in ("bare", "quoted"))
    assert bare.data.split_dates == ("2024-01-01", "2024-02-01", "2024-03-01")
    assert bare.digest == quoted.digest


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("my sales (2024).csv", "my-sales-2024"),
        ("Verkäufe.csv", "Verkaufe"),
        ("_x_.csv", "x"),
        (f"{'a' * 63} b.csv", "a" * 63),
    ],
)
def test_a_file_name_becomes_a_valid_model_name(tmp_path: Path, source: str, name: str) -> None:
    """It is refused by the registry otherwise, when all has been fitted."""
    experiment = read(tmp_path, data={"source": source}, model="ridge")
    assert experiment.name == checked_name(experiment.name) == name


def test_one_baseline_may_stand_for_itself(tmp_path: Path) -> None:
    one = read(tmp_path, data="etth1", model="ridge", baselines="seasonal_naive")
    assert [spec.kind for spec in one.baselines] == ["seasonal_naive"]


def test_the_metrics_are_columns_of_the_leaderboard() -> None:
    """All but the coverage, of which less is not better."""
    assert {*METRICS, "coverage"} == {*measures(0.8)}


def test_text_that_is_no_yaml_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("data: etth1\nmodel: {kind: ridge\n")
    with pytest.raises(ConfigError, match="line"):
        Experiment.read(file)


def test_yaml_cannot_run_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    file = tmp_path / "evil.yaml"
    file.write_text(f"data: !!python/object/apply:os.system ['touch {marker}']\nmodel: ridge\n")
    with pytest.raises(ConfigError):
        Experiment.read(file)
    assert not marker.exists()


def test_a_missing_file_is_named_with_those_that_it_may_be(tmp_path: Path) -> None:
    """Of seventy shipped experiments, only those that are spelt like it help."""
    with pytest.raises(
        ConfigError, match=r"no file configs/etth1/rigde.yaml. Did you mean conf.*etth1/ridge"
    ):
        Experiment.read("configs/etth1/rigde.yaml")
    (tmp_path / "sales.yaml").touch()
    with pytest.raises(ConfigError, match=r"no file .*sale\.yaml\. Did you mean .*/sales\.yaml\?"):
        Experiment.read(tmp_path / "sale.yaml")


def test_a_source_is_found_beside_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("ds,y\n2024-01-01,1\n")
    experiment = read(
        tmp_path, data={"source": "sales.csv", "targets": ["y"]}, model={"kind": "ridge"}
    )
    assert experiment.data.source == str(tmp_path / "sales.csv")
    assert experiment.name == "sales"


def test_equal_experiments_have_equal_digests(tmp_path: Path) -> None:
    short = read(tmp_path, data="etth1", model={"kind": "patchtst"})
    long = read(tmp_path, data="etth1", model={"kind": "patchtst", "width": 16}, window={})
    other = read(tmp_path, data="etth1", model={"kind": "patchtst", "width": 32})
    assert short.digest == long.digest
    assert short.digest != other.digest


def test_workers_are_a_number_or_keys_and_do_not_change_the_digest(tmp_path: Path) -> None:
    """Whoever gives a training more machines must be able to go on with it."""
    plain = read(tmp_path, data="etth1", model={"kind": "patchtst"})
    two = read(tmp_path, data="etth1", model={"kind": "patchtst"}, workers=2)
    four = read(tmp_path, data="etth1", model={"kind": "patchtst"}, workers={"count": 4, "gpus": 1})
    assert (plain.workers, two.workers, four.workers) == (Workers(), Workers(2), Workers(4, 1))
    assert plain.digest == two.digest == four.digest
    assert "workers" not in plain.resolved()
    assert two.resolved()["workers"] == {"count": 2, "gpus": 0}
    assert Asked(count=3).of(four).workers == Workers(3, 1)
    assert Asked().of(two) == two


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ("two", "'workers' must be a number such as 2, got 'two'"),
        (True, "'workers' must be a number such as 2, got True"),
        (0, "The number of workers must be at least 1, got 0"),
        ({"number": 2}, "unknown key 'number'"),
    ],
)
def test_workers_that_nobody_can_be_are_refused(
    tmp_path: Path, workers: object, message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(tmp_path, data="etth1", model={"kind": "patchtst"}, workers=workers)


def test_notes_do_not_change_the_digest(tmp_path: Path) -> None:
    plain = read(tmp_path, data="etth1", model={"kind": "ridge"})
    noted = read(tmp_path, data="etth1", model={"kind": "ridge"}, notes="why")
    assert plain.digest == noted.digest


def test_data_defaults_are_the_usual_split() -> None:
    assert Data().split == (0.7, 0.1, 0.2)
