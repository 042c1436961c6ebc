"""Copies: the verified local files of fetched versions, and the last answers of the registry.

Enough to serve from while the registry or the store is away.

models/NAME/3-0123456789ab/    the sealed files of version 3
models/NAME/champion.json      what the registry last said that `NAME@champion` is
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from pipelines.locks import Lease, removal
from pipelines.versions import ModelVersion, Reference
from tsformer.artifact import verify
from tsformer.errors import ArtifactError, UnavailableError

SCRATCH = ".fetching-"
SCRATCH_SECONDS = 86_400  # no download lasts longer: what is older was interrupted
LEASE_SECONDS = 10.0  # to wait for a removal of the same copy to end

Download = Callable[[ModelVersion, Path], Path]  # into a folder of scratch


@dataclass(frozen=True, slots=True)
class Copies:
    """The copies in `folder`."""

    folder: Path

    def path(self, version: ModelVersion) -> Path:
        """Where the copy of `version` is, or would be."""
        return self.folder / version.name / f"{version.version}-{version.digest[:12]}"

    def take(self, version: ModelVersion, *, download: Download) -> tuple[Path, Lease]:
        """The verified copy, leased; `download` fetches it where it is missing or damaged.

        Raises ArtifactError, and keeps nothing, where the files are not of the version's digest.
        """
        copy = self.path(version)
        try:
            lease = self._intact(copy, version.digest)
            if lease is None:
                self._fill(version, download)
                lease = Lease.on(copy, wait_s=LEASE_SECONDS)
                if lease is not None:
                    verify(copy, version.digest)
        except OSError as error:
            raise UnavailableError(f"{version} cannot be kept in {self.folder}: {error}") from error
        if lease is None:
            raise UnavailableError(f"{version} is being removed by a clean-up at this moment.")
        return copy, lease

    def remember(self, reference: Reference, version: ModelVersion) -> None:
        """Keeps the registry's last answer, for the times when there is none."""
        path = self._answer(reference)
        text = json.dumps(asdict(version), sort_keys=True)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return
        with TemporaryDirectory(prefix=".answer-", dir=path.parent) as scratch:
            written = Path(scratch) / path.name
            written.write_text(text, encoding="utf-8")
            written.replace(path)

    def recall(self, reference: Reference) -> tuple[ModelVersion, Lease] | None:
        """The registry's last answer to `reference`, if a copy of its files is still here."""
        try:
            answer = json.loads(self._answer(reference).read_text(encoding="utf-8"))
            version = ModelVersion(**{**answer, "aliases": tuple(answer["aliases"])})
            copy = self.path(version)
            lease = Lease.on(copy, wait_s=LEASE_SECONDS)
            verify(copy, version.digest)
        except (OSError, ValueError, TypeError, KeyError, ArtifactError):
            return None
        return None if lease is None else (version, lease)

    def remove(self, version: ModelVersion) -> bool:
        """Removes the copy of `version` and what was said of it, unless somebody has a lease."""
        with removal(self.path(version)) as free:
            if free:
                with suppress(FileNotFoundError):
                    shutil.rmtree(self.path(version))
                answer = Reference(version.name, alias=None, version=version.version)
                self._answer(answer).unlink(missing_ok=True)
        return free

    def sweep(self, name: str, *, known: Collection[ModelVersion]) -> None:
        """Removes what interrupted downloads have left, and copies of versions that are not there."""
        named = {self.path(version) for version in known}
        for copy in (self.folder / name).glob("[1-9]*-*"):
            if copy.is_dir() and copy not in named:
                with removal(copy) as free:
                    if free:
                        shutil.rmtree(copy, ignore_errors=True)
        oldest = time.time() - SCRATCH_SECONDS
        for scratch in (self.folder / name).glob(f"{SCRATCH}*"):
            if scratch.stat().st_mtime < oldest:
                shutil.rmtree(scratch, ignore_errors=True)

    def _intact(self, copy: Path, digest: str) -> Lease | None:
        """A lease on the copy that is there; a damaged one is removed."""
        lease = Lease.on(copy, wait_s=LEASE_SECONDS)
        if lease is None:
            return None
        try:
            verify(copy, digest)
        except ArtifactError:
            shutil.rmtree(copy, ignore_errors=True)
            return None
        return lease

    def _fill(self, version: ModelVersion, download: Download) -> None:
        copy = self.path(version)
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = Path(mkdtemp(prefix=SCRATCH, dir=copy.parent))
        try:
            downloaded = download(version, scratch)
            verify(downloaded, version.digest)
            _put(downloaded, copy)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _answer(self, reference: Reference) -> Path:
        return self.folder / reference.name / f"{reference.version or reference.alias}.json"


def _put(downloaded: Path, copy: Path) -> None:
    """Moves a folder to its place at once; another process may have put the same one first."""
    try:
        downloaded.rename(copy)
    except OSError:
        if not copy.is_dir():
            raise
