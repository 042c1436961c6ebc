"""The trials of a search as MLflow keeps them: child runs of one parent.

They are the only memory of a search: one that was killed is read from here and goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any

from mlflow.entities import Run as Logged
from mlflow.entities import ViewType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipelines.home import Home
from pipelines.run import Run
from pipelines.search import Parameters
from pipelines.tracking import experiment_id, resume, track
from pipelines.trials import COMPARED, Epoch, State, Trial
from tsformer.errors import TsformerError

KIND = "trial"
LOSS, TRAIN_LOSS, SECONDS = "validation_loss", "train_loss", "seconds"  # curves, over the epochs
BEST = "best_validation_loss"


class TrialError(TsformerError):
    """Says in MLflow why a trial has no result."""


class TrialRuns:
    """Writes trials as they go; at its own end those that still run are ended with its reason."""

    def __init__(self, home: Home, parent: Run, *, experiment: str) -> None:
        self.home = home
        self.parent = parent
        self.experiment = experiment
        self._open: dict[int, tuple[AbstractContextManager[Run], Run]] = {}

    def __enter__(self) -> TrialRuns:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for context, _ in self._open.values():
            context.__exit__(kind, error, trace)

    def known(self) -> list[Trial]:
        """All trials of the search so far, in their order."""
        client = self.parent.client
        place = experiment_id(client, self.experiment, self.home)
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{self.parent.id}' and tags.kind = '{KIND}'"
        found, token = [], None
        while True:
            page = client.search_runs([place], query, ViewType.ACTIVE_ONLY, 1_000, None, token)
            found += [self._trial(logged) for logged in page]
            token = page.token
            if not token:
                return sorted(found, key=lambda trial: trial.number)

    def begin(self, number: int, parameters: Parameters, *, tags: Mapping[str, object]) -> Trial:
        """A new trial, in MLflow before anything of it is computed."""
        about = {
            "kind": KIND,
            "trial": number,
            "state": "running",
            "parameters": json.dumps(parameters),
            **tags,
        }
        context = track(
            self.home,
            experiment=self.experiment,
            name=f"trial {number}",
            tags=about,
            parent=self.parent,
        )
        run = context.__enter__()
        self._open[number] = context, run
        run.parameters(parameters)
        return Trial(number, parameters, run.id)

    def again(self, trial: Trial) -> Trial:
        """A trial that was interrupted, open again; its epochs are told anew by its checkpoint."""
        context = resume(self.home, trial.run_id)
        run = context.__enter__()
        self._open[trial.number] = context, run
        run.tags({"state": "running"})
        if trial.reason:
            run.client.delete_tag(run.id, "reason")
        return replace(trial, state="running", reason="")

    def add(self, trial: Trial, row: Epoch) -> Trial:
        """The trial with one more epoch, once however often it is told."""
        if row.epoch <= trial.last:
            return trial
        _, run = self._open[trial.number]
        told = {LOSS: row.loss, TRAIN_LOSS: row.train_loss, SECONDS: row.seconds}
        run.metrics({k: v for k, v in told.items() if v is not None}, step=row.epoch)
        return trial.after(row)

    def end(self, trial: Trial, state: State, reason: str = "") -> Trial:
        """The trial at its end."""
        context, run = self._open.pop(trial.number)
        if trial.epochs:
            run.metrics({BEST: trial.loss})
        run.tags({"state": state, **({"reason": reason} if reason else {})})
        if state in COMPARED:
            context.__exit__(None, None, None)
        else:
            error = TrialError(f"{state}: {reason}")
            context.__exit__(type(error), error, None)
        return trial.ended(state, reason)

    def _trial(self, logged: Logged) -> Trial:
        tags, id_ = logged.data.tags, logged.info.run_id
        curves = {name: self._curve(id_, name) for name in (LOSS, TRAIN_LOSS, SECONDS)}
        epochs = tuple(
            Epoch(epoch, loss, curves[TRAIN_LOSS].get(epoch), curves[SECONDS].get(epoch, 0.0))
            for epoch, loss in sorted(curves[LOSS].items())
        )
        parameters = {k: _hashable(v) for k, v in json.loads(tags["parameters"]).items()}
        return Trial(
            int(tags["trial"]), parameters, id_, tags["state"], tags.get("reason", ""), epochs
        )

    def _curve(self, run_id: str, name: str) -> dict[int, float]:
        return {m.step: m.value for m in self.parent.client.get_metric_history(run_id, name)}


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
