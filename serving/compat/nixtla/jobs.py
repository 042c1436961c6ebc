"""Tasks that the Nixtla client submits and asks for later: jobs of this service, under its words."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Request, Response
from pydantic import create_model

from serving import body, results, specs, trees
from serving.accept import JSON
from serving.access import deadline_seconds, within
from serving.api import jobs as own
from serving.callers import caller_of, needs
from serving.compat.nixtla import finetuning, schemas, tasks
from serving.compat.nixtla.asking import Work, answered, partitions_named
from serving.limits import Limits
from serving.models import default_of, registered
from serving.openapi import described
from serving.problems import Problem, sought
from serving.schemas.jobs import JOB_ID, JobAnswer
from serving.service import service_of
from serving.threads import off_loop

router = APIRouter(prefix="/v2")
Id = Annotated[str, Path(pattern=JOB_ID)]
KIND = "nixtla"  # of the jobs
DETECTION = re.compile(rb'"detection_size"\s*:')


@dataclass(frozen=True, slots=True)
class Task:
    """What a task reads as a job, and what is done with it."""

    model: type[schemas.Asked]
    work: Work[Any]


def _task(model: type[schemas.Asked], work: Work[Any]) -> Task:
    name = model.__name__.removesuffix("Request") + "Job"
    options: Any = (schemas.JobOptions | None, None)
    made = create_model(name, __base__=model, __doc__=model.__doc__, job_options=options)
    return Task(made, work)


TASKS: Mapping[str, Task] = {
    "forecast": _task(schemas.NixtlaForecastRequest, tasks.forecast),
    "cross_validation": _task(schemas.NixtlaCrossValidationRequest, tasks.cross_validation),
    "anomaly_detection": _task(schemas.NixtlaAnomalyRequest, tasks.anomalies),
}
ONLINE = "online_anomaly_detection"  # which comes under the name of the other
BY_NAME = {**TASKS, ONLINE: _task(schemas.NixtlaOnlineRequest, tasks.online_anomalies)}


# --- asked for ------------------------------------------------------------------------------------


def _submitting(task: str) -> dict[str, Any]:
    """How the route of a task is described."""
    made = described(TASKS[task].model, schemas.Submitted)
    made["responses"] = {202: {"model": schemas.Submitted}}
    return {**made, "status_code": 202, "dependencies": [needs("forecaster")]}


@router.post("/forecast/async", **_submitting("forecast"))
async def forecast(request: Request) -> Response:
    """`client.jobs.forecast`."""
    return await _submit(request, "forecast")


@router.post("/cross_validation/async", **_submitting("cross_validation"))
async def cross_validation(request: Request) -> Response:
    """`client.jobs.cross_validation`."""
    return await _submit(request, "cross_validation")


@router.post("/anomaly_detection/async", **_submitting("anomaly_detection"))
async def anomaly_detection(request: Request) -> Response:
    """`client.jobs.detect_anomalies`; with `detection_size` the newest points alone."""
    return await _submit(request, "anomaly_detection")


async def _submit(request: Request, name: str) -> Response:
    service = service_of(request)
    limits = service.settings.limits

    async def submitted() -> bytes:
        task = ONLINE if name == "anomaly_detection" and DETECTION.search(content) else name
        model = BY_NAME[task].model
        tree = await off_loop(len(content), partial(trees.tree_of, kept=True), content, limits)
        sent = await off_loop(len(content), trees.validated, model, tree)
        tasks.check_tuning(sent)
        _check_points(sent, limits)
        reference = tasks.reference_of(service, sent.finetuned_model_id or sent.model)
        reference = reference or await default_of(service)
        await registered(service, reference)
        plain = {**tree, "model": reference, "finetuned_model_id": None}
        spec = {"task": task, "model": reference, "body": plain}
        await own.check_room(request)
        job = await own.entered(request, secrets.token_hex(10), KIND, spec)
        return orjson.dumps({"job_id": f"{own.PREFIX}{job.run.id}", "status": job.run.state})

    with partitions_named():
        content = await body.read(request, limits)
        made = await within(request, deadline_seconds(request, limits), submitted())
    return Response(made, 202, media_type=JSON)


def _check_points(sent: schemas.Asked, limits: Limits) -> None:
    """Raises `too-large` where the job would read, or would answer, more numbers than a job may."""
    history = sent.series
    rows = [history.y, *(history.X or ()), *(getattr(history, "X_future", None) or ())]
    specs.check_points(sum(map(len, rows)), limits)
    level = getattr(sent, "level", None) or ()
    levels = {level} if isinstance(level, int | float) else {*level}
    specs.check_points(_rows(sent) * (1 + 2 * len(levels)), limits)


def _rows(sent: schemas.Asked) -> int:
    """How many rows the answer has; of a whole history, at most."""
    series = len(sent.series.sizes)
    match sent:
        case schemas.NixtlaForecastRequest():
            return series * sent.h
        case schemas.NixtlaOnlineRequest():
            return series * sent.detection_size
        case schemas.NixtlaCrossValidationRequest(full_history=False):
            return series * sent.n_windows * sent.h
    return len(sent.series.y)


async def run(request: Request) -> Response:
    """What a job does, in its own process: the task of the body that `_submit` kept."""
    content = await body.read(request, service_of(request).settings.limits)
    plain = await asyncio.to_thread(orjson.loads, content)
    task = BY_NAME[plain["task"]]
    options = plain["body"].get("job_options") or {}
    done = answered(request, orjson.dumps(plain["body"]), task.model, task.work)
    return await asyncio.wait_for(done, options.get("timeout_seconds"))


# --- asked about ----------------------------------------------------------------------------------


@router.get(
    "/{task}/jobs/{id}", dependencies=[needs("reader")], response_model=schemas.SubmittedJob
)
async def job(request: Request, task: str, id: Id) -> Response:
    """How a job stands, and what came of it."""
    if task not in (*TASKS, finetuning.TASK):
        raise Problem("not-found", "There is no such task.")
    jobs, tenant = results.jobs_of(request), caller_of(request).tenant
    with sought("job", "/v1/jobs"):
        found = await asyncio.to_thread(jobs.one, id.removeprefix(own.PREFIX), tenant=tenant)
    told = own.members(found, None)
    members = {"job_id": id, "status": told["state"], "error": told["error"]}
    if found.run.kind != finetuning.KIND and told["state"] == "succeeded":
        path = await results.kept_result(request, found)
        head = orjson.dumps(members).removesuffix(b"}")
        return await results.answer_of(request, path, before=head + b',"result":', after=b"}")
    result = finetuning.result(found) if found.run.kind == finetuning.KIND else None
    return Response(orjson.dumps({**members, "result": result}), media_type=JSON)


@router.post(
    "/async/jobs/{id}/cancel",
    dependencies=[needs("forecaster")],
    response_model=None,
    status_code=202,
    responses={202: {"model": JobAnswer}, 200: {"model": JobAnswer}},
)
async def cancel(request: Request, id: Id) -> Response:
    """Ends a job; 200 where it was cancelled before, 404 and 409 where there is nothing to end."""
    return await own.cancel(request, id)
