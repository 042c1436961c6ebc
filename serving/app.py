"""The application: `create` puts the routes on a host, wherever that answers from."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

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
from serving.host import Host, Lane
from serving.keys import KeyRing
from serving.library import Library, Shelf
from serving.metrics import Metrics
from serving.packing import Packed
from serving.problems import problem_of, respond
from serving.rate import Rate
from serving.runner import running
from serving.service import Service, service_of
from serving.settings import Settings
from serving.traces import Traces

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
        with running(shelf.registry, settings, service.woken):
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
    rate = Rate(settings.limits, ingresses=settings.server.replicas)
    app.state.service = service = Service(
        library, host, settings, keys, rate, numbers, bodies, fits, traces
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
    problem = problem_of(error, expected=_described(request.scope.get("route")))
    if problem.type == "method-not-allowed":
        problem = replace(problem, headers={"Allow": ", ".join(_methods(request))})
    limits = service_of(request).settings.limits
    return respond(problem, request, most=limits.errors_listed)


def _described(route: object) -> dict[str, str]:
    """What is said of the parameters in the address of `route`."""
    if not isinstance(route, APIRoute):
        return {}
    parts = (*route.dependant.path_params, *route.dependant.query_params)
    return {part.alias: part.field_info.description or "" for part in parts}


def _methods(request: Request) -> list[str]:
    """What may be asked of the path of `request`; Starlette names the methods of one route alone."""
    routes = iter_route_contexts(request.app.routes)
    path = request.url.path
    matching = [one for one in routes if one.path and compile_path(one.path)[0].match(path)]
    return sorted({method for one in matching for method in one.methods or ()})
