"""The Ray Serve application: the ingress, models that share a deployment and those that have their own."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from pipelines.home import Home
from serving.ingress import Ingress
from serving.placing import Placing
from serving.replica import IN_FLIGHT, Replica
from serving.settings import Models, Scale, Settings

# Found dead in seconds, in flight no longer than the deadline allows.
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
SHARE = 0.1  # of a processor, which a replica asks for
OF_SERVE = 2  # processes: its controller and its proxy


def build(args: Mapping[str, Any]) -> Application:
    """The Ray Serve application of the settings `args`; `import_path` of configs/serve.yaml."""
    settings, home = Settings.read(args), Home.of(os.environ)
    shared, own = _models(home, settings.models)
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="ingress",
        num_replicas=settings.server.replicas,
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": SHARE},
        **COMMON,
    )
    return ingress.bind(home, settings, shared, own)


def processes(settings: Settings) -> int:
    """How many processes Ray has for the application: those that it begins with, and room for more."""
    doors, models = settings.server.replicas, settings.models
    scales = (models.shared, *models.own.values())
    first = OF_SERVE + doors + sum(scale.replicas for scale in scales)
    most = doors + sum(scale.most for scale in scales)
    return max(first, math.ceil(2 * SHARE * most))  # each may be replaced while it still answers


def _models(home: Home, models: Models) -> tuple[Application, dict[str, Application]]:
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


def _deployment(name: str, scale: Scale, share: float, *, placed: bool) -> serve.Deployment:
    options: dict[str, Any] = {"max_ongoing_requests": ONGOING}
    if placed:  # a replica with so many has no room for more, and the next one is asked
        routing = RequestRouterConfig(request_router_class=Placing)
        options = {"max_ongoing_requests": IN_FLIGHT, "request_router_config": routing}
    gpus = 0 if scale.device == "cpu" else share
    return serve.deployment(Replica).options(
        name=name,
        ray_actor_options={"num_cpus": SHARE, "num_gpus": gpus},
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
