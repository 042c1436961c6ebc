"""A checkpoint comes back bit by bit, or the one before it does."""

import resource
from pathlib import Path

import pytest
import torch

from tsformer.checkpoint import Checkpoint, read_newest, write


def checkpoint(epoch: int, size: int = 5) -> Checkpoint:
    tensors = {
        "weights/a.b": torch.arange(size, dtype=torch.float32) / (3 + epoch),
        "weights/steps": torch.tensor(2**40 + epoch),
        "optimizer/0/mask": torch.tensor([True, False]),
    }
    return Checkpoint(epoch, {"history": [0.1 + 0.2, 1e-300], "name": "ä"}, tensors)


def assert_same(read: Checkpoint | None, written: Checkpoint) -> None:
    assert read is not None
    assert (read.epoch, read.facts) == (written.epoch, written.facts)
    assert read.tensors.keys() == written.tensors.keys()
    assert all(torch.equal(read.tensors[k], written.tensors[k]) for k in read.tensors)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    write(checkpoint(1), tmp_path / "new" / "folder")
    assert_same(read_newest(tmp_path / "new" / "folder"), checkpoint(1))


def test_nothing_is_read_where_nothing_is(tmp_path: Path) -> None:
    assert read_newest(tmp_path) is None
    assert read_newest(tmp_path / "absent") is None


def test_the_newest_counts_and_two_are_kept(tmp_path: Path) -> None:
    for epoch in (8, 9, 10, 11):
        write(checkpoint(epoch), tmp_path)
    assert_same(read_newest(tmp_path), checkpoint(11))
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_torn_newest_falls_back_to_the_one_before(tmp_path: Path, length: int) -> None:
    write(checkpoint(1), tmp_path)
    newest = write(checkpoint(2), tmp_path)
    newest.write_bytes(newest.read_bytes()[:length])
    assert_same(read_newest(tmp_path), checkpoint(1))


def test_a_single_flipped_bit_falls_back_to_the_one_before(tmp_path: Path) -> None:
    write(checkpoint(1), tmp_path)
    newest = write(checkpoint(2), tmp_path)
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    assert_same(read_newest(tmp_path), checkpoint(1))


def test_a_full_disk_leaves_the_checkpoint_before_and_no_draft(tmp_path: Path) -> None:
    write(checkpoint(1), tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 100, 5_000, 30_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                write(checkpoint(2, size=10_000), tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len([*tmp_path.iterdir()]) == 1
        assert_same(read_newest(tmp_path), checkpoint(1))


def test_the_draft_of_a_killed_writer_is_removed(tmp_path: Path) -> None:
    path = write(checkpoint(1), tmp_path)
    path.with_suffix(".draft").write_bytes(b"half")
    assert_same(read_newest(tmp_path), checkpoint(1))
    assert [*tmp_path.iterdir()] == [path]
