"""A registry with small real models, the application on a host in this process, and requests.

Random weights serve as well as trained ones: what is tested here is the way to the model and back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn
from fastapi import FastAPI

from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.recipe import Recipe
from pipelines.registry import Registry
from pipelines.tracking import track
from serving.app import create
from serving.host import Lane, LocalEngine
from serving.library import Shelf
from serving.run import await_ready
from serving.settings import Settings
from tsformer.batch import Shape
from tsformer.conformal import LEVELS, Calibration
from tsformer.models.patchtst import PatchTSTSpec

CONTEXT, HORIZON = 96, 24
SMALL = PatchTSTSpec()


def forecaster(*, seed: int, broken: bool = False, spec: PatchTSTSpec = SMALL) -> Forecaster:
    """A small PatchTST at random weights; a broken one answers what it cannot express."""
    torch.manual_seed(seed)
    model = spec.build(Shape(context=CONTEXT, horizon=HORIZON))
    if broken:
        with torch.no_grad():
            next(model.parameters()).fill_(float("nan"))
    residuals = torch.linspace(-1, 1, len(LEVELS), dtype=torch.float64).expand(HORIZON, -1)
    recipe = Recipe(frequency="h", season=24, context=CONTEXT, min_context=24, horizon=HORIZON)
    return Forecaster(
        model, spec=spec, recipe=recipe, calibration=Calibration(LEVELS, residuals), device="cpu"
    )


def publish(home: Home, name: str, made: Forecaster, directory: Path) -> str:
    """Registers `made` as the champion of `name`; gives its version."""
    with track(home, experiment=name, name="test") as run:
        digest = made.save(directory)
        registry = Registry(home)
        version = registry.publish(name, directory, digest=digest, run_id=run.id, card=made.card)
    registry.promote(str(version))
    return version.version


@dataclass(frozen=True)
class Running:
    """An application behind a real socket, and a client of it."""

    app: FastAPI
    client: httpx.Client

    def post(self, path: str, body: dict[str, Any], **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)


def application(home: Home, settings: Settings) -> FastAPI:
    """The application with the model in this process: everything but Ray."""
    registry, room = Registry(home), settings.models.in_memory
    door = Shelf(registry, capacity=room, device="cpu", weights=False)
    return create(door, Lane(LocalEngine(Shelf(registry, capacity=room, device="cpu"))), settings)


def listening(app: FastAPI, *, ready: bool = True) -> Iterator[Running]:
    """Serves `app` by uvicorn in a thread until the test is done; `ready` waits for a model."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    if ready:
        await_ready(url, seconds=30)
    while not ready and httpx.get(f"{url}/v1/models", timeout=60).status_code == 503:
        time.sleep(0.02)  # until the keys are known
    try:
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Running(app, client)
    finally:  # also of a test that failed within a `with`: its process would never end
        server.should_exit = True
        thread.join()


def stamps(rows: int, *, start: str = "2026-01-01T00:00:00", hours: int = 1) -> list[str]:
    """`rows` naive hourly stamps."""
    first = datetime.fromisoformat(start)
    return [(first + timedelta(hours=hours * i)).isoformat() for i in range(rows)]


def series(rows: int = CONTEXT, *, seed: int = 0) -> list[float]:
    """A daily cycle with noise."""
    noise = np.random.default_rng(seed).normal(size=rows)
    return (10 + np.sin(np.arange(rows) / 24 * 2 * np.pi) + 0.3 * noise).round(3).tolist()


def table(*columns: list[float | None], ids: list[Any] | None = None) -> dict[str, list[Any]]:
    """Several series of one length each, as the columnar table of a request."""
    names = ids or [f"s{i}" for i in range(len(columns))]
    return {
        "unique_id": [name for name, y in zip(names, columns, strict=True) for _ in y],
        "ds": [stamp for y in columns for stamp in stamps(len(y))],
        "y": [value for y in columns for value in y],
    }
