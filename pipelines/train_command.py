"""`tsformer train`: one MLflow run opened first, every model fitted, scored, kept and registered."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
from mlflow.entities import Run as Logged
from rich.console import Console

from pipelines.agreement import unread
from pipelines.backtest import Scores
from pipelines.commands import agrees, entrant, score, show_leaderboard
from pipelines.comparison import Comparison, Entrant
from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.material import Material
from pipelines.record import begin, board_text, log_comparison, publish, tags_of
from pipelines.registry import Registry
from pipelines.run import Run
from pipelines.terminal import fit_progress
from pipelines.tracking import Span, asking, bury, measured, ready, resumable, resume, track
from pipelines.training import Report, fit_all
from pipelines.versions import CANDIDATE, CHAMPION, ModelVersion
from tsformer.errors import ArtifactError, ConfigError, NotFoundError, UnavailableError
from tsformer.train import Progress

KIND = "comparison"
NOTES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that came of a training.

    `versions` are those that were registered, by model; `champion` is the first of the
    leaderboard, not among them if the old one stays. It is `crowned` unless an old champion could
    not be compared with it.
    """

    comparison: Comparison
    run_id: str
    versions: Mapping[str, ModelVersion]
    champion: str
    crowned: bool

    @property
    def experiment(self) -> Experiment:
        """What was trained."""
        return self.comparison.experiment

    def kind(self, version: str) -> str:
        """The model behind a version number."""
        return next(n for n, v in self.versions.items() if v.version == version)


def train_command(experiment: Path, *, home: Home, device: str, resumed: str | None) -> None:
    """`tsformer train`."""
    console = Console()
    outcome = train_and_register(
        Experiment.read(experiment),
        home=home,
        console=console,
        device=device,
        resumed=resumed,
        command=f"tsformer train {experiment} --resume",
    )
    show_training(outcome, console=console)


def train_and_register(
    experiment: Experiment,
    *,
    home: Home,
    console: Console,
    device: str = "auto",
    resumed: str | None = None,
    command: str = "",
) -> Outcome:
    """Fits, compares and registers the models of an experiment, showing how it goes.

    `resumed` is the run to go on with; `command` is what goes on with one, told before any work.
    """
    ready(home, experiment.name)
    begun = resumable(home, resumed, kind=KIND) if resumed else None
    material = Material.of(experiment)
    if begun is not None:
        check_same(begun, experiment, material)
    show_material(experiment, material, console=console)
    with opened(experiment, material, home=home, resumed=resumed, command=command) as run:
        hint = f" If it is interrupted: {command} {run.id}" if command else ""
        console.print(f"MLflow run {run.id}.{hint}", highlight=False, soft_wrap=True)
        with measured(run, home):
            comparison, comparable = compared(
                experiment, material, run=run, home=home, console=console, device=device
            )
        note_unscored(material, comparison.scores, console=console)
        with console.status("Writing the MLflow run and the model versions ..."), asking(home):
            outcome = _kept(comparison, run=run, home=home, crown=comparable)
    shutil.rmtree(checkpoints(home, run), ignore_errors=True)
    return outcome


@contextmanager
def opened(
    experiment: Experiment, material: Material, *, home: Home, resumed: str | None, command: str
) -> Iterator[Run]:
    """The run of a training: a new one, or that which was interrupted.

    Where MLflow is lost on the way, the error says how to go on.
    """
    if resumed is not None:
        run = resume(home, resumed)
    else:
        with asking(home):
            bury(home, experiment.name)
        run = track(
            home,
            experiment=experiment.name,
            name=run_name(experiment),
            tags=tags_of(experiment, kind=KIND),
        )
    with run as begun:
        try:
            if resumed is None:
                begin(begun, experiment, material)
            yield begun
        except UnavailableError as error:
            raise UnavailableError(
                f"{error} What was fitted is kept. Go on with: {command} {begun.id}"
            ) from error


def run_name(experiment: Experiment) -> str:
    """What the run of a training is called in MLflow's list."""
    kinds = [spec.kind for spec in experiment.specs]
    return " vs ".join(kinds[:3]) + (f" and {len(kinds) - 3} more" if len(kinds) > 3 else "")


def check_same(begun: Logged, experiment: Experiment, material: Material) -> None:
    """Only the same settings on the same table can go on: anything else is another training."""
    tags, run_id = begun.data.tags, begun.info.run_id
    if tags.get("experiment_digest") != experiment.digest:
        raise ConfigError(
            f"The run {run_id} was begun with other settings (its config.yaml is in MLflow). "
            "Train without --resume."
        )
    if tags.get("data_fingerprint", material.fingerprint) != material.fingerprint:
        raise ConfigError(
            f"The table has changed since the run {run_id} was begun. Train without --resume."
        )


def compared(
    experiment: Experiment,
    material: Material,
    *,
    run: Run,
    home: Home,
    console: Console,
    device: str,
) -> tuple[Comparison, bool]:
    """The models fitted and scored beside the champion so far, and whether that could be scored."""
    with fit_progress(console) as progress:
        watch = Stopwatch(progress)
        fitted = fit_all(
            experiment, material, device=device, checkpoint=checkpoints(home, run), report=watch
        )
    known = incumbent(experiment, material, home=home, console=console, device=device)
    entrants = (
        *(Entrant(n, f.forecaster, f.fit, watch.span(n, f.fit.seconds)) for n, f in fitted.items()),
        *(known or ()),
    )
    with console.status("Scoring every model on the same rolling origins ..."):
        scores = score(experiment, material, {e.name: e.forecaster for e in entrants})
    seconds = pl.DataFrame(
        {"model": [*fitted], "fit_seconds": [f.fit.seconds for f in fitted.values()]}
    )
    board = scores.leaderboard.join(seconds, on="model", how="left", maintain_order="left")
    scores = replace(scores, leaderboard=board)
    return Comparison(experiment, material, entrants, scores), known is not None


