"""Names: what may be published under."""

from __future__ import annotations

import pytest

from pipelines.versions import RESERVED, checked_new_name
from serving.baselines import BUILT_IN
from tsformer.errors import ConfigError


@pytest.mark.parametrize("name", RESERVED)
def test_a_model_cannot_take_the_name_of_a_baseline(name: str) -> None:
    """A request for `linear` would never reach it."""
    with pytest.raises(ConfigError, match=f"'{name}'.*built-in"):
        checked_new_name(name)


def test_every_baseline_is_reserved() -> None:
    assert set(BUILT_IN) <= set(RESERVED)
    assert checked_new_name("linear-2") == "linear-2"
