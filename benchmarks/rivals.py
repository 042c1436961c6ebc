"""What the service is measured against, each as a process that listens.

    python -m benchmarks.rivals plain|mlflow small|base PORT

- `plain`: a FastAPI + uvicorn endpoint that forecasts one request at a time;
- `mlflow`: MLflow's own scoring server with the registered version, where MLFLOW_TRACKING_URI says.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving import NAME, forecaster
from pipelines.query import Query


class PlainRequest(BaseModel):
    """The same body, read the usual way."""

    data: dict[str, list[Any]]
    freq: str


def plain(size: str) -> FastAPI:
    """What one writes in ten minutes: a request, a forward pass, an answer."""
    model, app = forecaster(size), FastAPI()

    @app.post("/v1/forecasts")
    def forecast(request: PlainRequest) -> dict[str, list[float]]:
        past = np.array(request.data["y"], dtype=np.float64)[None, :, None]
        return {"mean": model.answer(Query(past))[0, :, 0, 0].tolist()}

    @app.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    return app


def mlflow(_size: str) -> FastAPI:
    """MLflow's scoring server, with one worker, on the registered version."""
    from mlflow.pyfunc import load_model, scoring_server  # after the environment is set

    app: FastAPI = scoring_server.init(load_model(f"models:/{NAME}@champion"))
    return app


def main(arguments: Sequence[str]) -> None:
    """Listens until it is ended."""
    name, size, port = arguments
    torch.set_num_threads(1)
    app = {"plain": plain, "mlflow": mlflow}[name](size)
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1:])
