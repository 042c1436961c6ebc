"""Publication: from sealed files to a version of MLflow's registry that the store vouches for.

The steps, between any two of which the process may be killed: upload as a model of the run,
register as a version, link the two, vouch. A version that nobody vouches for is never loaded;
publishing again removes what an upload has left, or completes what was registered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from sqlalchemy.exc import IntegrityError

from pipelines.crashpoint import crashpoint
from pipelines.digests import Vouched, vouch, vouched_of_run
from pipelines.entries import (
    CARD_TAG,
    DIGEST_TAG,
    KIND_TAG,
    MODEL_TAG,
    discard,
    page,
    pages,
    withdraw,
)
from pipelines.flavor import log_model
from pipelines.home import Home
from pipelines.store import Store
from tsformer.errors import ConflictError


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to become a version of `name`: the sealed `directory` that the run `run_id` made."""

    name: str
    directory: Path
    digest: str
    run_id: str
    card: Mapping[str, Any]
    description: str


def publish(what: Publication, *, client: MlflowClient, home: Home, store: Store) -> Vouched:
    """The one version of the run, made or completed where it is not yet.

    Raises ConflictError where the run has published something else. The caller sees to it that
    nobody publishes under this name meanwhile.
    """
    published = _of_run(store, what.run_id)
    if published is None:
        entry = _registered(client, what) or _uploaded(client, home, what)
        crashpoint("publish-registered")
        _link(client, entry)
        crashpoint("publish-linked")
        published = _vouched(entry, what, client=client, home=home, store=store)
    if (published.model, published.digest) != (what.name, what.digest):
        raise ConflictError(
            f"The run {what.run_id} has published {published} already, of other files: a run has "
            "one version. Publish in a run of its own."
        )
    if published.removed_ms is not None:
        raise ConflictError(f"{published}, the version of this run, was removed by a clean-up.")
    return published


def _uploaded(client: MlflowClient, home: Home, what: Publication) -> Any:
    try:
        _discard_leftovers(client, home, what)
        logged = log_model(client, what.directory, run_id=what.run_id, card=what.card)
        crashpoint("publish-uploaded")
        _name(client, what.name)
        return client.create_model_version(
            what.name,
            source=logged.artifact_location,
            run_id=what.run_id,
            model_id=logged.model_id,
            description=page(client, what.description, run_id=what.run_id, card=what.card),
            tags={
                DIGEST_TAG: what.digest,
                KIND_TAG: str(what.card["kind"]),
                CARD_TAG: json.dumps(what.card, sort_keys=True),
                MODEL_TAG: logged.model_id,
            },
        )
    except BaseException:
        with suppress(Exception):  # a full disk needs the space; the next attempt tries it again
            _discard_leftovers(client, home, what)
        raise


def _name(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _link(client: MlflowClient, entry: Any) -> None:
    """Shows the version on the page of its model."""
    seen = json.dumps([{"name": entry.name, "version": int(entry.version)}])
    client.set_logged_model_tags(entry.tags[MODEL_TAG], {MLFLOW_MODEL_VERSIONS: seen})


def _vouched(
    entry: Any, what: Publication, *, client: MlflowClient, home: Home, store: Store
) -> Vouched:
    """Keeps the digest of the version `entry`; takes it back if the run has another one."""
    number = str(entry.version)
    try:
        with store.begin() as connection:
            vouch(
                connection,
                model=what.name,
                version=number,
                run_id=what.run_id,
                digest=what.digest,
            )
    except IntegrityError as error:
        withdraw(client, home, entry)
        published = _of_run(store, what.run_id)
        if published is None:
            raise ConflictError(
                f"The store knows another {what.name}/{number}: MLflow's registry is not the one "
                "that it was made with. MLFLOW_TRACKING_URI names the right one, TSFORMER_STORE "
                "another store; or publish under another name."
            ) from error
        return published
    published = _of_run(store, what.run_id)
    assert published is not None  # the row is durable
    return published


def _of_run(store: Store, run_id: str) -> Vouched | None:
    with store.read() as connection:
        return vouched_of_run(connection, run_id)


def _registered(client: MlflowClient, what: Publication) -> Any | None:
    """The version of these files that the run registered before it was interrupted."""
    for entry in pages(client.search_model_versions, f"run_id = '{what.run_id}'"):
        if (entry.name, entry.tags.get(DIGEST_TAG)) == (what.name, what.digest):
            return entry
    return None


def _discard_leftovers(client: MlflowClient, home: Home, what: Publication) -> None:
    """Removes the models of the run that no version names: their upload was interrupted."""
    versions = pages(client.search_model_versions, f"run_id = '{what.run_id}'")
    registered = {entry.tags.get(MODEL_TAG) for entry in versions}
    experiment = client.get_run(what.run_id).info.experiment_id
    for logged in client.search_logged_models([experiment], f"source_run_id = '{what.run_id}'"):
        if logged.name == what.card["kind"] and logged.model_id not in registered:
            discard(client, home, logged)
