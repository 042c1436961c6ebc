"""How often a process of the service looks for garbage.

Ray Serve keeps what a replica was started with out of it. A request makes some thousand objects, none
of them in a circle, so at Python's own pace each would have its share of several collections.
"""

from __future__ import annotations

import gc

YOUNG, MIDDLE, OLD = 10_000, 20, 50  # 700, 10 and 10 by default


def collect_rarely() -> None:
    """Called once, when a process is set up."""
    gc.set_threshold(YOUNG, MIDDLE, OLD)
