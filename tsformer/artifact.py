"""A fitted model as plain files: spec.json, weights.safetensors and a manifest of digests.

Nothing is ever unpickled. The manifest lists every file with its size and SHA-256 and is itself
named by its SHA-256, the digest; files are parsed only after all of them were found as listed.
Other parts of the project may add files to the directory and seal it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tsformer.batch import Shape
from tsformer.errors import ArtifactError, IncompatibleError, TsformerError
from tsformer.model import Model, ModelSpec
from tsformer.models import spec_from_mapping

FORMAT = 1
SPEC = "spec.json"
WEIGHTS = "weights.safetensors"
MANIFEST = "manifest.json"

# Far above what any model of ours needs, far below what makes a parser sweat.
JSON_BYTES = 2**20
HEADER_BYTES = 2**20
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def save(model: Model, spec: ModelSpec, directory: Path) -> str:
    """Writes `model` to the new or empty `directory`, sealed; gives the manifest's digest."""
    return write(directory, described=description(model, spec), tensors=model.state_dict())


def description(model: Model, spec: ModelSpec) -> dict[str, Any]:
    """All of `model` but its weights, as plain values; `build` makes it anew."""
    return {
        "format": FORMAT,
        "kind": spec.kind,
        "spec": spec.to_mapping(),
        "shape": asdict(model.shape),
    }


def load(directory: Path, *, digest: str | None = None) -> tuple[Model, ModelSpec]:
    """The model in `directory`, in evaluation mode, and its specification; `verify` goes first.

    Raises ArtifactError if the files, the description or any tensor is not as it must be, and
    IncompatibleError for a pretrained encoder, which is no model.
    """
    described = described_in(directory, digest=digest)
    model, spec = build(described, where=str(directory / SPEC))
    restore(model, directory)
    return model.eval(), spec


def write(directory: Path, *, described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Writes a description and its tensors to the new or empty `directory`; gives the digest.

    The files are written beside it and moved in one step, so a crash leaves no half artifact.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".draft-", dir=directory.parent) as folder:
            draft = Path(folder) / "artifact"
            draft.mkdir()
            (draft / SPEC).write_bytes(_json(described))
            save_file(_copied(tensors), draft / WEIGHTS)
            digest = seal(draft)
            draft.replace(directory)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(
            f"Cannot write the artifact {directory}: {error}. "
            "Give a new or empty directory that can be written."
        ) from error
    return digest


def described_in(directory: Path, *, digest: str | None = None) -> dict[str, Any]:
    """The description of the artifact in `directory`, after `verify`."""
    verify(directory, digest)
    described = read_json(directory / SPEC)
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ArtifactError(
            f"{directory / SPEC} is not of format {FORMAT}. "
            "Load it with the version of tsformer that wrote it."
        )
    return described


def restore(module: nn.Module, directory: Path) -> None:
    """Gives `module` the tensors of the artifact in `directory`, which must be all of its own."""
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{directory / WEIGHTS} cannot be read: {error}.") from error
    check_tensors(module.state_dict(), tensors, where=str(directory / WEIGHTS))
    module.load_state_dict(tensors, strict=True)


def check_tensors(built: Mapping[str, Tensor], stored: Mapping[str, Tensor], *, where: str) -> None:
    """Raises ArtifactError with the first tensor that the two do not share in shape and type."""
    for name in sorted(built.keys() | stored.keys()):
        wanted, got = _described(built.get(name)), _described(stored.get(name))
        if wanted != got:
            raise ArtifactError(f"{where}: tensor '{name}' must be {wanted}, got {got}.")


def seal(directory: Path) -> str:
    """Writes the manifest over all other files of `directory`; gives its SHA-256, the digest."""
    files = {name: path for name, path in _files(directory).items() if name != MANIFEST}
    listed = {name: {"sha256": _sha256(path), "bytes": _size(path)} for name, path in files.items()}
    manifest = _json(listed)
    draft = directory / f"{MANIFEST}.new"
    draft.write_bytes(manifest)
    draft.replace(directory / MANIFEST)
    return hashlib.sha256(manifest).hexdigest()


