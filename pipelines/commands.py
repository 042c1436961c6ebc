"""What each command does, in the words of the library; `cli.py` only reads arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from rich.console import Console

from pipelines.agreement import unread
from pipelines.backtest import Scores, backtest
from pipelines.coverage import sentence
from pipelines.experiment import Experiment
from pipelines.forecast import Forecast
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.material import Material, read
from pipelines.outputs import output_file, output_folder
from pipelines.record import Recorded, log_scores, record
from pipelines.registry import Registry
from pipelines.sources import read_table
from pipelines.terminal import fit_progress, leaderboard_table
from pipelines.tracking import ready, track
from pipelines.training import Fitted, fit_all
from pipelines.versions import ModelVersion
from tsformer.errors import ArtifactError, ConfigError, NotFoundError, UnavailableError

NOTES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that came of a training."""

    experiment: Experiment
    fitted: dict[str, Fitted]
    scores: Scores
    recorded: Recorded

    def kind(self, version: str) -> str:
        """The model behind a version number."""
        return next(n for n, v in self.recorded.versions.items() if v.version == version)


def train_and_register(
    experiment: Experiment,
    *,
    home: Home,
    console: Console,
    device: str = "auto",
    checkpoint: Path | None = None,
) -> Outcome:
    """Fits, compares and registers the models of an experiment, showing how it goes."""
    ready(home, experiment.name)
    material = Material.of(experiment)
    for warning in material.report.warnings[:5]:
        console.print(f"Note: {warning}", highlight=False)
    for note in unread(experiment):
        console.print(f"Note: {note}", highlight=False, soft_wrap=True)
    console.print(
        f"{experiment.name}: {len(material.panel.ids)} series, {len(material.panel.table):,} rows, "
        f"context {experiment.window.context} -> horizon {experiment.window.horizon}"
    )
    with fit_progress(console) as progress:
        fitted = fit_all(
            experiment, material, device=device, checkpoint=checkpoint, report=progress
        )
    rivals = {name: entry.forecaster for name, entry in fitted.items()}
    known = incumbent(experiment, material, home=home, console=console, device=device)
    rivals |= known or {}
    with console.status("Scoring every model on the same rolling origins ..."):
        scores = score(experiment, material, rivals)
        seconds = pl.DataFrame(
            {"model": [*fitted], "fit_seconds": [f.fit.seconds for f in fitted.values()]}
        )
        board = scores.leaderboard.join(seconds, on="model", how="left", maintain_order="left")
        scores = replace(scores, leaderboard=board)
    note_unscored(material, scores, console=console)
    with console.status("Writing the MLflow run and the model versions ..."):
        recorded = record(experiment, material, fitted, scores, home=home, crown=known is not None)
    return Outcome(experiment, fitted, scores, recorded)


def note_unscored(material: Material, scores: Scores, *, console: Console) -> None:
    """Names the series that are too short for a window of the test part."""
    scored = set(scores.windows["series"])
    left = [name for name in map(str, material.panel.ids) if name not in scored]
    if left:
        shown = ", ".join(left[:NOTES_SHOWN])
        console.print(
            f"Note: {len(left)} series have no window in the test part and are not scored: {shown}.",
            highlight=False,
            soft_wrap=True,
        )


def incumbent(
    experiment: Experiment, material: Material, *, home: Home, console: Console, device: str
) -> dict[str, Forecaster] | None:
    """The champion so far, to be beaten on the same windows; empty where there is none.

    None where there is one that cannot be compared: nobody may take its place unseen.
    """
    registry = Registry(home)
    try:
        version = registry.describe(experiment.name)
        forecaster = load(registry, str(version), device=device)
        agrees(str(version), forecaster, material)
        _has_windows(str(version), forecaster, material)
    except (NotFoundError, UnavailableError):
        return {}
    except ArtifactError as error:  # nobody can be served by it
        console.print(f"Note: the champion so far cannot be loaded. {error}", highlight=False)
        return {}
    except ConfigError as error:
        console.print(f"Note: the champion so far is not scored. {error}", highlight=False)
        return None
    return {labelled(version): forecaster}


