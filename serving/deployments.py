"""The deployments of models: one that models share, and those that models have for themselves."""

from __future__ import annotations

import math
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from pipelines.home import Home
from serving.host import Lane
from serving.placing import Placing
from serving.replica import RemoteEngine, Replica
from serving.settings import Models, Scale

IN_FLIGHT = 2  # of each replica: one batch runs while the next one travels
# RELIABILITY, section 6: found dead in seconds, in flight no longer than the deadline allows.
COMMON = {
    "health_check_period_s": 2,
    "health_check_timeout_s": 5,
    "graceful_shutdown_timeout_s": 40,
    "graceful_shutdown_wait_loop_s": 0.5,
    "max_surge_percent": 100,
    "max_constructor_retry_count": 3,
    "logging_config": {"log_level": "WARNING", "enable_access_log": False},  # the log is our own
}
ONGOING = 4_096  # that a replica may have at a time; the batcher's own queue refuses earlier
SHARED = "model"


def deployments(home: Home, models: Models) -> tuple[Application, dict[str, Application]]:
    """The shared deployment, and those of the models that have one, by name."""
    share = _share_of_gpu(models)
    own = {
        name: _deployment(f"{SHARED}-{name}", scale, share, placed=False).bind(
            home, models, scale, f"{SHARED}-{name}"
        )
        for name, scale in models.own.items()
    }
    scale = models.shared
    shared = _deployment(SHARED, scale, share, placed=scale.most > 1)
    return shared.bind(home, models, scale, SHARED), own


def lane(handle: DeploymentHandle, scale: Scale, *, doors: int, placed: bool) -> Lane:
    """The way from one of `doors` ingresses to a deployment: each has its share of what is out."""
    return Lane(RemoteEngine(handle, placed=placed), math.ceil(IN_FLIGHT * scale.most / doors))


def _deployment(name: str, scale: Scale, share: float, *, placed: bool) -> serve.Deployment:
    options: dict[str, Any] = {"max_ongoing_requests": ONGOING}
    if placed:  # a replica with so many has no room for more, and the next one is asked
        routing = RequestRouterConfig(request_router_class=Placing)
        options = {"max_ongoing_requests": IN_FLIGHT, "request_router_config": routing}
    gpus = 0 if scale.device == "cpu" else share
    return serve.deployment(Replica).options(
        name=name,
        ray_actor_options={"num_cpus": 0.1, "num_gpus": gpus},
        **COMMON,
        **options,
        **_scaling(scale),
    )


def _scaling(scale: Scale) -> dict[str, Any]:
    """How many replicas there are, as Ray Serve is told."""
    if scale.most == scale.replicas:
        return {"num_replicas": scale.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": scale.replicas,
            "max_replicas": scale.most,
            "target_ongoing_requests": IN_FLIGHT,
        }
    }


def _share_of_gpu(models: Models) -> float:
    """What one replica takes of a GPU: all that may use one find a place."""
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if not gpus:
        return 0.0
    scales = (models.shared, *models.own.values())
    wanting = sum(scale.most for scale in scales if scale.device != "cpu")
    each = math.ceil(wanting / gpus)
    return math.floor(1e4 / each) / 1e4 if each else 0.0
