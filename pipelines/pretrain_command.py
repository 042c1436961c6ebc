"""`tsformer pretrain`: an encoder made from the contexts alone, kept and registered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.material import Material
from pipelines.pretraining import (
    card_of,
    encoder_name,
    kept,
    masked_training,
    masking_of,
    pretrain_encoder,
    pretrainable,
    scores,
    sentence,
)
from pipelines.record import begin, log_history, tags_of
from pipelines.registry import Registry
from pipelines.run import Run
from pipelines.storage import Place
from pipelines.terminal import fit_progress
from pipelines.tracking import asking, bury, measured, ready, resumable, resume, track
from pipelines.train_command import check_same
from pipelines.versions import CANDIDATE, ENCODER, ModelVersion
from tsformer.errors import ConflictError, UnavailableError
from tsformer.pretrain import Pretrained

KIND = "pretraining"
NOTES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a pretraining."""

    found: Pretrained
    version: ModelVersion
    run_id: str


def pretrain_command(experiment: Path, *, home: Home, device: str, resumed: str | None) -> None:
    """`tsformer pretrain`."""
    console = Console(markup=False)
    outcome = pretrain_and_register(
        Experiment.read(experiment),
        home=home,
        console=console,
        device=device,
        resumed=resumed,
        command=f"tsformer pretrain {experiment} --resume",
    )
    told = f"{outcome.version.description} Registered as {outcome.version}. MLflow run {outcome.run_id}."
    console.print(told, highlight=False, soft_wrap=True)
    console.print(
        f"Train from it by a line in an experiment: from: models:/{outcome.version.name}@{CANDIDATE}",
        highlight=False,
        soft_wrap=True,
    )


def pretrain_and_register(
    experiment: Experiment,
    *,
    home: Home,
    console: Console,
    device: str = "auto",
    resumed: str | None = None,
    command: str = "tsformer pretrain FILE --resume",
) -> Outcome:
    """Makes the encoder of an experiment and registers it under a name of its own.

    `resumed` is the run to go on with; `command` is what goes on with one, told before any work.
    """
    pretrainable(experiment)
    ready(home, experiment.name)
    begun = resumable(home, resumed, kind=KIND) if resumed else None
    material = Material.of(experiment)
    if begun is not None:
        check_same(begun, experiment, material)
    show_material(experiment, material, console=console)
    if not experiment.workers.here:
        console.print("Note: 'workers' is for train and tune; this process pretrains by itself.")
    with _opened(experiment, material, home=home, resumed=resumed, command=command) as run:
        console.print(
            f"MLflow run {run.id}. If it is interrupted: {command} {run.id}",
            highlight=False,
            soft_wrap=True,
        )
        place = Place.of(home) / run.id
        with measured(run, home), fit_progress(console) as progress:
            progress(ENCODER, None)
            found = pretrain_encoder(
                experiment,
                material,
                device=device,
                checkpoint=place / ENCODER,
                report=lambda told: progress(ENCODER, told),
            )
        with console.status("Writing the MLflow run and the version ..."), asking(home):
            log_pretraining(run, experiment, found)
            version = publish(experiment, material, found, run=run, home=home)
    place.clear()
    return Outcome(found, version, run.id)


@contextmanager
def _opened(
    experiment: Experiment, material: Material, *, home: Home, resumed: str | None, command: str
) -> Iterator[Run]:
    """The run of a pretraining: a new one, or that which was interrupted."""
    if resumed is not None:
        run = resume(home, resumed)
    else:
        with asking(home):
            bury(home, experiment.name)
        tags = {
            **tags_of(experiment, kind=KIND),
            "masking": masking_of(experiment).masking,
        }
        name = f"pretrain {experiment.model.kind}"
        run = track(home, experiment=experiment.name, name=name, tags=tags)
    with run as begun:
        try:
            if resumed is None:
                with asking(home):
                    begin(begun, experiment, material)
            yield begun
        except (UnavailableError, ConflictError) as error:
            left = f"What was learnt is kept. Go on with: {command} {begun.id}"
            raise type(error)(f"{str(error).rstrip('.')}. {left}") from error


def log_pretraining(run: Run, experiment: Experiment, found: Pretrained) -> None:
    """Curve, errors and the sentence of a pretraining on the page of its run."""
    log_history(run, found.fit, loss=masked_training(experiment.training).loss)
    run.metrics({**scores(found), "fit_seconds": found.fit.seconds})
    run.tags({"left_plateau": str(found.left_plateau).lower()})
    run.note(sentence(experiment, found))


def publish(
    experiment: Experiment, material: Material, found: Pretrained, *, run: Run, home: Home
) -> ModelVersion:
    """The encoder as a version, to which the alias `candidate` of its name moves."""
    registry = Registry(home)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / ENCODER
        version = registry.publish(
            encoder_name(experiment),
            folder,
            digest=kept(found, material).save(folder),
            run_id=run.id,
            card=card_of(experiment, material, found, home),
            description=sentence(experiment, found),
        )
    return registry.promote(str(version), alias=CANDIDATE, reason="The newest encoder.")


def show_material(experiment: Experiment, material: Material, *, console: Console) -> None:
    """What was read, what is odd about it, and what is hidden of it."""
    for warning in material.report.warnings[:NOTES_SHOWN]:
        console.print(f"Note: {warning}", highlight=False)
    console.print(
        f"{encoder_name(experiment)}: {len(material.panel.ids)} series, "
        f"{len(material.panel.table):,} rows, context {experiment.window.context}, "
        f"{masking_of(experiment).hides}",
        highlight=False,
    )
