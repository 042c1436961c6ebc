"""Experiment: one YAML that says only what differs from the defaults; frozen and validated.

    data: etth1                      # configs/data/etth1.yaml: the only reference
    window: {context: 512, horizon: 96}
    model: {kind: patchtst, width: 16}
    training: {epochs: 10, learning_rate: 1.0e-3}
    baselines: [{kind: ridge}, {kind: seasonal_naive}]
    backtest: {stride: 1}

Unknown keys are refused with file, key and the nearest valid key.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

from pipelines.agreement import check_name, check_reach, check_readers, check_start
from pipelines.config_files import config_path, content, existing, shown
from pipelines.policy import Policy
from pipelines.search import Search
from pipelines.sections import Backtest, Data, Window
from pipelines.start import Pretraining, Start
from pipelines.workers import Workers
from tsformer.errors import ConfigError, unknown_key, unlike
from tsformer.model import ModelSpec
from tsformer.models import spec_from_mapping
from tsformer.settings import from_mapping, to_mapping
from tsformer.train import Training


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is fitted on what, and against what: the parts agree, or it does not exist.

    `start` stands under `from` in the YAML.
    """

    data: Data
    model: ModelSpec
    window: Window = field(default_factory=Window)
    training: Training = field(default_factory=Training)
    backtest: Backtest = field(default_factory=Backtest)
    baselines: tuple[ModelSpec, ...] = ()
    gate: Policy = field(default_factory=Policy)
    search: Search | None = None
    start: Start | None = None
    pretraining: Pretraining | None = None
    workers: Workers = field(default_factory=Workers)
    name: str = ""
    notes: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        check_name(self.name)
        check_reach(self)
        check_readers(self)
        check_start(self)

    @property
    def specs(self) -> tuple[ModelSpec, ...]:
        """The model and its baselines."""
        return (self.model, *self.baselines)

    @staticmethod
    def read(path: Path | str) -> Experiment:
        """The experiment in the YAML file `path`; ConfigError names file, key and remedy."""
        file = existing(Path(path))
        return Experiment.from_mapping(content(file), where=str(path), folder=file.parent)

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any], *, where: str, folder: Path) -> Experiment:
        """The experiment that `mapping` describes; paths in it are relative to `folder`."""
        valid = ["from" if entry.name == "start" else entry.name for entry in fields(Experiment)]
        for key in mapping:
            if key not in valid:
                raise unknown_key(str(key), valid, where=where)
        for key in ("data", "model"):
            if key not in mapping:
                told = f"'{key}' is missing."
                raise ConfigError(f"{where}: {told}", told=told)
        try:
            return _experiment(mapping, where=where, folder=folder)
        except ConfigError as error:
            if where in str(error):
                raise
            raise ConfigError(f"{where}: {error}", told=error.told) from None

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults included, as plain values."""
        return {
            "name": self.name,
            "data": to_mapping(self.data),
            "window": to_mapping(self.window),
            "model": {"kind": self.model.kind, **self.model.to_mapping()},
            "training": to_mapping(self.training),
            "backtest": to_mapping(self.backtest),
            "baselines": [{"kind": spec.kind, **spec.to_mapping()} for spec in self.baselines],
            "gate": to_mapping(self.gate),
            **({} if self.search is None else {"search": self.search.to_mapping()}),
            **({} if self.start is None else {"from": to_mapping(self.start)}),
            **({} if self.pretraining is None else {"pretraining": to_mapping(self.pretraining)}),
            **({} if self.workers.here else {"workers": to_mapping(self.workers)}),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the resolved experiment: equal experiments have equal digests.

        How many workers fit it is left out, which decides nothing about the models.
        """
        settings = {key: value for key, value in self.resolved().items() if key != "workers"}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _experiment(mapping: Mapping[str, Any], *, where: str, folder: Path) -> Experiment:
    data = _data(mapping["data"], where=where, folder=folder)
    model = _spec(mapping["model"], where=f"{where}: model")
    owners = {"model": type(model), "training": Training, "window": Window}
    return Experiment(
        data=data,
        model=model,
        window=from_mapping(Window, mapping.get("window", {}), where=f"{where}: window"),
        training=from_mapping(Training, mapping.get("training", {}), where=f"{where}: training"),
        backtest=from_mapping(Backtest, mapping.get("backtest", {}), where=f"{where}: backtest"),
        baselines=_baselines(mapping.get("baselines", ()), where=f"{where}: 'baselines'"),
        gate=from_mapping(Policy, mapping.get("gate", {}), where=f"{where}: gate"),
        search=Search.from_mapping(mapping["search"], owners=owners, where=f"{where}: search")
        if "search" in mapping
        else None,
        start=Start.from_plain(mapping["from"], where=f"{where}: 'from'")
        if "from" in mapping
        else None,
        pretraining=from_mapping(Pretraining, mapping["pretraining"], where=f"{where}: pretraining")
        if "pretraining" in mapping
        else None,
        workers=Workers.from_plain(mapping.get("workers", 1), where=f"{where}: 'workers'"),
        name=_text(mapping, "name", where=where) if "name" in mapping else slug(data.name),
        notes=_text(mapping, "notes", where=where) if "notes" in mapping else "",
    )


def slug(text: str) -> str:
    """`text` as the name of a model: `my sales (2024)` becomes `my-sales-2024`."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", plain).strip("._-")[:64].strip("._-")


def _text(mapping: Mapping[str, Any], key: str, *, where: str) -> str:
    if not isinstance(mapping[key], str):
        raise unlike(f"{where}: '{key}' must be text", repr(mapping[key]))
    return str(mapping[key])


def _baselines(value: object, *, where: str) -> tuple[ModelSpec, ...]:
    """Kinds or `{kind: ...}`, as a list; a single kind may stand for itself."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        raise unlike(
            f"{where} must be a list of kinds, such as [ridge, seasonal_naive]", shown(value)
        )
    return tuple(_spec(entry, where=where) for entry in entries)


def _data(value: object, *, where: str, folder: Path) -> Data:
    if isinstance(value, str):
        file = config_path(f"data/{value}.yaml")
        if not file.is_file():
            known = ", ".join(sorted(f.stem for f in config_path("data").glob("*.yaml")))
            raise ConfigError(
                f"{where}: 'data' names {value}, which is not in configs/data. There are {known}; "
                "your own table goes here as keys: {source: my.csv, time: ..., targets: [...]}."
            )
        data = from_mapping(Data, _with_days(content(file)), where=str(file))
        return _with(data, name=data.name or value)
    if not isinstance(value, Mapping):
        raise unlike(f"{where}: 'data' must be a name or keys and values", repr(value))
    data = from_mapping(Data, _with_days(value), where=f"{where}: data")
    local = folder / data.source
    source = str(local) if local.exists() else data.source
    return _with(data, source=source, name=data.name or Path(data.source).stem)


def _with_days(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """YAML makes a date of an unquoted day: text again, as the setting is kept and compared."""
    days = value.get("split_dates")
    if not isinstance(days, list):
        return value
    texts = [day.isoformat() if isinstance(day, date) else day for day in days]
    return {**value, "split_dates": texts}


def _with(data: Data, **changes: str) -> Data:
    return Data(**{**{f.name: getattr(data, f.name) for f in fields(data)}, **changes})


def _spec(mapping: object, *, where: str) -> ModelSpec:
    """A specification from `{kind: ...}`, or from the kind alone."""
    if isinstance(mapping, str):
        mapping = {"kind": mapping}
    if not isinstance(mapping, Mapping):
        raise unlike(f"{where}: expected keys and values with 'kind'", repr(mapping))
    return spec_from_mapping(mapping, where=where)
