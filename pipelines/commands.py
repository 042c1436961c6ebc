"""What each command does, in the words of the library; `cli.py` only reads arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pipelines.backtest import Scores, backtest
from pipelines.comparison import Comparison, Entrant
from pipelines.coverage import sentence
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.material import Material
from pipelines.outputs import output_folder
from pipelines.record import begin, log_comparison, tags_of
from pipelines.registry import Registry
from pipelines.terminal import leaderboard_table
from pipelines.tracking import ready, track
from pipelines.versions import ModelVersion
from tsformer.errors import ConfigError, NotFoundError


def labelled(version: ModelVersion) -> str:
    """A version in a table: its reference and kind."""
    return f"{version} {version.kind}"


def show_leaderboard(experiment: Experiment, scores: Scores, *, console: Console) -> None:
    """The leaderboard of a backtest."""
    series, cutoffs = (scores.windows[name].n_unique() for name in ("series", "cutoff"))
    title = f"{experiment.name}: {series:,} series at {cutoffs:,} cutoffs, the same for all"
    console.print(
        leaderboard_table(scores.leaderboard, title=title, nominal=experiment.backtest.coverage)
    )
    best = str(scores.leaderboard["model"][0])
    told = sentence(scores, best, nominal=experiment.backtest.coverage)
    console.print(told, highlight=False, soft_wrap=True)


def backtest_command(
    experiment_file: Path, *, home: Home, references: Sequence[str], out: Path | None, device: str
) -> None:
    """`tsformer backtest`: without references, the newest version of every kind."""
    console = Console(markup=False)
    experiment = Experiment.read(experiment_file)
    if out is not None:
        output_folder(out, option="--out")
    registry = Registry(home)
    ready(home, experiment.name)
    wanted = list(references) or newest_of_each_kind(registry, experiment.name)
    entrants = tuple(entrant(registry, reference, device=device) for reference in wanted)
    material = Material.of(experiment)
    for reference, rival in zip(wanted, entrants, strict=True):
        agrees(reference, rival.forecaster, material)
    tags = tags_of(experiment, kind="backtest")
    with track(home, experiment=experiment.name, name="backtest", tags=tags) as run:
        begin(run, experiment, material)
        scores = backtest({e.name: e.forecaster for e in entrants}, material, experiment.backtest)
        show_leaderboard(experiment, scores, console=console)
        log_comparison(run, Comparison(experiment, material, entrants, scores), home=home)
    folder = out or home.folder / "backtests" / run.id
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("leaderboard", "windows", "steps"):
        getattr(scores, name).write_parquet(folder / f"{name}.parquet")
    console.print(f"Tables: {folder}   MLflow run {run.id}")


def entrant(registry: Registry, reference: str, *, device: str) -> Entrant:
    """The registered version behind a reference, as it enters a comparison."""
    version = registry.describe(reference)
    forecaster = load(registry, str(version), device=device)
    return Entrant(labelled(version), forecaster, version=version)


def newest_of_each_kind(registry: Registry, name: str) -> list[str]:
    """References to the newest version of every kind registered under `name`."""
    newest: dict[str, int] = {}
    for version in registry.versions(name):
        newest[version.kind] = max(newest.get(version.kind, 0), int(version.version))
    if not newest:
        raise NotFoundError(
            f"No model '{name}' is registered. Train it first: tsformer train FILE."
        )
    return [f"{name}/{number}" for number in newest.values()]


def load(registry: Registry, reference: str, *, device: str = "auto") -> Forecaster:
    """The verified forecaster behind a reference."""
    fetched = registry.fetch(reference)
    return Forecaster.load(fetched.directory, digest=fetched.version.digest, device=device)


def agrees(reference: str, forecaster: Forecaster, material: Material) -> None:
    """Only models with the same horizon and inputs can be scored on the same windows."""
    theirs, ours = forecaster.recipe, material.recipe
    for name in ("horizon", "frequency"):
        if getattr(theirs, name) != getattr(ours, name):
            raise ConfigError(
                f"{reference} has {name} {getattr(theirs, name)}, the experiment {getattr(ours, name)}. "
                "Score it with its own experiment."
            )
    if theirs.fitted and theirs.fitted.reach(material.begins("test")):
        raise ConfigError(
            f"{reference} was fitted on rows of the test part that it would be scored on. "
            "Score it with its own experiment, or on newer data."
        )
    if not theirs.inputs.within(ours.inputs):
        raise ConfigError(
            f"{reference} reads other covariates than the experiment. Score it with its own experiment."
        )
