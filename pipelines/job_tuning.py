"""The job `tune`: a search on a stored dataset, whose best is trained as a schedule trains."""

from __future__ import annotations

import json
import sys
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from mlflow.entities import Run as Logged
from rich.console import Console

from pipelines.attempt import Teller
from pipelines.audit import Actor
from pipelines.campaign import Effort
from pipelines.claims import Claim, Result
from pipelines.datasets import Datasets
from pipelines.experiment import Experiment
from pipelines.home import Home
from pipelines.job_training import ordered, told_of
from pipelines.jobs import Jobs
from pipelines.material import Material
from pipelines.owner import Owner
from pipelines.retrain import RUN_TAG, WIDTH, Input, end, ended
from pipelines.telling import Telling
from pipelines.tracking import PROCESS_TAG, asking, connect, ready
from pipelines.tune_command import KIND, Hunt, searched
from pipelines.tune_command import tune as search
from tsformer.errors import TsformerError

TABLE = "search/trials.parquet"
OWN = ("trial", "state", "loss", "epochs", "seconds", "reason")  # columns that are no setting


def tune(claim: Claim, teller: Teller, *, home: Home) -> Result:
    """The work of one attempt; a search that was interrupted goes on where it was."""
    try:
        return _tuned(claim, teller, home=home)
    except TsformerError as error:  # a client must not learn where the service keeps its files
        raise type(error)(str(error).replace(str(home.folder), "")) from error


def _tuned(claim: Claim, teller: Teller, *, home: Home) -> Result:
    run, jobs = claim.run, Jobs.of(home, teller.ledger.store)
    spec, job = jobs.asked(run.id)
    experiment = ordered(spec, Datasets(home, teller.ledger.store, job.tenant))
    ready(home, experiment.name)
    earlier = _search_of(run.id, experiment, home)
    if earlier is None or earlier.info.status != "FINISHED":
        if earlier is not None:
            end(Owner.parse(earlier.data.tags.get(PROCESS_TAG, "")), run)
        hunt = Hunt(
            experiment,
            searched(experiment, where="the job"),
            Material.of(experiment),
            home,
            Console(file=Telling(teller, sys.stdout), width=WIDTH, markup=False),
            command="",
            tags={RUN_TAG: run.id},
            who=Actor.promoting(experiment.name, f"job {run.id}"),
        )
        effort = Effort(spec["trials"], parallel=1, seconds=spec["max_seconds"])
        resumed = None if earlier is None else earlier.info.run_id
        search(hunt, effort=effort, resumed=resumed, folder=home.folder, out=None)
    found = _search_of(run.id, experiment, home)
    assert found is not None
    with asking(home):
        best = connect(home).get_run(found.data.tags["best_run"])
    result = ended(best, Input.of(experiment), teller=teller, home=home)
    trials = _trials(found, home)
    chosen = next(t for t in trials if str(t["trial"]) == found.data.tags["best_trial"])
    told = {"trials": trials, "best": chosen, **told_of(result, home)}
    jobs.keep(run.id, json.dumps(told).encode())
    return result


def _search_of(run_id: str, experiment: Experiment, home: Home) -> Logged | None:
    """The MLflow run of the search that this job has begun, if it has."""
    with asking(home):
        client = connect(home)
        place = client.get_experiment_by_name(experiment.name)
        if place is None:
            return None
        query = f"tags.{RUN_TAG} = '{run_id}' and tags.kind = '{KIND}'"
        return next(iter(client.search_runs([place.experiment_id], query, max_results=1)), None)


def _trials(found: Logged, home: Home) -> list[dict[str, Any]]:
    """A row a trial, its settings apart."""
    with asking(home), TemporaryDirectory() as scratch:
        file = connect(home).download_artifacts(found.info.run_id, TABLE, scratch)
        rows = pl.read_parquet(file).drop("run_id").to_dicts()
    return [
        {name: row[name] for name in OWN}
        | {"parameters": {name: row[name] for name in row if name not in OWN}}
        for row in rows
    ]
