"""Where a model runs, by name; known without torch, which takes a second to import."""

from __future__ import annotations

import re

from tsformer.errors import ConfigError

DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,4})?")


def checked_device(name: str) -> str:
    """`name` if it can be a device; whether this machine has it is not asked."""
    if not DEVICE.fullmatch(name):
        raise ConfigError(
            f"device must be auto, cpu, cuda or cuda:N, got '{name}'. auto is the GPU where there "
            "is one."
        )
    return name
