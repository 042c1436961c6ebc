"""Fits that wait for their killer: however slow the machine is, nobody comes too late."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import nn

GO_ON = "go-on"


@dataclass
class Held:
    """A hook before each forward of a model, which holds its process after `steps` steps.

    Whoever is held, or was, leaves the number of its process in `folder`, and goes on as soon as
    `let_go` has been called.
    """

    folder: Path
    steps: int
    done: int = 0

    def __call__(self, model: nn.Module, _: object) -> None:
        if not model.training:
            return
        (self.folder / str(os.getpid())).touch()
        while self.done >= self.steps and not (self.folder / GO_ON).exists():
            time.sleep(0.02)
        self.done += 1

    @property
    def processes(self) -> set[int]:
        """The numbers of all processes that ever trained."""
        return {int(file.name) for file in self.folder.iterdir() if file.name != GO_ON}

    def let_go(self) -> None:
        """Whoever waits goes on, and nobody waits any more."""
        (self.folder / GO_ON).touch()


def kill(process: int) -> None:
    """kill -9, of what may have ended."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
