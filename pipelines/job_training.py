"""The job `train`: an experiment on a stored dataset, trained as a schedule trains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipelines.attempt import Teller
from pipelines.audit import Actor
from pipelines.claims import Claim, Result
from pipelines.datasets import Datasets
from pipelines.experiment import Experiment
from pipelines.finetuned import MARK
from pipelines.home import Home
from pipelines.jobs import Jobs
from pipelines.orders import UNPROMOTED, experiment_of
from pipelines.registry import Registry
from pipelines.retrain import Input, earlier_attempt, ended, has_settings, trained
from pipelines.versions import CANDIDATE
from tsformer.errors import TsformerError


def train(claim: Claim, teller: Teller, *, home: Home) -> Result:
    """The work of one attempt; one that was interrupted goes on where it was."""
    try:
        return _trained(claim, teller, home=home)
    except TsformerError as error:  # a client must not learn where the service keeps its files
        raise type(error)(str(error).replace(str(home.folder), "")) from error


def _trained(claim: Claim, teller: Teller, *, home: Home) -> Result:
    run, jobs = claim.run, Jobs.of(home, teller.ledger.store)
    spec, job = jobs.asked(run.id)
    experiment = ordered(spec, Datasets(home, teller.ledger.store, job.tenant))
    found, last = Input.of(experiment), teller.ledger.last_success(run)
    if run.schedule is not None and last is not None and last.input_sha256 == found.digest:
        story = f"Nothing new since run {last.id}: the table is the same."
        return found.result(None, story, teller)
    earlier = earlier_attempt(run, experiment, home)
    over = earlier is not None and earlier.info.status == "FINISHED"
    if earlier is not None and over and has_settings(earlier, found):
        result = ended(earlier, found, teller=teller, home=home)
    else:
        result = trained(
            run, found, earlier, teller=teller, home=home, owner=job.owner,
            promotes=not spec.get(UNPROMOTED),
        )  # fmt: skip
    if MARK in spec:
        result = _named(result, experiment.name, home=home, who=job.owner)
    jobs.keep(run.id, json.dumps(told_of(result, home)).encode())
    return result


def _named(result: Result, name: str, *, home: Home, who: str) -> Result:
    """The result with the version that was fine-tuned, which its name means from now on.

    Who asked for it wants that model, also where a baseline was better: the verdict says so.
    """
    version = Registry(home).promote(
        f"{name}@{CANDIDATE}",
        who=Actor(f"key {who}") if who else None,
        reason="It was fine-tuned under this name.",
        override=True,
    )
    return replace(result, version=str(version))


def ordered(spec: Mapping[str, Any], datasets: Datasets) -> Experiment:
    """The experiment that a client ordered, on the stored table."""
    dataset = datasets.one(str(spec["dataset"]))
    return experiment_of(spec, dataset, datasets.training_file(dataset))


def told_of(result: Result, home: Home) -> dict[str, Any]:
    """What came of a training, as the client gets it."""
    if result.version is None:
        return {"model": None, "metrics": {}, "verdict": result.outcome}
    version = Registry(home).describe(result.version)
    model = {
        "name": version.name,
        "version": version.version,
        "alias": next(iter(version.aliases), None),
        "run_id": version.run_id,
    }
    metrics = dict(version.card.get("metrics", {}))
    return {"model": model, "metrics": metrics, "verdict": result.outcome}
