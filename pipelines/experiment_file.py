"""A tuned experiment as a file: what differs from the defaults, and nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipelines.config_files import config_path
from pipelines.experiment import Experiment, slug
from pipelines.sections import Data
from tsformer.settings import to_mapping

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from tsformer.model import ModelSpec

LINE = 100  # characters


def written(experiment: Experiment, *, folder: Path) -> str:
    """The YAML that is read as `experiment`, notes and all, from a file in `folder`.

    The sections `search`, `from` and `pretraining` are not written: a tuned experiment has none.
    """
    own_name = experiment.name != slug(experiment.data.name)
    sections = {
        name: _changed(getattr(experiment, name))
        for name in ("window", "training", "backtest", "gate")
    }
    content = {
        **({"name": experiment.name} if own_name else {}),
        **({"notes": experiment.notes} if experiment.notes else {}),
        "data": _data(experiment.data, folder),
        "model": _spec(experiment.model),
        **{name: changed for name, changed in sections.items() if changed},
        **({} if experiment.workers.here else {"workers": to_mapping(experiment.workers)}),
        **({"baselines": [*map(_spec, experiment.baselines)]} if experiment.baselines else {}),
    }
    return yaml.safe_dump(
        content, sort_keys=False, allow_unicode=True, width=LINE, default_flow_style=None
    )


def _changed(settings: DataclassInstance) -> dict[str, Any]:
    """The settings that differ from the defaults of their class."""
    defaults = to_mapping(type(settings)())
    return {key: v for key, v in to_mapping(settings).items() if v != defaults[key]}


def _spec(spec: ModelSpec) -> dict[str, Any]:
    return {"kind": spec.kind, **_changed(spec)}


def _data(data: Data, folder: Path) -> str | dict[str, Any]:
    """The name of a data set in `configs/data`, or the section; a path is that from `folder`."""
    name = data.name
    if config_path(f"data/{name}.yaml").is_file():
        shipped = Experiment.from_mapping(
            {"data": name, "model": "last_value"}, where=name, folder=folder
        )
        if shipped.data == data:
            return name
    if Path(data.source).exists():
        data = replace(data, source=os.path.relpath(data.source, folder))
    return _changed(data)
