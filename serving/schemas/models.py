"""Models, their versions' cards, and the moves of their aliases."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
)

from serving.schemas import sample_answers, samples
from serving.schemas.fields import ALIAS, ALIASED, NUMBERED, VERSION, Answer, Strict


class AliasRequest(Strict):
    """The version that an alias is to be on."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": "8", "reason": "It is better on weekends."}]}
    )

    version: Annotated[str, Field(pattern=VERSION, description=NUMBERED)]
    reason: Annotated[str, Field(max_length=1_000)] = ""
    override: Annotated[
        bool, Field(description="Promote a version that the gate refused; needs a reason.")
    ] = False


class RollbackRequest(Strict):
    """The alias that goes back, from the version that it is believed to be on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"alias": "champion", "from_version": "8", "reason": "Too high."}]
        }
    )

    alias: Annotated[str, Field(pattern=ALIAS, description=ALIASED)] = "champion"
    from_version: Annotated[str, Field(pattern=VERSION, description=NUMBERED)]
    reason: Annotated[str, Field(max_length=1_000)] = ""


class TrainedWindow(Answer):
    """The first and the last stamp that training, validation or calibration saw."""

    start: str | int
    end: str | int


class TrainedOn(Answer):
    """The data of a version: their name and version, and what was read of them.

    `version` is that of a dataset, and the hash of any other table; it and `window` are null for
    what an older release registered.
    """

    dataset: str
    version: str | None
    window: TrainedWindow | None
    targets: list[str]
    group: str


class Card(Answer):
    """A model version; `gate` is passed, refused, or empty for one that was not judged.

    `gate_reason` says why it was refused.
    """

    name: str
    version: str
    aliases: list[str]
    run_id: str | None
    kind: str
    freq: str
    context: int
    min_context: int
    horizon: int
    cross_series: bool
    accepts_missing: bool
    point: Literal["mean", "median"]
    quantiles: dict[str, Any]
    covariates: dict[str, list[str]]
    features: list[str]
    lags: list[int]
    metrics: dict[str, float]
    coverage: dict[str, float]
    data: TrainedOn | None
    gate: str
    gate_reason: str
    created_at: str | None
    status: str


class ListedVersion(Answer):
    """A version in a list."""

    version: str
    kind: str
    created_at: str | None


class Alias(Answer):
    """Where an alias stands; `previous` is what a rollback restores."""

    version: str
    etag: str
    since: str
    previous: str | None


class AliasAnswer(Alias):
    """Where an alias stands after it was moved."""

    model_config = samples.shown(sample_answers.MOVED)

    name: str
    alias: str


class ModelEntry(Answer):
    """A model: its versions, newest first, and its aliases."""

    model_config = samples.shown(sample_answers.ENTRY)

    name: str
    built_in: bool
    description: str
    versions: list[ListedVersion]
    aliases: dict[str, Alias]


class ModelPage(Answer):
    """A page of models; `next` is the cursor of the following one."""

    items: list[ModelEntry]
    next: str | None