@dataclass(frozen=True, slots=True)
class Stopwatch:
    """Passes on what `fit_all` reports, and knows when each fit began."""

    report: Report
    begun: dict[str, float] = field(default_factory=dict)

    def __call__(self, name: str, progress: Progress | None) -> None:
        """Takes what `fit_all` reports: a name alone begins a fit."""
        if progress is None:
            self.begun[name] = time.time()
        self.report(name, progress)

    def span(self, name: str, seconds: float) -> Span:
        """When the fit of `name`, which took `seconds`, began and ended; in milliseconds."""
        begun = round(1_000 * self.begun[name])
        return begun, begun + round(1_000 * seconds)


def incumbent(
    experiment: Experiment, material: Material, *, home: Home, console: Console, device: str
) -> tuple[Entrant, ...] | None:
    """The champion so far, to be beaten on the same windows; empty where there is none.

    None where there is one that cannot be compared: nobody may take its place unseen.
    """
    try:
        champion = entrant(Registry(home), experiment.name, device=device)
        agrees(str(champion.version), champion.forecaster, material)
        _has_windows(champion, material)
    except NotFoundError:
        return ()
    except ArtifactError as error:  # nobody can be served by it
        console.print(f"Note: the champion so far cannot be loaded. {error}", highlight=False)
        return ()
    except ConfigError as error:
        console.print(f"Note: the champion so far is not scored. {error}", highlight=False)
        return None
    return (champion,)


def checkpoints(home: Home, run: Run) -> Path:
    """Where the checkpoints of a run are until it has finished."""
    return home.folder / "checkpoints" / run.id


def _kept(comparison: Comparison, *, run: Run, home: Home, crown: bool) -> Outcome:
    """The comparison in MLflow, its models registered, and the aliases where they belong."""
    experiment, scores = comparison.experiment, comparison.scores
    versions = publish(comparison, log_comparison(run, comparison, home=home), home=home)
    best = str(scores.leaderboard["model"][0])
    registry = Registry(home)
    registry.promote(str(versions[experiment.model.kind]), alias=CANDIDATE)
    if best in versions and crown:
        registry.promote(str(versions[best]), alias=CHAMPION)
    outcome = Outcome(comparison, run.id, versions, champion=best, crowned=crown)
    conclude(run, outcome)
    return outcome


def conclude(run: Run, outcome: Outcome) -> None:
    """The end of the story on the run's page: the leaderboard, and who is champion."""
    board, named = outcome.comparison.scores.leaderboard, dict(outcome.versions)
    old = {e.name: e.version for e in outcome.comparison.entrants if e.version is not None}
    text = verdict(outcome)
    run.note(f"{text}\n\n{board_text(board, versions={**old, **named})}")
    promoted = outcome.crowned and outcome.champion in outcome.versions
    run.tags({"verdict": "promoted" if promoted else "kept", "best": outcome.champion})


def show_material(experiment: Experiment, material: Material, *, console: Console) -> None:
    """What was read, and what is odd about it."""
    for warning in material.report.warnings[:NOTES_SHOWN]:
        console.print(f"Note: {warning}", highlight=False)
    for note in unread(experiment):
        console.print(f"Note: {note}", highlight=False, soft_wrap=True)
    console.print(
        f"{experiment.name}: {len(material.panel.ids)} series, {len(material.panel.table):,} rows, "
        f"context {experiment.window.context} -> horizon {experiment.window.horizon}"
    )


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


def show_training(outcome: Outcome, *, console: Console) -> None:
    """The leaderboard, who won, and where it is kept."""
    show_leaderboard(outcome.experiment, outcome.comparison.scores, console=console)
    console.print(verdict(outcome), soft_wrap=True)
    console.print(
        f"Registered as {outcome.experiment.name}: "
        + ", ".join(f"version {v.version} = {n}" for n, v in outcome.versions.items())
        + f". MLflow run {outcome.run_id}."
    )


def verdict(outcome: Outcome) -> str:
    """Who is champion, and whom it beats."""
    candidate, best = outcome.experiment.model.kind, outcome.champion
    metric = outcome.experiment.backtest.metric
    if not outcome.crowned:
        return (
            f"By {metric} {best} is the best of these. The champion so far could not be compared "
            "and stays; to replace it: tsformer promote "
            f"{outcome.versions[best]}. (Or give the experiment a 'name' of its own.)"
        )
    if best not in outcome.versions:
        return f"{best} stays the champion: by {metric} nothing new is better."
    if len(outcome.comparison.entrants) == 1:
        return f"{best} is the champion: nothing else was scored."
    if best == candidate:
        return f"{best} is the champion: by {metric} it beats all others."
    return f"{best} is the champion: by {metric} it beats {candidate}, the model of the experiment."


def _has_windows(champion: Entrant, material: Material) -> None:
    """All are scored on the windows that the longest context has."""
    context = max(champion.forecaster.recipe.context, material.recipe.context)
    if not len(material.scoring_windows("test", stride=1, context=context)):
        raise ConfigError(
            f"{champion.version} looks {context} steps back: the test part has no window that long."
        )
