"""Jobs that are done again and again: /v1/schedules, what is run when, and what came of it."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Path, Query, Request, Response

from pipelines.datasets import Datasets
from pipelines.keys import TENANT_MARK
from pipelines.ledger import Ledger
from pipelines.ledger_rows import Run
from pipelines.orders import with_gate
from pipelines.recording import name_for
from pipelines.schedule import Schedule, check_zone, next_due_ms
from pipelines.schedule_words import now
from pipelines.timetable import Timetable
from serving import specs, trees
from serving.accept import JSON
from serving.answering import Call, answered, created
from serving.api.jobs import PREFIX
from serving.body import pointer_to
from serving.callers import caller_of, needs
from serving.compat.loose import parts_of, relocated
from serving.conditions import CONDITIONS, Condition, condition_of, failed
from serving.instants import text_of, text_or_none
from serving.openapi import IDEMPOTENCY_KEY, creating, described
from serving.problems import Item, Problem, unknown
from serving.repeats import once
from serving.schemas.fields import NAME, NAMED
from serving.schemas.schedules import (
    RunAnswer,
    RunPage,
    ScheduleAnswer,
    SchedulePage,
    ScheduleRequest,
)
from serving.service import service_of
from tsformer.errors import ConfigError, ConflictError, NotFoundError

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])
Id = Annotated[str, Path(pattern=NAME, description=NAMED, examples=["weekly-load"])]
HOUR_S = 3600
PATCHED = described(ScheduleRequest, ScheduleAnswer)
PATCHED["openapi_extra"] = {
    "parameters": CONDITIONS[:1],
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {
                    "type": "object",
                    "description": "A JSON merge patch (RFC 7396).",
                    "examples": [{"cron": "0 4 * * *", "enabled": False}],
                }
            }
        },
    },
}

NOTHING = {"content": {JSON: {"schema": {"type": "object", "maxProperties": 0, "examples": [{}]}}}}


@router.post(
    "", dependencies=[needs("operator")],
    **creating(ScheduleRequest, ScheduleAnswer, statuses=(201,)),
)  # fmt: skip
async def add(request: Request) -> Response:
    """A job that is done by the clock from now on; its dataset is read as it is then."""
    return await created(request, lambda call, _token: asyncio.to_thread(_add, call))


@router.get("", dependencies=[needs("reader")], response_model=SchedulePage)
async def schedules(
    request: Request,
    limit: Annotated[int | None, Query(ge=1)] = None,
    cursor: Annotated[str, Query(max_length=64)] = "",
) -> dict[str, Any]:
    """The schedules of the tenant, by name; `cursor` is the last name seen."""
    every = await asyncio.to_thread(_timetable(request).all)
    tenant = caller_of(request).tenant
    mine = sorted((one for one in every if one.tenant == tenant), key=plain)
    rest = [one for one in mine if plain(one) > cursor]
    page = rest[: service_of(request).settings.limits.page(limit)]
    last = plain(page[-1]) if len(rest) > len(page) else None
    return {"items": [members(one) for one in page], "next": last}


@router.get("/{id}", dependencies=[needs("reader")], response_model=ScheduleAnswer)
async def schedule(request: Request, id: Id) -> Response:
    """One schedule, and when it is due next."""
    return _answer(await asyncio.to_thread(_one, request, id))


@router.patch("/{id}", dependencies=[needs("operator")], **PATCHED)
async def change(request: Request, id: Id) -> Response:
    """Changes a schedule by a JSON merge patch, where it is as the caller saw it."""
    condition = condition_of(request)
    return await answered(request, lambda call: asyncio.to_thread(_change, call, id, condition))


@router.delete("/{id}", dependencies=[needs("operator")], status_code=204)
async def remove(request: Request, id: Id) -> Response:
    """Ends a schedule; its runs are kept, and one at work goes on."""
    found = await asyncio.to_thread(_one, request, id)
    if "if-match" in request.headers:
        condition_of(request).check(etag_of(found))
    await asyncio.to_thread(_timetable(request).remove, found.name)
    return Response(status_code=204)


@router.post(
    "/{id}/trigger",
    dependencies=[needs("operator")],
    response_model=RunAnswer,
    status_code=202,
    openapi_extra={"parameters": [IDEMPOTENCY_KEY], "requestBody": NOTHING},
)
async def trigger(request: Request, id: Id) -> Response:
    """A run now, whatever the clock says; skipped where another waits or is at work."""
    return await answered(request, lambda call: _triggered(call, id))


async def _triggered(call: Call, id: str) -> Response:
    sent = call.sent.strip()
    if sent and await asyncio.to_thread(trees.tree_of, sent, call.limits, kept=True) != {}:
        message = "A trigger has no members: send no body, or an empty object."
        raise Problem("invalid-request", message, [Item(message, "")])
    return await once(call.request, sent, lambda _token: _run(call.request, id))


async def _run(request: Request, id: str) -> Response:
    found, ledger = await asyncio.to_thread(_one, request, id), _ledger(request)
    try:
        run_id = await asyncio.to_thread(
            _timetable(request).trigger, found.name, ledger=ledger, reason="by hand"
        )
    except ConflictError as error:
        detail = "Another run of this schedule began in this very millisecond."
        raise Problem("wrong-state", detail) from error
    run = run_members(await asyncio.to_thread(ledger.run, run_id), found)
    headers = {"Location": f"/v1/schedules/{id}/runs", "Retry-After": "2"}
    return Response(orjson.dumps(run), 202, headers, JSON)


@router.get("/{id}/runs", dependencies=[needs("reader")], response_model=RunPage)
async def runs(
    request: Request,
    id: Id,
    limit: Annotated[int | None, Query(ge=1)] = None,
    cursor: Annotated[int | None, Query(ge=0, lt=10**15)] = None,
) -> dict[str, Any]:
    """What was run when, newest first, and what the gate said of it."""
    found = await asyncio.to_thread(_one, request, id)
    size = service_of(request).settings.limits.page(limit)
    listed = await asyncio.to_thread(
        _ledger(request).runs, found.name, newest=size + 1, before_ms=cursor
    )
    last = str(listed[size - 1].due_ms) if len(listed) > size else None
    return {"items": [run_members(run, found) for run in listed[:size]], "next": last}


# --- a schedule -----------------------------------------------------------------------------------


def _timetable(request: Request) -> Timetable:
    return Timetable(service_of(request).library.shelf.registry.store)


def _ledger(request: Request) -> Ledger:
    return Ledger(service_of(request).library.shelf.registry.store)


def _one(request: Request, id: str) -> Schedule:
    """The schedule called `id`, if it is of the caller's tenant."""
    try:
        return _timetable(request).one(name_for(id, caller_of(request).tenant))
    except NotFoundError:
        raise unknown("schedule", "/v1/schedules") from None


