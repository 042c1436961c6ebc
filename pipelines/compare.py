"""`tsformer compare`: the newest comparisons of some names, as MLflow keeps them, in one table.

Scores of other windows, or of other data, are not ranked against each other: they are shown one
below the other, and it is said why.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl
from mlflow import MlflowClient
from mlflow.entities import Run as Logged
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from rich.console import Console

from pipelines.home import Home, reach
from pipelines.registry import Registry
from pipelines.terminal import COLUMNS, leaderboard_table
from pipelines.tracking import asking, connect
from pipelines.train_command import KIND, VERDICT_TAG
from pipelines.versions import ModelVersion, checked_name
from tsformer.errors import NotFoundError

CHILDREN = 1_000  # of a comparison; there are as many as models


@dataclass(frozen=True, slots=True)
class Kept:
    """A comparison as MLflow keeps it; `board` is its leaderboard with the version of each model."""

    name: str
    run_id: str
    metric: str
    coverage: float
    verdict: str
    scored: tuple[str, str]  # fingerprints of the data and of what was scored
    board: pl.DataFrame


def compare_command(names: Sequence[str], *, home: Home) -> None:
    """`tsformer compare`."""
    console = Console(markup=False)
    found = [newest(checked_name(name), home=home) for name in dict.fromkeys(names)]
    together = len({kept.scored for kept in found}) == 1
    for group in [found] if together else [[kept] for kept in found]:
        show(group, console=console, whole=len(found) == 1)
    if not together:
        console.print(apart(found), highlight=False, soft_wrap=True)


def newest(name: str, *, home: Home) -> Kept:
    """The newest finished comparison of `name`. Raises NotFoundError with what there is instead."""
    with asking(home):
        reach(home)
        client = connect(home)
        experiment = client.get_experiment_by_name(name)
        query = f"tags.kind = '{KIND}' and attributes.status = 'FINISHED'"
        runs = (
            client.search_runs(
                [experiment.experiment_id], query, max_results=1, order_by=["start_time DESC"]
            )
            if experiment
            else []
        )
        if not runs:
            raise NotFoundError(_nothing(client, name))
        return _kept(client, name, runs[0], versions=_versions(name, home=home))


def show(group: Sequence[Kept], *, console: Console, whole: bool) -> None:
    """Comparisons on the same windows as one leaderboard, and the gate's verdict, or its head."""
    first, several = group[0], len(group) > 1
    boards = [
        kept.board.with_columns(pl.format("{} {}", pl.lit(kept.name), "model").alias("model"))
        if several
        else kept.board
        for kept in group
    ]
    board = pl.concat(boards, how="diagonal").sort(first.metric, nulls_last=True)
    title = f"{', '.join(kept.name for kept in group)}: the newest comparison, by {first.metric}"
    console.print(leaderboard_table(board, title=title, nominal=first.coverage))
    for kept in group:
        verdict = kept.verdict if whole else kept.verdict.partition("\n")[0]
        told = f"{kept.name}, MLflow run {kept.run_id}: {verdict}"
        console.print(told, highlight=False, soft_wrap=True)


def apart(found: Sequence[Kept]) -> str:
    """Why comparisons are not ranked against each other."""
    one = found[0]
    other = next(kept for kept in found if kept.scored != one.scored)
    what = "other data" if other.scored[0] != one.scored[0] else "other windows"
    return (
        f"{other.name} was scored on {what} than {one.name}, so their numbers are not ranked "
        "against each other. To rank versions on the same windows: tsformer backtest FILE "
        f"--model {one.name} --model {other.name}"
    )


def _kept(
    client: MlflowClient, name: str, run: Logged, *, versions: Iterable[ModelVersion]
) -> Kept:
    tags, settings = run.data.tags, run.data.params
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run.info.run_id}'"
    children = client.search_runs([run.info.experiment_id], query, max_results=CHILDREN)
    by_run = {version.run_id: version for version in versions}
    by_name = {str(version): version for version in by_run.values()}
    metric = settings["backtest.metric"]
    numbers = dict.fromkeys((*COLUMNS, metric), pl.Float64)
    rows = [
        {
            "model": child.info.run_name,
            "version": _called(
                by_run.get(child.info.run_id) or by_name.get(child.data.tags.get("version", ""))
            ),
            **{name: child.data.metrics.get(name) for name in numbers},
        }
        for child in children
    ]
    board = pl.DataFrame(rows, schema={"model": pl.String, "version": pl.String, **numbers})
    return Kept(
        name=name,
        run_id=run.info.run_id,
        metric=metric,
        coverage=float(settings["backtest.coverage"]),
        verdict=tags.get(VERDICT_TAG, ""),
        scored=(tags.get("data_fingerprint", ""), tags.get("windows", "")),
        board=board.with_columns(pl.col("fallbacks").cast(pl.Int64)),
    )


def _versions(name: str, *, home: Home) -> tuple[ModelVersion, ...]:
    try:
        return Registry(home).versions(name)
    except NotFoundError:  # all were removed; the scores are still worth a look
        return ()


def _called(version: ModelVersion | None) -> str:
    """A version with its aliases, or nothing for one that is no more."""
    return (
        "" if version is None else " ".join([version.version, *(f"@{a}" for a in version.aliases)])
    )


def _nothing(client: MlflowClient, name: str) -> str:
    known = [e.name for e in client.search_experiments() if e.name != "Default"]
    there = f" There are {', '.join(sorted(known)[:10])}." if known else ""
    return f"There is no comparison of '{name}' yet: tsformer train FILE makes one.{there}"
