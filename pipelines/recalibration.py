"""Fresh intervals for a registered model, without fitting it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from pipelines.backtest import backtest
from pipelines.commands import agrees, labelled, load, show_leaderboard
from pipelines.comparison import Comparison, Entrant
from pipelines.coverage import sentence
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.material import Material
from pipelines.record import begin, log_comparison, publish, tags_of
from pipelines.registry import Registry
from pipelines.seen import Seen
from pipelines.tracking import track
from pipelines.training import calibration
from pipelines.versions import ModelVersion
from tsformer.errors import ConfigError

FRESH = "recalibrated"


def calibrate_command(reference: str, experiment_file: Path, *, home: Home, device: str) -> None:
    """`tsformer calibrate`: a new version with the same weights and newly calibrated intervals."""
    console = Console(markup=False)
    experiment = Experiment.read(experiment_file)
    version = recalibrate(reference, experiment, home=home, console=console, device=device)
    console.print(
        f"Registered as {version} ({version.kind}): {version.description} "
        f"Serve it with: tsformer promote {version}",
        highlight=False,
        soft_wrap=True,
    )


def recalibrate(
    reference: str, experiment: Experiment, *, home: Home, console: Console, device: str = "auto"
) -> ModelVersion:
    """A version of the model behind `reference`, calibrated on the experiment's validation part.

    Both are scored on its test part and shown. Raises ConfigError where the data are older than
    those that the model was fitted on, or are read in another way.
    """
    registry = Registry(home)
    old = registry.describe(reference)
    before, after = (load(registry, str(old), device=device) for _ in range(2))
    material = Material.of(experiment)
    agrees(str(old), before, material)
    _has_not_seen(str(old), before, material)
    after.calibration = None
    after.calibration = calibration(after, material)
    fitted, stamps = before.recipe.fitted, material.seen("test")
    after.recipe = after.recipe.having_seen(
        trained=before.recipe.trained, fitted=fitted.then(stamps) if fitted else Seen.of(stamps)
    )
    scores = backtest({labelled(old): before, FRESH: after}, material, experiment.backtest)
    show_leaderboard(experiment, scores, console=console)
    second = str(scores.leaderboard["model"][1])
    told = sentence(scores, second, nominal=experiment.backtest.coverage)
    console.print(told, highlight=False, soft_wrap=True)
    entrants = (Entrant(labelled(old), before, version=old), Entrant(FRESH, after))
    comparison = Comparison(replace(experiment, name=old.name), material, entrants, scores)
    tags = {**tags_of(experiment, kind="calibration"), "model": old.kind, "recalibrates": old}
    description = (
        f"Version {old.version} with its intervals calibrated anew on {experiment.data.name}, "
        "without another fit."
    )
    with track(home, experiment=old.name, name=f"calibrate {old.kind}", tags=tags) as run:
        begin(run, experiment, material)
        runs = log_comparison(run, comparison, home=home)
        return publish(comparison, runs, home=home, description=description)[FRESH]


def _has_not_seen(reference: str, forecaster: Forecaster, material: Material) -> None:
    """Residuals of rows that a model was trained on are too small."""
    theirs = forecaster.recipe.trained
    if theirs and theirs.reach(material.begins("validation")):
        raise ConfigError(
            f"{reference} was trained on rows of the validation part that it would be calibrated "
            "on. Let the training part end where its own did, or later (data: split)."
        )
