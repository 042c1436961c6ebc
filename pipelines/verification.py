"""Verification: whether every version is what was published, and what belongs to no version.

What a backup has brought back, or a disk has forgotten, is found here and not when it is to serve.
Nothing is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlflow.entities import LoggedModel, ViewType

from pipelines import digests, entries
from pipelines.champions import Champion, all_standings
from pipelines.digests import Vouched
from pipelines.registry import Registry
from pipelines.versions import ENCODER, ModelVersion
from tsformer.artifact import verify
from tsformer.errors import ArtifactError, TsformerError
from tsformer.models import MODELS

KINDS = {*MODELS, ENCODER}
Known = Mapping[tuple[str, str], Vouched]


@dataclass(frozen=True, slots=True)
class Verified:
    """The versions that are as they were published, and what is wrong, in sentences."""

    sound: tuple[ModelVersion, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """What MLflow lists: versions by model and number, aliases, and the uploads they are of.

    Other tools may keep models there too: `ours` are those with a version that was published here.
    """

    versions: Mapping[tuple[str, str], Any]
    aliases: Mapping[tuple[str, str], str]
    logged: Mapping[str, LoggedModel]

    @property
    def ours(self) -> set[str]:
        """The names of our models."""
        tagged = self.versions.items()
        return {model for (model, _), entry in tagged if entries.DIGEST_TAG in entry.tags}


def verified(registry: Registry) -> Verified:
    """All versions of all models held against their digests, and the tables against each other.

    Each version's files are fetched once more, into a folder that is removed. MLflow and the store
    are read one after the other, and others may write in between: a fault counts where a second
    look finds it too. Raises UnavailableError where MLflow or the store does not answer.
    """
    first = _compared(registry, ())
    if not first.faults:
        return first
    again = _compared(registry, first.sound)
    return Verified(again.sound, tuple(fault for fault in again.faults if fault in first.faults))


def _compared(registry: Registry, intact: Collection[ModelVersion]) -> Verified:
    """One look; the files of `intact` versions are not fetched again."""
    listed = _listed(registry)
    with registry.store.read() as connection:
        known = digests.everything(connection)
        standing = all_standings(connection)
    sound, faults = list[ModelVersion](), list[str]()
    ours = listed.ours
    for (model, number), entry in sorted(listed.versions.items()):
        if model not in ours:
            continue
        try:
            sound.append(_sound(registry, entry, known, intact))
        except TsformerError as error:
            said = str(error).removeprefix(f"{model}/{number}: ")
            faults.append(f"{model}/{number}: {said}")
    faults += _dangling(listed, known)
    for champion in standing:
        faults += _astray(champion, listed)
    faults += _orphans(registry, listed)
    faults += _copies(registry, {registry.copies.path(version): version for version in sound})
    return Verified(tuple(sound), tuple(faults))


def _listed(registry: Registry) -> Listed:
    with registry.link.reading() as client:
        models = entries.pages(client.search_registered_models)
        found = entries.pages(client.search_model_versions)
        experiments = entries.pages(
            lambda _, page_token: client.search_experiments(ViewType.ALL, page_token=page_token)
        )
        places = [each.experiment_id for each in experiments]
        uploads = entries.pages(
            lambda _, page_token: client.search_logged_models(places, page_token=page_token)
        )
    return Listed(
        {(entry.name, str(entry.version)): entry for entry in found},
        {(each.name, alias): str(on) for each in models for alias, on in each.aliases.items()},
        {upload.model_id: upload for upload in uploads},
    )


def _sound(
    registry: Registry, entry: Any, known: Known, intact: Collection[ModelVersion]
) -> ModelVersion:
    """The version of `entry`; raises where it is not what the store vouches for."""
    version = entries.version_of(entry, {})
    digests.agreeing(known.get((version.name, version.version)), version)
    if version in intact:
        return version
    with TemporaryDirectory(prefix="tsformer-verify-") as scratch:
        try:
            verify(registry.download(version, Path(scratch)), version.digest)
        except ArtifactError as error:
            raise ArtifactError(str(error).replace(f"{scratch}/", "")) from error
    return version


def _dangling(listed: Listed, known: Known) -> Iterator[str]:
    for key, row in sorted(known.items()):
        if row.removed_ms is None and key not in listed.versions:
            yield f"{row}: the store vouches for it, MLflow does not have it."


def _astray(champion: Champion, listed: Listed) -> Iterator[str]:
    """What is wrong with an alias of the store."""
    model, on = champion.model, listed.aliases.get((champion.model, champion.alias))
    if (model, champion.version) not in listed.versions:
        yield f"{champion} is on version {champion.version}, which MLflow does not have."
    elif on != champion.version:
        yield f"{champion} is on version {champion.version}, in MLflow on {on or 'none'}."
    if champion.previous and (model, champion.previous) not in listed.versions:
        yield f"{champion} would go back to {champion.previous}, which MLflow does not have."


def _orphans(registry: Registry, listed: Listed) -> Iterator[str]:
    """Uploads that became no version, and folders of no upload."""
    named = {entry.tags.get(entries.MODEL_TAG) for entry in listed.versions.values()}
    for upload in listed.logged.values():
        if upload.name in KINDS and upload.model_id not in named:
            yield f"{upload.model_id}, uploaded by the run {upload.source_run_id}, is no version."
    artifacts = registry.home.artifacts
    for folder in sorted(artifacts.glob("*/models/m-*")) if artifacts else ():
        if folder.name not in listed.logged:
            yield f"{folder}: files of no upload that MLflow knows."


def _copies(registry: Registry, expected: Mapping[Path, ModelVersion]) -> Iterator[str]:
    """Local copies that are damaged, or of no sound version; they are fetched anew when needed."""
    for copy in sorted(registry.home.models.glob("*/[1-9]*-*/")):
        version = expected.get(copy)
        if version is None:
            yield f"{copy}: a copy of no sound version."
            continue
        try:
            verify(copy, version.digest)
        except ArtifactError as error:
            yield f"{version}, its copy: {error}"
