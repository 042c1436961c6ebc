"""What a process was at work on is known after its death, by whoever asks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving.slate import Slate, is_at_work, is_taken, ticket

KILLED = """
import os, sys
from pathlib import Path
from serving.slate import Slate
slate = Slate(Path(sys.argv[1]))
for done in (bytes.fromhex(each) for each in sys.argv[2:]):
    with slate.taken(done), slate.at_work(done):
        if done.hex() == sys.argv[-1]:
            os.abort()
"""


def test_the_batch_that_a_process_died_at_is_told_from_others(tmp_path: Path) -> None:
    """Else a neighbour that waited its turn would be blamed for the death, and refused."""
    done, deadly, waiting = (ticket() for _ in range(3))
    living, tickets = Slate(tmp_path), (done.hex(), deadly.hex())
    with living.taken(waiting), living.at_work(waiting):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *tickets], check=False)
        told = [is_at_work(tmp_path, each) for each in (done, deadly, waiting, ticket())]
    assert told == [False, True, True, False]
    assert not is_at_work(tmp_path, waiting)


def test_slates_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path: Path) -> None:
    """A service that runs for months starts many a replica."""
    deadly, at = ticket(), ticket()
    living = Slate(tmp_path)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), deadly.hex()], check=False)
    assert len([*tmp_path.iterdir()]) == 2
    Slate(tmp_path)
    with living.at_work(at):
        assert is_at_work(tmp_path, at)
    assert not is_at_work(tmp_path, deadly)


def test_a_call_that_was_taken_is_known_as_long_as_its_process_lives(tmp_path: Path) -> None:
    """What loads a model, or waits for another batch, must not be asked for twice."""
    first, second, deadly = ticket(), ticket(), ticket()
    living = Slate(tmp_path)
    with living.taken(first):
        with living.taken(second):
            assert is_taken(tmp_path, first)
            assert is_taken(tmp_path, second)
        assert is_taken(tmp_path, first)
        assert not is_taken(tmp_path, second)
    assert not is_taken(tmp_path, first)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), deadly.hex()], check=False)
    assert is_at_work(tmp_path, deadly)
    assert not is_taken(tmp_path, deadly)


def test_a_call_that_came_twice_is_taken_until_both_have_left(tmp_path: Path) -> None:
    """Whoever waits for the second would ask a third time, and get an error in place of its answer."""
    mine, slate = ticket(), Slate(tmp_path)
    first, second = slate.taken(mine), slate.taken(mine)
    with second:
        with first:
            assert is_taken(tmp_path, mine)
        assert is_taken(tmp_path, mine)
    assert not is_taken(tmp_path, mine)
