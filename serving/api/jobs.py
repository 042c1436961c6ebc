"""Long work: POST and GET /v1/jobs, a job's state, result and events, and its end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from pipelines.attempt import AWAY, DEFECT
from pipelines.datasets import Datasets
from pipelines.jobs import Job, Jobs
from pipelines.keys import ROLES
from pipelines.ledger import SKIPPED
from pipelines.ledger_rows import FINAL
from pipelines.run_events import Event
from serving import specs, trees
from serving.accept import ARROW, EVENTS, JSON, form_of
from serving.answering import Call, created
from serving.callers import BEARER, OPEN, Caller, caller_of, needs
from serving.instants import text_of, text_or_none
from serving.models import default_of
from serving.openapi import creating
from serving.problems import Problem, document, sought
from serving.results import answer_of, forms_of, in_arrow, jobs_of, kept_result
from serving.schemas.jobs import JOB_ID, JobAnswer, JobPage, JobRequest
from serving.service import service_of
from tsformer.errors import UnavailableError

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
Id = Annotated[
    str, Path(pattern=JOB_ID, description="As POST /v1/jobs answers it, such as job_01k9yc.")
]
CURSOR = re.compile(r"([0-9]{1,15})\.([0-9a-z]{1,64})")
PREFIX = "job_"
LOOK_S, COMMENT_S = 0.5, 15.0
RETRY_AFTER = {"Retry-After": "2"}
STATES = {"dead": "failed", "skipped": "cancelled"}  # the others are called as in the ledger
UNDONE = ("failed", "dead", "skipped")  # for a reason that is told
TRACEBACK = "Traceback (most recent call last)"
UNTOLD = "This is a defect of the service. Its operator finds more by: tsformer runs show."
EPOCH = re.compile(r"\bepoch ([0-9]+)/([0-9]+)\b")  # as pipelines.terminal tells it
EVENT = {
    "type": "object",
    "description": "Each event; data is JSON.",
    "properties": {name: {"type": "string"} for name in ("id", "event", "data")},
    "required": ["id", "event", "data"],
}
RESULT: dict[str, Any] = {
    JSON: {"schema": {"type": "object", "description": "As the route of the job's type answers."}},
    ARROW: {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "The streams of a forecast, anomaly or compare job.",
        }
    },
}
DONE = re.compile(r"([0-9]+) of ([0-9]+) ([a-z]+)")


@router.post(
    "",
    dependencies=[needs("forecaster")],
    **creating(JobRequest, JobAnswer, statuses=(202,)),
)
async def submit(request: Request) -> Response:
    """Takes long work on; it begins when those before it are done, and outlives this request."""
    return await created(request, _submitted)


async def _submitted(call: Call, token: str) -> Response:
    service, limits, caller = call.service, call.limits, caller_of(call.request)
    registry = service.library.shelf.registry
    order = await asyncio.to_thread(trees.parse, JobRequest, call.sent, limits, kept=True)
    if order.type in specs.OPERATORS:
        _check_operator(caller)
    silent = order.type in specs.OF_A_MODEL and order.spec.get("model") is None
    default = await default_of(service, pointer="/spec/model") if silent else ""
    datasets = Datasets(registry.home, registry.store, caller.tenant)
    spec = await asyncio.to_thread(
        specs.checked, order.type, order.spec, limits, datasets, default=default
    )
    if order.type in specs.OPERATORS:
        await asyncio.to_thread(specs.check_length, spec, datasets)
    await check_room(call.request)
    return _answer(await entered(call.request, token, order.type, spec), None, status=202)


async def entered(request: Request, run_id: str, kind: str, spec: Mapping[str, Any]) -> Job:
    """The job that the caller asks for; whoever executes jobs here looks for it at once."""
    caller = caller_of(request)
    job = await asyncio.to_thread(
        jobs_of(request).submit, run_id, kind, spec, tenant=caller.tenant, owner=caller.prefix
    )
    service_of(request).woken.set()
    return job


async def check_room(request: Request) -> None:
    """Raises `rate-limited` where the caller has as many jobs that have not ended as it may."""
    most = service_of(request).settings.limits.queued_jobs_per_key
    waiting = await asyncio.to_thread(jobs_of(request).waiting, caller_of(request).prefix)
    if waiting >= most:
        members = {"limit": "queued_jobs_per_key", "maximum": most}
        detail = f"The limit queued_jobs_per_key is {most}."
        raise Problem("rate-limited", detail, members=members, headers={"Retry-After": "10"})


@router.get("", dependencies=[needs("reader")], response_model=JobPage)
async def jobs(
    request: Request,
    limit: Annotated[int | None, Query(ge=1)] = None,
    cursor: Annotated[str, Query(max_length=80)] = "",
) -> dict[str, Any]:
    """The jobs of the tenant, newest first."""
    place = CURSOR.fullmatch(cursor)
    if cursor and place is None:
        raise Problem("invalid-request", "The cursor is none of a page of jobs.")
    size = service_of(request).settings.limits.page(limit)
    found = await asyncio.to_thread(
        jobs_of(request).newest,
        caller_of(request).tenant,
        before=(int(place[1]), place[2]) if place else None,
        at_most=size + 1,
    )
    page, more = found[:size], len(found) > size
    items = [members(job, await _progress(request, job)) for job in page]
    last = page[-1].run if more else None
    return {"items": items, "next": f"{last.created_ms}.{last.id}" if last else None}


@router.get("/{id}", dependencies=[needs("reader")], response_model=JobAnswer)
async def job(request: Request, id: Id) -> Response:
    """One job as it stands."""
    found = await _one(request, id)
    return _answer(found, await _progress(request, found))


@router.get(
    "/{id}/result",
    dependencies=[needs("reader")],
    response_model=None,
    responses={202: {"model": JobAnswer}, 200: {"content": RESULT}},
)
async def result(request: Request, id: Id) -> Response:
    """What came of a job: as its route answers. 202 with the job while it runs."""
    found = await _one(request, id)
    if found.run.state not in FINAL:
        return _answer(found, await _progress(request, found), status=202)
    if found.run.state != "succeeded":
        why = "" if found.run.state == "cancelled" else f" GET /v1/jobs/{id} says why."
        raise Problem("wrong-state", f"The job has no result: it {_ending(found)}.{why}")
    path = await kept_result(request, found)
    if form_of(request, forms_of(request, found.run.kind, path)) == ARROW:
        return await in_arrow(request, found.run.kind, path)
    return await answer_of(request, path)


@router.get(
    "/{id}/events",
    dependencies=[needs("reader")],
    response_class=StreamingResponse,
    responses={200: {"content": {EVENTS: {"schema": EVENT}}}},
)
async def events(request: Request, id: Id) -> Response:
    """What a job says, as it says it (server-sent events), until it or the caller's key ends."""
    found, caller = await _one(request, id), caller_of(request)
    seen = request.headers.get("last-event-id", "0")
    if not (seen.isascii() and seen.isdigit() and len(seen) < 16):
        raise Problem("malformed-header", "Last-Event-ID must be the id of an event.")
    if caller != OPEN:
        request.state.until_answered.enter_context(service_of(request).rate.stream(caller.prefix))
    stream = _events(jobs_of(request), found, int(seen), partial(_may_read_on, request))
    return StreamingResponse(stream, media_type=EVENTS, headers={"Cache-Control": "no-store"})


