"""Shared replicas share the models out, and keep them where they are."""

from __future__ import annotations

from collections import Counter

from serving.deployments import SHARE, processes
from serving.placing import weight
from serving.settings import Settings

REPLICAS = ("k3x1", "9qzz", "a07b", "m2m2")
MODELS = tuple(f"team-{i}" for i in range(400))


def first(name: str, replicas: tuple[str, ...]) -> str:
    return min(replicas, key=lambda replica: weight(name, replica))


def test_models_are_spread_over_the_replicas() -> None:
    """Else one replica would load models all the time and the others stand idle."""
    counts = Counter(first(name, REPLICAS) for name in MODELS)
    assert len(counts) == len(REPLICAS)
    assert min(counts.values()) > 70


def test_a_replica_that_goes_takes_no_other_models_along() -> None:
    """Else every replica that is replaced would make all of them load all models anew."""
    gone, *left = REPLICAS
    for name in MODELS:
        if first(name, REPLICAS) != gone:
            assert first(name, tuple(left)) == first(name, REPLICAS)


def test_all_replicas_find_a_place() -> None:
    """What Ray believes to have must not depend on the machine, nor leave a replica without a place."""
    small = Settings.read({"server": {"replicas": 2}, "models": {"own": {"a": {"replicas": 3}}}})
    assert processes(small) == 2 + 2 + 1 + 3  # controller and proxy, ingresses, shared, own
    large = Settings.read({"models": {"replicas_maximum": 40}})
    assert processes(large) >= 2 * SHARE * (1 + 40)  # all are replaced at once
