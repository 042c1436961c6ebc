"""A Ray of this machine that does not come up."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ray

from pipelines.local_ray import local_ray
from tsformer.errors import UnavailableError


def test_a_ray_that_does_not_come_up_is_tried_again_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a crowded machine Ray gives up after 30 s, with an error of no type and its processes left."""
    begun: list[subprocess.Popen[bytes]] = []

    def slow(*, _temp_dir: str, **_options: object) -> None:
        sleeping = [sys.executable, "-c", "import time; time.sleep(600)", _temp_dir]
        begun.append(subprocess.Popen(sleeping))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    said = r"did not start on this machine, twice: The current node timed out"
    with pytest.raises(UnavailableError, match=said), local_ray(processors=1, shared_bytes=0):
        pytest.fail("there is no Ray")
    assert len(begun) == 2
    assert all(process.poll() is not None for process in begun)