@router.post(
    "/{id}/cancel",
    dependencies=[needs("forecaster")],
    response_model=None,
    status_code=202,
    responses={202: {"model": JobAnswer}, 200: {"model": JobAnswer}},
)
async def cancel(request: Request, id: Id) -> Response:
    """Ends a job; whoever works on it stops within seconds. 200 where it was cancelled before."""
    found = await _one(request, id)
    if found.owner != caller_of(request).prefix:
        _check_operator(caller_of(request))
    if await asyncio.to_thread(jobs_of(request).ledger.cancel, found.run.id):
        return _answer(await _one(request, id), None, status=202)
    found = await _one(request, id)
    if found.run.state != "cancelled":
        raise Problem("wrong-state", f"The job is over: it {_ending(found)}.")
    return _answer(found, None)


# --- a job ----------------------------------------------------------------------------------------


async def _one(request: Request, id: str) -> Job:
    """The job called `id`, if it is of the caller's tenant."""
    run_id, tenant = id.removeprefix(PREFIX), caller_of(request).tenant
    with sought("job", "/v1/jobs"):
        return await asyncio.to_thread(jobs_of(request).one, run_id, tenant=tenant)


def _check_operator(caller: Caller) -> None:
    if ROLES.index(caller.role) < ROLES.index("operator"):
        detail = f"This needs a key with the role operator; this one has {caller.role}."
        raise Problem("forbidden", detail, members={"role": "operator"})


def _ending(job: Job) -> str:
    state = STATES.get(job.run.state, job.run.state)
    return "was cancelled" if state == "cancelled" else state


