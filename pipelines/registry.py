"""Model versions in MLflow's registry: publish, describe, fetch and promote, side by side.

A version is the files that `tsformer.artifact.seal` sealed, inside an MLflow model that anyone
can load by `mlflow.pyfunc`. The service does not: it fetches the sealed files into a local
folder, verifies them against the digest in the registry, and only then reads them. The fetched
copy is also what serves while the registry is away.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from sqlalchemy.exc import SQLAlchemyError

from pipelines.flavor import FORECASTER_PATH, log_model
from pipelines.home import Home, address, reach
from pipelines.tracking import connect
from pipelines.versions import (
    CHAMPION,
    Fetched,
    ModelVersion,
    Reference,
    checked_alias,
    checked_name,
    checked_new_name,
)
from tsformer.artifact import verify
from tsformer.errors import ArtifactError, NotFoundError, UnavailableError

# What a version carries beside MLflow's own fields.
DIGEST_TAG = "tsformer.digest"
KIND_TAG = "tsformer.kind"
CARD_TAG = "tsformer.card"
MODEL_TAG = "tsformer.logged_model"

NAMES_SHOWN = 10  # in an error
DIGEST = re.compile(r"[0-9a-f]{64}")


class Registry:
    """The model versions of one home. Safe to share between threads."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._client: MlflowClient | None = None

    # --- publish ----------------------------------------------------------------------------

    def publish(
        self,
        name: str,
        directory: Path,
        *,
        digest: str,
        run_id: str,
        card: Mapping[str, Any],
        description: str = "",
    ) -> ModelVersion:
        """The sealed `directory` as a new version of `name`, made by the run `run_id`.

        `digest` is what `seal` gave; `card` is the forecaster's, with what else is worth knowing.
        Publishing the same files of the same run again gives the version that exists. A version
        appears as the last step and all at once: an interrupted publication leaves none.
        """
        checked_new_name(name)
        verify(directory, digest)
        with self._asking(self._writer) as client:
            existing = self._of_run(client, name, run_id=run_id, digest=digest)
            if existing is not None:
                return existing
            logged = log_model(client, directory, run_id=run_id, card=card)
            return self._register(client, name, logged, digest, card, description)

    # --- describe ---------------------------------------------------------------------------

    def models(self) -> tuple[str, ...]:
        """The names of all registered models."""
        with self._asking(self._reader) as client:
            return tuple(sorted(model.name for model in _pages(client.search_registered_models)))

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """All versions of `name`, newest first. Raises NotFoundError for an unknown name."""
        checked_name(name)
        with self._asking(self._reader) as client:
            aliases = self._aliases(client, name)
            entries = _pages(client.search_model_versions, f"name = '{name}'")
            ours = [entry for entry in entries if DIGEST_TAG in entry.tags]
        newest_first = sorted(ours, key=lambda entry: int(entry.version), reverse=True)
        return tuple(_version(entry, aliases) for entry in newest_first)

    def describe(self, reference: str) -> ModelVersion:
        """The version that `reference` names, as the registry knows it now.

        Raises NotFoundError with what is known instead, UnavailableError when nothing answers.
        """
        wanted = Reference.parse(reference)
        with self._asking(self._reader) as client:
            aliases = self._aliases(client, wanted.name)
            number = wanted.version or aliases.get(wanted.alias or CHAMPION)
            if number is None:
                raise NotFoundError(
                    f"The model '{wanted.name}' has no alias '{wanted.alias}'. It has "
                    f"{_listed(f'@{alias}' for alias in aliases)}; `tsformer promote "
                    f"{wanted.name}/VERSION` sets one."
                )
            try:
                entry = client.get_model_version(wanted.name, number)
            except MlflowException as error:
                if not _is_missing(error):
                    raise
                found = _pages(client.search_model_versions, f"name = '{wanted.name}'")
                raise NotFoundError(
                    f"The model '{wanted.name}' has no version {number}. It has "
                    f"{_listed(str(number) for number in sorted(int(v.version) for v in found))}."
                ) from None
        return _version(entry, aliases)

    # --- fetch ------------------------------------------------------------------------------

    def fetch(self, reference: str) -> Fetched:
        """A verified local copy of the version that `reference` names.

        When the registry is away, the copy that the same reference gave last. Raises ArtifactError
        for files that are not what was published, and never reads them.
        """
        wanted = Reference.parse(reference)
        try:
            version = self.describe(reference)
            directory = self._local(version)
        except UnavailableError:
            last = self._recall(wanted)
            if last is None:
                raise
            return Fetched(last, self._copy(last), fresh=False)
        self._remember(wanted, version)
        return Fetched(version, directory, fresh=True)

    # --- promote ----------------------------------------------------------------------------

    def promote(self, reference: str, *, alias: str = CHAMPION) -> ModelVersion:
        """Moves `alias` to the version that `reference` names, after its files were verified."""
        checked_alias(alias)
        version = self.describe(reference)
        self._local(version)
        with self._asking(self._writer) as client:
            client.set_registered_model_alias(version.name, alias, version.version)
        return self.describe(str(version))

    # --- parts ------------------------------------------------------------------------------

    def _writer(self) -> MlflowClient:
        """The client; the first use of an own database makes it."""
        if self._client is None:
            if self.home.database is None:
                reach(self.home)
            self._client = connect(self.home)
        return self._client

    def _reader(self) -> MlflowClient:
        """The client of a registry that is there already: reading makes nothing."""
        if self._client is None:
            reach(self.home)
        return self._writer()

    @contextmanager
    def _asking(self, client: Callable[[], MlflowClient]) -> Iterator[MlflowClient]:
        """Whatever goes wrong on the way to the registry or in it becomes UnavailableError."""
        try:
            yield client()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UnavailableError(f"{address(self.home)} cannot be used: {reason}") from error

    def _aliases(self, client: MlflowClient, name: str) -> dict[str, str]:
        """The aliases of `name` and the version each is on."""
        try:
            return dict(client.get_registered_model(name).aliases)
        except MlflowException as error:
            if not _is_missing(error):
                raise
            known = sorted(model.name for model in _pages(client.search_registered_models))
            raise NotFoundError(
                f"There is no model '{name}'. There are {_listed(known)}."
            ) from None

    def _of_run(
        self, client: MlflowClient, name: str, *, run_id: str, digest: str
    ) -> ModelVersion | None:
        """The version of `name` that a run has published of the same files."""
        entries = _pages(client.search_model_versions, f"name = '{name}' and run_id = '{run_id}'")
        found = [entry for entry in entries if entry.tags.get(DIGEST_TAG) == digest]
        return _version(found[0], self._aliases(client, name)) if found else None

    def _register(
        self,
        client: MlflowClient,
        name: str,
        logged: LoggedModel,
        digest: str,
        card: Mapping[str, Any],
        description: str,
    ) -> ModelVersion:
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        entry = client.create_model_version(
            name,
            source=logged.artifact_location,
            run_id=logged.source_run_id,
            model_id=logged.model_id,
            description=description,
            tags={
                DIGEST_TAG: digest,
                KIND_TAG: str(card["kind"]),
                CARD_TAG: json.dumps(card, sort_keys=True),
                MODEL_TAG: logged.model_id,
            },
        )
        seen = json.dumps([{"name": name, "version": int(entry.version)}])
        client.set_logged_model_tags(logged.model_id, {MLFLOW_MODEL_VERSIONS: seen})
        return _version(entry, self._aliases(client, name))

    def _local(self, version: ModelVersion) -> Path:
        """The local copy of `version`, verified; downloaded where it is missing or damaged."""
        copy = self._copy(version)
        if copy.is_dir():
            try:
                verify(copy, version.digest)
            except ArtifactError:
                shutil.rmtree(copy)
            else:
                return copy
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = Path(mkdtemp(prefix=".fetching-", dir=copy.parent))
        try:
            downloaded = self._download(version, scratch)
            verify(downloaded, version.digest)
            _put(downloaded, copy)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        verify(copy, version.digest)
        return copy

    def _copy(self, version: ModelVersion) -> Path:
        return self.home.models / version.name / f"{version.version}-{version.digest[:12]}"

    def _download(self, version: ModelVersion, scratch: Path) -> Path:
        with self._asking(self._reader) as client:
            entry = client.get_model_version(version.name, version.version)
            logged = client.get_logged_model(entry.tags[MODEL_TAG])
            # Whoever writes to the database can set a version's source to anything.
            if entry.source != logged.artifact_location:
                raise ArtifactError(
                    f"{version}: its source is not where its run stored it. Publish it again."
                )
            files = get_artifact_repository(logged.artifact_location, tracking_uri=self.home.uri)
            return Path(files.download_artifacts(FORECASTER_PATH, str(scratch)))

    def _remember(self, reference: Reference, version: ModelVersion) -> None:
        """Keeps the registry's last answer, for the times when there is none."""
        path = self._answer(reference)
        text = json.dumps(asdict(version), sort_keys=True)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return
        with TemporaryDirectory(prefix=".answer-", dir=path.parent) as scratch:
            written = Path(scratch) / path.name
            written.write_text(text, encoding="utf-8")
            written.replace(path)

    def _recall(self, reference: Reference) -> ModelVersion | None:
        """The registry's last answer to `reference`, if a copy of its files is still here."""
        try:
            answer = json.loads(self._answer(reference).read_text(encoding="utf-8"))
            version = ModelVersion(**{**answer, "aliases": tuple(answer["aliases"])})
            verify(self._copy(version), version.digest)
        except (OSError, ValueError, TypeError, KeyError, ArtifactError):
            return None
        return version

    def _answer(self, reference: Reference) -> Path:
        return self.home.models / reference.name / f"{reference.version or reference.alias}.json"


def _put(downloaded: Path, copy: Path) -> None:
    """Moves a folder to its place at once; another process may have put the same one first."""
    try:
        downloaded.rename(copy)
    except OSError:
        if not copy.is_dir():
            raise


def _version(entry: Any, aliases: Mapping[str, str]) -> ModelVersion:
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
        description=entry.description or "",
        card=json.loads(tags[CARD_TAG]),
    )


def _pages(search: Callable[..., Any], query: str | None = None) -> list[Any]:
    """Everything that a search finds, page by page."""
    found: list[Any] = []
    token = None
    while True:
        page = search(query, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _is_missing(error: MlflowException) -> bool:
    return bool(error.error_code == "RESOURCE_DOES_NOT_EXIST")


def _listed(names: Iterable[str]) -> str:
    """Some names as a phrase."""
    every = [*names]
    shown = ", ".join(every[:NAMES_SHOWN])
    more = f" and {len(every) - NAMES_SHOWN} more" if len(every) > NAMES_SHOWN else ""
    return f"{shown}{more}" if every else "none"
