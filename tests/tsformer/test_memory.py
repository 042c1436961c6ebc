"""Memory that is freed comes back without a page fault."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# Page faults of making the same large tensors again and again, before and after. Malloc holds back a
# few slivers that it cuts off such blocks, and what they were cut off does not fit again until then.
FAULTS = """
import resource, torch
from tsformer.memory import {kept}

def faults():
    for _ in range(10):
        [torch.ones({size}) for _ in range({blocks})]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        [torch.ones({size}) for _ in range({blocks})]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), int({kept}()), faults())
"""


# glibc's first thresholds, fixed: it would raise them by itself as the heap happens to lie (mallopt(3)).
THRESHOLDS = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
@pytest.mark.parametrize(
    ("kept", "size", "blocks"),
    [("keep_freed_memory", 1 << 24, 1), ("keep_some_freed_memory", 1 << 21, 10)],
)
def test_large_tensors_of_a_step_are_not_mapped_anew(kept: str, size: int, blocks: int) -> None:
    """A third of a step or a forecast would go into page faults; in a process of its own, as it stays."""
    text = FAULTS.format(kept=kept, size=size, blocks=blocks)
    command = [sys.executable, "-c", text]
    environment = os.environ | THRESHOLDS
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    before, done, after = (int(word) for word in answer.stdout.split())
    if not done:
        pytest.skip("this C library has no mallopt")
    assert after < before / 4
