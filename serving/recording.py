"""Forecasts that a request wants to be remembered, so that later actuals can score them."""

from __future__ import annotations

import asyncio

from pipelines.panel import Panel
from pipelines.recording import name_for, record, scales_of
from pipelines.versions import ModelVersion
from serving.answers import ModelAnswer
from serving.models import Model
from serving.problems import Item, Problem
from serving.service import Service


async def remember(service: Service, found: ModelAnswer, panel: Panel, *, tenant: str) -> None:
    """Keeps a forecast of `panel` for the actuals of `tenant`; it is durable when this is done."""
    await asyncio.to_thread(_record, service, found, panel, tenant)


def check_recordable(model: Model | None) -> None:
    """Raises `invalid-request` for a built-in baseline, which has no version to watch."""
    if model is None or model.version is None:
        message = "A built-in baseline has no versions, so its forecasts are not recorded."
        raise Problem("invalid-request", message, [Item(message, "/options/record")])


def _record(service: Service, found: ModelAnswer, panel: Panel, tenant: str) -> None:
    model = found.model
    if model.version is None:
        return
    name = name_for(model.name, tenant)
    version = ModelVersion(name, model.version, "", "", run_id="", created_at="")
    forecaster = model.forecaster
    scales = scales_of(panel, profile=forecaster.profile, season=panel.frequency.season)
    store = service.library.shelf.registry.store
    record(store, version, panel, found.forecast, scales=scales)
