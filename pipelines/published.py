"""What the columns of a table mean to a registered version: said once, at training.

The `data` section of the experiment stands in the version's card, so that a forecast, an actual
or a check of drift is read as the training rows were.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.catalogue import CATALOGUE
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


def data_of(version: ModelVersion) -> Data:
    """The `data` section that `version` was trained with; ConfigError where it does not say."""
    if "data" not in version.card:
        raise ConfigError(
            f"{version} does not say what the columns of its table mean: it was published by "
            "another release. Train it again."
        )
    return from_mapping(Data, version.card["data"], where=f"{version}: data")