def labelled(version: ModelVersion) -> str:
    """A version in a table: its reference and kind."""
    return f"{version} {version.kind}"


def score(experiment: Experiment, material: Material, forecasters: dict[str, Forecaster]) -> Scores:
    """The scores of `forecasters` as the experiment's backtest section wants them."""
    settings = experiment.backtest
    return backtest(
        forecasters,
        material,
        stride=settings.stride,
        levels=settings.levels,
        coverage=settings.coverage,
        metric=settings.metric,
    )


def show_training(outcome: Outcome, *, console: Console) -> None:
    """The leaderboard, who won, and where it is kept."""
    experiment, recorded = outcome.experiment, outcome.recorded
    show_leaderboard(experiment, outcome.scores, console=console)
    console.print(verdict(outcome), soft_wrap=True)
    console.print(
        f"Registered as {experiment.name}: "
        + ", ".join(f"version {v.version} = {n}" for n, v in recorded.versions.items())
        + f". MLflow run {recorded.run_id}."
    )


def verdict(outcome: Outcome) -> str:
    """Who is champion, and whom it beats."""
    candidate, best = next(iter(outcome.fitted)), outcome.recorded.champion
    metric = outcome.experiment.backtest.metric
    if not outcome.recorded.crowned:
        return (
            f"By {metric} {best} is the best of these. The champion so far could not be compared "
            "and stays; to replace it: tsformer promote "
            f"{outcome.recorded.versions[best]}. (Or give the experiment a 'name' of its own.)"
        )
    if best not in outcome.fitted:
        return f"{best} stays the champion: by {metric} nothing new is better."
    if len(outcome.scores.leaderboard) == 1:
        return f"{best} is the champion: nothing else was scored."
    if best == candidate:
        return f"{best} is the champion: by {metric} it beats all others."
    return f"{best} is the champion: by {metric} it beats {candidate}, the model of the experiment."


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


def train_command(experiment: Path, *, home: Home, device: str, checkpoint: Path | None) -> None:
    """`tsformer train`."""
    console = Console()
    if checkpoint is not None:
        output_folder(checkpoint, option="--resume")
    outcome = train_and_register(
        Experiment.read(experiment),
        home=home,
        console=console,
        device=device,
        checkpoint=checkpoint,
    )
    show_training(outcome, console=console)


def backtest_command(
    experiment_file: Path, *, home: Home, references: Sequence[str], out: Path | None, device: str
) -> None:
    """`tsformer backtest`: without references, the newest version of every kind."""
    console = Console()
    experiment = Experiment.read(experiment_file)
    if out is not None:
        output_folder(out, option="--out")
    registry = Registry(home)
    wanted = list(references) or newest_of_each_kind(registry, experiment.name)
    forecasters = {
        labelled(registry.describe(reference)): load(registry, reference, device=device)
        for reference in wanted
    }
    material = Material.of(experiment)
    for reference, forecaster in forecasters.items():
        agrees(reference, forecaster, material)
    scores = score(experiment, material, forecasters)
    show_leaderboard(experiment, scores, console=console)
    with track(home, experiment=experiment.name, name="backtest") as run:
        run.config(experiment.resolved())
        log_scores(run, scores, horizon=experiment.window.horizon)
    folder = out or home.folder / "backtests" / run.id
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("leaderboard", "windows", "steps"):
        getattr(scores, name).write_parquet(folder / f"{name}.parquet")
    console.print(f"Tables: {folder}   MLflow run {run.id}")


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


