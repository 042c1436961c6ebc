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
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

import configs
from pipelines.agreement import (
    check_levels,
    check_name,
    check_reach,
    check_readers,
    check_start,
    three_days,
)
from pipelines.features import feature_names
from pipelines.features.lags import check_lags
from pipelines.policy import Policy, check_metric
from pipelines.search import Search
from pipelines.start import Pretraining, Start
from pipelines.workers import Workers
from tsformer.errors import ConfigError, unknown_key
from tsformer.model import ModelSpec
from tsformer.models import spec_from_mapping
from tsformer.settings import from_mapping, to_mapping
from tsformer.train import Training

MEDIAN = 0.5


@dataclass(frozen=True, slots=True)
class Data:
    """Where the table comes from and what its columns mean.

    `source` is a catalogue name or a path (relative to the file that says it). With several
    `targets` (or none named) the table is wide and each column becomes a series; `group: all`
    forecasts them as the variates of one window. `categories` are covariates whose numbers are
    names; text is a category anyway. A whole number as `freq` counts rows, whatever
    the stamps say. Parts are fractions (`split`) or rows (`split_rows`) of each
    series, or end at days (`split_dates`): train, validation, test.
    """

    name: str = ""
    source: str = ""
    id: str = ""
    time: str = "ds"
    targets: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    freq: str = ""
    tz: str = ""
    fill: str = "none"
    season: int = 0
    group: str = "none"
    split: tuple[float, ...] = (0.7, 0.1, 0.2)
    split_rows: tuple[int, ...] = ()
    split_dates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        strangers = {*self.categories} - {*self.known, *self.past, *self.static}
        if strangers:
            raise ConfigError(
                f"data: 'categories' names {min(strangers)}, which is no covariate. Name it in "
                "'known', 'past' or 'static' too."
            )
        if self.fill not in ("none", "mask", "zero"):
            raise ConfigError(
                f"data: 'fill' must be none, mask or zero, got '{self.fill}'. Other fillings make "
                "up values, which would then be scored as if they had happened."
            )
        if self.group not in ("none", "all"):
            raise ConfigError(f"data: 'group' must be none or all, got '{self.group}'.")
        if self.season < 0:
            raise ConfigError(
                f"data: 'season' must be steps, 0 for that of the frequency, got {self.season}."
            )
        sums = len(self.split) == 3 and abs(sum(self.split) - 1) <= 1e-9
        if not (sums and min(self.split) > 0):
            raise ConfigError(
                f"data: 'split' must be three positive fractions that sum to 1, got {[*self.split]}."
            )
        if self.split_dates and not three_days(self.split_dates):
            raise ConfigError(
                "data: 'split_dates' must be three days like 2013-10-01, one after the other, the "
                f"ends of train, validation and test, got {[*self.split_dates]}."
            )
        if self.split_rows and (len(self.split_rows) != 3 or min(self.split_rows) < 1):
            raise ConfigError(
                f"data: 'split_rows' must be three positive row counts, got {[*self.split_rows]}."
            )


@dataclass(frozen=True, slots=True)
class Window:
    """How far a model looks back and ahead, in steps; `levels` make its head a quantile head.

    Point forecasts always get calibrated quantiles; `conformal` calibrates a model's own too.

    `features` follow from the stamps. `lags` are steps back from each step of the horizon, beyond
    the context: 8760 is the same hour a year ago.
    """

    context: int = 336
    horizon: int = 96
    levels: tuple[float, ...] = ()
    conformal: bool = False
    features: tuple[str, ...] = ()
    lags: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for key in ("context", "horizon"):
            if getattr(self, key) < 1:
                raise ConfigError(
                    f"window: '{key}' must be at least 1 step, got {getattr(self, key)}."
                )
        check_levels("window", self.levels)
        if self.levels and MEDIAN not in self.levels:
            raise ConfigError(
                f"window: 'levels' must have {MEDIAN}, the point forecast, among them, "
                f"got {[*self.levels]}."
            )
        if self.conformal and not self.levels:
            raise ConfigError(
                "window: 'conformal' calibrates the quantiles that a model emits; name them in "
                "'levels'. Without levels all models give points, which are calibrated anyway."
            )
        feature_names(self.features)
        check_lags(self.lags, horizon=self.horizon)


