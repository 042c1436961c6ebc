"""`tsformer tune`: a search in one MLflow run; its best is fitted again, scored and registered."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
from mlflow.entities import Run as Logged
from rich.console import Console

from pipelines.audit import Actor
from pipelines.campaign import Campaign, Effort
from pipelines.experiment import Experiment
from pipelines.experiment_file import written
from pipelines.home import Home
from pipelines.lessons import Lessons
from pipelines.local_ray import some_ray
from pipelines.material import Material
from pipelines.outputs import output_file
from pipelines.record import begin, tags_of
from pipelines.resumption import told_after, told_before
from pipelines.rivals import with_rivals
from pipelines.run import Run
from pipelines.search import Search
from pipelines.search_display import search_progress, show_importances, show_trials
from pipelines.search_figures import curves_figure, importance_figure, settings_figure
from pipelines.storage import Place
from pipelines.suggestions import importances
from pipelines.tracking import asking, bury, measured, ready, resumable, resume, track
from pipelines.train_command import (
    Outcome,
    Ticket,
    show_material,
    show_training,
    train_and_register,
)
from pipelines.trial_runs import BEST, TrialRuns
from pipelines.trials import COMPARED, Trial, best_of, tried
from pipelines.workers import Asked, Workers
from tsformer.errors import ConfigError, UnavailableError

KIND = "tuning"
TUNING_TAG = "tuning"  # of the run of the best: which search it is from
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Hunt:
    """A search about to begin: what is searched, where, and the words that go on with it, if any.

    Its MLflow runs get the `tags`; `who` moves the alias, by default whoever runs this.
    """

    experiment: Experiment
    search: Search
    material: Material
    home: Home
    console: Console
    command: str
    tags: Mapping[str, str] = field(default_factory=dict)
    who: Actor | None = None


def tune_command(
    file: Path, *, home: Home, effort: Effort, resumed: str | None, out: Path | None, asked: Asked
) -> None:
    """`tsformer tune`."""
    console = Console()
    experiment = asked.of(Experiment.read(file))
    experiment.workers.check(effort.device)
    search = searched(experiment, where=str(file))
    if out is not None:
        output_file(out, option="--out")
    ready(home, experiment.name)
    begun = resumable(home, resumed, kind=KIND) if resumed else None
    material = Material.of(experiment)
    if begun is not None:
        check_same(begun, experiment, material)
    command = f"tsformer tune {file} --resume"
    hunt = Hunt(experiment, search, material, home, console, command)
    tune(hunt, effort=effort, resumed=resumed, folder=file.parent, out=out)


def tune(
    hunt: Hunt, *, effort: Effort, resumed: str | None, folder: Path, out: Path | None
) -> Outcome | None:
    """The whole of it; paths in the artifact `best.yaml` are relative to `folder`.

    None where the best was trained already, before the search was interrupted.
    """
    experiment, home, console = hunt.experiment, hunt.home, hunt.console
    lessons = Lessons.of(hunt.material, experiment, hunt.search)
    show_material(experiment, hunt.material, console=console)
    note_processors(effort, experiment.workers, console)
    with opened(hunt, resumed=resumed) as run, measured(run, home):
        with remembered(hunt, run):
            trials = run_search(hunt, lessons, run=run, effort=effort)
            report(hunt, trials, run)
            tuned = best_experiment(experiment, trials, run=run)
            run.client.log_text(run.id, written(tuned, folder=folder), "best.yaml")
            before = trained_in(tuned, run)
        place = out or home.folder / "tuned" / f"{experiment.name}-{run.id}.yaml"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(written(tuned, folder=place.parent), encoding="utf-8")
        console.print(
            f"The best as an experiment: {place} (also best.yaml of MLflow run {run.id}).",
            highlight=False,
            soft_wrap=True,
        )
        if before is not None and before.info.status == "FINISHED":
            outcome, best_run = None, before.info.run_id
            told = f"It was trained already, in MLflow run {best_run}."
            console.print(told, highlight=False, soft_wrap=True)
        else:
            outcome = refit(hunt, tuned, run=run, file=place, before=before, device=effort.device)
            best_run = outcome.run_id
        with remembered(hunt, run):
            run.tags({"best_run": best_run})
        (Place.of(home) / run.id).clear()
    if outcome is not None:
        show_training(outcome, console=console)
    return outcome


@contextmanager
def remembered(hunt: Hunt, run: Run) -> Iterator[None]:
    """Where MLflow, a disk or Ray gives out, the error says how the search goes on."""
    try:
        with asking(hunt.home):
            yield
    except UnavailableError as error:
        kept = told_after("The trials so far are kept.", hunt.command, run.id)
        raise UnavailableError(f"{str(error).rstrip('.')}. {kept}") from error


def searched(experiment: Experiment, *, where: str) -> Search:
    """The search section; ConfigError where there is none."""
    if experiment.search is None:
        raise ConfigError(
            f"{where}: there is no 'search' section, so nothing to tune. Add one, such as\n"
            "search: {space: {training.learning_rate: {from: 1.0e-4, to: 1.0e-2, log: true}}}"
        )
    return experiment.search


def check_same(begun: Logged, experiment: Experiment, material: Material) -> None:
    """Only the same search on the same table can go on."""
    tags, run_id = begun.data.tags, begun.info.run_id
    if tags.get("experiment_digest") != experiment.digest:
        raise ConfigError(
            f"The search {run_id} was begun with other settings (its config.yaml is in MLflow). "
            "Tune without --resume."
        )
    if tags.get("data_fingerprint", material.fingerprint) != material.fingerprint:
        raise ConfigError(
            f"The table has changed since the search {run_id} was begun. Tune without --resume."
        )


def note_processors(effort: Effort, workers: Workers, console: Console) -> None:
    """Says when trials will wait for each other."""
    processors = os.cpu_count() or 1
    if effort.parallel * workers.count > processors:
        each = "" if workers.here else f" of {workers.count} workers"
        console.print(
            f"Note: --parallel {effort.parallel}{each} on {processors} processors: trials wait for "
            f"each other. More than {processors} processes at once are not faster.",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def opened(hunt: Hunt, *, resumed: str | None) -> Iterator[Run]:
    """The run of the search, a new one or that which was interrupted, and how to go on with it."""
    experiment = hunt.experiment
    if resumed is not None:
        context = resume(hunt.home, resumed)
    else:
        with asking(hunt.home):
            bury(hunt.home, experiment.name)
        context = track(
            hunt.home,
            experiment=experiment.name,
            name=f"tune {experiment.model.kind}",
            tags={**tags_of(experiment, kind=KIND), **hunt.tags},
        )
    with context as run:
        if resumed is None:
            with asking(hunt.home):
                begin(run, experiment, hunt.material)
        before = told_before(hunt.command, run.id)
        hunt.console.print(before, highlight=False, soft_wrap=True)
        yield run


def run_search(hunt: Hunt, lessons: Lessons, *, run: Run, effort: Effort) -> list[Trial]:
    """All trials, at their end."""
    workers, parallel = hunt.experiment.workers, effort.parallel
    processors = max(os.cpu_count() or 1, parallel * workers.count)
    copies = 1 if workers.here else 1 + parallel  # of the rows: each such trial gives them on
    with (
        TrialRuns(hunt.home, run, experiment=hunt.experiment.name) as runs,
        search_progress(hunt.console, epochs=hunt.experiment.training.epochs) as progress,
    ):
        tags = {
            "model": hunt.experiment.model.kind,
            "horizon": hunt.experiment.window.horizon,
            "data": hunt.experiment.data.name,
        }
        campaign = Campaign(
            hunt.experiment, hunt.search, runs, trials=effort.trials, tags=tags, report=progress
        )
        note_known(campaign, hunt.console)
        if campaign.over:
            return campaign.trials
        with some_ray(processors=processors, shared_bytes=copies * lessons.shared.bytes) as scratch:
            from pipelines.tuning import run_trials  # late: see there

            checkpoints = Place.of(hunt.home) / run.id
            run_trials(campaign, lessons, effort=effort, checkpoints=checkpoints, scratch=scratch)
    if campaign.exhausted:
        hunt.console.print("Every combination of the search space has been tried.")
    return campaign.trials


def note_known(campaign: Campaign, console: Console) -> None:
    """What is there of an earlier attempt."""
    if campaign.trials:
        ended, begun = len(campaign.settled), len(campaign.trials)
        console.print(
            f"Going on: {ended} trials have ended, {begun - ended} go on where they were, "
            f"{max(0, campaign.limit - begun)} are left.",
            highlight=False,
        )


def chosen(trials: Sequence[Trial]) -> Trial:
    """The best; ConfigError with what became of the trials where none came through."""
    best = best_of(trials)
    if best is None:
        reasons = [f"trial {t.number} {t.state}: {t.reason}" for t in trials[:3]]
        raise ConfigError(f"No trial came through. {' '.join(reasons)}")
    return best


def report(hunt: Hunt, trials: Sequence[Trial], run: Run) -> None:
    """Table and importances, on the terminal and in MLflow with the figures."""
    experiment, search, console = hunt.experiment, hunt.search, hunt.console
    name, best = f"{experiment.name}: {experiment.model.kind}", best_of(trials)
    show_trials(trials, title=f"{name}, {len(trials)} trials", console=console)
    shares = importances(search, trials)
    show_importances(shares, trials, console)
    run.table(table_of(trials), "search/trials.parquet")
    run.metrics({"trials": len(trials), **({} if best is None else {BEST: best.loss})})
    if best is None:
        return
    run.tags({"best_trial": best.number})
    if best.last:
        curves = curves_figure(trials, loss=experiment.training.loss, title=f"{name}, by epoch")
        run.figure(curves, "figures/trials.png")
    settings = settings_figure(trials, search, shares, title=f"{name}, by setting")
    run.figure(settings, "figures/settings.png")
    if shares is not None:
        told = sum(trial.state in COMPARED for trial in trials)
        run.figure(importance_figure(shares, trials=told), "figures/importance.png")


def table_of(trials: Sequence[Trial]) -> pl.DataFrame:
    """A row a trial, as it is kept in MLflow."""
    return pl.DataFrame(
        [
            {
                "trial": trial.number,
                "state": trial.state,
                "loss": trial.loss if trial.epochs else None,
                "epochs": trial.last if trial.epochs else None,
                "seconds": trial.seconds,
                "reason": trial.reason,
                "run_id": trial.run_id,
                **{name: str(value) for name, value in trial.parameters.items()},
            }
            for trial in trials
        ],
        infer_schema_length=None,
    )


def best_experiment(experiment: Experiment, trials: Sequence[Trial], *, run: Run) -> Experiment:
    """The experiment of the best trial, which says where it is from."""
    best = chosen(trials)
    return replace(
        tried(experiment, best.parameters),
        notes=f"Best of {len(trials)} trials by validation loss: {best.loss:.4g} (trial "
        f"{best.number} of the search {run.id} in MLflow).",
    )


def refit(
    hunt: Hunt, tuned: Experiment, *, run: Run, file: Path, before: Logged | None, device: str
) -> Outcome:
    """The best experiment trained as `tsformer train` does; one that was interrupted goes on."""
    resumed = before.info.run_id if before else None
    command = f"tsformer train {file} --resume" if hunt.command else ""
    ticket = Ticket(resumed, command, tags={**hunt.tags, TUNING_TAG: run.id}, who=hunt.who)
    return train_and_register(
        tuned, home=hunt.home, console=hunt.console, device=device, ticket=ticket
    )


def trained_in(tuned: Experiment, run: Run) -> Logged | None:
    """The run in which an earlier attempt of this search trained `tuned`, or began to, if any."""
    place = run.client.get_run(run.id).info.experiment_id
    query = (
        f"tags.{TUNING_TAG} = '{run.id}' and tags.experiment_digest = '{with_rivals(tuned).digest}'"
    )
    runs = run.client.search_runs([place], query)
    return next((r for r in runs if r.info.status == "FINISHED"), runs[0] if runs else None)


def effort_of(trials: int, parallel: int, time_budget: str | None, device: str) -> Effort:
    """The effort that the options of the command ask for."""
    seconds = None if time_budget is None else seconds_of(time_budget)
    return Effort(trials, parallel, seconds, device)


def seconds_of(text: str) -> float:
    """Seconds from `600`, `90s`, `10m` or `1.5h`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if match is None or float(match[1]) == 0:
        raise ConfigError(f"--time-budget must be like 600, 90s, 10m or 1.5h, got '{text}'.")
    return float(match[1]) * UNITS[match[2]]
