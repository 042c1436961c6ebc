"""A copy that was made while all went on is whole, and what is wrong in a home is found."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipelines import digests
from pipelines.entries import DIGEST_TAG
from pipelines.flavor import log_model
from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.store import Store
from pipelines.store_tables import ACTUAL, CHAMPION, MODEL_VERSION
from pipelines.tracking import connect
from pipelines.verification import verified
from tests.figures import Told
from tests.pipelines.homes import new_home
from tests.pipelines.registries import new_run, publish, published, sealed
from tests.pipelines.typed import typed

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def written_down() -> str:
    """The commands of the documentation that make a copy."""
    section = PAGE.read_text(encoding="utf-8").partition("## Kept and brought back")[2]
    return section.split("```")[1]


def back_up(home: Home, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "TSFORMER_HOME": str(home.folder), "PATH": path}
    folder.mkdir()
    command = ["bash", "-euc", written_down()]
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=300)


def restore(home: Home, folder: Path) -> None:
    """On another machine, where the home is at the same place."""
    home.folder.mkdir()
    subprocess.run(["tar", "xf", folder / "backup-files.tar", "-C", home.folder], check=True)
    for name in ("tsformer.db", "mlflow.db"):
        shutil.copy(folder / f"backup-{name}", home.folder / name)


def write_until(ended: threading.Event, home: Home, folder: Path, rows: list[int]) -> None:
    """Versions and actuals, one after the other; a number is in `rows` once it is acknowledged."""
    registry, number = Registry(home), 100
    while not ended.is_set():
        publish(registry, "m", sealed(folder / str(number), season=number))
        row = {"model": "m", "unique_id": "a", "ds_us": number, "y": 0.0, "received_ms": 0}
        with registry.store.begin() as connection:
            connection.execute(ACTUAL.insert().values(row))
        rows.append(number)
        number += 1


@pytest.mark.faults
def test_a_copy_made_while_writing_is_whole_elsewhere(
    tmp_path: Path, record_property: Told
) -> None:
    """D2: whoever restores after a fire must not find versions without files, or rows lost."""
    home = new_home(tmp_path / "home")
    published(Registry(home), "m", tmp_path, versions=3)
    Registry(home).promote("m/2")
    ended, rows = threading.Event(), list[int]()
    writer = threading.Thread(target=write_until, args=(ended, home, tmp_path, rows))
    writer.start()
    try:
        while not rows and writer.is_alive():
            time.sleep(0.01)
        acknowledged = [*rows]
        back_up(home, tmp_path / "backup")
    finally:
        ended.set()
        writer.join()
    assert acknowledged
    home.folder.rename(tmp_path / "burnt")
    begun = time.monotonic()
    restore(home, tmp_path / "backup")
    registry = Registry(home)
    found = verified(registry)
    assert registry.fetch("m").version.version == "2"
    took = time.monotonic() - begun
    with registry.store.read() as connection:
        kept = set(connection.execute(sa.select(ACTUAL.c.ds_us)).scalars())
        vouched = digests.everything(connection)
    assert {*acknowledged} <= kept
    assert {(v.name, v.version) for v in found.sound} == vouched.keys()
    unknown = re.compile(r"m/\d+: The store does not know|m-\w+, uploaded by|.*files of no upload")
    assert all(unknown.match(fault) for fault in found.faults), found.faults
    assert took < 300
    record_property(
        "D2",
        f"{len(found.sound)} of {len(vouched)} versions as published, {len(acknowledged)} of "
        f"{len(acknowledged)} rows there, restored and verified in {took:.1f} s",
    )


def test_what_is_published_during_the_look_is_no_fault(tmp_path: Path) -> None:
    """D2: who is woken by a fault that was none does not get up for the next one."""
    home = new_home(tmp_path / "home")
    registry = Registry(home)
    published(registry, "m", tmp_path, versions=1)

    def write(*_: object) -> None:
        publish(Registry(home), "m", sealed(tmp_path / "late", season=7))
        Registry(home).promote("m/2")

    sa.event.listen(registry.store.engine, "connect", write, once=True)  # MLflow is read by then
    found = verified(registry)
    assert ([str(version) for version in found.sound], found.faults) == (["m/1", "m/2"], ())


# --- planted faults -------------------------------------------------------------------------


def stored(home: Home, reference: str) -> Path:
    """Where MLflow keeps the sealed files of a version."""
    source = connect(home).get_model_version(*reference.split("/")).source
    return Path(source.removeprefix("file://")) / "artifacts" / "forecaster"


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def link(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.parent / "manifest.json")


def change(home: Home, statement: sa.Executable) -> None:
    with Store.of(home).begin() as connection:
        connection.execute(statement)


def of(number: str) -> sa.ColumnElement[bool]:
    return (MODEL_VERSION.c.model == "m") & (MODEL_VERSION.c.version == number)


def move(home: Home, **values: str) -> None:
    """The champion of `n` in the store alone."""
    change(home, CHAMPION.update().where(CHAMPION.c.model == "n").values(**values))


def upload(home: Home, folder: Path) -> None:
    """As by a process that died before it registered what it had uploaded."""
    content = sealed(folder / "uploaded", season=77)
    log_model(connect(home), content.directory, run_id=new_run(home), card=content.card)


def foreign(home: Home) -> None:
    """A model of another tool, and files of an experiment in the bin: none of our business."""
    client = connect(home)
    binned = client.create_experiment("binned", artifact_location=f"{home.folder}/artifacts/binned")
    Path(client.create_logged_model(binned, name="old").artifact_location).mkdir(parents=True)
    client.delete_experiment(binned)
    upload = client.create_logged_model("1", name="trees of Bob")
    client.create_registered_model("trees of Bob")
    client.create_model_version("trees of Bob", source=upload.artifact_location)


# In this order: what is wrong, and the sentence that must be there; {home} is its folder.
PLANTED: tuple[tuple[Callable[[Home, Path], object], str], ...] = (
    (lambda h, _: flip(stored(h, "m/1") / "weights.safetensors"), "m/1: .*weights.* was altered"),
    (lambda h, _: flip(stored(h, "m/2") / "manifest.json"), "m/2: .*manifest"),
    (lambda h, _: (stored(h, "m/3") / "spec.json").write_text("{}"), "m/3: .*spec.*has 2 bytes"),
    (lambda h, _: (stored(h, "m/4") / "recipe.json").unlink(), "m/4: .*recipe.* is missing"),
    (lambda h, _: (stored(h, "m/5") / "more.bin").touch(), "m/5: .*more.bin is not in the manif"),
    (lambda h, _: link(stored(h, "m/6") / "recipe.json"), "m/6: .*recipe.json has"),
    (lambda h, _: shutil.rmtree(stored(h, "m/7")), "m/7: .*"),
    (
        lambda h, _: connect(h).set_model_version_tag("m", "8", DIGEST_TAG, "0" * 64),
        "m/8: MLflow has the digest 0",
    ),
    (lambda h, _: change(h, MODEL_VERSION.delete().where(of("9"))), "m/9: The store does not kn"),
    (
        lambda h, _: change(h, MODEL_VERSION.update().where(of("10")).values(removed_ms=1)),
        "m/10: m/10 was removed by a clean-up",
    ),
    (
        lambda h, _: change(
            h, MODEL_VERSION.insert().values(model="m", version="99", digest="0", created_ms=0)
        ),
        "m/99: the store vouches for it",
    ),
    (lambda h, _: connect(h).delete_model_version("m", "11"), "m/11: the store vouches for it"),
    (lambda h, _: upload(h, _), "m-[0-9a-f]+, uploaded by the run [0-9a-f]+, is no version"),
    (
        lambda h, _: connect(h).create_model_version("n", source="/etc", run_id=None),
        "n/3: n/3 was not published by tsformer",
    ),
    (lambda h, _: move(h, version="2"), "n@champion is on version 2, in MLflow on 1"),
    (lambda h, _: move(h, previous="98"), "n@champion would go back to 98, which"),
    (
        lambda h, _: change(h, CHAMPION.insert().values(model="o", version="1", since_ms=0)),
        "o@champion is on version 1, which MLflow does not have",
    ),
    (
        lambda h, _: (h.folder / "artifacts/1/models/m-lost/artifacts").mkdir(parents=True),
        ".*/m-lost: files of no upload",
    ),
    (
        lambda h, _: (h.models / "m/97-0123456789ab").mkdir(parents=True),
        ".*/97-0123456789ab: a copy of no sound version",
    ),
    (
        lambda h, _: flip(Registry(h).fetch("n/1").directory / "spec.json"),
        "n/1, its copy: .*spec.json was altered",
    ),
)


@pytest.mark.faults
def test_twenty_planted_faults_are_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record_property: Told,
) -> None:
    """D2: each would else be found at night, by the forecast that it does not give."""
    home = new_home(tmp_path / "home")
    registry = Registry(home)
    published(registry, "m", tmp_path, versions=11)
    published(registry, "n", tmp_path, versions=2)
    registry.promote("n/1")
    foreign(home)
    monkeypatch.setenv("TSFORMER_HOME", str(home.folder))
    status, said, _ = typed(("registry", "verify"), monkeypatch, capsys)
    assert (status, said) == (0, "13 versions are as they were published; 0 faults.\n")
    for plant, _ in PLANTED:
        plant(home, tmp_path)
    status, said, _ = typed(("registry", "verify"), monkeypatch, capsys)
    lines = said.splitlines()
    found = [pattern for _, pattern in PLANTED if any(re.match(pattern, line) for line in lines)]
    others = [line for line in lines if not any(re.match(p, line) for _, p in PLANTED)]
    assert [pattern for _, pattern in PLANTED if pattern not in found] == []
    assert status == 1
    record_property("D2", f"{len(found)} of {len(PLANTED)} planted faults listed")
    assert others == [f"2 versions are as they were published; {len(lines) - 1} faults."]
