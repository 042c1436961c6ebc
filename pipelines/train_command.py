"""`tsformer train`: one MLflow run opened first, every model fitted, scored, kept and registered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import polars as pl
from mlflow.entities import Run as Logged
from rich.console import Console

from pipelines.agreement import unread
from pipelines.audit import Actor
from pipelines.backtest import Scores, backtest
from pipelines.commands import show_leaderboard
from pipelines.comparison import Comparison, Entrant
from pipelines.crashpoint import crashpoint
from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.material import Material
from pipelines.parent import PARENT_TAG
from pipelines.promotion import (
    GATE_TAG,
    Incumbent,
    Verdict,
    incumbent,
    judge,
    settle,
    settled_before,
)
from pipelines.record import begin, board_text, log_comparison, publish, tags_of
from pipelines.registry import Registry
from pipelines.resumption import told_after, told_before
from pipelines.rivals import rivals_note, with_rivals
from pipelines.run import Run
from pipelines.storage import Place
from pipelines.terminal import fit_progress
from pipelines.tracking import Span, asking, bury, measured, ready, resumable, resume, track
from pipelines.training import Fitted, Report, fit_all
from pipelines.versions import CANDIDATE, ModelVersion
from pipelines.warm_start import beginning, parent_of
from pipelines.workers import Asked
from tsformer.errors import ConfigError, ConflictError, UnavailableError
from tsformer.train import Progress

KIND = "comparison"
VERDICT_TAG = "verdict"  # the sentences; `gate` is the word to filter by
NOTES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Ticket:
    """Which MLflow run a training gets: the one to go on with, or a new one with `tags`.

    `command` is what goes on with it, but for its id, as a person is told before any work; empty
    for a client of the service (`pipelines.resumption`). `who` asked for it, as the audit of what
    it promotes says; by default the user of this process. Where it does not promote, what passes
    the gate is left to somebody who does.
    """

    resumed: str | None = None
    command: str = "tsformer train FILE --resume"
    tags: Mapping[str, str] = field(default_factory=dict)
    who: Actor | None = None
    promotes: bool = True


NEW = Ticket()


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that came of a training: the scores, the gate's verdict, and the versions by model.

    `told` is the verdict that counts, which may be that of an attempt before an interruption.
    """

    comparison: Comparison
    verdict: Verdict
    run_id: str
    versions: Mapping[str, ModelVersion]
    told: str

    @property
    def experiment(self) -> Experiment:
        """What was trained."""
        return self.comparison.experiment

    def kind(self, version: str) -> str:
        """The model behind a version number."""
        return next(n for n, v in self.versions.items() if v.version == version)


def train_command(
    experiment: Path, *, home: Home, device: str, resumed: str | None, asked: Asked
) -> None:
    """`tsformer train`."""
    console = Console(markup=False)
    outcome = train_and_register(
        asked.of(Experiment.read(experiment)),
        home=home,
        console=console,
        device=device,
        ticket=Ticket(resumed, f"tsformer train {experiment} --resume"),
    )
    show_training(outcome, console=console)


def train_and_register(
    experiment: Experiment,
    *,
    home: Home,
    console: Console,
    device: str = "auto",
    ticket: Ticket = NEW,
) -> Outcome:
    """Fits, compares and registers the models of an experiment, showing how it goes.

    Networks are fitted by all its workers together; the run that keeps it is that of the `ticket`.
    """
    experiment.workers.check(device)
    storage = Place.of(home)
    ready(home, experiment.name)
    begun = resumable(home, ticket.resumed, kind=KIND) if ticket.resumed else None
    asked, experiment = experiment, with_rivals(experiment)
    material = Material.of(experiment)
    if begun is not None:
        check_same(begun, experiment, material)
    recorded = begun.data.tags.get(PARENT_TAG, "") if begun else None
    parent = parent_of(experiment, material, registry=Registry(home), recorded=recorded)
    if parent is not None:
        ticket = replace(ticket, tags={**ticket.tags, PARENT_TAG: str(parent.version)})
    show_material(asked, material, console=console)
    if experiment.start is not None:
        console.print(beginning(experiment, parent), highlight=False, soft_wrap=True)
    with opened(experiment, material, home=home, ticket=ticket) as run:
        before = told_before(ticket.command, run.id)
        console.print(before, highlight=False, soft_wrap=True)
        fit = partial(
            fit_all, experiment, material, device=device,
            checkpoints=storage / run.id, parent=parent,
        )  # fmt: skip
        with measured(run, home):
            entrants = entered(fit, console=console)
            if parent is not None:
                entrants = (replace(entrants[0], parent=parent.version), *entrants[1:])
            known = rival(experiment, material, home=home, console=console, device=device)
            old = (known.entrant,) if known.entrant else ()
            comparison = compared(experiment, material, (*entrants, *old), console=console)
        note_unscored(material, comparison.scores, console=console)
        with console.status("Asking the gate; writing the MLflow run and the versions ..."):
            verdict = judge(comparison, known, promotes=ticket.promotes)
            with asking(home):
                outcome = kept(comparison, verdict, run=run, home=home, who=ticket.who)
    (storage / outcome.run_id).clear()
    return outcome


