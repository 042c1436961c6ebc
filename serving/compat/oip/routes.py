"""The routes of the Open Inference Protocol v2, below /v2."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from serving import body, forecasting, tables
from serving.accept import JSON, OCTETS
from serving.access import deadline_seconds, within
from serving.api import health
from serving.baselines import BUILT_IN
from serving.callers import needs
from serving.compat.loose import relocated
from serving.compat.oip import schemas, tensors
from serving.compat.oip.answers import Inferred, check_outputs, inferred
from serving.compat.oip.questions import question, relocation
from serving.compat.oip.tensors import HEADER
from serving.models import registered
from serving.openapi import described, with_answers, with_bodies
from serving.problems import without_options
from serving.schemas.fields import NAME, NAMED, NUMBERED, VERSION
from serving.schemas.tables import Columns
from serving.service import Service, service_of
from serving.threads import off_loop

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
ALIASED = NAME[:-1] + r"(@[a-z][a-z0-9_-]{0,31})?$"
Name = Annotated[str, Path(pattern=NAME, description=NAMED, examples=["patchtst"])]
Alias = Annotated[
    str,
    Path(pattern=ALIASED, description="`name` or `name@alias`.", examples=["patchtst@champion"]),
]
Version = Annotated[str, Path(pattern=VERSION, description=NUMBERED, examples=["7"])]
EXTENSIONS = ["binary_tensor_data"]
BYTES = (
    f"The JSON, as long as {HEADER} says, then the bytes of the tensors that have binary_data_size, "
    "in their order, little-endian."
)
INFERENCE = with_bodies(
    with_answers(described(schemas.InferRequest, schemas.InferAnswer), {OCTETS: BYTES}),
    {OCTETS: f"{BYTES} No Content-Type is needed."},
)


@router.get("", dependencies=[needs("reader")], response_model=schemas.ServerMetadata)
async def server(request: Request) -> dict[str, Any]:
    """What this server speaks."""
    return {"name": "tsformer", "version": request.app.version, "extensions": EXTENSIONS}


@router.get("/health/live", dependencies=[needs("open")])
async def live() -> dict[str, bool]:
    """The process answers."""
    return {"live": True}


@router.get("/health/ready", dependencies=[needs("open")])
async def ready(request: Request) -> dict[str, bool]:
    """The default model is loaded and has run once."""
    await health.ready(request)
    return {"ready": True}


# --- models ---------------------------------------------------------------------------------------


@router.get("/models/{model}", dependencies=[needs("reader")], response_model=schemas.ModelMetadata)
async def model(request: Request, model: Alias) -> dict[str, Any]:
    """The tensors that a model takes and gives."""
    return await _metadata(request, model, model)


@router.get(
    "/models/{model}/versions/{version}",
    dependencies=[needs("reader")],
    response_model=schemas.ModelMetadata,
)
async def model_version(request: Request, model: Name, version: Version) -> dict[str, Any]:
    """The tensors that a version of a model takes and gives."""
    return await _metadata(request, model, f"{model}/{version}")


@router.get("/models/{model}/ready", dependencies=[needs("reader")])
async def model_ready(request: Request, model: Alias) -> dict[str, Any]:
    """The model is loaded and has run once, if need be now."""
    await registered(service_of(request), model, pointer="")
    return {"name": model, "ready": True}


@router.get("/models/{model}/versions/{version}/ready", dependencies=[needs("reader")])
async def version_ready(request: Request, model: Name, version: Version) -> dict[str, Any]:
    """The version is loaded and has run once, if need be now."""
    await registered(service_of(request), f"{model}/{version}", pointer="")
    return {"name": model, "ready": True}


async def _metadata(request: Request, name: str, reference: str) -> dict[str, Any]:
    columns: dict[str, list[str]] = {}
    versions: list[str] = []
    if name not in BUILT_IN:
        registry = service_of(request).library.shelf.registry
        described = await asyncio.to_thread(registry.describe, reference)
        listed = await asyncio.to_thread(registry.versions, described.name)
        columns, versions = described.card["covariates"], [each.version for each in listed]
    known = len(columns.get("known", ()))
    width = known + len(columns.get("past", ()))
    inputs = [("y", "FP32", [-1, -1])]
    inputs += [("x_past", "FP32", [-1, -1, width])] if width else []
    inputs += [("x_future", "FP32", [-1, -1, known])] if known else []
    inputs += [("unique_id", "BYTES", [-1]), ("start", "BYTES", [-1])]
    outputs = [("mean", "FP32", [-1, -1]), ("quantiles", "FP32", [-1, -1, -1])]
    outputs += [("status", "BYTES", [-1])]
    return {
        "name": name,
        "versions": versions,
        "platform": "tsformer",
        "inputs": [_tensor(*each) for each in inputs],
        "outputs": [_tensor(*each) for each in outputs],
    }


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


# --- inference ------------------------------------------------------------------------------------


@router.post("/models/{model}/infer", dependencies=[needs("forecaster")], **INFERENCE)
async def infer(request: Request, model: Alias) -> Response:
    """Forecasts of series that come as tensors."""
    return await _infer(request, model, model)


@router.post(
    "/models/{model}/versions/{version}/infer", dependencies=[needs("forecaster")], **INFERENCE
)
async def infer_by_version(request: Request, model: Name, version: Version) -> Response:
    """Forecasts by one version of series that come as tensors."""
    return await _infer(request, model, f"{model}/{version}")


async def _infer(request: Request, name: str, reference: str) -> Response:
    service = service_of(request)
    limits = service.settings.limits
    seconds = deadline_seconds(request, limits)
    sent = await body.read(request, limits)
    header = request.headers.get(HEADER)
    work = _inferred(service, name, reference, sent, header, seconds)
    found = await within(request, seconds, work)
    if not found.binary:
        return Response(found.json, media_type=JSON)
    headers = {HEADER: str(len(found.json))}
    return Response(found.json + found.binary, headers=headers, media_type=OCTETS)


async def _inferred(
    service: Service, name: str, reference: str, body: bytes, header: str | None, seconds: float
) -> Inferred:
    limits, size = service.settings.limits, len(body)
    sent = await off_loop(size, tensors.read, body, header, limits)
    check_outputs(sent.asked)
    with without_options(), relocated(relocation(sent)), tables.placed(Columns()):
        model = await registered(service, reference)
        asked = await off_loop(size, question, sent, reference, model, limits)
        done = await forecasting.forecast(service, asked, seconds=seconds, size=size)
    return await off_loop(done.found.size, inferred, sent, name, done)
