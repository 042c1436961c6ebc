"""From an experiment to fitted, calibrated, compared and registered forecasters.

The model and its baselines go the same way: fit on train, choose and calibrate on validation,
score on the test part's rolling origins, all on the same windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from tempfile import TemporaryDirectory

import torch

from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.joint_fit import Job, fit_together
from pipelines.material import Material, chunks
from pipelines.parent import Parent
from pipelines.storage import Place
from pipelines.workers import Workers
from tsformer.batch import Shape
from tsformer.conformal import (
    Calibration,
    QuantileCalibration,
    calibrate,
    calibrate_quantiles,
)
from tsformer.errors import ConfigError, DataError, DivergedError
from tsformer.model import Model, ModelSpec
from tsformer.models import build
from tsformer.pretrain import PROBE
from tsformer.runtime import pick_device
from tsformer.scale import location_scale
from tsformer.train import Fit, Progress, Training, fit, is_network
from tsformer.train import Report as FitReport

# Windows and residuals that calibration takes at most. A thousand residuals a step make its 1 %
# tails; more only costs time (a forecast each) and memory (about 50 bytes a residual).
CALIBRATION_WINDOWS = 4_000
CALIBRATION_RESIDUALS = 20_000_000

GLANCE = 64  # validation windows of a model without weights, each of which may cost it a fit


@dataclass(frozen=True, slots=True)
class Fitted:
    """A forecaster and how its fit went."""

    name: str
    forecaster: Forecaster
    fit: Fit


Report = Callable[[str, Progress | None], None]


def specs(experiment: Experiment, *, season: int) -> dict[str, ModelSpec]:
    """The model and its baselines by kind; each kind once, since versions are told apart by it.

    A seasonal model without a season takes that of the data.
    """
    named: dict[str, ModelSpec] = {}
    for spec in (experiment.model, *experiment.baselines):
        if spec.kind in named:
            raise ConfigError(
                f"{experiment.name}: '{spec.kind}' stands twice among model and baselines. "
                "Give the second one an experiment of its own."
            )
        named[spec.kind] = with_season(spec, season)
    return named


def with_season(spec: ModelSpec, season: int) -> ModelSpec:
    """`spec` with `season` where it has a season and leaves it open."""
    plain = spec.to_mapping()
    if plain.get("season") != 0:
        return spec
    return type(spec).from_mapping({**plain, "season": season})


def fit_all(
    experiment: Experiment,
    material: Material,
    *,
    device: str = "auto",
    checkpoints: Place | None = None,
    parent: Parent | None = None,
    report: Report | None = None,
) -> dict[str, Fitted]:
    """Every model of the experiment, fitted and calibrated; `report(name, progress)` is told.

    Each model has its checkpoints in a folder of its name in `checkpoints`; networks are fitted by
    all workers of the experiment together. Its own model begins with the weights of `parent`.
    """
    fitted = {}
    for name, spec in specs(experiment, season=material.recipe.season).items():
        if report:
            report(name, None)
        own = parent if name == experiment.model.kind else None
        given = own.material(material) if own else material
        job = _job(spec, experiment, given)
        fitting = partial(fit_by, experiment.workers, device=device)
        place = checkpoints / name if checkpoints else None
        try:
            outcome = (
                _warm(name, job, own, fitting=fitting, place=place, report=report)
                if own
                else fitting(job, storage=place, report=_under(name, report))
            )
        except DivergedError as error:
            windows = job.train if error.part == "training" else job.validation
            where = given.where(windows, error.windows)
            raise DivergedError(f"{name}: {error}{where}") from error
        forecaster = _forecaster(job.model, spec, experiment, given, device=device)
        if own:
            forecaster.recipe = own.taught(forecaster.recipe, given)
        fitted[name] = Fitted(name, forecaster, outcome)
    return fitted


def _job(spec: ModelSpec, experiment: Experiment, material: Material) -> Job:
    """What is to be fitted on which windows."""
    levels = _levels(spec, experiment)
    shape = material.shape_for(spec.capabilities, levels)
    model, training = prepared(spec, experiment.training, shape=shape)
    train = material.training_windows("train", shape)
    validation = material.training_windows(
        "validation", shape, at_most=validation_windows(model, training)
    )
    return Job(model, train, validation, training)


def _levels(spec: ModelSpec, experiment: Experiment) -> tuple[float, ...]:
    """The quantiles that the model itself emits."""
    return experiment.window.levels if spec.capabilities.native_quantiles else ()


def _forecaster(
    model: Model, spec: ModelSpec, experiment: Experiment, material: Material, *, device: str
) -> Forecaster:
    """The fitted model with what it needs to forecast, calibrated on validation."""
    recipe = replace(
        material.recipe,
        inputs=material.recipe.inputs.read_by(spec.capabilities),
        joint=material.recipe.joint and spec.capabilities.cross_series,
        series=material.recipe.series if spec.capabilities.series else None,
    )
    units = None if spec.capabilities.unit_free else material.units()
    forecaster = Forecaster(model, spec=spec, recipe=recipe, units=units, device=device)
    if not _levels(spec, experiment) or experiment.window.conformal:
        forecaster.calibration = calibration(forecaster, material)
    return forecaster


def _warm(
    name: str,
    job: Job,
    parent: Parent,
    *,
    fitting: Callable[..., Fit],
    place: Place | None,
    report: Report | None,
) -> Fit:
    """The fit of `job` from the weights of `parent`; each part has its bar and its checkpoints."""
    parent.give(job.model)

    def part_of(part: str, training: Training) -> Fit:
        label = f"{name} {part}" if part == PROBE else name
        if report and part == PROBE:
            report(label, None)
        return fitting(
            replace(job, training=training),
            storage=place / part if place else None,
            report=_under(label, report),
        )

    return parent.fit(job.model, training=job.training, fitting=part_of)


def _under(name: str, report: Report | None) -> FitReport | None:
    """What tells `report` the progress of a fit under `name`."""
    return (lambda progress: report(name, progress)) if report else None


def fit_by(
    workers: Workers, job: Job, *, device: str, storage: Place | None, report: FitReport | None
) -> Fit:
    """The fit of `job`, by the workers where there is an epoch to share, else here."""
    workers.check(device)
    if not workers.here and is_network(job.model):
        with TemporaryDirectory() as scratch:
            kept = storage or Place(scratch)
            return fit_together(job, workers=workers, storage=kept, report=report)
    return fit(
        job.model,
        train=job.train,
        validation=job.validation,
        training=job.training,
        device=pick_device(device),
        checkpoint=storage,
        report=report,
    )


def prepared(spec: ModelSpec, training: Training, *, shape: Shape) -> tuple[Model, Training]:
    """A model of `spec` with fresh weights from the seed, and how it is trained.

    A point head is given no pinball loss, which has nothing to weigh there.
    """
    torch.manual_seed(training.seed)
    if not shape.levels and training.loss == "pinball":
        training = replace(training, loss="mse")
    return build(spec, shape), training


def calibration(forecaster: Forecaster, material: Material) -> Calibration | QuantileCalibration:
    """What calibrates `forecaster`, which is not calibrated yet, from the validation windows.

    Around the point of a point model, or of its own quantiles where it emits them. Deviation from
    split conformal prediction: the same windows chose the epoch (early stopping) or the penalty
    of the ridge, so the residuals are slightly optimistic; a third held-out part would cost the
    training rows next to the test part. The backtest measures the coverage that is left.
    """
    levels, context = forecaster.native_levels, forecaster.recipe.context
    material = material.read_by(forecaster)
    every = material.scoring_windows("validation", stride=1, context=context)
    if not len(every):
        raise DataError(
            f"The validation part has no window of {context} + {material.shape.horizon} steps to "
            "calibrate on. Give it more rows."
        )
    stride = calibration_stride(len(every), replace(material.shape, levels=levels))
    windows = material.scoring_windows("validation", stride=stride, context=context)
    forecasts, actuals, observed, scales = [], [], [], []
    for rows, batch, target in chunks(windows, 256):
        _, scale = location_scale(batch.past, batch.observed)
        unit = forecaster.unit(material.ids(windows, rows), batch)
        forecasts.append(forecaster.forecast(batch, levels, unit=unit))
        actuals.append(target.values)
        observed.append(target.observed)
        scales.append(scale)
    forecast = torch.cat(forecasts)  # [window, horizon, variate, 1 + level]
    actual, seen, scale = (torch.cat(parts) for parts in (actuals, observed, scales))
    if not levels:
        return calibrate(forecast[..., 0], target=actual, observed=seen, scale=scale)
    return calibrate_quantiles(
        forecast[..., 1:], target=actual, observed=seen, scale=scale, levels=levels
    )


def calibration_stride(windows: int, shape: Shape) -> int:
    """Steps between the cutoffs that keep `windows` of `shape` within the bounds of calibration."""
    residuals = shape.variates * shape.horizon * shape.outputs  # of a window
    at_most = max(1, min(CALIBRATION_WINDOWS, CALIBRATION_RESIDUALS // residuals))
    return max(1, -(-windows // at_most))


def validation_windows(model: Model, training: Training) -> int:
    """How many validation windows a fit looks at, about; 0 for all.

    An epoch that draws some of the windows is not outlasted by its own validation. Where nothing is
    chosen by it, since the model has no weights, a glance is enough.
    """
    learns = any(True for _ in model.parameters())
    return training.windows_per_epoch if learns else GLANCE
