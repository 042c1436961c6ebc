"""Entries: MLflow's records of versions, read and written in one place.

A version's page in MLflow shows the text that it was annotated with and, below a rule, links to
the run that made it and to the version that it came from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pipelines.flavor import FORECASTER_PATH
from pipelines.home import Home
from pipelines.versions import CHAMPION, ENCODER, ModelVersion, Reference
from tsformer.errors import ArtifactError, ConfigError, NotFoundError, UnavailableError

# What a version carries beside MLflow's own fields.
DIGEST_TAG = "tsformer.digest"
KIND_TAG = "tsformer.kind"
CARD_TAG = "tsformer.card"
MODEL_TAG = "tsformer.logged_model"
GATE_TAG = "tsformer.gate"
PASSED, REFUSED = "passed", "refused"  # its values

PARENT = "parent"  # of a card: the version whose weights a model began with
RULE = "\n\n---\n"  # between the text of a description and its links
NAMES_SHOWN = 10  # in an error
DIGEST = re.compile(r"[0-9a-f]{64}")


def version_of(entry: Any, aliases: Mapping[str, str]) -> ModelVersion:
    """MLflow's record as ours. Raises ArtifactError for a version that was not published here."""
    number, tags = str(entry.version), entry.tags
    digest = tags.get(DIGEST_TAG, "")
    if not DIGEST.fullmatch(digest) or not {KIND_TAG, CARD_TAG, MODEL_TAG} <= tags.keys():
        raise ArtifactError(
            f"{entry.name}/{number} was not published by tsformer: its digest is not known, so "
            "its files cannot be trusted. Train and publish it here."
        )
    created = datetime.fromtimestamp(entry.creation_timestamp / 1_000, tz=UTC)
    return ModelVersion(
        name=entry.name,
        version=number,
        kind=tags[KIND_TAG],
        digest=digest,
        run_id=entry.run_id or "",
        created_at=created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        aliases=tuple(sorted(alias for alias, on in aliases.items() if str(on) == number)),
        description=(entry.description or "").partition(RULE)[0],
        card=json.loads(tags[CARD_TAG]),
        gate=tags.get(GATE_TAG, ""),
    )


def page(client: MlflowClient, text: str, *, run_id: str, card: Mapping[str, Any]) -> str:
    """`text` with links to the run and to the parent version, as MLflow's page shows them."""
    links = []
    if run_id:
        info = client.get_run(run_id).info
        name = info.run_name or run_id
        links.append(f"Run: [{name}](#/experiments/{info.experiment_id}/runs/{run_id})")
    try:
        parent = Reference.parse(str(card.get(PARENT, "")))
    except ConfigError:
        parent = None
    if parent is not None and parent.version is not None:
        links.append(f"Parent: [{parent}](#/models/{parent.name}/versions/{parent.version})")
    return text.partition(RULE)[0] + (RULE + " · ".join(links) if links else "")


def withdraw(client: MlflowClient, home: Home, entry: Any) -> None:
    """Removes a version and its model; begun again after an interruption, it goes on."""
    try:
        logged = client.get_logged_model(entry.tags[MODEL_TAG])
    except MlflowException as error:
        if not is_missing(error):
            raise
    else:
        discard(client, home, logged)
    client.delete_model_version(entry.name, entry.version)


def discard(client: MlflowClient, home: Home, logged: LoggedModel) -> None:
    """Removes a logged model and its files."""
    location = logged.artifact_location.rstrip("/")
    # Whoever writes to the database can set the location to any folder.
    if not location.endswith(f"/models/{logged.model_id}/artifacts"):
        raise ArtifactError(
            f"The files of the logged model {logged.model_id} are said to be at {location}, where "
            "MLflow keeps no models: they are left alone."
        )
    files_of(logged, home).delete_artifacts()
    client.delete_logged_model(logged.model_id)


def files_of(logged: LoggedModel, home: Home) -> ArtifactRepository:
    """The files of a logged model, wherever they are."""
    return get_artifact_repository(logged.artifact_location, tracking_uri=home.uri)


