"""What is kept of a comparison: a parent run in MLflow, and a child run a model.

The children have plain metric names, so that MLflow's pages rank and draw the models side by side;
the parent has what belongs to all of them: settings, data, leaderboard, error by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from pipelines.backtest import Scores, measures, series_scores
from pipelines.charts import fan_charts
from pipelines.comparison import Comparison, Entrant
from pipelines.entries import PARENT
from pipelines.experiment import Experiment
from pipelines.figures import (
    calibration_figure,
    forecast_figure,
    horizon_error_figure,
    leaderboard_figure,
    training_curve_figure,
)
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.material import Material
from pipelines.parent import PARENT_TAG
from pipelines.published import data_card, table_card
from pipelines.registry import Registry
from pipelines.run import DataInput, Run
from pipelines.sections import Data
from pipelines.tracking import resume, track
from pipelines.versions import ModelVersion
from tsformer.train import Fit

BOARD_METRICS = ("mse_scaled", "mae_scaled", "mase", "rmsse", "wql", "coverage")
NOTE_METRICS = (*BOARD_METRICS, "fit_seconds")
CURVES = ("train_loss", "validation_loss", "learning_rate")  # of an epoch


def begin(run: Run, experiment: Experiment, material: Material) -> None:
    """What is known of a comparison before anything is fitted: settings, data, words to filter by."""
    run.config(experiment.resolved())
    run.data(data_input(experiment, material))


def tags_of(experiment: Experiment, *, kind: str) -> dict[str, object]:
    """The words by which a run of `experiment` is found in MLflow's list."""
    return {
        "kind": kind,
        "model": experiment.model.kind,
        "horizon": experiment.window.horizon,
        "context": experiment.window.context,
        "experiment_digest": experiment.digest,
    }


def data_input(experiment: Experiment, material: Material) -> DataInput:
    """The table of an experiment as MLflow lists it."""
    table = material.panel.table
    return DataInput(
        name=experiment.data.name,
        fingerprint=material.fingerprint,
        source=experiment.data.source,
        series=len(material.panel.ids),
        rows=len(table),
        columns={name: str(dtype) for name, dtype in table.schema.items()},
    )


def log_comparison(run: Run, comparison: Comparison, *, home: Home) -> dict[str, str]:
    """Writes the scores into `run` and a child run for each model; gives the children's ids.

    A child that was finished before an interruption is left as it is.
    """
    run.tags({"windows": comparison.windows})
    _log_tables(run, comparison.scores)
    _log_figures(run, comparison)
    known = children(run, comparison.experiment.name)
    return {
        entrant.name: _log_child(run, comparison, entrant, known=known, home=home)
        for entrant in comparison.entrants
    }


def children(run: Run, experiment: str) -> dict[str, tuple[str, str]]:
    """The child runs of a run: name to id and status."""
    found = run.client.get_experiment_by_name(experiment)
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run.id}'"
    infos = [child.info for child in run.client.search_runs([found.experiment_id], query)]
    return {info.run_name: (info.run_id, info.status) for info in infos}


def publish(
    comparison: Comparison, runs: Mapping[str, str], *, home: Home, description: str = ""
) -> dict[str, ModelVersion]:
    """A version of every model that was fitted, by name, each made by its own child run."""
    registry = Registry(home)
    versions: dict[str, ModelVersion] = {}
    data, profile = comparison.experiment.data, comparison.material.profile()
    table = {"table": table_card(data, comparison.material, home)}
    with TemporaryDirectory() as scratch:
        for entrant in comparison.entrants:
            if entrant.version is not None:
                continue
            entrant.forecaster.profile = profile
            folder = Path(scratch) / str(len(versions))
            versions[entrant.name] = registry.publish(
                comparison.experiment.name,
                folder,
                digest=entrant.forecaster.save(folder),
                run_id=runs[entrant.name],
                card=card_of(entrant.forecaster, comparison.scores, name=entrant.name, data=data)
                | table
                | ({PARENT: str(entrant.parent)} if entrant.parent else {}),
                description=description,
            )
    return versions


def card_of(forecaster: Forecaster, scores: Scores, *, name: str, data: Data) -> dict[str, Any]:
    """The card of a forecaster with its data and what it scored, as `name` in the leaderboard."""
    (row,) = scores.leaderboard.filter(pl.col("model") == name).to_dicts()
    metrics = {m: row[m] for m in BOARD_METRICS if row[m] is not None}
    return {**forecaster.card, "metrics": metrics, "data": data_card(data)}


