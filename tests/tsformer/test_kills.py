"""`kill -9` at any moment: the run goes on, and ends with the weights that it would have had."""

from __future__ import annotations

import hashlib
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from tests.figures import Told
from tests.tsformer.windows import linear_windows
from tsformer.batch import Shape
from tsformer.models import build, spec_from_mapping
from tsformer.train import Progress, Training, fit

SHAPE = Shape(context=48, horizon=4, variates=2)
TRAINING = Training(epochs=6, batch_size=8, sharpness=0.05)
STEPS = 5  # of an epoch
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "pytest", "tsformer.train"])  # imported once for all


def train(kind: str, folder: Path, told: Connection | None = None) -> tuple[str, list[Progress]]:
    """The hash of the weights that a run in `folder` ends with, and its reports."""
    torch.set_num_threads(1)
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if told is not None:
            told.send((progress.epoch, progress.step))
            time.sleep(0.01)

    torch.manual_seed(0)
    model = build(spec_from_mapping({"kind": kind}), SHAPE)
    fit(
        model, train=linear_windows(STEPS * 8, shape=SHAPE),
        validation=linear_windows(20, shape=SHAPE, seed=1), training=TRAINING, checkpoint=folder,
        report=report,
    )  # fmt: skip
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(weights).hexdigest(), reports


def killed(kind: str, folder: Path, *, after: int, pause: float) -> int:
    """Kills a run `pause` seconds after its report number `after`; gives the epoch it was in."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=train, args=(kind, folder, theirs), daemon=True)
    process.start()
    theirs.close()
    epoch = 0
    for _ in range(after):
        assert ours.poll(60)
        epoch, _step = ours.recv()
    time.sleep(pause)
    process.kill()
    process.join()
    while ours.poll(0):  # what was told before the end
        try:
            epoch, _step = ours.recv()
        except EOFError:
            break
    return epoch


def newest_in(place: Path) -> Path | None:
    return max(place.glob("*.safetensors"), default=None)


def left_alone(_: Path) -> int:
    """A kill is enough."""
    return 0


def torn(place: Path) -> int:
    """Half of the newest checkpoint is gone: the epoch before it is repeated too."""
    newest = newest_in(place)
    if newest is None:
        return 0
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    return 1


def littered(place: Path) -> int:
    """What looks like a newer checkpoint, like a draft of one and like a list of them is none."""
    newest = newest_in(place)
    if newest is None:
        return 0
    digest = newest.stem.rpartition("-")[2]
    (place / f"epoch-99999999-{digest}.safetensors").write_bytes(b"garbage")
    (place / f"{newest.name}.draft").write_bytes(b"garbage")
    (place / "index.json").write_bytes(b"\0garbage")
    return 0


HARM = (left_alone, torn, littered)


def check(kind: str, folder: Path, *, kills: int, seed: int) -> str:
    """What was measured of that many kills, the first without further harm."""
    expected, whole = train(kind, folder / "unbroken")
    moments, lost = random.Random(seed), 0
    for number in range(kills):
        # each step, and each end of an epoch, is reported: the last one is left out
        after, pause = moments.randint(1, len(whole) - 1), moments.uniform(0, 0.03)
        place = folder / str(number)
        epoch = killed(kind, place, after=after, pause=pause)
        more = HARM[number % len(HARM)](place)
        found, rest = train(kind, place)
        assert found == expected, (kind, after, pause)
        if rest:
            assert epoch - rest[0].epoch <= more, "more than the interrupted epoch was lost"
            lost = max(lost, epoch - rest[0].epoch)
        assert len([*place.glob("*.safetensors")]) == 2
    return f"{kind}: weights equal after {kills} of {kills} kills, {lost} more epochs repeated"


@pytest.mark.parametrize("kind", ["samformer", "patchtst", "tft"])
def test_a_killed_run_ends_with_the_weights_of_one_that_is_not(
    kind: str, tmp_path: Path, record_property: Told
) -> None:
    """Whoever restarts the machine at night must not find another model in the morning."""
    record_property("F13", check(kind, tmp_path, kills=1, seed=len(kind)))


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["samformer", "patchtst", "tft"])
def test_ten_random_kills_change_no_weight(
    kind: str, tmp_path: Path, record_property: Told
) -> None:
    """F13: at ten moments each; after some the newest checkpoint is torn, or garbage beside it."""
    record_property("F13", check(kind, tmp_path, kills=10, seed=10))