def plain(schedule: Schedule) -> str:
    """The name of a schedule as its tenant calls it."""
    return schedule.name.rpartition(TENANT_MARK)[2]


def etag_of(schedule: Schedule) -> str:
    """Changes with every change of the schedule, not with its runs."""
    return f'"{plain(schedule)}-{schedule.rev}"'


def _add(call: Call) -> Response:
    made = _ordered(call.request, trees.tree_of(call.sent, call.limits, kept=True))
    try:
        found = _timetable(call.request).add(made)
    except ConflictError as error:
        detail = "There is a schedule of this name already. Change it by PATCH, or use another."
        raise Problem("wrong-state", detail) from error
    told = members(found)
    headers = {"Location": f"/v1/schedules/{told['id']}", "ETag": told["etag"]}
    return Response(orjson.dumps(told), 201, headers, JSON)


def _change(call: Call, id: str, condition: Condition) -> Response:
    request = call.request
    found = _one(request, id)
    condition.check(etag_of(found))
    if found.job is None:
        detail = "This schedule was made by the command line; change it there."
        raise Problem("wrong-state", detail)
    patch = trees.tree_of(call.sent, call.limits, kept=True)
    if not isinstance(patch, dict):
        raise Problem("invalid-request", "A merge patch is an object.", [Item("No object.", "")])
    if patch.get("name", id) != id:
        message = "The name of a schedule stays. Make another, and remove this one."
        raise Problem("invalid-request", message, [Item(message, "/name")])
    whole = merged(_as_ordered(found), patch)
    if "on_pass" in patch:
        whole.setdefault("on_pass", None)  # which is not what it is where nobody names it
    with relocated(lambda pointer: _nearest(pointer, patch)):
        made = _ordered(request, whole)
    try:
        after = _timetable(request).replace(made, seen=found.rev)
    except ConflictError as error:
        etag = etag_of(_one(request, id))
        raise failed(etag, f"It is at {etag} now.") from error
    return _answer(after)


def merged(target: Any, patch: Any) -> Any:
    """RFC 7396: members of `patch` take the place of those of `target`; null removes one."""
    if not isinstance(patch, dict):
        return patch
    found = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            found.pop(name, None)
        else:
            found[name] = merged(found.get(name), value)
    return found


def _nearest(pointer: str, sent: Any) -> str:
    """`pointer` as far as it leads somewhere in `sent`: the rest was there before."""
    place: list[str] = []
    for part in parts_of(pointer):
        try:
            sent = sent[int(part) if isinstance(sent, list) else part]
        except (TypeError, ValueError, LookupError):
            break
        place.append(part)
    return pointer_to(*place)


