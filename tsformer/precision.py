"""In which numbers matrices are multiplied; `auto` leaves it to the device."""

from __future__ import annotations

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