def download(client: MlflowClient, home: Home, version: ModelVersion, scratch: Path) -> Path:
    """The sealed files of `version` as a folder in `scratch`; not verified yet."""
    entry = entry_of(client, version.name, version.version)
    logged = client.get_logged_model(entry.tags.get(MODEL_TAG, ""))
    # Whoever writes to the database can set a version's source to anything.
    if entry.source != logged.artifact_location:
        raise ArtifactError(
            f"{version}: its source is not where its run stored it. Publish it again."
        )
    return Path(files_of(logged, home).download_artifacts(FORECASTER_PATH, str(scratch)))


def entry_of(client: MlflowClient, name: str, number: str) -> Any:
    """MLflow's record of a version.

    MLflow reads it and then its tags: one that is deleted in between has none, so it is read again.
    """
    entry = client.get_model_version(name, number)
    entry = entry if entry.tags else client.get_model_version(name, number)
    return _about(name, entry)


def find(client: MlflowClient, wanted: Reference) -> ModelVersion:
    """The version that `wanted` names. Raises NotFoundError with what there is instead."""
    aliases = aliases_of(client, wanted.name)
    number = wanted.version or aliases.get(wanted.alias or CHAMPION)
    if number is None:
        there = (
            f"The model '{wanted.name}' has no alias '{wanted.alias}'. It has "
            f"{listed(f'@{alias}' for alias in aliases)}"
        )
        raise NotFoundError(
            f"{there}; `tsformer promote {wanted.name}/VERSION` sets one.",
            told=f"{there}; PUT /v1/models/{wanted.name}/aliases/{wanted.alias} sets one.",
        )
    try:
        entry = entry_of(client, wanted.name, number)
    except MlflowException as error:
        if not is_missing(error):
            raise
        found = pages(client.search_model_versions, f"name = '{wanted.name}'")
        raise NotFoundError(
            f"The model '{wanted.name}' has no version {number}. It has "
            f"{listed(str(number) for number in sorted(int(v.version) for v in found))}."
        ) from None
    return version_of(entry, aliases)


def aliases_of(client: MlflowClient, name: str) -> dict[str, str]:
    """The aliases of `name` and the version each is on. NotFoundError for an unknown name."""
    try:
        aliases = _about(name, client.get_registered_model(name)).aliases
    except MlflowException as error:
        if not is_missing(error):
            raise
        known = sorted(model.name for model in pages(client.search_registered_models))
        raise NotFoundError(f"There is no model '{name}'. There are {listed(known)}.") from None
    return {alias: str(on) for alias, on in aliases.items()}


def _about(name: str, found: Any) -> Any:
    """`found`, if it is about `name`.

    MLflow's client takes an answer that was cut off in its header for one with nothing in it.
    """
    if found.name != name:
        raise UnavailableError(f"MLflow's answer about '{name}' was cut off. Try again.")
    return found


def forecasts(model: RegisteredModel) -> bool:
    """Whether the newest version of `model` can be asked for a forecast."""
    kinds = [version.tags.get(KIND_TAG) for version in model.latest_versions]
    return any(kind != ENCODER for kind in kinds)


def pages(search: Callable[..., Any], query: str | None = None) -> list[Any]:
    """Everything that a search finds, page by page."""
    found: list[Any] = []
    token = None
    while True:
        page = search(query, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def sentence(error: Exception) -> str:
    """What an error says, in one line: the first, and the last where the first announces more."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") else lines[0]


def is_missing(error: MlflowException) -> bool:
    """Whether the error says that there is no such thing."""
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def listed(names: Iterable[str]) -> str:
    """Some names as a phrase."""
    every = [*names]
    shown = ", ".join(every[:NAMES_SHOWN])
    more = f" and {len(every) - NAMES_SHOWN} more" if len(every) > NAMES_SHOWN else ""
    return f"{shown}{more}" if every else "none"