def verify(directory: Path, digest: str | None = None) -> None:
    """Holds `directory` against its manifest, and the manifest against `digest`.

    Raises ArtifactError for a missing, extra, truncated or altered file, for anything that is
    not a plain file, and for a safetensors header beyond `HEADER_BYTES`.
    """
    files = _files(directory)
    if MANIFEST not in files:
        raise ArtifactError(f"{directory} has no {MANIFEST}: it is not a finished artifact.")
    manifest = files.pop(MANIFEST)
    if digest is not None and _sha256(manifest) != digest:
        raise ArtifactError(
            f"{manifest} is not the one with SHA-256 {digest}: another version, or altered."
        )
    listed = _read_manifest(manifest)
    for name in sorted(listed.keys() | files.keys()):
        if name not in files:
            raise ArtifactError(f"{directory / name} is missing. Fetch the artifact again.")
        if name not in listed:
            raise ArtifactError(f"{directory / name} is not in the manifest. Remove it.")
        _check_file(files[name], listed[name])


def read_json(path: Path) -> Any:
    """The content of a small JSON file; raises ArtifactError if it is big or not JSON."""
    if _size(path) > JSON_BYTES:
        raise ArtifactError(f"{path} has {_size(path)} bytes, at most {JSON_BYTES} are read.")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable JSON: {error}.") from error


# --- the files ------------------------------------------------------------------------------


def _files(directory: Path) -> dict[str, Path]:
    """The files of `directory` by name, sorted; anything but a plain file is refused."""
    try:
        with os.scandir(directory) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise ArtifactError(f"Cannot read the artifact {directory}: {error.strerror}.") from error
    for entry in found:
        if not entry.is_file(follow_symlinks=False):
            raise ArtifactError(
                f"{directory / entry.name} is not a plain file. An artifact holds no links and "
                "no directories."
            )
    return {entry.name: directory / entry.name for entry in found}


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    """The manifest, in exactly the form that `seal` writes: not a byte of it is free."""
    listed = read_json(path)
    if not isinstance(listed, dict) or _json(listed) != path.read_bytes():
        raise ArtifactError(f"{path} is not a manifest as tsformer writes it.")
    for name, entry in listed.items():
        if not NAME.fullmatch(name) or name == MANIFEST:
            raise ArtifactError(f"{path} lists {name!r}, which is not a plain file name.")
        if not isinstance(entry, dict) or set(entry) != {"sha256", "bytes"}:
            raise ArtifactError(
                f"{path} must give 'sha256' and 'bytes' of {name!r}, got {entry!r}."
            )
    return listed


def _check_file(path: Path, entry: Mapping[str, Any]) -> None:
    if _size(path) != entry["bytes"]:
        raise ArtifactError(f"{path} has {_size(path)} bytes, the manifest says {entry['bytes']}.")
    if _sha256(path) != entry["sha256"]:
        raise ArtifactError(f"{path} was altered: its SHA-256 is not that of the manifest.")
    if path.suffix == ".safetensors":
        _check_header(path)


def _check_header(path: Path) -> None:
    """Refuses a header that is long enough to be an attack on its parser."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > HEADER_BYTES:
        raise ArtifactError(
            f"{path} has a header of {length} bytes, at most {HEADER_BYTES} are read."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


# --- the model ------------------------------------------------------------------------------


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU; safetensors takes no shared memory."""
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()
    }


def build(described: Mapping[str, Any], *, where: str) -> tuple[Model, ModelSpec]:
    """The model of a `description`, at fresh weights; ArtifactError where there is none."""
    if "encoder" in described:
        raise IncompatibleError(
            "This is a pretrained encoder: it has no head, so it makes no forecasts. Train a "
            "forecaster from it (`from` in an experiment)."
        )
    if set(described) != {"format", "kind", "spec", "shape"}:
        raise ArtifactError(
            f"{where} must hold format, kind, spec and shape, got {', '.join(sorted(described))}."
        )
    try:
        spec = spec_from_mapping({"kind": described["kind"], **described["spec"]}, where=where)
        sizes = described["shape"].items()
        shape: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes}
        # Fresh weights are drawn and overwritten: the caller's random state stays as it was.
        with torch.random.fork_rng(devices=[]):
            return spec.build(Shape(**shape)), spec
    except (TsformerError, TypeError, KeyError, ValueError) as error:
        raise ArtifactError(f"{where} describes no model that can be built: {error}") from error


def _described(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
