"""Fine-tuning for the Nixtla client: jobs `train` that begin with the weights of a model."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from fastapi import APIRouter, Path, Request, Response

from pipelines.audit import Actor
from pipelines.datasets import Dataset
from pipelines.finetuned import MARK, Finetuned, Tuned, all_finetuned, is_free
from pipelines.jobs import Job
from pipelines.ledger_rows import FINAL
from pipelines.orders import WARM_START
from pipelines.store import Store
from pipelines.versions import checked_new_name
from serving import body, results, specs, trees
from serving.accept import JSON
from serving.access import deadline_seconds, within
from serving.api import datasets as stored
from serving.api import jobs as own
from serving.callers import caller_of, needs
from serving.compat.loose import relocated
from serving.compat.nixtla import schemas, tasks
from serving.compat.nixtla.asking import partitions_named
from serving.compat.nixtla.series import tables_of
from serving.instants import text_of
from serving.models import Model, registered
from serving.openapi import described
from serving.problems import Item, Problem
from serving.schemas.datasets import DatasetRequest
from serving.schemas.fields import NAME, NAMED
from serving.schemas.tables import Columns
from serving.service import Service, service_of
from serving.threads import off_loop
from tsformer.errors import ConfigError, NotFoundError
from tsformer.recipe import Training
from tsformer.train import is_network

if TYPE_CHECKING:
    from pipelines.registry import Registry

router = APIRouter(prefix="/v2")
Id = Annotated[str, Path(pattern=NAME, description=NAMED, examples=["mine"])]
TASK, KIND = "finetune", "train"  # as the client calls it, and as the job is
LOOK_S = 0.5
WHOLE = 5  # the depth at which all weights are fitted, as they always are here
LOSSES = ("default", "mae", "mse")
HOUR_MS = 3_600_000
UNKNOWN = "There is no fine-tuned model of this name."


class NixtlaFinetuneJob(schemas.NixtlaFinetuneRequest):
    """`v2/finetune/async`."""

    job_options: schemas.JobOptions | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """A request that is not known yet, the model that it begins with, and what is made of it."""

    sent: schemas.NixtlaFinetuneRequest
    base: Model
    name: str


# --- asked for ------------------------------------------------------------------------------------


@router.post(
    "/finetune",
    dependencies=[needs("operator")],
    **described(schemas.NixtlaFinetuneRequest, schemas.FinetunedId),
)
async def finetune(request: Request) -> Response:
    """`NixtlaClient.finetune`: waits for the job; who asks again with the same body joins it."""

    async def done(content: bytes) -> Job:
        job = await _job(request, content, schemas.NixtlaFinetuneRequest)
        while job.run.state not in FINAL:
            await asyncio.sleep(LOOK_S)
            job = await asyncio.to_thread(
                results.jobs_of(request).one, job.run.id, tenant=caller_of(request).tenant
            )
        return job

    job = await _within(request, done)
    if job.run.state == "succeeded":
        return Response(orjson.dumps(result(job)), media_type=JSON)
    raise _failure(job)


@router.post(
    "/finetune/async",
    **(
        described(NixtlaFinetuneJob, schemas.Submitted)
        | {"responses": {202: {"model": schemas.Submitted}}, "status_code": 202}
    ),
    dependencies=[needs("operator")],
)
async def submit(request: Request) -> Response:
    """`client.jobs.finetune`."""

    async def done(content: bytes) -> Job:
        return await _job(request, content, NixtlaFinetuneJob)

    told = own.members(await _within(request, done), None)
    return Response(
        orjson.dumps({"job_id": told["id"], "status": told["state"]}), 202, media_type=JSON
    )


async def _within(request: Request, work: Any) -> Job:
    """The job that `work` makes of the body, within the deadline of the request."""
    limits = service_of(request).settings.limits
    with partitions_named():
        content = await body.read(request, limits)
        job: Job = await within(request, deadline_seconds(request, limits), work(content))
    return job


async def _job(request: Request, content: bytes, model: type[schemas.NixtlaFinetuneRequest]) -> Job:
    """The job of a body: the one that there is already, or a new one."""
    service = service_of(request)
    sent = await off_loop(len(content), trees.parse, model, content, service.settings.limits)
    _check(sent)
    token, known = await asyncio.to_thread(_known, request, content)
    if known is not None:
        return known
    base = await _base(service, sent)
    caller, store = caller_of(request), service.library.shelf.registry.store
    name = sent.output_model_id or f"finetuned-{token}"
    await asyncio.to_thread(_check_name, store, name, caller.tenant)
    await own.check_room(request)
    order = Order(sent, base, name)
    dataset = await asyncio.to_thread(_kept, request, order)  # writes to the disk, however small
    spec = await asyncio.to_thread(_spec, request, order, dataset)
    return await own.entered(request, token, KIND, spec)


def result(job: Job) -> dict[str, str] | None:
    """What came of a job, as the client is told; None before its end."""
    if job.run.state != "succeeded" or job.run.result_version is None:
        return None
    return {"finetuned_model_id": job.run.result_version.partition("/")[0]}


def _failure(job: Job) -> Problem:
    """Why there is no model; never a status that the client takes for a passing one."""
    if job.run.state == "cancelled":
        return Problem("invalid-request", "The job was cancelled.")
    told = own.members(job, None)["error"]
    return Problem(told["type"].rpartition("/")[2], told["detail"])


def _known(request: Request, content: bytes) -> tuple[str, Job | None]:
    """The job of this caller with this body that runs or has made a model, and else a new id.

    Failures are not kept: after one the same body is another job.
    """
    service, caller, jobs = service_of(request), caller_of(request), results.jobs_of(request)
    hours = service.settings.limits.idempotency_hours
    store = service.library.shelf.registry.store
    digest = hashlib.sha256(content).hexdigest()
    number = 0
    while True:
        number += 1
        told = json.dumps([caller.tenant, caller.prefix, digest, number])
        token = hashlib.sha256(told.encode()).hexdigest()[:20]
        try:
            job = jobs.one(token, tenant=caller.tenant)
        except NotFoundError:
            return token, None
        if job.run.state not in FINAL:
            return token, job
        if job.run.state == "succeeded" and not jobs.is_older(job, milliseconds=hours * HOUR_MS):
            made = result(job)
            if made and made["finetuned_model_id"] in all_finetuned(store, caller.tenant):
                return token, job


# --- checks ---------------------------------------------------------------------------------------


def _refuse(message: str, pointer: str) -> Problem:
    return Problem("invalid-request", message, [Item(message, pointer)])


def _check(sent: schemas.NixtlaFinetuneRequest) -> None:
    """Raises `invalid-request` for what the training of this service has no like of."""
    if sent.finetune_loss not in LOSSES:
        message = f"This finetune_loss is not known here. Known: {', '.join(LOSSES)}."
        raise _refuse(message, "/finetune_loss")
    if sent.series.start_datetime is None:
        message = (
            "Without start_datetime nobody knows which of these rows the model has seen. Give "
            "stamps in UTC or without a zone."
        )
        raise _refuse(message, "/series")
    options = getattr(sent, "job_options", None)
    if options is not None and options.timeout_seconds is not None:
        message = "A training has no time limit: leave timeout_seconds out, cancel the job."
        raise _refuse(message, "/job_options/timeout_seconds")


async def _base(service: Service, sent: schemas.NixtlaFinetuneRequest) -> Model:
    """The model whose weights are fine-tuned; one that has none, or reads more, is refused."""
    pointer = "/finetuned_model_id" if sent.finetuned_model_id else "/model"
    reference = tasks.reference_of(service, sent.finetuned_model_id or sent.model)
    base = await registered(service, reference, pointer=pointer)
    if base is None or not is_network(base.forecaster.model):
        raise _refuse("This model has no weights that could be fine-tuned.", pointer)
    columns = [name for names in base.forecaster.recipe.inputs.names.values() for name in names]
    if columns:
        message = f"The client sends no covariates here; this model reads {', '.join(columns)}."
        raise _refuse(message, pointer)
    if base.forecaster.native_levels and sent.finetune_loss != LOSSES[0]:
        message = "This model emits quantiles: give finetune_loss default."
        raise _refuse(message, "/finetune_loss")
    return base


def _check_name(store: Store, name: str, tenant: str) -> None:
    """Raises `invalid-request` for the name of a model that was not fine-tuned by this tenant."""
    try:
        checked_new_name(name)
    except ConfigError as error:
        raise _refuse(str(error), "/output_model_id") from error
    if not is_free(store, name) and name not in all_finetuned(store, tenant):
        message = "There is a model of this name that was not fine-tuned. Give another name."
        raise _refuse(message, "/output_model_id")


# --- the job --------------------------------------------------------------------------------------


def _kept(request: Request, order: Order) -> Dataset:
    """The series as a stored dataset, which the job reads."""
    service, sent, recipe = service_of(request), order.sent, order.base.forecaster.recipe
    series = schemas.History.model_construct(**dict(sent.series))
    asked = schemas.Asked.model_construct(series=series, freq=sent.freq)
    read = tables_of(asked, recipe.inputs, own=recipe.frequency, ahead=0)
    if read.freq != recipe.frequency:
        message = f"The model has the frequency {recipe.frequency}."
        raise Problem("model-incompatible", message, [Item(message, "/freq")])
    name = f"finetune-{order.name}"[:64].rstrip("._-")
    table = DatasetRequest.model_construct(
        name=name, data=read.data, static={}, columns=Columns(), freq=read.freq, tz=None
    )
    with relocated(read.place):
        content = stored.read(table, service.settings.limits)
    who = caller_of(request).prefix or "open"
    return stored.datasets_of(request).add(name, content, who=who)[0]


def _spec(request: Request, order: Order, dataset: Dataset) -> dict[str, Any]:
    """What the job does, checked as the spec of any training is."""
    sent, base = order.sent, order.base
    parent = f"{base.name}/{base.version}"
    spec = {
        "dataset": str(dataset),
        "kind": base.forecaster.spec.kind,
        "name": order.name,
        "config": _config(order),
        "mode": WARM_START,
        "parent": parent,
    }
    limits = service_of(request).settings.limits
    try:
        checked = specs.checked(KIND, spec, limits, stored.datasets_of(request), default="")
    except Problem as problem:
        problem.errors = []  # whose places are those of a spec that nobody sent
        raise
    how = Tuned(
        steps=sent.finetune_steps,
        depth=WHOLE,
        loss=sent.finetune_loss,
        model=sent.model or base.name,
        freq=sent.freq,
        base=parent,
    )
    return {**checked, MARK: asdict(how)}


def _config(order: Order) -> dict[str, Any]:
    """The experiment of the model, with an optimiser's step an epoch: so there are as many steps.

    The weights of the best of them on the validation part are kept.
    """
    forecaster = order.base.forecaster
    recipe, levels = forecaster.recipe, [*forecaster.native_levels]
    default = "pinball" if levels else Training().loss
    loss = default if order.sent.finetune_loss == "default" else order.sent.finetune_loss
    return {
        "data": {"group": "all" if recipe.joint else "none", "season": recipe.season},
        "model": dict(forecaster.spec.to_mapping()),
        "window": {
            "context": recipe.context,
            "horizon": recipe.horizon,
            "levels": levels,
            "conformal": bool(levels) and forecaster.calibration is not None,
            "features": [*recipe.inputs.features],
            "lags": [*recipe.inputs.lags],
        },
        "training": {
            "epochs": order.sent.finetune_steps,
            "windows_per_epoch": Training().batch_size,
            "loss": loss,
        },
        "backtest": {"stride": recipe.horizon},
    }


# --- asked about ----------------------------------------------------------------------------------


@router.get(
    "/finetuned_models", dependencies=[needs("reader")], response_model=schemas.FinetunedModels
)
async def finetuned_models(request: Request) -> dict[str, Sequence[dict[str, Any]]]:
    """The models that were fine-tuned, newest first."""
    return {"finetuned_models": [_members(one) for one in (await _all(request)).values()]}


@router.get(
    "/finetuned_models/{id}", dependencies=[needs("reader")], response_model=schemas.FinetunedModel
)
async def finetuned_model(request: Request, id: Id) -> dict[str, Any]:
    """One of them."""
    return _members(await _one(request, id))


@router.delete(
    "/finetuned_models/{id}", dependencies=[needs("operator")], status_code=204, response_model=None
)
async def delete(request: Request, id: Id) -> Response:
    """Takes a fine-tuned model away; the rows that it learnt from stay a dataset."""
    from pipelines.retention import retire  # imports MLflow, which reads the environment

    library, caller = service_of(request).library, caller_of(request)
    await asyncio.to_thread(_check_removable, library.shelf.registry, id, caller.tenant)
    library.forget(id)
    name = f"key {caller.prefix}" if caller.prefix else Actor.here().name
    who = Actor(name, role=caller.role, request_id=request.state.request_id)
    await asyncio.to_thread(retire, library.shelf.registry, id, who=who)
    library.forget(id)
    return Response(status_code=204)


def _check_removable(registry: Registry, id: str, tenant: str) -> None:
    """Raises `not-found` for what was not fine-tuned, or is gone; an interrupted end goes on."""
    if id in all_finetuned(registry.store, tenant):
        return
    if id not in all_finetuned(registry.store, tenant, removed=True) or not registry.versions(id):
        raise Problem("not-found", UNKNOWN)


async def _all(request: Request) -> dict[str, Finetuned]:
    store = service_of(request).library.shelf.registry.store
    return await asyncio.to_thread(all_finetuned, store, caller_of(request).tenant)


async def _one(request: Request, id: str) -> Finetuned:
    found = (await _all(request)).get(id)
    if found is None:
        raise Problem("not-found", UNKNOWN)
    return found


def _members(one: Finetuned) -> dict[str, Any]:
    how = one.how
    return {
        "id": one.name,
        "created_at": text_of(one.created_ms),
        "created_by": one.created_by or "open",
        "base_model_id": how.base,
        "steps": how.steps,
        "depth": how.depth,
        "loss": how.loss,
        "model": how.model,
        "freq": how.freq,
    }
