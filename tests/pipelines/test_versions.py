"""Names: what may be published under."""

from __future__ import annotations

import pytest

from pipelines.versions import RESERVED, checked_alias, checked_new_name
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


@pytest.mark.parametrize("alias", ["latest", "v1", "v23"])
def test_what_mlflow_keeps_for_itself_is_no_alias(alias: str) -> None:
    """The move would be written here and refused there, for good."""
    with pytest.raises(ConfigError, match=f"'{alias}' is not an alias"):
        checked_alias(alias)


def test_an_alias_may_begin_as_one_of_those() -> None:
    for alias in ("latest-1", "v1-beta", "v", "version"):
        assert checked_alias(alias) == alias
