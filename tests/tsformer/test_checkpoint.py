"""A checkpoint comes back bit by bit, or the one before it does."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.figures import Told
from tests.tsformer.windows import LinearMap, linear_windows
from tsformer.batch import Shape
from tsformer.checkpoint import Checkpoint, Folder, newest, write
from tsformer.errors import UnavailableError
from tsformer.train import Progress, Training, fit


def checkpoint(epoch: int, size: int = 5) -> Checkpoint:
    tensors = {
        "weights/a.b": torch.arange(size, dtype=torch.float32) / (3 + epoch),
        "weights/steps": torch.tensor(2**40 + epoch),
        "optimizer/0/mask": torch.tensor([True, False]),
    }
    return Checkpoint(epoch, {"history": [0.1 + 0.2, 1e-300], "name": "ä"}, tensors)


def read(folder: Folder) -> Checkpoint | None:
    data = newest(folder)
    return None if data is None else Checkpoint.decoded(data)


def assert_same(read: Checkpoint | None, written: Checkpoint) -> None:
    assert read is not None
    assert (read.epoch, read.facts) == (written.epoch, written.facts)
    assert read.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(read.tensors[k], written.tensors[k]) for k in read.tensors)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "new" / "folder")


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """No file can grow beyond `after` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_is_read_is_what_was_written(folder: Folder) -> None:
    """A bit that changes on the way is another model."""
    write(checkpoint(1), folder)
    assert_same(read(folder), checkpoint(1))


def test_nothing_is_read_where_nothing_is(folder: Folder) -> None:
    """The first start of a run finds no folder."""
    assert read(folder) is None
    folder.path.mkdir(parents=True)
    assert read(folder) is None


def test_the_newest_counts_and_two_are_kept(folder: Folder) -> None:
    """A long run must not fill the disk, nor go on from an old state."""
    for epoch in (8, 9, 10, 11):
        write(checkpoint(epoch), folder)
    assert_same(read(folder), checkpoint(11))
    assert len(folder.names()) == 2


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_torn_newest_falls_back_to_the_one_before(folder: Folder, length: int) -> None:
    """A machine that loses power may leave half a file."""
    write(checkpoint(1), folder)
    torn = folder.path / write(checkpoint(2), folder)
    torn.write_bytes(torn.read_bytes()[:length])
    assert_same(read(folder), checkpoint(1))


def test_a_single_flipped_bit_falls_back_to_the_one_before(folder: Folder) -> None:
    """A disk that forgets one bit must not change the model."""
    write(checkpoint(1), folder)
    flipped = folder.path / write(checkpoint(2), folder)
    data = bytearray(flipped.read_bytes())
    data[-1] ^= 1
    flipped.write_bytes(data)
    assert_same(read(folder), checkpoint(1))


def test_a_full_disk_leaves_the_checkpoint_before_20_times_of_20(
    folder: Folder, record_property: Told
) -> None:
    """F12: the night's training must not be lost to the file that did not fit."""
    write(checkpoint(1), folder)
    size = len(checkpoint(2, size=10_000).encoded())
    points = range(0, size, -(-size // 20))
    for after in points:
        with full_disk(after), pytest.raises(OSError, match="too large"):
            write(checkpoint(2, size=10_000), folder)
        assert len(folder.names()) == 1
        assert len([*folder.path.iterdir()]) == 1  # no draft either
        assert_same(read(folder), checkpoint(1))
    assert len(points) == 20
    record_property("F12", "20 of 20 full disks left the checkpoint before, and no draft")


def test_a_run_on_a_full_disk_ends_in_one_sentence_and_goes_on_later(folder: Folder) -> None:
    """Whoever reads the log must see that space is missing, not a traceback of a library."""
    shape = Shape(context=8, horizon=3, variates=2)
    windows = linear_windows(40, shape=shape)
    training = Training(epochs=4, batch_size=20)

    def run(report: Callable[[Progress], None]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = LinearMap(shape)
        fit(
            model, train=windows, validation=windows, training=training, checkpoint=folder,
            report=report,
        )  # fmt: skip
        return model.state_dict()

    def fill_up(progress: Progress) -> None:
        if progress.epoch == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))

    with full_disk(100), pytest.raises(UnavailableError) as caught:
        run([].append)
    assert str(caught.value) == (
        f"The checkpoint of epoch 1 cannot be written to {folder}: File too large. None is kept; "
        "make room, and resume."
    )
    assert folder.names() == []
    with full_disk(-1), pytest.raises(UnavailableError, match="That of epoch 2 is kept"):
        run(fill_up)
    reports: list[Progress] = []
    resumed = run(reports.append)
    assert {report.epoch for report in reports} == {3, 4}
    for name in folder.names():
        folder.remove(name)
    assert all(torch.equal(resumed[name], value) for name, value in run([].append).items())


def test_the_draft_of_a_killed_writer_is_removed(folder: Folder) -> None:
    """Halves of files would pile up until the disk is full."""
    name = write(checkpoint(1), folder)
    (folder.path / f"{name}.draft").write_bytes(b"half")
    assert_same(read(folder), checkpoint(1))
    assert folder.names() == [name]
