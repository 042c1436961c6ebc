"""Memory that is freed comes back without a page fault."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Page faults of making a tensor of 64 MiB again and again, before and after.
FAULTS = """
import resource, torch
from tsformer.memory import keep_freed_memory

def faults():
    torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), int(keep_freed_memory()), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="page faults are counted as Linux does")
def test_large_tensors_of_a_step_are_not_mapped_anew() -> None:
    """A third of a training step would go into page faults; in a process of its own, as it stays."""
    command = [sys.executable, "-c", FAULTS]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    before, kept, after = (int(word) for word in answer.stdout.split())
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert after < before / 4