@contextmanager
def opened(
    experiment: Experiment, material: Material, *, home: Home, ticket: Ticket
) -> Iterator[Run]:
    """The run of a training: a new one, or that which was interrupted.

    Where MLflow is lost on the way, the error says how to go on.
    """
    run_id = ticket.resumed or ""
    if ticket.resumed is not None:
        run = resume(home, ticket.resumed)
    else:
        bury(home, experiment.name)
        tags = {**tags_of(experiment, kind=KIND), **ticket.tags}
        run = track(home, experiment=experiment.name, name=run_name(experiment), tags=tags)
    try:
        with run as begun:
            run_id = begun.id
            if ticket.resumed is None:
                with asking(home):
                    begin(begun, experiment, material)
            yield begun
    except (UnavailableError, ConflictError) as error:
        if not run_id:
            raise
        kept = told_after("What was fitted is kept.", ticket.command, run_id)
        raise type(error)(f"{str(error).rstrip('.')}. {kept}") from error


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


def entered(fit: Callable[..., Mapping[str, Fitted]], *, console: Console) -> tuple[Entrant, ...]:
    """The models that `fit` gives, the experiment's own first, with the time that each took."""
    with fit_progress(console) as progress:
        watch = Stopwatch(progress)
        fitted = fit(report=watch)
    return tuple(
        Entrant(name, entry.forecaster, entry.fit, watch.span(name, entry.fit.seconds))
        for name, entry in fitted.items()
    )


def rival(
    experiment: Experiment, material: Material, *, home: Home, console: Console, device: str
) -> Incumbent:
    """The champion so far, to be scored beside the new ones; it is said where that cannot be."""
    known = incumbent(experiment, material, registry=Registry(home), device=device)
    for note in filter(None, (known.note, known.obstacle)):
        console.print(f"Note: {note}", highlight=False, soft_wrap=True)
    return known


def compared(
    experiment: Experiment, material: Material, entrants: tuple[Entrant, ...], *, console: Console
) -> Comparison:
    """The entrants scored on the same windows; the leaderboard knows how long each fit took."""
    with console.status("Scoring every model on the same rolling origins ..."):
        scores = backtest({e.name: e.forecaster for e in entrants}, material, experiment.backtest)
    fits = {e.name: e.fit.seconds for e in entrants if e.fit is not None}
    seconds = pl.DataFrame({"model": [*fits], "fit_seconds": [*fits.values()]})
    board = scores.leaderboard.join(seconds, on="model", how="left", maintain_order="left")
    return Comparison(experiment, material, entrants, replace(scores, leaderboard=board))


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


def kept(
    comparison: Comparison, verdict: Verdict, *, run: Run, home: Home, who: Actor | None
) -> Outcome:
    """The comparison in MLflow, its models registered, and the aliases where they belong."""
    registry = Registry(home)
    versions = publish(comparison, log_comparison(run, comparison, home=home), home=home)
    registry.promote(
        str(versions[comparison.experiment.model.kind]),
        alias=CANDIDATE,
        who=who,
        reason="The model of the newest experiment.",
    )
    if settled_before(verdict, versions) is None:
        conclude(run, comparison, verdict, versions)
    settle(verdict, versions, registry=registry, who=who)
    crashpoint("settled")
    told = run.client.get_run(run.id).data.tags.get(VERDICT_TAG, "")
    return Outcome(comparison, verdict, run.id, versions, told)


def conclude(
    run: Run, comparison: Comparison, verdict: Verdict, versions: Mapping[str, ModelVersion]
) -> None:
    """The end of the story on the run's page: who is champion, the leaderboard, and why."""
    old = {e.name: e.version for e in comparison.entrants if e.version is not None}
    board = board_text(comparison.scores.leaderboard, versions={**old, **versions})
    told = verdict.told()
    head, _, reasons = told.partition("\n")
    run.note(f"{head}\n\n{board}\n\n{reasons}")
    word = f"promoted: {verdict.winner}" if verdict.champion else verdict.word(verdict.candidate)
    run.tags({GATE_TAG: word, VERDICT_TAG: told})


def show_material(experiment: Experiment, material: Material, *, console: Console) -> None:
    """What was read, and what is odd about it."""
    for warning in material.report.warnings[:NOTES_SHOWN]:
        console.print(f"Note: {warning}", highlight=False)
    for note in filter(None, (*unread(experiment), rivals_note(experiment))):
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
    """The leaderboard, who is champion and why, and where it is kept."""
    show_leaderboard(outcome.experiment, outcome.comparison.scores, console=console)
    console.print(outcome.told, highlight=False, soft_wrap=True)
    console.print(
        f"Registered as {outcome.experiment.name}: "
        + ", ".join(f"version {v.version} = {n}" for n, v in outcome.versions.items())
        + f". MLflow run {outcome.run_id}.",
        highlight=False,
        soft_wrap=True,
    )