async def _progress(request: Request, job: Job) -> dict[str, Any] | None:
    """The newest that a job has said of how far it is."""
    if job.run.attempt == 0:
        return None
    said = await asyncio.to_thread(jobs_of(request).ledger.newest_progress, job.run.id)
    return progress_of(said)


def progress_of(said: str | None) -> dict[str, Any] | None:
    """How far a job is, from its words; None where they do not say."""
    if found := DONE.match(said or ""):
        return {"done": int(found[1]), "total": int(found[2]), "unit": found[3]}
    if found := EPOCH.search(said or ""):
        return {"done": int(found[1]), "total": int(found[2]), "unit": "epochs"}
    return None


def members(job: Job, progress: dict[str, Any] | None) -> dict[str, Any]:
    """A job as it is told."""
    run, name = job.run, f"{PREFIX}{job.run.id}"
    state = STATES.get(run.state, run.state)
    return {
        "id": name,
        "type": run.kind,
        "state": state,
        "attempt": run.attempt,
        "run_id": run.id,
        "created_at": text_of(run.created_ms),
        "started_at": text_or_none(run.started_ms),
        "finished_at": text_or_none(run.finished_ms),
        "progress": progress,
        "error": _error(job) if run.state in UNDONE else None,
        "links": {end: f"/v1/jobs/{name}/{end}" for end in ("result", "events", "cancel")},
    }


def _error(job: Job) -> dict[str, Any]:
    """What a job failed by, or was skipped for, as a problem document."""
    if job.problem is not None:
        told: dict[str, Any] = json.loads(job.problem)
        return told
    place = f"/v1/jobs/{PREFIX}{job.run.id}"
    if job.run.state == "skipped":
        skipped = Problem("wrong-state", job.run.outcome or SKIPPED)
        return document(skipped, instance=place, request_id=job.run.id, most=0)
    words = job.run.error or ""
    if job.run.state == "dead" or words.startswith(DEFECT):
        problem = Problem("internal", "Every attempt ended without a word, or by a defect.")
    elif words.startswith(AWAY):  # where it is is nothing to a client
        problem = Problem("not-ready", f"{AWAY}, such as the registry. Submit the job again later.")
    else:
        problem = Problem("invalid-data", words)
    return document(problem, instance=place, request_id=job.run.id, most=0)


def _answer(job: Job, progress: dict[str, Any] | None, *, status: int = 200) -> Response:
    told = members(job, progress)
    headers = {"Location": f"/v1/jobs/{told['id']}", **RETRY_AFTER} if status == 202 else {}
    return Response(orjson.dumps(told), status, headers, JSON)


# --- events ---------------------------------------------------------------------------------------


def _may_read_on(request: Request) -> bool:
    """Whether the caller would be let in now, too."""
    keys = service_of(request).keys
    try:
        if caller_of(request) == OPEN:
            return keys.empty
        sent = BEARER.fullmatch(request.headers["authorization"].strip())
        return sent is not None and keys.state(sent[1])[1] == "valid"
    except UnavailableError:
        return False


async def _events(
    jobs: Jobs, job: Job, seen: int, may_read_on: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """The events after number `seen`, and a comment where there is none for long."""
    quiet = 0.0
    while may_read_on():
        run = await asyncio.to_thread(
            jobs.ledger.run, job.run.id
        )  # before its words: none is missed
        said = await asyncio.to_thread(jobs.ledger.events, job.run.id, after=seen)
        for event in said:
            seen, quiet = event.seq, 0.0
            yield _event(event, home=str(jobs.home.folder))
        if run.state in FINAL:
            return
        await asyncio.sleep(LOOK_S)
        quiet += LOOK_S
        if quiet >= COMMENT_S:
            quiet = 0.0
            yield b": nothing new\n\n"


def _event(event: Event, *, home: str) -> bytes:
    """An event as it is sent; where the service keeps its files is nobody's business."""
    told: dict[str, Any] = {"at": text_of(event.at_ms)}
    if event.kind == "state":
        word = event.text.partition(":")[0]
        told["state"] = STATES.get(word, "running" if word.startswith("attempt") else word)
    elif event.kind == "progress":
        told |= progress_of(event.text) or {"text": event.text}
    else:
        told["text"] = UNTOLD if TRACEBACK in event.text else event.text.replace(home, "")
    data = orjson.dumps(told).decode()
    return f"id: {event.seq}\nevent: {event.kind}\ndata: {data}\n\n".encode()
