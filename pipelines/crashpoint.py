"""Places where a test kills the process, to prove that the step after them may be lost.

A kill -9 or a power cut can fall between any two steps; `TSF_CRASH=name` makes it fall here.
"""

from __future__ import annotations

import os


def crashpoint(name: str) -> None:
    """Ends the process at once, without any clean-up, where the environment names this place."""
    if os.environ.get("TSF_CRASH") == name:
        os._exit(9)
