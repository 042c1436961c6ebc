"""The one job: read, leave if nothing is new, fit, backtest, publish, ask the gate, promote.

The work is that of `tsformer train`. What is added here is what an unattended run needs: it knows
what the last one read, it refuses a table whose columns changed, and a second attempt goes on with
the MLflow run of the first, so that a run has one version of each model however often it dies.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass

import psutil
from mlflow.entities import Run as Logged
from rich.console import Console

from pipelines.attempt import Teller
from pipelines.audit import Actor
from pipelines.claims import Claim, Result
from pipelines.data_section import schema_of
from pipelines.experiment import Experiment
from pipelines.home import Home, reach
from pipelines.ledger_rows import Run
from pipelines.owner import Owner
from pipelines.promotion import GATE_TAG
from pipelines.record import children
from pipelines.registry import Registry
from pipelines.rivals import with_rivals
from pipelines.run import Run as Tracked
from pipelines.sources import glance
from pipelines.telling import Telling
from pipelines.tracking import PROCESS_TAG, asking, connect
from pipelines.train_command import VERDICT_TAG, Ticket, train_and_register
from tsformer.errors import DataError

RETRAIN = "retrain"  # the kind of a run whose experiment is a file; the others are clients' jobs
RUN_TAG = "ledger_run"  # of an MLflow run: the row of the ledger that it was made for
PROMOTED = "promoted: "  # of the gate's tag, before the name of the model
WIDTH = 120
END_S = 10.0


@dataclass(frozen=True, slots=True)
class Input:
    """What there is to learn from: settings and table, and the columns that are read."""

    experiment: Experiment
    fingerprint: str
    columns: tuple[str, ...]

    @staticmethod
    def of(experiment: Experiment) -> Input:
        """Looks at the source."""
        data = experiment.data
        columns, fingerprint = glance(data.source or data.name, id=data.id)
        schema = schema_of(data, columns)
        used = {schema.time, *schema.targets, *schema.covariates, *schema.static}
        return Input(experiment, fingerprint, tuple(sorted({*used, *filter(None, [schema.id])})))

    @property
    def digest(self) -> str:
        """SHA-256 of the settings and of the table: equal digests would give equal models."""
        return hashlib.sha256(f"{self.experiment.digest}:{self.fingerprint}".encode()).hexdigest()

    def result(self, version: str | None, story: str, teller: Teller) -> Result:
        """A run that ends well: its story is told, and the first line of it kept."""
        teller.log(story)
        headline = story.partition("\n")[0]
        return Result(self.digest, json.dumps(self.columns), version, headline)


def retrain(claim: Claim, teller: Teller, *, home: Home) -> Result:
    """The work of one attempt. Whatever is wrong is a TsformerError, and one sentence."""
    run, last = claim.run, teller.ledger.last_success(claim.run)
    found = Input.of(Experiment.read(run.experiment))
    if last is not None:
        check_columns(found, last)
        if last.input_sha256 == found.digest:
            story = f"Nothing new since run {last.id}: the table is the same."
            return found.result(None, story, teller)
    earlier = earlier_attempt(run, found.experiment, home)
    if earlier is not None and earlier.info.status == "FINISHED" and has_settings(earlier, found):
        return ended(earlier, found, teller=teller, home=home)
    return trained(run, found, earlier, teller=teller, home=home)


def check_columns(found: Input, last: Run) -> None:
    """Refuses columns that came or went where none are named, and each would be a series."""
    before = json.loads(last.input_columns or "[]")
    gone, new = {*before} - {*found.columns}, {*found.columns} - {*before}
    if not before or found.experiment.data.targets or not gone | new:
        return
    told = [f"{word} {', '.join(sorted(names))}" for word, names in (("without", gone), ("with", new)) if names]  # fmt: skip
    raise DataError(
        f"The table has other columns than in run {last.id}: {'; '.join(told)}. Each is a series "
        "of its own. If that is right, name those to forecast in the experiment: data.targets."
    )


def trained(
    run: Run, found: Input, earlier: Logged | None, *, teller: Teller, home: Home, owner: str = "",
    promotes: bool = True,
) -> Result:  # fmt: skip
    """Fits, compares, publishes, judges; goes on with an `earlier` attempt of the same work.

    `owner` is the key of who asked for it, by which the audit names him. What passes the gate is
    champion then, unless it `promotes` nothing.
    """
    same = earlier is not None and is_same(earlier, found)
    asker = run.subject if run.schedule is None else f"schedule {run.schedule}"
    asker = f"{asker} of key {owner}" if owner else asker
    outcome = train_and_register(
        found.experiment,
        home=home,
        console=Console(file=Telling(teller, sys.stdout), width=WIDTH, markup=False),
        ticket=Ticket(
            resumed=earlier.info.run_id if earlier is not None and same else None,
            command=f"tsformer train {run.experiment} --resume" if run.kind == RETRAIN else "",
            tags={RUN_TAG: run.id},
            who=Actor.promoting(found.experiment.name, f"{asker}, run {run.id}"),
            promotes=promotes,
        ),
    )
    with asking(home):
        logged = connect(home).get_run(outcome.run_id)
    return ended(logged, found, teller=teller, home=home)


def ended(logged: Logged, found: Input, *, teller: Teller, home: Home) -> Result:
    """What came of a training that has ended, now or when an earlier process died."""
    tags = logged.data.tags
    name, gate = found.experiment.name, tags.get(GATE_TAG, "")
    kind = gate.removeprefix(PROMOTED) if gate.startswith(PROMOTED) else found.experiment.model.kind
    with asking(home):
        child, _ = children(Tracked(connect(home), logged.info.run_id), name)[kind]
    version = next((v for v in Registry(home).versions(name) if v.run_id == child), None)
    read = Input(found.experiment, tags["data_fingerprint"], found.columns)
    named = None if version is None else str(version)
    return read.result(named, tags.get(VERDICT_TAG, ""), teller)


def earlier_attempt(run: Run, experiment: Experiment, home: Home) -> Logged | None:
    """The MLflow run that an earlier attempt has left; its process works on it no more."""
    if run.attempt == 1:
        return None
    with asking(home):
        reach(home)
        client = connect(home)
        known = client.get_experiment_by_name(experiment.name)
        if known is None:
            return None
        query = f"tags.{RUN_TAG} = '{run.id}'"
        newest = client.search_runs([known.experiment_id], query, max_results=1)
    if not newest:
        return None
    end(Owner.parse(newest[0].data.tags.get(PROCESS_TAG, "")), run)
    return newest[0]


def end(owner: Owner | None, run: Run) -> None:
    """Kills the process of an attempt that hung, and has lost the run; nobody else's."""
    if owner is None or not owner.alive:
        return
    try:
        process = psutil.Process(owner.pid)
        if run.id in process.cmdline():
            process.kill()
            process.wait(END_S)
    except psutil.Error:
        return


def has_settings(earlier: Logged, found: Input) -> bool:
    """Whether the settings are what they were: with others it is another training."""
    return earlier.data.tags.get("experiment_digest") == with_rivals(found.experiment).digest


def is_same(earlier: Logged, found: Input) -> bool:
    """Whether settings and table are what they were: only then it can go on."""
    same_table = earlier.data.tags.get("data_fingerprint") == found.fingerprint
    return same_table and has_settings(earlier, found)
