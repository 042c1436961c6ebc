"""Stored models: written whole, loaded strictly, refused when a single byte differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tsformer import artifact
from tsformer.batch import Batch, Shape
from tsformer.errors import ArtifactError
from tsformer.models.linear import DLinearSpec
from tsformer.models.naive import SeasonalNaiveSpec
from tsformer.models.ridge import RidgeSpec

SHAPE = Shape(context=12, horizon=3, variates=2, known=(0,))
SPEC = DLinearSpec(kernel=5)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    artifact.save(SPEC.build(SHAPE), SPEC, directory)
    return directory


def rewrite(directory: Path, name: str, old: str, new: str) -> None:
    """Changes a JSON file and seals the directory again, as somebody with the keys could."""
    path = directory / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    artifact.seal(directory)


# --- what is written is what is read ---------------------------------------------------------


@pytest.mark.parametrize(
    "spec", [SPEC, RidgeSpec(center="last", penalties=(0.5,)), SeasonalNaiveSpec(season=4)]
)
def test_a_model_comes_back_bit_equal(
    spec: DLinearSpec | RidgeSpec | SeasonalNaiveSpec, tmp_path: Path
) -> None:
    model = spec.build(SHAPE)
    for tensor in model.state_dict().values():
        tensor.normal_()
    digest = artifact.save(model, spec, tmp_path / "deep" / "model")
    loaded, read = artifact.load(tmp_path / "deep" / "model", digest=digest)
    past = torch.randn(2, 12, 2)
    batch = Batch(past, torch.ones_like(past, dtype=torch.bool), known=torch.randn(2, 15, 1))
    assert read == spec
    assert loaded.shape == SHAPE
    assert not loaded.training
    assert torch.equal(loaded(batch), model.eval()(batch))


def test_the_files_are_plain(stored: Path) -> None:
    assert sorted(path.name for path in stored.iterdir()) == [
        "manifest.json",
        "spec.json",
        "weights.safetensors",
    ]
    described = json.loads((stored / "spec.json").read_text())
    assert described["format"] == 1
    assert described["kind"] == "dlinear"
    assert described["spec"] == {"kernel": 5}
    assert described["shape"]["context"] == 12


def test_the_same_model_has_the_same_digest(tmp_path: Path) -> None:
    """A version is its digest: writing it twice must not make two."""
    model = SPEC.build(SHAPE)
    digests = [artifact.save(model, SPEC, tmp_path / name) for name in ("one", "two")]
    assert digests[0] == digests[1]


def test_loading_leaves_the_random_state_alone(stored: Path) -> None:
    """A service that loads a version between two draws must not change an experiment."""
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    artifact.load(stored)
    assert torch.equal(torch.rand(3), expected)


def test_further_files_can_be_sealed_in(stored: Path) -> None:
    (stored / "recipe.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"recipe\.json"):
        artifact.verify(stored)
    artifact.verify(stored, artifact.seal(stored))


# --- writing ---------------------------------------------------------------------------------


def test_an_existing_artifact_is_never_overwritten(stored: Path) -> None:
    before = (stored / "manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match="new or empty"):
        artifact.save(SPEC.build(SHAPE), SPEC, stored)
    assert (stored / "manifest.json").read_bytes() == before
    assert [path.name for path in stored.parent.iterdir()] == ["model"]


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    artifact.save(SPEC.build(SHAPE), SPEC, tmp_path)
    artifact.load(tmp_path)


# --- what was altered is refused before it is parsed ------------------------------------------


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors", "manifest.json"])
def test_any_flipped_byte_is_refused(name: str, stored: Path) -> None:
    """With and without the digest: one bit of a weight is another model."""
    digest = artifact.seal(stored)
    path = stored / name
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 300)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        for known in (None, digest):
            with pytest.raises(ArtifactError):
                artifact.verify(stored, known)
    path.write_bytes(content)
    artifact.verify(stored, digest)


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors", "manifest.json"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_truncated_files_are_refused(name: str, kept: float, stored: Path) -> None:
    path = stored / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ArtifactError, match=name.split(".")[0]):
        artifact.load(stored)


@pytest.mark.parametrize("name", ["spec.json", "weights.safetensors", "manifest.json"])
def test_missing_files_are_refused(name: str, stored: Path) -> None:
    (stored / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        artifact.load(stored)


def test_extra_files_are_refused(stored: Path) -> None:
    (stored / "model.pkl").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"model\.pkl.*Remove it"):
        artifact.load(stored)


def test_links_and_directories_are_refused(stored: Path, tmp_path: Path) -> None:
    """A link verifies today and points elsewhere tomorrow."""
    outside = tmp_path / "weights"
    (stored / "weights.safetensors").rename(outside)
    (stored / "weights.safetensors").symlink_to(outside)
    with pytest.raises(ArtifactError, match="plain file"):
        artifact.load(stored)
    (stored / "weights.safetensors").unlink()
    outside.rename(stored / "weights.safetensors")
    (stored / "more").mkdir()
    with pytest.raises(ArtifactError, match="plain file"):
        artifact.load(stored)
    (stored / "more").rmdir()
    os.mkfifo(stored / "pipe")
    with pytest.raises(ArtifactError, match="plain file"):
        artifact.load(stored)


@pytest.mark.parametrize("name", ["../weights", "a/b", "a\\b", "..", "", ".hidden", "a\nb"])
def test_names_that_leave_the_directory_are_refused(name: str, stored: Path) -> None:
    listed = json.loads((stored / "manifest.json").read_text())
    listed[name] = listed["spec.json"]
    text = json.dumps(listed, indent=2, sort_keys=True) + "\n"
    (stored / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="plain file name"):
        artifact.verify(stored)


def test_another_manifest_is_refused(stored: Path) -> None:
    with pytest.raises(ArtifactError, match="SHA-256"):
        artifact.load(stored, digest="0" * 64)


@pytest.mark.parametrize("text", ["[]", "{", "null", '{"spec.json": 1}', "[" * 100_000])
def test_manifests_of_another_form_are_refused(text: str, stored: Path) -> None:
    (stored / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError):
        artifact.verify(stored)


def test_a_huge_manifest_is_not_read(stored: Path) -> None:
    with (stored / "manifest.json").open("r+b") as file:
        file.truncate(2**21)
    with pytest.raises(ArtifactError, match="at most"):
        artifact.verify(stored)


def test_a_huge_header_is_refused(stored: Path) -> None:
    """The length in front of a safetensors header is the first thing an attacker would set."""
    length = 2**20 + 1
    content = length.to_bytes(8, "little") + b"{}".ljust(length)
    (stored / "weights.safetensors").write_bytes(content)
    artifact.seal(stored)
    with pytest.raises(ArtifactError, match="header"):
        artifact.load(stored)


def test_a_directory_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="nowhere"):
        artifact.load(tmp_path / "nowhere")


# --- what is sealed and still not a model ------------------------------------------------------


def test_weights_of_another_shape_name_the_first_tensor(stored: Path) -> None:
    rewrite(stored, "spec.json", '"context": 12', '"context": 13')
    with pytest.raises(ArtifactError, match=r"'season\.linear\.weight' must be .*13\], got .*12\]"):
        artifact.load(stored)


def test_weights_are_never_loaded_in_part(stored: Path) -> None:
    """A tensor that is silently left random forecasts nonsense with good manners."""
    path = stored / "weights.safetensors"
    tensors = load_file(path)
    bias = tensors.pop("trend.linear.bias")
    save_file(tensors, path)
    artifact.seal(stored)
    with pytest.raises(ArtifactError, match=r"'trend\.linear\.bias' must be .*, got absent"):
        artifact.load(stored)
    save_file({**tensors, "trend.linear.bias": bias.double()}, path)
    artifact.seal(stored)
    with pytest.raises(ArtifactError, match="must be float32"):
        artifact.load(stored)
    save_file({**tensors, "trend.linear.bias": bias, "more": bias.clone()}, path)
    artifact.seal(stored)
    with pytest.raises(ArtifactError, match=r"'more' must be absent"):
        artifact.load(stored)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ('"dlinear"', '"dlinera"'),
        ('"kernel": 5', '"kernel": 4'),
        ('"kernel": 5', '"kernels": 5'),
        ('"horizon": 3', '"horizon": 0'),
        ('"horizon": 3', '"horizon": "3"'),
        ('"horizon": 3', '"horizons": 3'),
        ('"levels": []', '"levels": null'),
        ('"format": 1', '"format": 1, "more": 1'),
    ],
)
def test_descriptions_that_build_nothing_are_refused(old: str, new: str, stored: Path) -> None:
    rewrite(stored, "spec.json", old, new)
    with pytest.raises(ArtifactError, match=r"spec\.json"):
        artifact.load(stored)


def test_weights_that_are_not_safetensors_are_refused(stored: Path) -> None:
    torch.save({"trend.linear.bias": torch.zeros(3)}, stored / "weights.safetensors")
    artifact.seal(stored)
    with pytest.raises(ArtifactError, match=r"weights\.safetensors"):
        artifact.load(stored)


def test_loading_unpickles_nothing(stored: Path) -> None:
    """A pickle runs whatever it likes; the audit hook of Python tells of each one."""
    program = f"""
import sys
from pathlib import Path
from tsformer import artifact
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith("pickle.") else None)
artifact.load(Path({str(stored)!r}))
assert not seen, seen
import pickle
pickle.loads(pickle.dumps(Path))
assert seen == ["pickle.find_class"], "the hook must be able to see"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
