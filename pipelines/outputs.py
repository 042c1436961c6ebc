"""Places to write to, made and checked before the work whose results go there."""

from __future__ import annotations

import os
from pathlib import Path

from tsformer.errors import ConfigError


def output_folder(path: Path, *, option: str) -> Path:
    """`path` as a folder that can be written to, made where it is missing."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        taken = next(place for place in (path, *path.parents) if place.exists())
        raise ConfigError(f"{option} must be a folder, but {taken} is a file.") from None
    except OSError as error:
        raise ConfigError(f"{option}: {path} cannot be made ({error.strerror}).") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{option}: nothing can be written to {path}. Choose another folder.")
    return path


def output_file(path: Path, *, option: str) -> Path:
    """`path` as a file that can be written, its folder made where it is missing."""
    if path.is_dir():
        raise ConfigError(f"{option} must be a file, but {path} is a folder.")
    output_folder(path.parent, option=f"The folder of {option}")
    if path.exists() and not os.access(path, os.W_OK):
        raise ConfigError(f"{option}: {path} cannot be written. Choose another file.")
    return path
