"""The job `backtest`: models forecast the same series from several cutoffs, and who was right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import orjson

from pipelines.attempt import Teller
from pipelines.covariates import Inputs
from pipelines.datasets import Datasets
from pipelines.diebold_mariano import diebold_mariano, lag_for
from pipelines.home import Home
from pipelines.jobs import Job
from pipelines.panel import Panel
from pipelines.versions import FALLBACK
from serving import tables
from serving.dataset_bodies import defaults_of
from serving.inquiry import Inquiry
from serving.members import warning_members
from serving.models import inputs_of, registered
from serving.problems import Item, Problem
from serving.rolling import Cuts, Rolled, roll
from serving.schemas.jobs import BacktestSpec
from serving.schemas.series import CompareOptions, Series
from serving.schemas.tables import Columns
from serving.scoring import METRICS, Floats, ranked, row_of, scales_of, scored_of, skill, value_of
from serving.service import Service
from tsformer.metrics import Scored

OPTIONS = CompareOptions(on_invalid="skip", fill="mask")
SURE = 0.975  # of both tails of an interval of 95 %


@dataclass(frozen=True, slots=True)
class Ground:
    """The series that are long enough, and where the forecasts of each fold begin.

    `actuals` `[fold, step, series]`; `scales` are the in-sample errors before the first fold.
    """

    panel: Panel
    starts: tuple[np.ndarray[Any, np.dtype[np.int64]], ...]
    actuals: Floats
    scales: tuple[Floats, Floats]


async def backtest(
    service: Service, spec: Mapping[str, Any], *, home: Home, job: Job, teller: Teller
) -> bytes:
    """The leaderboard of all folds, the leaderboard of each, and the series that failed."""
    asked = BacktestSpec.model_validate(spec)
    names = list(dict.fromkeys([*asked.models, FALLBACK]))
    models = [await registered(service, name, pointer="/spec/models") for name in names]
    store = service.library.shelf.registry.store
    datasets = Datasets(home, store, job.tenant)
    series = _series(datasets, asked)
    inputs = reduce(Inputs.merged, map(inputs_of, models), Inputs())
    data = tables.read(series, OPTIONS, service.settings.limits, inputs=inputs)
    ground = _ground(data.panel, asked)
    requested, seconds = len(data.report.series), service.settings.limits.deadline_ms / 1000
    done, found = 0, dict[str, list[Rolled]]()
    for name, model in zip(names, models, strict=True):
        found[name] = []
        inquiry = Inquiry(series, OPTIONS, ground.panel, requested, size=0, baseline=name)
        for rows in ground.starts:
            teller.progress(f"{done} of {len(names) * asked.folds} folds")
            cuts = Cuts(np.arange(len(ground.panel.ids)), rows)
            found[name].append(
                await roll(service, model, inquiry, cuts, steps=asked.h, seconds=seconds)
            )
            done += 1
    teller.progress(f"{done} of {done} folds")
    short = requested - len(ground.panel.ids)
    members = _members(ground, found, asked, short)
    warnings = warning_members(data, *(one.answer.forecast for one in found[names[0]]))
    return orjson.dumps({"dataset": spec["dataset"], **members, **warnings})


def _series(datasets: Datasets, asked: BacktestSpec) -> Series:
    """The dataset as a request about it."""
    table = datasets.read(datasets.one(asked.dataset))
    given = defaults_of(table)
    return Series.model_construct(
        data={name: table.data[name] for name in table.data.columns},
        future={},
        static={}
        if table.static is None
        else {name: table.static[name] for name in table.static.columns},
        columns=Columns(**given["columns"]),
        h=asked.h,
        freq=given["freq"],
        tz=given.get("tz"),
        quantiles=sorted(asked.quantiles),
    )


def _ground(panel: Panel, asked: BacktestSpec) -> Ground:
    """The cutoffs: the last one `h` rows before the end, the others `step` rows earlier each."""
    step = asked.step or asked.h
    back = asked.h + step * np.arange(asked.folds - 1, -1, -1)  # [fold] rows after the cutoff
    lengths = np.diff(panel.offsets)
    kept = np.flatnonzero(lengths > back[0])
    if not len(kept):
        message = f"No series has more than the {int(back[0])} rows that the folds take."
        raise Problem("insufficient-history", message, [Item(message, "/spec/folds")])
    panel = panel.take(kept.tolist())
    lengths = np.diff(panel.offsets)
    starts = tuple(lengths - rows for rows in back)
    places = [panel.offsets[:-1] + rows for rows in starts]
    actuals = np.stack([panel.target[p[None, :] + np.arange(asked.h)[:, None]] for p in places])
    return Ground(panel, starts, actuals, scales_of(panel, starts[0]))


def _members(
    ground: Ground, found: Mapping[str, Sequence[Rolled]], asked: BacktestSpec, short: int
) -> dict[str, Any]:
    levels = sorted(asked.quantiles)
    scored = {
        name: scored_of(
            np.stack([one.numbers.swapaxes(0, 1) for one in rolled]),
            ground.actuals,
            levels=levels,
            scales=ground.scales,
        )
        for name, rolled in found.items()
    }
    naive = scored[FALLBACK]
    rows = []
    for name, own in scored.items():
        row = _row(ground, found[name], own, short)
        row["skill"] = _skill(own, naive)
        row["ci95"] = _interval(own, asked)
        row["significance"] = _significance(own, naive, asked) if name != FALLBACK else None
        rows.append(row)
    folds = [
        {
            "fold": number,
            "metrics": {
                name: {m.name: value_of(m, _fold(one, number)) for m in METRICS if m.name != "wql"}
                for name, one in scored.items()
            },
        }
        for number in range(asked.folds)
    ]
    failures = [
        {"model": name, "unique_id": entry.unique_id, "status": entry.status}
        for name, rolled in found.items()
        for entry in rolled[-1].answer.forecast.series
        if not entry.rows
    ]
    return {"leaderboard": ranked(rows), "folds": folds, "failures": failures}


def _row(ground: Ground, rolled: Sequence[Rolled], own: Scored, short: int) -> dict[str, Any]:
    entries = [entry for one in rolled for entry in one.answer.forecast.series]
    answered = {entry.unique_id for entry in entries if entry.rows}
    return row_of(
        rolled[0].answer.model,
        own,
        failed=short + len(ground.panel.ids) - len(answered),
        fallbacks=len({e.unique_id for e in entries if e.fallback is not None}),
        model_ms=sum(one.answer.model_ms for one in rolled),
    )


def _fold(scored: Scored, number: int) -> Scored:
    """One fold of the scores."""
    rows = slice(number, number + 1)
    return Scored(
        point=scored.point[rows],
        actual=scored.actual[rows],
        observed=scored.observed[rows],
        absolute_scale=scored.absolute_scale,
        square_scale=scored.square_scale,
    )


def _losses(scored: Scored) -> Floats:
    """The scaled absolute error of each fold, NaN where it is not defined."""
    scale = np.asarray(scored.absolute_scale, dtype=np.float64)
    scale = np.where(scale > 0, scale, np.nan)
    errors = np.where(scored.observed, np.abs(scored.point - scored.actual), np.nan) / scale
    known = np.isfinite(errors)
    with np.errstate(invalid="ignore", divide="ignore"):
        losses: Floats = np.where(known, errors, 0).sum((1, 2)) / known.sum((1, 2))
    return losses


def _interval(scored: Scored, asked: BacktestSpec) -> dict[str, list[float]] | None:
    """Of the mean over folds that do not overlap, by Student's t."""
    losses, folds = _losses(scored), asked.folds
    if folds < 2 or (asked.step or asked.h) < asked.h or not np.isfinite(losses).all():
        return None
    from scipy.special import stdtrit  # late, as in pipelines.diebold_mariano

    half = stdtrit(folds - 1, SURE) * losses.std(ddof=1) / np.sqrt(folds)
    return {"mase": [float(losses.mean() - half), float(losses.mean() + half)]}


def _significance(scored: Scored, naive: Scored, asked: BacktestSpec) -> dict[str, Any] | None:
    differences = _losses(scored) - _losses(naive)
    if not np.isfinite(differences).all():
        return None
    overlap = -(-asked.h // (asked.step or asked.h)) - 1
    lag = lag_for(len(differences), overlap=overlap)
    test = diebold_mariano(differences, overlap=overlap, lag=lag)
    if not test.enough or not np.isfinite([test.statistic, test.p]).all():
        return None
    told = {"versus": FALLBACK, "test": "diebold-mariano"}
    return {**told, "statistic": test.statistic, "p_value": test.p}


def _skill(scored: Scored, naive: Scored) -> dict[str, Any] | None:
    own, base = (float(_losses(one).mean()) for one in (scored, naive))
    return skill(own, base) if np.isfinite([own, base]).all() else None
