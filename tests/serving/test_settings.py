"""The file of --config is refused where the service could not work by it."""

from __future__ import annotations

from typing import Any

import pytest

from serving.settings import Settings
from tsformer.errors import ConfigError


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("batching", "max_windows", 0),
        ("models", "threads", 0),
        ("models", "in_memory", 0),
        ("models", "replicas", 0),
        ("models", "replicas_maximum", -1),
        ("models", "poll_s", 0),
        ("models", "poll_s", float("nan")),
        ("jobs", "at_once", -1),
        ("jobs", "look_s", 0.0),
    ],
)
def test_a_setting_that_cannot_work_is_refused(section: str, name: str, value: Any) -> None:
    """A batch of no windows would turn the whole service into a loop that never answers."""
    with pytest.raises(ConfigError, match=rf"{section}: '{name}' must be .* got"):
        Settings.read({section: {name: value}})
