"""Panel in, forecast table out: the one path from data to numbers, in the library and in the service.

`predict` is `plan`, `answer` and `assemble` in a row. The service runs the same three, with
`answer` in the replica that owns the model, so both give the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.course import follow
from pipelines.forecast import Forecast
from pipelines.outlook import Outlook
from pipelines.panel import Panel
from pipelines.plan import Plan, assembled
from pipelines.profile import PROFILE_FILE, Profile
from pipelines.query import Floats, Query
from pipelines.recipe import Recipe
from pipelines.units import Unit, Units
from pipelines.versions import FALLBACK
from tsformer import artifact
from tsformer.batch import Batch
from tsformer.conformal import Calibration, QuantileCalibration, calibration_of
from tsformer.errors import DataError, Fault, IncompatibleError
from tsformer.model import Model, ModelSpec
from tsformer.runtime import Runtime
from tsformer.scale import location_scale


class Forecaster:
    """A model with everything it needs to turn a panel into a forecast."""

    def __init__(
        self,
        model: Model,
        *,
        spec: ModelSpec,
        recipe: Recipe,
        calibration: Calibration | QuantileCalibration | None = None,
        units: Units | None = None,
        profile: Profile | None = None,
        device: str = "auto",
    ) -> None:
        self.runtime = Runtime(model, device=device)
        self.model = model
        self.spec = spec
        self.recipe = recipe
        self.calibration = calibration
        self.units = units
        self.profile = profile

    @property
    def native_levels(self) -> tuple[float, ...]:
        """The quantile levels that the model itself emits."""
        return self.model.shape.levels

    @property
    def card(self) -> dict[str, Any]:
        """What a client needs to know of this forecaster; see `GET /v1/models/{name}/versions/{version}`."""
        recipe = self.recipe
        return {
            "kind": self.spec.kind,
            "freq": recipe.frequency,
            "context": recipe.context,
            "min_context": recipe.min_context,
            "horizon": recipe.horizon,
            "cross_series": self.spec.capabilities.cross_series,
            "accepts_missing": True,
            "point": "median" if self.native_levels else "mean",
            "quantiles": {"levels": list(self.levels), "method": self.quantile_method},
            "covariates": {use: [*names] for use, names in recipe.inputs.names.items()},
            "features": [*recipe.inputs.features],
            "lags": [*recipe.inputs.lags],
        }

    @property
    def levels(self) -> tuple[float, ...]:
        """The levels that can be asked for: any between the first and the last of these."""
        if self.calibration is not None:
            return self.calibration.levels
        return self.native_levels

    @property
    def quantile_method(self) -> str:
        """Where quantiles come from: the model alone, held-out residuals (too), or nowhere."""
        if self.calibration is not None:
            return "conformal"
        return "native" if self.native_levels else "none"

    # --- panel in, forecast out -------------------------------------------------------------

    def predict(
        self,
        panel: Panel,
        *,
        horizon: int | None = None,
        levels: Sequence[float] = (),
        future: pl.DataFrame | None = None,
        fallback: str | None = FALLBACK,
    ) -> Forecast:
        """The forecast of every series of `panel` for `horizon` steps (default: as trained).

        More steps than the model was trained for are rolled out in blocks. `levels` are quantile levels; `future` holds the known covariates of the horizon. A series
        with too little history gets `fallback`, labelled, or DataError without one.
        """
        plan = self.plan(panel, horizon=horizon, future=future, fallback=fallback)
        done: list[Floats] = []
        for _ in range(plan.course.blocks):
            done.append(self.answer(plan.course.question(done), levels))
        return self.assemble(panel, plan, follow(done), levels)

    def plan(
        self,
        panel: Panel,
        *,
        horizon: int | None = None,
        future: pl.DataFrame | None = None,
        fallback: str | None = FALLBACK,
        width: int | None = None,
    ) -> Plan:
        """What to ask the model for `panel`, and which series it cannot answer.

        A window holds `width` series, one after the other; by default one, or all where the model
        was trained on series side by side.
        """
        recipe, steps = self.recipe, self.steps(horizon)
        if panel.ids and str(panel.frequency) != recipe.frequency:  # no series, no step
            raise IncompatibleError(
                f"The model was trained on steps of '{recipe.frequency}', the data have "
                f"'{panel.frequency}'. Resample the data, or use a model of their frequency."
            )
        past = Query.pasts(panel, recipe.context)
        rows = np.minimum(np.diff(panel.offsets), recipe.context)
        enough = self._enough(rows, past)
        modelled = np.flatnonzero(enough)
        short = np.flatnonzero(~enough)
        if len(short) and fallback is None:
            raise DataError(
                f"{len(short)} of {len(rows)} series have too little history for this model.",
                [self._too_short(panel, int(i), int(rows[i])) for i in short],
            )
        asked = panel.take(modelled.tolist()) if len(short) else panel
        outlook = Outlook(asked, recipe.inputs, recipe.context, recipe.horizon, steps, future)
        return Plan(
            course=outlook.course(
                unit=self._unit(asked, past[modelled]),
                series=self._numbers(asked),
                width=width or (max(1, len(modelled)) if recipe.joint else 1),
            ),
            modelled=tuple(modelled.tolist()),
            short=tuple(short.tolist()),
            horizon=steps,
            fallback=fallback,
            warnings=outlook.warnings(),
        )

    def enough(self, panel: Panel) -> NDArray[np.bool_]:
        """Which series of `panel` have the history that the model needs."""
        rows = np.minimum(np.diff(panel.offsets), self.recipe.context)
        return self._enough(rows, Query.pasts(panel, self.recipe.context))

    def _enough(self, rows: NDArray[np.int64], past: Floats) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = rows >= self.recipe.min_context
        return found & ~np.isnan(past).all(axis=1)

    def steps(self, horizon: int | None) -> int:
        """The steps of a forecast: `horizon`, else as trained; IncompatibleError below 1."""
        steps = self.recipe.horizon if horizon is None else horizon
        if steps < 1:
            raise IncompatibleError(f"horizon must be at least 1 step, got {steps}.")
        return steps

    def answer(self, query: Query, levels: Sequence[float] = ()) -> Floats:
        """Point and quantiles `[window, horizon, variate, 1 + level]` over the trained horizon."""
        if not len(query):
            return np.empty((0, self.recipe.horizon, 1, 1 + len(levels)))
        numbers: Floats = self.forecast(query.batch(), levels, unit=query.measure()).numpy()
        return numbers

    def forecast(
        self, batch: Batch, levels: Sequence[float] = (), *, unit: Unit | None = None
    ) -> Tensor:
        """Point and quantiles `[batch, horizon, variate, 1 + level]`, in float64 on the CPU.

        Of a longer context the model reads its own part. `unit` is used by models bound to one.
        """
        batch = batch.recent(self.recipe.context)
        if unit is None or self.spec.capabilities.unit_free:
            output = self.runtime.predict(batch).double()
        else:
            output = unit.undo(self.runtime.predict(unit.standardised(batch)).double())
        point = output[..., self.model.shape.point]
        if not levels:
            return point.unsqueeze(-1)
        return torch.cat([point.unsqueeze(-1), self._quantiles(output, batch, levels)], dim=-1)

    def assemble(
        self, panel: Panel, plan: Plan, values: Floats, levels: Sequence[float] = ()
    ) -> Forecast:
        """The forecast of `panel` from what the model answered to `plan`."""
        return assembled(panel, plan, values, levels, recipe=self.recipe)

    # --- storage ----------------------------------------------------------------------------

    def save(self, directory: Path) -> str:
        """Writes the forecaster as plain files under a manifest; gives the manifest's digest."""
        artifact.save(self.model, self.spec, directory)
        recipe = json.dumps(asdict(self.recipe), indent=2, sort_keys=True)
        (directory / "recipe.json").write_text(recipe + "\n", encoding="utf-8")
        if self.calibration is not None:
            save_file(self.calibration.tensors(), directory / "calibration.safetensors")
        if self.units is not None:
            (directory / "units.json").write_text(self.units.text(), encoding="utf-8")
        if self.profile is not None:
            self.profile.save(directory / PROFILE_FILE)
        return artifact.seal(directory)

    @staticmethod
    def load(directory: Path, *, digest: str | None = None, device: str = "auto") -> Forecaster:
        """The forecaster stored in `directory`, after its files were verified.

        Raises ArtifactError before anything is parsed if a file is missing, extra or altered.
        """
        model, spec = artifact.load(directory, digest=digest)
        stored, named = directory / "calibration.safetensors", directory / "units.json"
        measured = directory / PROFILE_FILE
        calibration = calibration_of(load_file(stored)) if stored.exists() else None
        units = Units.of_text(named.read_text(encoding="utf-8")) if named.exists() else None
        return Forecaster(
            model,
            spec=spec,
            recipe=Recipe.of_mapping(artifact.read_json(directory / "recipe.json")),
            calibration=calibration,
            units=units,
            profile=Profile.load(measured) if measured.exists() else None,
            device=device,
        )

    # --- parts ------------------------------------------------------------------------------

    def check_levels(self, levels: Sequence[float]) -> None:
        """Raises IncompatibleError for quantile levels that cannot be given."""
        served = self.levels
        if levels and not served:
            raise IncompatibleError(
                "This model has no quantiles; ask for the point forecast alone."
            )
        if levels and (min(levels) < served[0] or max(levels) > served[-1]):
            raise IncompatibleError(
                f"Quantile levels must lie between {served[0]} and {served[-1]} for this model, "
                f"got {min(levels)} to {max(levels)}."
            )

    def _quantiles(self, output: Tensor, batch: Batch, levels: Sequence[float]) -> Tensor:
        self.check_levels(levels)
        served = self.levels
        if self.calibration is not None:
            _, scale = location_scale(batch.past, batch.observed, center="mean")
            if isinstance(self.calibration, Calibration):
                point = output[..., self.model.shape.point]
                return self.calibration.apply(point, scale=scale.double(), levels=levels)
            output = self.calibration.apply(output, scale=scale.double())
        return interpolated(output, served, levels)

    def unit(self, ids: NDArray[np.object_], batch: Batch) -> Unit | None:
        """The unit of windows of the series `ids` `[batch, variate]`, as a request of them has it.

        None where the model is bound to none.
        """
        if self.units is None:
            return None
        batch = batch.recent(self.recipe.context)
        past = torch.where(batch.observed, batch.past.double(), torch.nan)
        rows = past.mT.flatten(0, 1).numpy()  # [batch * variate, time]
        found = torch.from_numpy(self.units.of(ids.ravel().tolist(), rows))
        mean, std = found.T.unflatten(1, (len(batch), 1, -1))  # [batch, 1, variate] each
        return Unit(mean, std)

    def _unit(self, panel: Panel, past: Floats) -> Floats | None:
        return None if self.units is None else self.units.of(panel.ids, past)

    def _numbers(self, panel: Panel) -> NDArray[np.int64] | None:
        """The numbers of the series, where the model tells them apart."""
        if self.recipe.series is None or not panel.ids:
            return None
        return self.recipe.series.encode(pl.Series(panel.ids))

    def _too_short(self, panel: Panel, position: int, rows: int) -> Fault:
        needed = self.recipe.min_context
        message = f"{rows} rows of history; the model needs {needed} with values. Send more rows, or allow a fallback."
        return Fault("insufficient_history", message, series=panel.ids[position])


def interpolated(output: Tensor, served: Sequence[float], levels: Sequence[float]) -> Tensor:
    """Quantiles at `levels` between those on the last axis at `served`, linear in the level."""
    grid = torch.tensor(served, dtype=torch.float64)
    wanted = torch.tensor(list(levels), dtype=torch.float64)
    right = torch.searchsorted(grid, wanted).clamp(1, max(1, len(served) - 1))
    if len(served) == 1:
        return output.expand(*output.shape[:-1], len(wanted))
    left = right - 1
    weight = (wanted - grid[left]) / (grid[right] - grid[left])
    return output[..., left] + (output[..., right] - output[..., left]) * weight
