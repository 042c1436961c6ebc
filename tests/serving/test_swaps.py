"""Versions change under load: nobody waits, nothing fails, and a bad one never answers."""

from __future__ import annotations

import gc
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.registry import Registry
from pipelines.tracking import connect, track
from serving.settings import Settings
from tests.figures import Told
from tests.serving.running import (
    SMALL,
    Running,
    application,
    forecaster,
    listening,
    publish,
    series,
    table,
)
from tests.waiting import wait_until
from tsformer.artifact import seal
from tsformer.errors import ArtifactError
from tsformer.models.patchtst import PatchTSTSpec

MIB = 2**20
SWAPS = 20
LARGE = PatchTSTSpec(width=256, feedforward=1024)
BODY = {"data": table(*(series(seed=seed) for seed in range(4))), "freq": "h"}


@dataclass
class Load:
    """Clients that ask one after the other until the end: what each answer was, and how late."""

    url: str
    answers: list[tuple[str, float, str]] = field(default_factory=list)  # version, seconds, numbers
    failed: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask_for_ever(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self.ended.is_set():
                begun = time.monotonic()
                reply = client.post("/v1/forecasts", json=BODY)
                took = time.monotonic() - begun
                if reply.status_code != 200:
                    self.failed.append(reply.text)
                    continue
                answer = reply.json()
                numbers = json.dumps(answer["forecast"]["mean"])
                self.answers.append((answer["model"]["version"], took, numbers))
                time.sleep(0.05)  # clients, service and test share one interpreter

    def seen(self, version: str, *, after: int) -> bool:
        """Whether an answer since the one of that number is of `version`."""
        return any(version == answered for answered, _, _ in self.answers[after:])


@contextmanager
def load(running: Running, *, clients: int) -> Iterator[Load]:
    made = Load(str(running.client.base_url))
    threads = [threading.Thread(target=made.ask_for_ever) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.ended.set()
        for thread in threads:
            thread.join()


def in_memory() -> int:
    """Forecasters of this process that have weights."""
    gc.collect()
    found = [each for each in gc.get_objects() if type(each) is Forecaster]
    return sum(next(each.model.parameters()).device.type == "cpu" for each in found)


def swap(home: Home, folder: Path, spec: PatchTSTSpec, *, every_s: float) -> str:
    """Moves the champion 20 times under load; says what was measured."""
    made = [forecaster(seed=seed, spec=spec) for seed in (1, 2, 3)]
    size = sum(parameter.nbytes for parameter in made[0].model.parameters()) / MIB
    for number, each in enumerate(made):
        publish(home, "m", each, folder / str(number))
    made.clear()
    registry, process = Registry(home), psutil.Process()
    known = in_memory()
    settings = Settings.read(
        {"models": {"default": "m", "poll_s": 0.1, "in_memory": 2}, "jobs": {"at_once": 0}}
    )
    numbers: dict[str, np.ndarray] = {}
    for running in listening(application(home, settings)):
        with load(running, clients=2) as clients:
            wait_until(lambda: len(clients.answers) > 20)
            start = early = process.memory_info().rss
            for number in range(SWAPS):
                asked, version = len(clients.answers), str(number % 3 + 1)
                registry.promote(f"m/{version}")
                waited = wait_until(lambda a=asked, v=version: clients.seen(v, after=a))
                time.sleep(max(0.0, every_s - waited))
                early = process.memory_info().rss if number < 5 else early
            wait_until(lambda: len(clients.answers) > 20)
        grown, later = ((process.memory_info().rss - before) / MIB for before in (start, early))
        assert in_memory() - known <= 2  # the one that serves and the one before
    assert clients.failed == []
    for version, _, text in clients.answers:  # of a mixed batch the numbers would be no version's
        mean = np.array(json.loads(text))
        np.testing.assert_allclose(mean, numbers.setdefault(version, mean), rtol=1e-4)
    assert numbers.keys() == {"1", "2", "3"}
    assert later < 64  # the first ones import; fifteen large ones that stay would take 140
    took = np.array([seconds for _, seconds, _ in clients.answers])
    p99, worst = np.quantile(took, 0.99), took.max()
    assert worst <= p99 + 2.5
    return (
        f"{SWAPS} swaps, 0 of {len(took)} failed, each reply of one named version; worst "
        f"{1000 * worst:.0f} ms (p99 {1000 * p99:.0f} ms); memory +{grown:.0f} MiB, of it "
        f"{later:+.0f} after the fifth; a model has {size:.1f}"
    )


def test_swaps_under_load_lose_no_request(
    empty: Home, tmp_path: Path, record_property: Told
) -> None:
    """F9: a new champion at noon fails no request, mixes no answer and fills no memory."""
    record_property("F9", swap(empty, tmp_path, SMALL, every_s=0.0))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_swaps_for_a_minute_lose_no_request(
    empty: Home, tmp_path: Path, record_property: Told
) -> None:
    """F9 in full, with a model that is large enough to be seen in the memory of the process."""
    record_property("F9", swap(empty, tmp_path, LARGE, every_s=3.0))


# --- bad versions ---------------------------------------------------------------------------


def flipped(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)


def truncated(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def extended(folder: Path) -> None:
    (folder / "more.json").write_text("{}")


def linked(folder: Path) -> None:
    """To a file of this machine; what a link to the very same bytes gives is these bytes."""
    weights = folder / "weights.safetensors"
    weights.unlink()
    weights.symlink_to(folder / "spec.json")


def of_no_kind(folder: Path) -> None:
    """Sealed as it should be, but nobody can build it."""
    rewrite(folder / "spec.json", "patchtst", "nothing")


def without_a_recipe(folder: Path) -> None:
    """Sealed as it should be, but its recipe is none: a defect of another release."""
    rewrite(folder / "recipe.json", '"context"', '"something"')


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def unharmed(_: Path) -> None:
    """Whatever is wrong is in the weights."""


ALTERED = (flipped, truncated, extended, linked)  # after publication
UNUSABLE = (of_no_kind, without_a_recipe)  # before it: their digests are right


def register(home: Home, made: Forecaster, folder: Path, *, harm: Callable[[Path], None]) -> str:
    """Publishes `made`, harmed before it, and promotes nothing."""
    with track(home, experiment="m", name="test") as run:
        digest = made.save(folder)
        if harm is not unharmed:
            harm(folder)
            digest = seal(folder)
        return (
            Registry(home).publish("m", folder, digest=digest, run_id=run.id, card=made.card)
        ).version


def stored(home: Home, version: str) -> Path:
    """Where MLflow keeps the files of a version of `m`."""
    location = connect(home).get_model_version("m", version).source
    return Path(location.removeprefix("file://")) / "artifacts" / "forecaster"


def refusals(running: Running) -> float:
    found = re.search(
        r'^tsformer_model_reload_failures_total\{model="m"\} (\S+)$',
        running.client.get("/metrics").text,
        re.MULTILINE,
    )
    return float(found[1]) if found else 0.0


def test_no_bad_version_answers(
    empty: Home, tmp_path: Path, record_property: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F10: each is refused and counted once, whoever moved the alias; the old one answers on."""
    publish(empty, "m", forecaster(seed=1), tmp_path / "1")
    client, bad = connect(empty), list[str]()
    for number, harm in enumerate((unharmed, *UNUSABLE, *ALTERED)):
        made = forecaster(seed=2, broken=harm is unharmed)
        before = harm if harm in UNUSABLE else unharmed
        bad.append(register(empty, made, tmp_path / f"bad-{number}", harm=before))
        if harm in ALTERED:
            harm(stored(empty, bad[-1]))
    slow = register(empty, forecaster(seed=3), tmp_path / "slow", harm=unharmed)
    held, loading = threading.Event(), threading.Event()
    load_it = Forecaster.load

    def load_late(directory: Path, *, digest: str, device: str) -> Forecaster:
        if directory.name.startswith(f"{slow}-"):
            loading.set()
            held.wait(60)
        return load_it(directory, digest=digest, device=device)

    monkeypatch.setattr(Forecaster, "load", load_late)
    settings = Settings.read({"models": {"default": "m", "poll_s": 0.1}, "jobs": {"at_once": 0}})
    for running in listening(application(empty, settings)):
        with load(running, clients=1) as clients:
            for count, version in enumerate(bad, start=1):
                client.set_registered_model_alias("m", "champion", version)
                wait_until(lambda r=running, count=count: refusals(r) >= count)
                assert running.client.get("/health/ready").status_code == 200
            client.set_registered_model_alias("m", "champion", slow)
            assert loading.wait(60)
            asked = len(clients.answers)
            wait_until(lambda c=clients, a=asked: len(c.answers) > a + 10)
            assert running.client.get("/health/ready").status_code == 200
            assert {version for version, _, _ in clients.answers} == {"1"}
            held.set()
            wait_until(lambda c=clients, a=asked: c.seen(slow, after=a))
        assert refusals(running) == len(bad)
    assert clients.failed == []
    record_property(
        "F10",
        f"{len(bad)} of 7 bad versions refused, each counted once; 0 of {len(clients.answers)} "
        "requests failed, also while another one was loading",
    )


def test_no_flipped_byte_is_read(
    tmp_path: Path, record_property: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F10: a parser that is given altered weights may do anything."""
    folder, dice = tmp_path / "model", random.Random(0)
    digest = forecaster(seed=1).save(folder)
    files = sorted(folder.iterdir())
    sizes = [file.stat().st_size for file in files]

    def parse(*_: object, **__: object) -> None:
        raise AssertionError("it was parsed")

    for name in ("build", "restore", "load_file"):
        monkeypatch.setattr(f"tsformer.artifact.{name}", parse)
    refused = 0
    for _ in range(200):
        (file,) = dice.choices(files, sizes)
        content = file.read_bytes()
        altered, place = bytearray(content), dice.randrange(len(content))
        altered[place] ^= dice.randrange(1, 256)
        file.write_bytes(altered)
        with pytest.raises(ArtifactError):
            Forecaster.load(folder, digest=digest)
        refused += 1
        file.write_bytes(content)
    record_property("F10", f"{refused} of 200 versions with one flipped byte refused unread")


# --- rollback -------------------------------------------------------------------------------


def test_a_rollback_reaches_every_service(
    empty: Home, tmp_path: Path, record_property: Told
) -> None:
    """F20: what customers got yesterday they get again, everywhere, to the byte, and at once."""
    publish(empty, "m", forecaster(seed=1), tmp_path / "1")
    settings = Settings.read({"models": {"default": "m", "poll_s": 0.5}, "jobs": {"at_once": 0}})
    for one, other in zip(
        *(listening(application(empty, settings)) for _ in range(2)), strict=True
    ):
        before = [probe(one, seed) for seed in range(20)]
        publish(empty, "m", forecaster(seed=2), tmp_path / "2")
        wait_until(lambda a=one, b=other: answered_by(a) == answered_by(b) == "2")
        with load(one, clients=1) as here, load(other, clients=1) as there:
            begun = time.monotonic()
            reply = one.post(
                "/v1/models/m/rollback",
                {"alias": "champion", "from_version": "2", "reason": "high"},
            )
            assert (reply.status_code, reply.json()["version"]) == (200, "1")
            wait_until(lambda a=one, b=other: answered_by(a) == answered_by(b) == "1")
            took = time.monotonic() - begun
        assert [*here.failed, *there.failed] == []
        assert here.answers
        assert there.answers
        for running in (one, other):
            assert [probe(running, seed) for seed in range(20)] == before
    assert took < 60
    record_property(
        "F20", f"2 services back after {took:.1f} s, 0 requests failed, 20 probes alike"
    )


def answered_by(running: Running) -> str:
    reply = running.post("/v1/forecasts", BODY)
    return str(reply.json()["model"]["version"])


def probe(running: Running, seed: int) -> str:
    """The numbers of a forecast, as they are written in the answer."""
    reply = running.post("/v1/forecasts", {"data": table(series(seed=seed)), "freq": "h"})
    assert reply.status_code == 200
    return reply.text.partition('"forecast":')[2].partition("]}")[0]
