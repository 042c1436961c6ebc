"""Files that would run code of whoever made them: no reader of ours decodes any of it."""

from __future__ import annotations

import pickle
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.joint_fit import forget_pickled_columns
from pipelines.panel import read_panel
from pipelines.registry import Registry
from pipelines.schema import Schema
from pipelines.sources import glance, load
from pipelines.tables import read_rows
from serving import arrow
from serving.limits import Limits
from serving.problems import Problem
from tests.audited import Seen, audited
from tests.figures import Told
from tests.pipelines.registries import publish, sealed
from tests.serving.conftest import fresh_home
from tests.serving.streams import pack
from tsformer import artifact
from tsformer.errors import TsformerError

MARKER = "tsformer_was_here"
SEAL = "manifest.json"


class Bomb:
    """Makes a file as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.marker,))


def harmless(seen: Seen, folder: Path) -> None:
    """Nothing was unpickled, nothing imported or run from the folder, nothing made by a bomb."""
    assert seen.of("pickle.find_class") == []
    assert [name for name, *_ in seen.of("import") if "hostile" in str(name)] == []
    assert seen.of("os.system", "subprocess.Popen") == []
    assert list(folder.rglob(MARKER)) == []


# --- model versions ---------------------------------------------------------------------------


def pickled(folder: Path, marker: Path) -> None:
    (folder / "python_model.pkl").write_bytes(pickle.dumps(Bomb(marker)))


def of_torch(folder: Path, marker: Path) -> None:
    torch.save({"weight": Bomb(marker)}, folder / "weights.safetensors")


def pt2(folder: Path, marker: Path) -> None:
    with zipfile.ZipFile(folder / "model.pt2", "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/data/weights/model.pt", pickle.dumps(Bomb(marker)))


def loader_module(folder: Path, marker: Path) -> None:
    (folder / "hostile.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: hostile\n    code: .\n"
    )


def code_paths(folder: Path, marker: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code" / "hostile_init.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (folder / "code" / "sitecustomize.py").write_text("import hostile_init\n")


def zip_slip(folder: Path, marker: Path) -> None:
    with zipfile.ZipFile(folder / "weights.zip", "w") as archive:
        archive.writestr(f"../../../../../..{marker}", "")


def symlink(folder: Path, _marker: Path) -> None:
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").symlink_to("/etc/passwd")


def huge_header(folder: Path, _marker: Path) -> None:
    content = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes((4 * 2**30).to_bytes(8, "little") + content[8:])


ATTACKS = {
    "a pickle": pickled, "a .pt in place of weights": of_torch, "a .pt2": pt2,
    "a loader_module": loader_module, "code_paths": code_paths, "zip-slip": zip_slip,
    "a link": symlink, "a header of 4 GiB": huge_header,
}  # fmt: skip


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, database: Path) -> Home:
    """A home with one version."""
    home = fresh_home(tmp_path_factory.mktemp("published"), database)
    publish(Registry(home), "m", sealed(tmp_path_factory.mktemp("sealed") / "model"))
    return home


@pytest.fixture
def kept(published: Home, tmp_path: Path) -> Iterator[Path]:
    """Where MLflow has the sealed files of the version; as they were, when the test is over."""
    (found,) = (published.folder / "artifacts").rglob(f"forecaster/{SEAL}")
    whole = shutil.copytree(found.parent, tmp_path / "whole")
    yield found.parent
    shutil.rmtree(found.parent)
    shutil.copytree(whole, found.parent)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_version_is_refused_and_runs_nothing(
    published: Home, kept: Path, tmp_path: Path, record_property: Told, attack: str
) -> None:
    """S8: who can write to the artifacts of MLflow must not run code in the service.

    Once the files of a version are changed; once they are sealed anew, as by somebody whom the store
    vouches for. What is then beside the weights is never opened.
    """
    ATTACKS[attack](kept, tmp_path / MARKER)
    service = Registry(Home(tmp_path / "service", published.uri, published.store))
    with audited() as seen:
        started = time.perf_counter()
        with pytest.raises(TsformerError):
            Forecaster.load(service.fetch("m/1").directory, device="cpu")
        seconds = time.perf_counter() - started
        harmless(seen, tmp_path)
        then = "refused"
        with suppress(TsformerError):
            Forecaster.load(kept, digest=artifact.seal(kept), device="cpu")
            then = "never read"
        harmless(seen, tmp_path)
    record_property(
        "S8", f"{attack}: refused after {seconds:.2f} s; sealed anew, {then}; nothing unpickled or "
        "imported, 0 markers",
    )  # fmt: skip
    assert seconds < 10  # 1 s on a quiet machine


# --- tables -----------------------------------------------------------------------------------

LONE = Schema(time="t", targets=("y",))


@pytest.fixture
def live() -> Iterator[Callable[[], Any]]:
    """Registers the type that Ray registers, which unpickles; and takes it back."""
    import ray.tune
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    assert ray.tune

    def registered() -> Any:
        with suppress(pa.ArrowKeyError):  # it is already
            pa.register_extension_type(ArrowPythonObjectType())
        return ArrowPythonObjectType()

    yield registered
    forget_pickled_columns()


def hostile(kind: Any, marker: Path) -> dict[str, pa.Array]:
    """A column of one cell that makes the marker as it is decoded, at several depths."""
    storage = pa.array([pickle.dumps(Bomb(marker))], kind.storage_type)
    plain = pa.ExtensionArray.from_storage(kind, storage)
    return {
        "plain": plain,
        "in a list": pa.ListArray.from_arrays([0, 1], plain),
        "in a struct": pa.StructArray.from_arrays([plain], ["inner"]),
        "in a dictionary": pa.DictionaryArray.from_arrays(pa.array([0]), plain),
    }


FILE_READERS: dict[str, Callable[[Path], object]] = {
    "read_panel": lambda path: read_panel(path, schema=LONE),
    "load": load,
    "glance": glance,
    "a folder": lambda path: load(path.parent),
    "read_rows": lambda path: read_rows(path, columns={"y": "value"}, start=0, rows=1),
}


def test_tables_that_unpickle_are_refused_by_every_reader(
    tmp_path: Path, record_property: Told, live: Callable[[], Any]
) -> None:
    """S9: with Ray Tune imported, pandas runs what stands in a Parquet file. None of ours does."""
    marker, refused = tmp_path / MARKER, 0
    for form, column in hostile(live(), marker).items():
        for name in ("y", "unused"):
            table = pa.table({"t": [1], "y": [1.0]} | {name: column})
            path = tmp_path / f"{form} {name}" / "table.parquet"
            path.parent.mkdir()
            readers: dict[str, Callable[[], object]] = {
                "arrow": lambda table=table: arrow.decode(pack({}, data=table), Limits())
            }
            if name == "y":  # of a frame only what is used is looked at
                readers["frame"] = lambda table=table: read_panel(table, schema=LONE)
            with suppress(pa.ArrowInvalid):  # Parquet has no such dictionaries
                pq.write_table(table, path)
                readers |= {n: lambda r=r, p=path: r(p) for n, r in FILE_READERS.items()}
            for reader, read in readers.items():
                live()
                with audited() as seen, pytest.raises((TsformerError, Problem)):
                    read()
                harmless(seen, tmp_path)
                assert reader
                refused += 1
    live()
    with suppress(Exception):
        pd.read_parquet(tmp_path / "plain y" / "table.parquet")
    assert marker.exists(), "the bomb would have gone off"
    record_property(
        "S9", f"{refused} readings refused, 0 markers, nothing unpickled; pandas made one"
    )
