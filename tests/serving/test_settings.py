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
        ("server", "replicas", 0),
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


def test_a_model_of_its_own_has_the_device_of_the_others() -> None:
    """A champion must not claim the GPU that the operator kept everything else from."""
    models = Settings.read(
        {"models": {"device": "cpu", "own": {"a": None, "b": {"device": "cuda"}}}}
    )
    assert {name: scale.device for name, scale in models.models.own.items()} == {
        "a": "cpu",
        "b": "cuda",
    }


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (["a"], "'own' must hold names of models"),
        ({"a": 2}, "models: own: a: expected keys and values"),
        ({"a": {"replica": 2}}, "models: own: a: .*'replica'"),
        ({"a": {"replicas": 0}}, "models: own: a: 'replicas' must be at least 1"),
        ({"a/1": {}}, "'a/1' is not a model name"),
    ],
)
def test_a_deployment_that_cannot_be_is_refused(own: Any, said: str) -> None:
    """Unnamed, Ray Serve would say so after half a minute, in words of its own."""
    with pytest.raises(ConfigError, match=said):
        Settings.read({"models": {"own": own}})
