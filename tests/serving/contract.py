"""A service with the models, versions and files that the samples of the HTTP contract speak of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import torch

from pipelines.covariates import Covariate, Inputs
from pipelines.features.categories import Vocabulary
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.recipe import Recipe
from pipelines.registry import Registry
from serving.settings import Settings
from tests.serving.running import Running, application, listening, publish
from tsformer.batch import Shape
from tsformer.conformal import LEVELS, Calibration
from tsformer.models.itransformer import ITransformerSpec
from tsformer.models.patchtst import PatchTSTSpec
from tsformer.models.tft import TFTSpec

MUCH = 1_000_000
SHOP = Inputs(
    known=(Covariate("price"),), static=(Covariate("store", vocabulary=Vocabulary(("X1", "X2"))),)
)


def _forecaster(spec: Any, recipe: Recipe, *, seed: int = 1) -> Forecaster:
    """`spec` at random weights, with intervals of its own."""
    torch.manual_seed(seed)
    inputs, horizon = recipe.inputs, recipe.horizon
    shape = Shape(
        context=recipe.context, horizon=horizon, known=inputs.known_sizes,
        static=tuple(column.size for column in inputs.static),
    )  # fmt: skip
    residuals = torch.linspace(-1, 1, len(LEVELS), dtype=torch.float64).expand(horizon, -1)
    calibration = Calibration(LEVELS, residuals)
    return Forecaster(
        spec.build(shape).eval(), spec=spec, recipe=recipe, calibration=calibration, device="cpu"
    )


def _daily(seed: int) -> Forecaster:
    recipe = Recipe("D", 7, 96, min_context=14, horizon=7)
    return _forecaster(PatchTSTSpec(width=16, heads=2, depth=1), recipe, seed=seed)


def models(home: Home, artifacts: Path) -> None:
    """patchtst/7, its champion, and /8; tft/12; itransformer; load."""
    registry = Registry(home)
    with registry.link.writing() as client:
        for name, before in (("patchtst", 6), ("tft", 11)):
            client.create_registered_model(name)
            for _ in range(before):  # which nobody vouches for
                client.create_model_version(name, str(artifacts), await_creation_for=0)
    shop = _forecaster(TFTSpec(width=8, heads=2), Recipe("h", 24, 48, 24, 3, SHOP))
    group = ITransformerSpec(width=16, heads=2, feedforward=16, depth=1)
    made: Mapping[str, Forecaster] = {
        "patchtst": _daily(1),
        "patchtst ": _daily(2),
        "tft": shop,
        "itransformer": _forecaster(group, Recipe("h", 24, 48, 24, 4, joint=True)),
        "load": _daily(3),
    }
    for place, (name, one) in enumerate(made.items()):
        publish(home, name.strip(), one, artifacts / str(place))
    registry.promote("patchtst/7")


def serving(home: Home, folder: Path) -> Iterator[Running]:
    """The service, which works on no job, and never has enough of its callers."""
    folder.mkdir()
    models(home, folder)
    table = pl.DataFrame({"ds": ["2026-01-01", "2026-01-02"], "y": [1.0, 2.0]})
    table.write_parquet(folder / "sales.parquet")
    settings = Settings.read(
        {
            "models": {"default": "patchtst", "in_memory": 8},
            "datasets": {"folder": str(folder)},
            "jobs": {"at_once": 0},
            "limits": {
                "requests_per_minute": MUCH,
                "queued_jobs_per_key": MUCH,
                "deadline_ms": 5_000,
            },
        }
    )
    yield from listening(application(home, settings))
