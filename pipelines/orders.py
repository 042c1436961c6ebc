"""What a client orders to be trained, as an experiment: values in, values out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.datasets import Dataset
from pipelines.experiment import Experiment
from pipelines.versions import checked_new_name
from tsformer.errors import ConfigError

SECTIONS = ("data", "window", "model", "training", "backtest", "baselines", "gate")
# Which columns of the dataset are read as what; where it lies is none of the client's business.
COLUMNS = (
    "known", "past", "static", "categories", "season", "group", "fill",
    "split", "split_rows", "split_dates",
)  # fmt: skip
WARM_START = "warm_start"
UNPROMOTED = "unpromoted"  # in the spec of a training: what passes the gate is left as it is


def experiment_of(spec: Mapping[str, Any], dataset: Dataset, file: Path) -> Experiment:
    """The experiment that `spec` orders on `dataset`, whose rows are in `file`.

    `config` has the sections of an experiment; what the dataset says already is not said again.
    A `space` makes it one that can be searched.
    Raises ConfigError for what is not as specified.
    """
    config = spec.get("config") or {}
    check_sections(config)
    own = config.get("data", {})
    if strangers := [key for key in own if key not in COLUMNS]:
        told = f"{len(strangers)} keys are none of {', '.join(COLUMNS)}."
        raise ConfigError(f"config: data: {told}", told=told)
    data = {
        "fill": "mask",  # rows of a dataset may be missing
        **own,
        "name": dataset.name,
        "source": str(file),
        "id": dataset.id or "",
        "time": dataset.time,
        "targets": [dataset.target],
        "freq": dataset.freq,
        "tz": dataset.tz or "",
    }
    start = {"from": spec["parent"]} if spec.get("mode") == WARM_START else {}
    search = {"search": {"space": spec["space"]}} if "space" in spec else {}
    mapping = {
        **{key: config[key] for key in SECTIONS if key in config},
        **start,
        **search,
        "name": checked_new_name(str(spec["name"])),
        "data": data,
        "model": {**config.get("model", {}), "kind": spec["kind"]},
    }
    try:
        return Experiment.from_mapping(mapping, where="config", folder=file.parent)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        told = "A value is not of the kind that its key has."
        raise ConfigError(f"config: {told}", told=told) from error


def check_sections(config: Mapping[str, Any]) -> None:
    """Raises ConfigError for a section that is no mapping; `baselines` is a list."""
    for name, section in config.items():
        if name != "baselines" and not isinstance(section, Mapping):
            told = "A section must hold keys and values."
            raise ConfigError(f"config: section {name!r} must hold keys and values.", told=told)


def with_gate(spec: Mapping[str, Any], gate: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` with what a schedule asks of a candidate, in the words of an experiment."""
    config = dict(spec.get("config") or {})
    asked = {**config.get("gate", {})}
    if gate.get("metric"):
        asked["metric"] = gate["metric"]
    if gate.get("alpha"):
        asked["significance"] = gate["alpha"]
    for share, least in (gate.get("min_coverage") or {}).items():
        nominal = float(share)
        asked["coverage_band"] = [round(nominal - least, 6), round(1 - nominal, 6)]
        config["backtest"] = {**config.get("backtest", {}), "coverage": nominal}
    return {**spec, "config": {**config, **({"gate": asked} if asked else {})}}
