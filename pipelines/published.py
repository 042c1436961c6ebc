"""What a registered version says of its table: which one it was, and what its columns mean.

The `data` section of the experiment stands in the version's card, so that a forecast, an actual
or a check of drift is read as the training rows were.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import polars as pl

from pipelines import times
from pipelines.catalogue import CATALOGUE
from pipelines.datasets import VERSION_LENGTH, stored_as
from pipelines.home import Home
from pipelines.material import Material
from pipelines.sections import Data
from pipelines.sources import SAMPLE
from pipelines.versions import ModelVersion
from tsformer.errors import ConfigError
from tsformer.settings import from_mapping, to_mapping


def data_card(data: Data) -> dict[str, Any]:
    """The `data` section for a card; a file is named in full, since nobody knows from where."""
    source = Path(data.source)
    named = data.source.lower() in ("", SAMPLE, *CATALOGUE)
    if named or not source.exists():
        return to_mapping(data)
    return to_mapping(replace(data, source=str(source.absolute())))


def table_card(data: Data, material: Material, home: Home) -> dict[str, Any]:
    """Which table a card speaks of, and its first and last stamp that training or validation saw.

    `version` is that of a stored dataset, and the hash of the content of any other table. The rows
    after `end` have taught the version nothing. Of a version that was calibrated anew, or that began
    with the weights of another, it is the table of that last step.
    """
    time, until = material.panel.table["time"], material.recipe.fitted_until
    ends = pl.Series([time.to_physical().min(), until], dtype=pl.Int64)
    if not time.dtype.is_integer():
        ends = times.text(ends.cast(time.dtype), material.panel.tz)
    source = data.source or data.name
    plain = ("", table_name(source), material.fingerprint[:VERSION_LENGTH])
    _, name, version = stored_as(source, home) or plain
    return {"name": name, "version": version, "start": ends[0], "end": ends[1]}


def table_name(source: str) -> str:
    """What a table is called, without the folder or the address where it lies."""
    return "sql" if "://" in source else PurePath(source).name


def data_of(version: ModelVersion) -> Data:
    """The `data` section that `version` was trained with; ConfigError where it does not say."""
    if "data" not in version.card:
        raise ConfigError(
            f"{version} does not say what the columns of its table mean: it was published by "
            "another release. Train it again."
        )
    return from_mapping(Data, version.card["data"], where=f"{version}: data")
