"""`python -m serving.job RUN ATTEMPT`: a job that answers as a route does, in a process of its own.

It calls the function of the route itself, with larger limits and without a deadline, so that a job
and a request with the same body have the same answer.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from fastapi import Request, Response

from pipelines.claims import Claim, Result
from pipelines.datasets import Datasets
from pipelines.home import Home, configure
from pipelines.jobs import Job, Jobs
from pipelines.store import Store
from serving import backtests, dataset_bodies, specs
from serving.api import anomalies, compare, explanations, forecasts
from serving.bodies import Bodies
from serving.callers import Caller
from serving.compat.nixtla import jobs as nixtla
from serving.problems import Problem, document, problem_of, too_large
from serving.service import Service
from serving.settings import Models, Nixtla, Settings
from tsformer.errors import ConfigError, TsformerError
from tsformer.memory import keep_freed_memory

Route = Callable[[Request], Awaitable[Response]]
ROUTES: Mapping[str, tuple[str, Route]] = {
    "forecast": ("/v1/forecasts", forecasts.forecast),
    "compare": ("/v1/compare", compare.compare),
    "anomaly": ("/v1/anomalies", anomalies.anomalies),
    "explain": ("/v1/explanations", explanations.explanations),
    "nixtla": ("/compat/nixtla", nixtla.run),
}
# What a job reads was checked when it was asked for: limits.job_points. What it answers is known for
# certain when its model is, and is checked again before that works.
FREE = 1_000_000_000
FREED = (
    "bodies_in_flight_mib",
    "body_json_mib",
    "body_arrow_mib",
    "series_per_request",
    "points_per_series",
    "input_values",
    "input_values_arrow",
    "fits_per_request",
    "sarimax_per_request",
    "deadline_ms",
)
BOUND = ("output_values", "explanation_values")  # by job_points in their place


def main(arguments: Sequence[str]) -> int:
    """Works on the run; 0 if all is well, as a cluster shows it."""
    configure(os.environ, role="serving")  # before anything imports MLflow
    keep_freed_memory()
    from pipelines.attempt import attempt, leave

    run_id, number = arguments
    home = Home.of(os.environ)
    try:
        jobs = Jobs.of(home, Store.of(home))
        work = partial(run_job, jobs=jobs)
        ending = attempt(jobs.ledger, run_id, int(number), work, lost=leave)
    except TsformerError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(f"Run {run_id}, attempt {number}: {ending}.")
    return int(ending == "failed")


def run_job(claim: Claim, teller: Any, *, jobs: Jobs) -> Result:
    """The work of one attempt; what it fails by is kept as the client is told it."""
    run = claim.run
    spec, job = jobs.asked(run.id)
    try:
        result = asyncio.run(answer(run.kind, spec, job, home=jobs.home, teller=teller))
    except Exception as error:
        problem = _of_job(problem_of(error), run.kind, spec)
        most = settings_of_job(os.environ).limits.errors_listed
        told = document(problem, instance=f"/v1/jobs/job_{run.id}", request_id=run.id, most=most)
        jobs.fail(run.id, told)
        if problem.kind.status == 500:
            raise
        raise ConfigError(problem.detail) from error
    jobs.keep(run.id, result)
    return Result(outcome=f"{len(result):,} bytes.")


async def answer(kind: str, spec: dict[str, Any], job: Job, *, home: Home, teller: Any) -> bytes:
    """The result of a job."""
    service = service_of_job(home)
    datasets = Datasets(home, service.library.shelf.registry.store, job.tenant)
    if "dataset" in spec:  # that of a schedule is as it is now
        limits = service.settings.limits
        await asyncio.to_thread(specs.checked, kind, spec, limits, datasets, default="", where="")
    if kind == "backtest":
        return await backtests.backtest(service, spec, home=home, job=job, teller=teller)
    if kind not in ROUTES:
        raise Problem("invalid-request", "This type of job is not run here.")
    path, route = ROUTES[kind]
    teller.progress("0 of 1 answers")
    body, media = await asyncio.to_thread(
        dataset_bodies.body_of, spec, datasets, limits=service.settings.limits
    )
    caller = Caller(job.owner, "operator", job.tenant)
    response = await route(request_to(service, path, body, media, caller=caller, name=job.run.id))
    teller.progress("1 of 1 answers")
    return bytes(response.body)


def _of_job(problem: Problem, kind: str, spec: Mapping[str, Any]) -> Problem:
    """A problem in the words of jobs: its places are in the spec, its limit is that of a job."""
    told = problem.members
    if told.get("limit") in BOUND:
        return too_large("job_points", maximum=told["maximum"], actual=told["actual"])
    stored = {"data", "static"} - {*spec} if "dataset" in spec else ()
    return specs.within(problem, "" if kind == "nixtla" else specs.WHERE, stored=stored)


def service_of_job(home: Home) -> Service:
    """What the routes work with, with the models in this process."""
    from pipelines.registry import Registry  # imports MLflow, which reads the environment
    from serving.fits import Fits
    from serving.graphs import Graphs
    from serving.host import Host, Lane, LocalEngine
    from serving.keys import KeyRing
    from serving.library import Library, Shelf
    from serving.metrics import Metrics
    from serving.rate import Rate
    from serving.runtimes import Runtimes

    settings, registry = settings_of_job(os.environ), Registry(home)
    models = settings.models
    torch.set_num_threads(models.threads)
    runtimes = Runtimes(
        Graphs(home.graphs), models.runtime, models.precision, threads=models.threads
    )

    def shelf_on(device: str) -> Shelf:
        return Shelf(registry, capacity=models.in_memory, device=device, runtimes=runtimes)

    shelf, metrics = shelf_on(models.device), Metrics()
    elsewhere = {n: one.device for n, one in models.own.items() if one.device != models.device}
    host = Host(
        Lane(LocalEngine(shelf)),
        batching=settings.batching,
        limits=settings.limits,
        metrics=metrics,
        own={name: Lane(LocalEngine(shelf_on(device))) for name, device in elsewhere.items()},
    )
    library = Library(shelf, default="", prepare=host.prepare)
    keys = KeyRing(lambda: registry.store)
    return Service(
        library,
        host,
        settings,
        keys,
        Rate(settings.limits),
        metrics,
        Bodies(settings.limits.bodies_in_flight_mib),
        Fits(
            at_once=settings.fits.at_once,
            waiting=settings.limits.queue_per_model,
            metrics=metrics,
        ),
    )


def settings_of_job(environment: Mapping[str, str]) -> Settings:
    """Those of the service that started this process, without what bounds a request alone.

    Names of the Nixtla client were translated as the job was asked for.
    """
    given = Settings.of(environment)
    if given is None:  # started by `tsformer schedule run`
        given = Settings(models=Models(threads=torch.get_num_threads()))
    bound = dict.fromkeys(BOUND, given.limits.job_points)
    limits = replace(given.limits, **dict.fromkeys(FREED, FREE), **bound)
    return replace(given, limits=limits, nixtla=Nixtla({}))


def request_to(
    service: Service, path: str, body: bytes, media: str, *, caller: Caller, name: str
) -> Request:
    """A request to a route that nobody sent, and whose sender never leaves."""
    sent = False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.Event().wait()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", media.encode()), (b"accept", b"application/json")],
        "app": SimpleNamespace(state=SimpleNamespace(service=service)),
        "state": {"caller": caller, "request_id": name},
    }
    return Request(scope, receive)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