def board_text(board: pl.DataFrame, *, versions: Mapping[str, object]) -> str:
    """The leaderboard in Markdown, with the version of each model."""
    shown = [name for name in NOTE_METRICS if name in board.columns]
    lines = [f"| model | version | {' | '.join(shown)} |", "|---|---|" + "---:|" * len(shown)]
    for row in board.iter_rows(named=True):
        numbers = " | ".join("" if row[name] is None else f"{row[name]:.4g}" for name in shown)
        lines.append(f"| {row['model']} | {versions.get(row['model'], '')} | {numbers} |")
    return "\n".join(lines)


def _log_child(
    run: Run,
    comparison: Comparison,
    entrant: Entrant,
    *,
    known: Mapping[str, tuple[str, str]],
    home: Home,
) -> str:
    child, status = known.get(entrant.name, ("", ""))
    if status == "FINISHED":
        return child
    experiment = comparison.experiment
    tags = {
        **tags_of(experiment, kind="model"),
        "model": entrant.forecaster.spec.kind,
        "context": entrant.forecaster.recipe.context,
        "windows": comparison.windows,
        **({PARENT_TAG: entrant.parent} if entrant.parent else {}),
    }
    opened = (
        resume(home, child)
        if child
        else track(
            home, experiment=experiment.name, name=entrant.name, tags=tags, parent=run,
            span=entrant.span,
        )
    )  # fmt: skip
    with opened as child_run:
        child_run.data(data_input(experiment, comparison.material))
        _log_model(child_run, comparison, entrant)
    return child_run.id


def _log_model(run: Run, comparison: Comparison, entrant: Entrant) -> None:
    """Settings, scores, curves, tables and figures of one model."""
    spec, scores, experiment = entrant.forecaster.spec, comparison.scores, comparison.experiment
    run.parameters({"kind": spec.kind, **spec.to_mapping()})
    if entrant.version is not None:
        run.tags({"version": entrant.version})
    windows, steps, levels, board = (
        table.filter(pl.col("model") == entrant.name)
        for table in (scores.windows, scores.steps, scores.levels, scores.leaderboard)
    )
    (row,) = board.drop("model").to_dicts()
    run.metrics({name: value for name, value in row.items() if value is not None})
    run.curve("mae_by_step", dict(steps.select("step", "mae").iter_rows()))
    columns = measures(experiment.backtest.coverage)
    run.table(series_scores(windows, columns), "scores/series.parquet")
    run.table(steps, "scores/steps.parquet")
    run.table(levels, "scores/calibration.parquet")
    charts = fan_charts(comparison.material, entrant.forecaster)
    title = f"{experiment.name}: {entrant.name}, the newest window of the test part"
    run.figure(forecast_figure(charts, title=title), "figures/forecast.png")
    if entrant.fit is not None:
        log_history(run, entrant.fit, loss=experiment.training.loss)


def log_history(run: Run, fit: Fit, *, loss: str) -> None:
    """The curves of a training, as metrics and as a figure; nothing for a fit without epochs."""
    if not fit.history:
        return
    for name in CURVES:
        run.curve(name, {epoch.epoch: getattr(epoch, name) for epoch in fit.history})
    run.curve("epoch_seconds", {epoch.epoch: epoch.seconds for epoch in fit.history})
    run.metrics({"best_epoch": fit.best_epoch})
    epochs = [{"epoch": e.epoch, **{n: getattr(e, n) for n in CURVES}} for e in fit.history]
    figure = training_curve_figure(epochs, best=fit.best_epoch, loss=loss)
    run.figure(figure, "figures/training.png")


def _log_tables(run: Run, scores: Scores) -> None:
    tables = {
        "leaderboard": scores.leaderboard,
        "windows": scores.windows,
        "steps": scores.steps,
        "calibration": scores.levels,
    }
    for name, table in tables.items():
        run.table(table, f"scores/{name}.parquet")


def _log_figures(run: Run, comparison: Comparison) -> None:
    """Leaderboard, error by horizon step and calibration, of all models in one figure each."""
    metric, scores = comparison.experiment.backtest.metric, comparison.scores
    board = scores.leaderboard.filter(pl.col(metric).is_not_null())
    if len(board):
        ranked = dict(board.select("model", metric).iter_rows())
        shown = metric.removesuffix("_scaled").upper()
        run.figure(leaderboard_figure(ranked, metric=shown), "figures/leaderboard.png")
    errors = {name: columns["mae"] for name, columns in _by_model(scores.steps, ["mae"])}
    run.figure(horizon_error_figure(errors, metric="MAE"), "figures/error_by_step.png")
    shares = {
        name: (columns["level"], columns["below"])
        for name, columns in _by_model(scores.levels, ["level", "below"])
    }
    run.figure(calibration_figure(shares), "figures/calibration.png")


def _by_model(table: pl.DataFrame, columns: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Columns of a table, model by model."""
    return [
        (str(name), {column: part[column].to_numpy() for column in columns})
        for (name,), part in table.group_by("model", maintain_order=True)
    ]
