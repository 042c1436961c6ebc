"""The routes of the Nixtla client, below /compat/nixtla."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from pipelines.frequency import Frequency
from serving import tables
from serving.baselines import BUILT_IN, rows_read
from serving.callers import caller_of, needs
from serving.compat.nixtla import finetuning, jobs, schemas, tasks
from serving.compat.nixtla.asking import answer
from serving.models import registered
from serving.openapi import described
from serving.schemas.fields import REFERENCE
from serving.service import service_of

router = APIRouter(prefix="/compat/nixtla", tags=["nixtla client"])


# --- about the service ----------------------------------------------------------------------------


@router.get("/validate_api_key", dependencies=[needs("reader")], response_model=schemas.Detail)
async def validate_api_key() -> dict[str, str]:
    """Whether the key is good; without one the answer is a problem with `detail`."""
    return {"detail": "The key is valid."}


@router.get("/usage", dependencies=[needs("reader")], response_model=schemas.Usage)
async def usage(request: Request) -> dict[str, Any]:
    """How many requests of the key this process counted in the last minute, and since it started."""
    service = service_of(request)
    minute, all_time = service.rate.used(caller_of(request).prefix)
    limit = service.settings.limits.requests_per_minute
    return {"minute": {"limit": limit, "used": minute}, "month": {"limit": 0, "used": all_time}}


@router.get("/v2/models", dependencies=[needs("reader")], response_model=schemas.ListedModels)
async def models(request: Request) -> dict[str, Any]:
    """Every model by its name and by its aliases."""
    registry = service_of(request).library.shelf.registry

    def named() -> list[str]:
        names = [*BUILT_IN]
        for name in registry.models():
            aliases = {alias for version in registry.versions(name) for alias in version.aliases}
            names += [name, *(f"{name}@{alias}" for alias in sorted(aliases))]
        return names

    return {"models": [{"name": name} for name in await asyncio.to_thread(named)]}


@router.get("/model_params", dependencies=[needs("reader")], response_model=schemas.ModelParameters)
async def model_params(
    request: Request,
    freq: Annotated[str, Query(max_length=64, examples=["D"])],
    model: Annotated[str | None, Query(pattern=REFERENCE, examples=["patchtst"])] = None,
) -> dict[str, Any]:
    """How much history the model reads, and how far it forecasts at a time."""
    service = service_of(request)
    reference = tasks.reference_of(service, model)
    found = await registered(service, reference)
    if found is None:
        tables.check_freq(freq)
        season = Frequency.candidates(freq)[0].season
        sizes = {"input_size": rows_read(reference or "", season), "horizon": season}
    else:
        recipe = found.forecaster.recipe
        reads = recipe.context + max(recipe.inputs.lags, default=0)
        sizes = {"input_size": reads, "horizon": recipe.horizon}
    return {"detail": sizes}


# --- forecasts ------------------------------------------------------------------------------------


@router.post(
    "/v2/forecast",
    dependencies=[needs("forecaster")],
    **described(schemas.NixtlaForecastRequest, schemas.NixtlaForecastAnswer),
)
async def forecast(request: Request) -> Response:
    """`NixtlaClient.forecast`."""
    return await answer(request, schemas.NixtlaForecastRequest, tasks.forecast)


@router.post(
    "/v2/cross_validation",
    dependencies=[needs("forecaster")],
    **described(schemas.NixtlaCrossValidationRequest, schemas.NixtlaCrossValidationAnswer),
)
async def cross_validation(request: Request) -> Response:
    """`NixtlaClient.cross_validation`, and what `add_history` asks."""
    return await answer(request, schemas.NixtlaCrossValidationRequest, tasks.cross_validation)


@router.post(
    "/v2/anomaly_detection",
    dependencies=[needs("forecaster")],
    **described(schemas.NixtlaAnomalyRequest, schemas.NixtlaAnomalyAnswer),
)
async def anomalies(request: Request) -> Response:
    """`NixtlaClient.detect_anomalies`."""
    return await answer(request, schemas.NixtlaAnomalyRequest, tasks.anomalies)


@router.post(
    "/v2/online_anomaly_detection",
    dependencies=[needs("forecaster")],
    **described(schemas.NixtlaOnlineRequest, schemas.NixtlaOnlineAnswer),
)
async def online_anomalies(request: Request) -> Response:
    """`NixtlaClient.detect_anomalies_online`."""
    return await answer(request, schemas.NixtlaOnlineRequest, tasks.online_anomalies)


router.include_router(finetuning.router)
router.include_router(jobs.router)