def forecast_command(
    experiment_file: Path,
    *,
    home: Home,
    table: Path | None,
    reference: str | None,
    horizon: int | None,
    levels: str,
    future: Path | None,
    out: Path,
) -> None:
    """`tsformer forecast`: every series of the table, into a CSV or Parquet file."""
    console = Console()
    experiment = Experiment.read(experiment_file)
    if out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--out must end in .csv or .parquet, got '{out.name}'.")
    output_file(out, option="--out")
    asked = parse_levels(levels)
    data = replace(experiment.data, source=str(table)) if table else experiment.data
    fetched = Registry(home).fetch(reference or experiment.name)
    forecaster = Forecaster.load(fetched.directory, digest=fetched.version.digest)
    panel, report, _ = read(data)
    for warning in report.all_warnings[:NOTES_SHOWN]:
        console.print(f"Note: {warning}", highlight=False)
    forecast = forecaster.predict(
        panel,
        horizon=horizon,
        levels=asked,
        future=None if future is None else read_table(future, id=data.id),
    )
    names = {"unique_id": data.id or "unique_id", "ds": data.time}
    answer = as_days(forecast.table).rename(names)
    answer.write_csv(out) if out.suffix == ".csv" else answer.write_parquet(out)
    notes = forecast_notes(forecast)
    for note in notes[:NOTES_SHOWN]:
        console.print(f"Note: {note}", highlight=False, soft_wrap=True)
    if len(notes) > NOTES_SHOWN:
        console.print(f"Note: {len(notes) - NOTES_SHOWN} more of this kind.", highlight=False)
    console.print(
        f"{len(forecast.series)} series, {len(answer):,} rows by {labelled(fetched.version)}: {out}",
        soft_wrap=True,
    )


def forecast_notes(forecast: Forecast) -> list[str]:
    """What a reader of the numbers must know: fallbacks, series without rows, padded histories."""
    replaced = [
        f"{entry.unique_id}: forecast by {entry.fallback['model']} ({entry.fallback['reason']})"
        for entry in forecast.series
        if entry.fallback
    ]
    silent = [f"{entry.unique_id}: {entry.status}" for entry in forecast.series if not entry.rows]
    return [*replaced, *silent, *map(str, forecast.warnings)]


def as_days(table: pl.DataFrame) -> pl.DataFrame:
    """The table with days instead of stamps where every naive stamp is a midnight."""
    stamps = table["ds"]
    if stamps.dtype != pl.Datetime("us") or (stamps.dt.truncate("1d") != stamps).any():
        return table
    return table.with_columns(pl.col("ds").cast(pl.Date))


def promote_command(reference: str, *, home: Home, alias: str) -> None:
    """`tsformer promote`."""
    registry = Registry(home)
    version = registry.promote(reference, alias=alias)
    Console().print(f"{version.name}@{alias} is version {version.version} ({version.kind}) now.")


def parse_levels(text: str) -> tuple[float, ...]:
    """Quantile levels from `0.1,0.5,0.9`."""
    try:
        levels = tuple(sorted(float(part) for part in text.split(",") if part.strip()))
    except ValueError:
        raise ConfigError(f"--levels must be numbers like 0.1,0.5,0.9, got '{text}'.") from None
    if any(not 0 < level < 1 for level in levels) or len(set(levels)) < len(levels):
        raise ConfigError(f"--levels must lie between 0 and 1 without repeats, got '{text}'.")
    return levels


def _has_windows(reference: str, forecaster: Forecaster, material: Material) -> None:
    """All are scored on the windows that the longest context has."""
    context = max(forecaster.recipe.context, material.recipe.context)
    if not len(material.scoring_windows("test", stride=1, context=context)):
        raise ConfigError(
            f"{reference} looks {context} steps back: the test part has no window that long."
        )


def agrees(reference: str, forecaster: Forecaster, material: Material) -> None:
    """Only models with the same horizon and inputs can be scored on the same windows."""
    theirs, ours = forecaster.recipe, material.recipe
    for name in ("horizon", "frequency"):
        if getattr(theirs, name) != getattr(ours, name):
            raise ConfigError(
                f"{reference} has {name} {getattr(theirs, name)}, the experiment {getattr(ours, name)}. "
                "Score it with its own experiment."
            )
    if theirs.fitted_until is not None and theirs.fitted_until > (ours.fitted_until or 0):
        raise ConfigError(
            f"{reference} was fitted on rows of the test part that it would be scored on. "
            "Score it with its own experiment, or on newer data."
        )
    if not theirs.inputs.within(ours.inputs):
        raise ConfigError(
            f"{reference} reads other covariates than the experiment. Score it with its own experiment."
        )