def _ordered(request: Request, tree: object) -> Schedule:
    """The schedule that a JSON value orders; its job is checked as one that is to begin now."""
    service, caller = service_of(request), caller_of(request)
    limits, registry = service.settings.limits, service.library.shelf.registry
    asked = trees.validated(ScheduleRequest, tree)
    job = asked.job.spec
    datasets = Datasets(registry.home, registry.store, caller.tenant)
    given = {name for name in ("gate", "on_pass") if getattr(asked, name) is not None}
    if asked.job.type != "train" and (own := given & asked.model_fields_set):
        message = "Only a training has a candidate, and so a gate."
        raise Problem("invalid-request", message, [Item(message, f"/{min(own)}")])
    check = partial(
        specs.checked, asked.job.type, limits=limits, datasets=datasets,
        default=service.library.default, where="/job/spec",
    )  # fmt: skip
    check(spec=job)
    gate = asked.gate.model_dump(exclude_unset=True) if asked.gate is not None else None
    if gate is not None:
        check(spec=with_gate(job, gate))
    if asked.job.type in specs.BODIES and "model" not in job and asked.job.type != "compare":
        message = "Name the model: a schedule outlives the default of the service."
        raise Problem("invalid-request", message, [Item(message, "/job/spec")])
    try:
        check_zone(asked.tz)
    except ConfigError as error:
        message = "Not an IANA zone, such as Europe/Berlin or UTC."
        raise Problem("invalid-request", message, [Item(message, "/tz")]) from error
    try:
        return Schedule(
            name=name_for(asked.name, caller.tenant),
            experiment=str(job.get("dataset", "")),
            model=str(job.get("name") or job.get("model") or ""),
            trigger="cron",
            cron=asked.cron,
            tz=asked.tz,
            catch_up_s=asked.catch_up_hours * HOUR_S,
            enabled=asked.enabled,
            job=json.dumps({"type": asked.job.type, "spec": job}),
            owner=caller.prefix,
            gate=None if gate is None else json.dumps(gate),
            promotes=asked.on_pass is not None,
        )
    except ConfigError as error:
        message = (
            "Not five fields of cron, such as 30 2 * * 1 for Mondays at 02:30, or a day that never "
            "comes."
        )
        raise Problem("invalid-request", message, [Item(message, "/cron")]) from error


def _as_ordered(schedule: Schedule) -> dict[str, Any]:
    """A schedule in the words of a request."""
    told = {
        "name": plain(schedule),
        "cron": schedule.cron,
        "tz": schedule.tz,
        "enabled": schedule.enabled,
        "catch_up_hours": schedule.catch_up_s // HOUR_S,
        "job": json.loads(schedule.job or "{}"),
    }
    if schedule.gate is not None:
        told["gate"] = json.loads(schedule.gate)
    return told if schedule.promotes else {**told, "on_pass": None}


def members(schedule: Schedule) -> dict[str, Any]:
    """A schedule as it is told."""
    after = max(now() - schedule.offset_ms, schedule.since_ms)
    due = next_due_ms(schedule, after) if schedule.enabled else None
    job = {"type": "retrain", "spec": {"name": schedule.model}}
    hours, part = divmod(schedule.catch_up_s, HOUR_S)
    trains = schedule.kind in ("train", "retrain")
    return {
        "id": plain(schedule),
        "name": plain(schedule),
        "trigger": schedule.trigger,
        "cron": schedule.cron,
        "tz": schedule.tz,
        "enabled": schedule.enabled,
        "catch_up_hours": schedule.catch_up_s / HOUR_S if part else hours,
        "job": job if schedule.job is None else json.loads(schedule.job),
        "gate": None if schedule.gate is None else json.loads(schedule.gate),
        "on_pass": {"promote": "champion"} if trains and schedule.promotes else None,
        "next_due_at": text_or_none(None if due is None else due + schedule.offset_ms),
        "missed": schedule.missed,
        "skipped": schedule.skipped,
        "created_at": text_of(schedule.created_ms),
        "etag": etag_of(schedule),
    }


def run_members(run: Run, schedule: Schedule) -> dict[str, Any]:
    """A run as it is told; `verdict` is what the gate said, or why it was skipped."""
    return {
        "id": run.id,
        "schedule": plain(schedule),
        "state": run.state,
        "reason": run.reason,
        "due_at": text_of(run.due_ms),
        "attempt": run.attempt,
        "started_at": text_or_none(run.started_ms),
        "finished_at": text_or_none(run.finished_ms),
        "verdict": run.outcome,
        "version": run.result_version,
        "job": f"/v1/jobs/{PREFIX}{run.id}" if schedule.job is not None else None,
    }


def _answer(schedule: Schedule) -> Response:
    told = members(schedule)
    return Response(orjson.dumps(told), 200, {"ETag": told["etag"]}, JSON)
