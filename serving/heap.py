"""What a process of the service keeps for good is not looked through for garbage again and again.

A full collection walks over every object of torch, polars, Ray and MLflow: a third of a second in
which nobody is answered, and in all a quarter of a request's processor time.
"""

from __future__ import annotations

import gc

YOUNG = 10_000  # new objects between two collections; 700 by default, which one request makes
MIDDLE, OLD = 20, 50


def settle() -> None:
    """Counts all that there is now as kept for good; called once, when a process is set up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
