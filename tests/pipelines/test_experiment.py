"""Experiments: strict, complete, and every shipped file says only what differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.experiment import Data, Experiment, config_path
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


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        Experiment.read("nowhere.yaml")


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


def test_notes_do_not_change_the_digest(tmp_path: Path) -> None:
    plain = read(tmp_path, data="etth1", model={"kind": "ridge"})
    noted = read(tmp_path, data="etth1", model={"kind": "ridge"}, notes="why")
    assert plain.digest == noted.digest


def test_data_defaults_are_the_usual_split() -> None:
    assert Data().split == (0.7, 0.1, 0.2)
