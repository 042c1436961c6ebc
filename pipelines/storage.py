"""Where the checkpoints of runs are kept: a folder, or whatever pyarrow or fsspec reach by a URI.

    TSFORMER_STORAGE, else TSFORMER_HOME/checkpoints
    └── <run>/<model>/epoch-000003-<sha256>.safetensors

A folder of this machine survives a kill of every process of it; to survive the machine, name a
place outside: `s3://bucket/path`, `gs://bucket/path`, a folder that all machines share.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from pipelines.home import Home
from tsformer.checkpoint import Folder
from tsformer.errors import ConfigError, UnavailableError

VARIABLE = "TSFORMER_STORAGE"


@dataclass(frozen=True, slots=True)
class Place:
    """A folder by its path or URI; satisfies `tsformer.checkpoint.Storage`."""

    uri: str

    @staticmethod
    def of(home: Home, *, environment: Mapping[str, str] = os.environ) -> Place:
        """The place for checkpoints.

        Raises ConfigError where nothing reaches what is named, UnavailableError where it is away.
        """
        place = Place(environment.get(VARIABLE) or str(home.folder / "checkpoints"))
        if (folder := place.folder) is not None:
            return Place(str(folder))  # absolute: workers may stand elsewhere
        try:
            _reached(place.uri)
        except OSError as error:
            raise UnavailableError(f"{VARIABLE}: {place} does not answer: {error}.") from error
        return place

    def __truediv__(self, name: str) -> Place:
        """The folder `name` in this one."""
        path, mark, options = self.uri.partition("?")
        return Place(f"{path.rstrip('/')}/{name}{mark}{options}")

    def __str__(self) -> str:
        """The place without the password or key that a URI may hold."""
        parts = urlsplit(self.uri)
        if "@" not in parts.netloc:
            return self.uri.partition("?")[0]
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    @property
    def folder(self) -> Folder | None:
        """The same as a folder of this machine, where it is one: it is written more safely."""
        if "://" not in self.uri:
            return Folder(Path(self.uri).absolute())
        scheme, _, path = self.uri.partition("://")
        return Folder(Path(path)) if scheme == "file" and path.startswith("/") else None

    def names(self) -> list[str]:
        """See `tsformer.checkpoint.Storage`."""
        if (folder := self.folder) is not None:
            return folder.names()
        system, path = _reached(self.uri)
        found = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return [file.base_name for file in found if file.is_file]

    def read(self, name: str) -> bytes:
        """See `tsformer.checkpoint.Storage`."""
        if (folder := self.folder) is not None:
            return folder.read(name)
        system, path = _reached(self.uri)
        with system.open_input_stream(f"{path}/{name}") as file:
            data: bytes = file.read()
        return data

    def write(self, name: str, data: bytes) -> None:
        """See `tsformer.checkpoint.Storage`.

        Object stores show a file when it is complete. Elsewhere half a file may be seen, whose
        bytes do not agree with its name.
        """
        if (folder := self.folder) is not None:
            folder.write(name, data)
            return
        system, path = _reached(self.uri)
        system.create_dir(path, recursive=True)
        try:
            with system.open_output_stream(f"{path}/{name}") as file:
                file.write(data)
        except BaseException:
            with suppress(OSError):
                system.delete_file(f"{path}/{name}")
            raise

    def remove(self, name: str) -> None:
        """See `tsformer.checkpoint.Storage`."""
        if (folder := self.folder) is not None:
            folder.remove(name)
            return
        system, path = _reached(self.uri)
        with suppress(FileNotFoundError):
            system.delete_file(f"{path}/{name}")

    def clear(self) -> None:
        """Removes the folder with everything in it, where that can be: what is left costs room."""
        if (folder := self.folder) is not None:
            shutil.rmtree(folder.path, ignore_errors=True)
            return
        with suppress(OSError):
            system, path = _reached(self.uri)
            system.delete_dir(path)


@lru_cache(maxsize=64)
def _reached(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system behind `uri`, and the path in it."""
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        system, path = _by_fsspec(uri)
    return system, path.rstrip("/")


def _by_fsspec(uri: str) -> tuple[fs.FileSystem, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        scheme = uri.partition("://")[0]
        raise ConfigError(
            f"{VARIABLE}: nothing installed reaches '{scheme}://' ({error}). Give a folder, or a "
            "URI such as s3://bucket/path or gs://bucket/path."
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path
