"""The application: `create` puts the routes on a host, `build` puts that on Ray Serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from pipelines.home import Home, configure
from serving import live_scores, openapi
from serving.access import Edge
from serving.api import (
    actuals,
    aliases,
    anomalies,
    compare,
    datasets,
    explanations,
    forecasts,
    health,
    jobs,
    metrics,
    models,
    pages,
    schedules,
    validations,
)
from serving.bodies import Bodies
from serving.callers import check_routes
from serving.compat.invocations import routes as invocations
from serving.compat.nixtla import routes as nixtla
from serving.compat.oip import routes as oip
from serving.fits import Fits
from serving.heap import collect_rarely
from serving.host import Engine, Host
from serving.keys import KeyRing
from serving.library import Library, Shelf
from serving.logs import keep_log
from serving.metrics import Metrics
from serving.packing import Packed
from serving.problems import problem_of, respond
from serving.rate import Rate
from serving.runner import running
from serving.service import Service
from serving.settings import Models, Settings
from serving.traces import Traces

if TYPE_CHECKING:  # the application itself runs without Ray
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

# Requests that one replica may have at a time; the batcher's own queue refuses earlier.
ONGOING = 4_096
LIVE_S = 60.0  # between two looks at how recorded forecasts turned out
IN_FLIGHT = 2  # of each replica: one batch runs while the next one travels
# RELIABILITY, section 6: found dead in seconds, in flight no longer than the deadline allows.
DEPLOYMENT = {
    "max_ongoing_requests": ONGOING,
    "health_check_period_s": 2,
    "health_check_timeout_s": 5,
    "graceful_shutdown_timeout_s": 40,
    "graceful_shutdown_wait_loop_s": 0.5,
    "max_surge_percent": 100,
    "max_constructor_retry_count": 3,
    "logging_config": {"log_level": "WARNING", "enable_access_log": False},  # the log is our own
}

RESOURCES = (  # their routes are tried in this order, so the busiest stands first
    forecasts,
    actuals,
    datasets,
    jobs,
    schedules,
    compare,
    anomalies,
    explanations,
    validations,
    models,
    aliases,
    health,
    metrics,
    openapi,
    pages,
    oip,
    invocations,
    nixtla,
)


def create(shelf: Shelf, engine: Engine, settings: Settings, *, in_flight: int = 1) -> FastAPI:
    """The ASGI application that answers from `engine`."""
    numbers = Metrics()
    host = Host(
        engine,
        batching=settings.batching,
        limits=settings.limits,
        metrics=numbers,
        in_flight=in_flight,
    )
    keys = KeyRing(lambda: shelf.registry.store)
    library = Library(
        shelf, default=settings.models.default, prepare=host.prepare, on_refusal=numbers.refused
    )

    traces = Traces.of(os.environ)
    fits = Fits(
        at_once=settings.fits.at_once, waiting=settings.limits.queue_per_model, metrics=numbers
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        watching = [
            asyncio.create_task(keys.watch()),
            asyncio.create_task(library.watch(every_s=settings.models.poll_s)),
            asyncio.create_task(live_scores.watch(library, numbers, every_s=LIVE_S)),
        ]
        with running(shelf.registry, settings):
            yield
        for task in watching:
            task.cancel()
        fits.end()
        await asyncio.to_thread(traces.end)

    app = FastAPI(
        title="tsformer",
        summary="Time-series forecasts from your own machine.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    bodies = Bodies(settings.limits.bodies_in_flight_mib)
    app.state.service = Service(
        library, host, settings, keys, Rate(settings.limits), numbers, bodies, fits, traces
    )
    app.add_middleware(Packed)  # within the edge
    app.add_middleware(Edge)
    for known in (HTTPException, RequestValidationError):
        app.add_exception_handler(known, _answer)
    for resource in RESOURCES:
        app.include_router(resource.router)
    check_routes(app)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.type == "method-not-allowed":
        problem = replace(problem, headers={"Allow": ", ".join(_methods(request))})
    return respond(problem, request)


def _methods(request: Request) -> list[str]:
    """What may be asked of the path of `request`; Starlette names the methods of one route alone."""
    routes = iter_route_contexts(request.app.routes)
    path = request.url.path
    matching = [one for one in routes if one.path and compile_path(one.path)[0].match(path)]
    return sorted({method for one in matching for method in one.methods or ()})


class Ingress:
    """The one HTTP door of the Ray Serve application."""

    def __init__(self, home: Home, settings: Settings, model: DeploymentHandle) -> None:
        self._home, self._settings, self._model = home, settings, model

    def __serve_build_asgi_app__(self) -> FastAPI:
        configure(os.environ, role="serving")
        keep_log(self._home, "ingress")
        from pipelines.registry import Registry  # imports MLflow, which reads the environment
        from serving.replica import RemoteEngine

        shelf = Shelf(Registry(self._home), capacity=self._settings.models.in_memory, device="cpu")
        in_flight = IN_FLIGHT * self._settings.models.most_replicas
        app = create(shelf, RemoteEngine(self._model), self._settings, in_flight=in_flight)
        collect_rarely()
        return app


def build(args: Mapping[str, Any]) -> Application:
    """The Ray Serve application of the settings `args`; `import_path` of configs/serve.yaml.

    The model deployment takes a GPU where the cluster has one.
    """
    import ray
    from ray import serve

    from serving.replica import Replica

    settings, home = Settings.read(args), Home.of(os.environ)
    gpus = 0 if settings.models.device == "cpu" else min(1, ray.cluster_resources().get("GPU", 0))
    model = serve.deployment(Replica).options(
        name="model",
        ray_actor_options={"num_cpus": 0.1, "num_gpus": gpus},
        **DEPLOYMENT,
        **_scaling(settings.models),
    )
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="ingress", ray_actor_options={"num_cpus": 0.1}, **DEPLOYMENT
    )
    return ingress.bind(home, settings, model.bind(home, settings))


def _scaling(models: Models) -> dict[str, Any]:
    """How many replicas of the model there are, as Ray Serve is told."""
    if models.most_replicas == models.replicas:
        return {"num_replicas": models.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": models.replicas,
            "max_replicas": models.most_replicas,
            "target_ongoing_requests": IN_FLIGHT,
        }
    }
