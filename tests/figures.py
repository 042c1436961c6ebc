"""What a scenario of docs/scenarios.md measured; every run of the tests ends with a list of it."""

from collections.abc import Callable

# pytest's own `record_property(code, text)`; tests/conftest.py lists what was told.
Told = Callable[[str, object], None]