@dataclass(frozen=True, slots=True)
class Backtest:
    """Rolling origins over the test part: a cutoff every `stride` steps, `levels` for WQL."""

    stride: int = 1
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    coverage: float = 0.8
    metric: str = "wql"

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ConfigError(f"backtest: 'stride' must be at least 1 step, got {self.stride}.")
        if not self.levels:
            raise ConfigError("backtest: 'levels' is empty. Name one at least, such as 0.5.")
        check_levels("backtest", self.levels)
        if not 0 < self.coverage < 1:
            raise ConfigError(
                f"backtest: 'coverage' must lie between 0 and 1, got {self.coverage}."
            )
        check_metric("backtest", self.metric)

    @property
    def asked(self) -> tuple[float, ...]:
        """The levels that every forecaster is asked for: those of WQL and of the interval."""
        tail = (1 - self.coverage) / 2
        return tuple(sorted({*self.levels, round(tail, 6), round(1 - tail, 6)}))


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is fitted on what, and against what: the parts agree, or it does not exist.

    `start` stands under `from` in the YAML.
    """

    data: Data
    model: ModelSpec
    window: Window = Window()
    training: Training = field(default_factory=Training)
    backtest: Backtest = Backtest()
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
        file = _existing(Path(path))
        return Experiment.from_mapping(_yaml(file), where=str(path), folder=file.parent)

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any], *, where: str, folder: Path) -> Experiment:
        """The experiment that `mapping` describes; paths in it are relative to `folder`."""
        valid = ["from" if entry.name == "start" else entry.name for entry in fields(Experiment)]
        for key in mapping:
            if key not in valid:
                raise unknown_key(str(key), valid, where=where)
        for key in ("data", "model"):
            if key not in mapping:
                raise ConfigError(f"{where}: '{key}' is missing.")
        try:
            return _experiment(mapping, where=where, folder=folder)
        except ConfigError as error:
            if where in str(error):
                raise
            raise ConfigError(f"{where}: {error}") from None

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


def config_path(name: str) -> Path:
    """A file of the shipped `configs/` by its relative name."""
    return Path(configs.__path__[0]) / name


def _existing(path: Path) -> Path:
    for candidate in (path, config_path(str(path).removeprefix("configs/"))):
        if candidate.is_file():
            return candidate
    shipped = [f"configs/{f.parent.name}/{f.name}" for f in config_path("").glob("*/*.yaml")]
    beside = [str(file) for file in sorted(path.parent.glob("*.yaml"))]
    near = get_close_matches(str(path), [*beside, *shipped], n=3) or beside[:3]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"There is no file {path}.{hint} An experiment of your own is a YAML file (docs/guide.md); "
        "a shipped one is called like configs/flights/patchtst.yaml."
    )


def _yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: byte {error.start} is not UTF-8. Save the file with that encoding."
        ) from None
    if len(text) > 1_000_000:
        raise ConfigError(f"{path}: {len(text)} characters are too many for an experiment.")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: not YAML.") from None
    except (ValueError, RecursionError) as error:  # a day like 2024-02-31; brackets without end
        raise ConfigError(f"{path}: not YAML ({error}).") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path}: expected keys and values at the top, such as 'data: flights', "
            f"got {_shown(content)}."
        )
    return content


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} ..."


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
        raise ConfigError(f"{where}: '{key}' must be text, got {mapping[key]!r}.")
    return str(mapping[key])


def _baselines(value: object, *, where: str) -> tuple[ModelSpec, ...]:
    """Kinds or `{kind: ...}`, as a list; a single kind may stand for itself."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple):
        raise ConfigError(
            f"{where} must be a list of kinds, such as [ridge, seasonal_naive], "
            f"got {_shown(value)}."
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
        data = from_mapping(Data, _with_days(_yaml(file)), where=str(file))
        return _with(data, name=data.name or value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: 'data' must be a name or keys and values, got {value!r}.")
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
        raise ConfigError(f"{where}: expected keys and values with 'kind', got {mapping!r}.")
    return spec_from_mapping(mapping, where=where)
