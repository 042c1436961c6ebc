"""The application: `create` puts the routes on a host, `build` puts that on Ray Serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
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
from serving.host import Host, Lane
from serving.keys import KeyRing
from serving.library import Library, Shelf
from serving.logs import keep_log
from serving.metrics import Metrics
from serving.packing import Packed
from serving.problems import problem_of, respond
from serving.rate import Rate
from serving.runner import running
from serving.service import Service
from serving.settings import Settings
from serving.traces import Traces

if TYPE_CHECKING:  # the application itself runs without Ray
    from ray.serve import Application
    from ray.serve.handle import DeploymentHandle

KNOWN = 256  # versions of which an ingress knows all but the weights
LIVE_S = 60.0  # between two looks at how recorded forecasts turned out

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


def create(
    shelf: Shelf,
    shared: Lane,
    settings: Settings,
    *,
    own: Mapping[str, Lane] = MappingProxyType({}),
) -> FastAPI:
    """The ASGI application that answers from `shared`, and for some models from lanes of their own."""
    limits = settings.limits.of_ingress(settings.server.replicas)
    settings, numbers = replace(settings, limits=limits), Metrics()
    host = Host(
        shared, batching=settings.batching, limits=settings.limits, metrics=numbers, own=own
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
    """An HTTP door of the Ray Serve application."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        shared: DeploymentHandle,
        own: Mapping[str, DeploymentHandle],
    ) -> None:
        self._home, self._settings, self._shared, self._own = home, settings, shared, own

    def __serve_build_asgi_app__(self) -> FastAPI:
        configure(os.environ, role="serving")
        from pipelines.registry import Registry  # imports MLflow, which reads the environment
        from serving.deployments import lane
        from serving.replica import log_name

        keep_log(self._home, log_name("ingress"))
        models = self._settings.models
        shelf = Shelf(Registry(self._home), capacity=KNOWN, device="cpu", weights=False)
        doors = self._settings.server.replicas
        own = {
            name: lane(handle, models.own[name], doors=doors, placed=False)
            for name, handle in self._own.items()
        }
        shared = lane(self._shared, models.shared, doors=doors, placed=models.shared.most > 1)
        app = create(shelf, shared, self._settings, own=own)
        collect_rarely()
        return app


def build(args: Mapping[str, Any]) -> Application:
    """The Ray Serve application of the settings `args`; `import_path` of configs/serve.yaml."""
    from ray import serve

    from serving.deployments import COMMON, ONGOING, deployments

    settings, home = Settings.read(args), Home.of(os.environ)
    shared, own = deployments(home, settings.models)
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="ingress",
        num_replicas=settings.server.replicas,
        max_ongoing_requests=ONGOING,
        ray_actor_options={"num_cpus": 0.1},
        **COMMON,
    )
    return ingress.bind(home, settings, shared, own)
