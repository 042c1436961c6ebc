"""Candidates of which it is known whether they deserve to be champion, on data of a known law.

A day has 12 steps. At its first step stands a signal, drawn anew every day; through the rest of the
next day the level is the size of that signal, whatever its sign. No linear map can know that, the
law of the data can. What models are planted is made of three parts that are really fitted or
really right: seasonal naive, the line, and the law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from pipelines.backtest import Scores, backtest
from pipelines.comparison import Comparison, Entrant
from pipelines.experiment import Experiment
from pipelines.forecaster import Forecaster
from pipelines.material import Material
from pipelines.promotion import Incumbent, Verdict, judge
from pipelines.training import calibration, fit_all
from pipelines.versions import ModelVersion
from tsformer.batch import Batch, Shape
from tsformer.conformal import Calibration
from tsformer.model import Capabilities, Model, ModelSpec

DAY, DAYS, SERIES = 12, 300, 5  # steps; days; series, the last of them a hundred higher
MARK, PEAK, HOUR = 10.0, 6, 3_600  # of each day's peak: its height and step; seconds of a step
CONTEXT = 4 * DAY
LEVEL = 100.0  # of the last series
END = 285  # the day on which a planted model's table of holidays ends

Maker = Callable[["Field"], Forecaster]


@dataclass(frozen=True, slots=True)
class Planted:
    """A candidate, and what the gate must say: `rule` is what refuses it, empty for a good one.

    The champion is the line with the share `champion` of the law; None where nobody is champion.
    """

    name: str
    what: str
    rule: str
    make: Maker
    champion: float | None = 0.5


@dataclass(frozen=True)
class PlantedSpec(ModelSpec):
    """A kind of its own, whatever the model is made of."""

    kind: str = ""  # type: ignore[misc]
    capabilities: Capabilities = field(default_factory=Capabilities)  # type: ignore[misc]

    def build(self, shape: Shape) -> Model:
        raise NotImplementedError("Planted models are made, not built.")


class Law(Model):
    """What generated the data: the size of yesterday's signal, all day; each day's peak."""

    def forward(self, batch: Batch) -> Tensor:
        past = torch.where(batch.observed, batch.past, 0)
        level = (past.mean(1, keepdim=True) / LEVEL).round() * LEVEL  # [batch, 1, variate]
        values = past - level
        days = values.unflatten(1, (-1, DAY)).mean(1)  # [batch, step of a day, variate]
        first = (days.argmax(1) - PEAK) % DAY  # where in the window days begin: [batch, variate]
        time = values.shape[1] + torch.arange(self.shape.horizon)[:, None]
        step = (time - first[:, None]) % DAY  # [batch, horizon, variate]
        signal = values.gather(1, time - step - DAY).abs()
        forecast = torch.where(step == 0, 0, signal) + MARK * (step == PEAK)
        return (forecast + level).unsqueeze(-1)


class Made(Model):
    """A model whose forecast is made of those of others."""

    def __init__(self, shape: Shape, forecast: Callable[[Batch], Tensor]) -> None:
        super().__init__(shape)
        self.forecast = forecast

    def forward(self, batch: Batch) -> Tensor:
        return self.forecast(batch)


def table() -> pl.DataFrame:
    """The series, and columns that tell too much: `plan` is the target, `later` is it a day ahead."""
    random = np.random.default_rng(0)
    step = np.tile(np.arange(DAY), DAYS)
    shared = random.normal(0, 0.2, DAY * DAYS)
    frames = []
    for number in range(SERIES):
        signal = random.normal(size=DAYS)
        size = np.abs(np.concatenate([[1.0], signal[:-1]]))
        values = np.where(step == 0, signal.repeat(DAY), size.repeat(DAY)) + MARK * (step == PEAK)
        values += shared + random.normal(0, 0.2, DAY * DAYS) + LEVEL * (number == SERIES - 1)
        frames.append(
            pl.DataFrame(
                {
                    "unique_id": [f"s{number}"] * len(values),
                    "ds": [
                        datetime(2024, 1, 1) + timedelta(seconds=HOUR * i)
                        for i in range(len(values))
                    ],
                    "y": values,
                    "day": np.arange(len(values)) // DAY,
                    "plan": values,
                    "later": np.concatenate([values[DAY:], values[:DAY]]),
                }
            )
        )
    return pl.concat(frames)


def experiment(folder: Path, **sections: Any) -> Experiment:
    """An experiment on the table, which `folder` keeps."""
    file = folder / "planted.parquet"
    if not file.exists():
        table().write_parquet(file)
    data = {"source": file.name, "id": "unique_id", "targets": ["y"], "season": DAY}
    content = {
        "data": {**data, **sections.pop("data", {})},
        "window": {"context": CONTEXT, "horizon": DAY},
        "model": "ridge",
        "baselines": ["seasonal_naive"],
        "backtest": {"stride": DAY // 2},
        **sections,
    }
    return Experiment.from_mapping(content, where="planted", folder=folder)


class Field:
    """The table, and the parts of which candidates are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        columns = {"known": ["day", "plan"], "past": ["later"]}
        self.experiment = experiment(folder)
        self.material = Material.of(experiment(folder, model="tft", data=columns))
        self.own = Material.of(self.experiment)
        fitted = fit_all(self.experiment, self.own, device="cpu")
        self.fitted = {name: entry.forecaster for name, entry in fitted.items()}
        self.law = Law(self.own.shape)
        self.naive, self.line = (
            self.fitted[name].model for name in ("seasonal_naive", "ridge")
        )  # both forecast from the past alone

    def made(self, forecast: Callable[[Batch], Tensor], **reads: bool) -> Forecaster:
        """A calibrated forecaster of a planted model; `reads` name what it reads beside the past."""
        able = Capabilities(**reads)
        inputs = replace(self.material.recipe.inputs, known=self.material.recipe.inputs.known[:1])
        recipe = replace(self.own.recipe, series=None, inputs=inputs.read_by(able))
        model = Made(self.own.shape, forecast)
        spec = PlantedSpec(kind="planted", capabilities=able)
        forecaster = Forecaster(model, spec=spec, recipe=recipe, device="cpu")
        forecaster.calibration = calibration(forecaster, self.material)
        return forecaster

    def mixed(self, **shares: float) -> Forecaster:
        """The parts by their shares: `law`, `line`, `naive`."""
        return self.made(lambda batch: self.blend(batch, **shares))

    def blend(self, batch: Batch, **shares: float) -> Tensor:
        """The forecasts of the parts, weighed."""
        return sum(share * getattr(self, name)(batch) for name, share in shares.items())  # type: ignore[return-value]

    def fit(self, model: Any, **sections: Any) -> Forecaster:
        """A model of the project, really fitted."""
        asked = experiment(self.folder, model=model, baselines=[], **sections)
        return next(iter(fit_all(asked, Material.of(asked), device="cpu").values())).forecaster


# --- the twenty -----------------------------------------------------------------------------


def upside_down(field: Field) -> Forecaster:
    return field.made(lambda batch: 2 * batch.past.mean(1)[:, None, :, None] - field.law(batch))


def hourly_mean(field: Field) -> Forecaster:
    def forecast(batch: Batch) -> Tensor:
        return batch.past.unflatten(1, (-1, DAY)).mean(1).unsqueeze(-1)  # the horizon is a day

    return field.made(forecast)


def undertrained(field: Field) -> Forecaster:
    training = {"epochs": 1, "windows_per_epoch": 64}
    return field.fit({"kind": "patchtst", "depth": 1, "patch": 12, "stride": 12}, training=training)


def fitted_on_all(field: Field) -> Forecaster:
    return field.fit("ridge", data={"split": [0.9, 0.05, 0.05]})


def calibrated_on_test(field: Field) -> Forecaster:
    law = field.mixed(law=1.0)
    law.recipe = replace(
        law.recipe, fitted_until=int(field.own.panel.table["time"].to_physical().max())
    )
    return law


def plan_is_the_target(field: Field) -> Forecaster:
    return field.fit("ridge", data={"known": ["plan"]})


def filled_in_later(field: Field) -> Forecaster:
    column = field.material.recipe.inputs.past[0]
    return field.made(
        lambda batch: (batch.covariates[:, -DAY:] * column.std + column.mean).unsqueeze(-1),
        past=True,
    )


def spread(field: Field, factor: float) -> Forecaster:
    law = field.mixed(law=1.0)
    assert isinstance(law.calibration, Calibration)
    law.calibration = replace(law.calibration, residuals=factor * law.calibration.residuals)
    return law


def fails_where_nothing_happens(field: Field) -> Forecaster:
    def forecast(batch: Batch) -> Tensor:
        deviation = batch.past.std(1)[:, None, :, None]
        return field.law(batch) / deviation * deviation  # 0 / 0

    return field.made(forecast)


def ruins_one(field: Field) -> Forecaster:
    def forecast(batch: Batch) -> Tensor:
        high = batch.past.mean(1)[:, None, :, None] > LEVEL / 2
        return torch.where(high, field.naive(batch), field.law(batch))

    return field.made(forecast)


def out_of_date(field: Field) -> Forecaster:
    column = field.material.recipe.inputs.known[0]

    def forecast(batch: Batch) -> Tensor:
        day = batch.known[:, -DAY:, 0, None, None] * column.std + column.mean
        stale = field.blend(batch, naive=0.5, line=0.5)
        return torch.where(day >= END, stale, field.law(batch))

    return field.made(forecast, known=True)


def line_again(field: Field) -> Forecaster:
    """The line with a penalty of its own, lucky by five millionths of its score."""
    return field.made(field.fit({"kind": "ridge", "penalties": [0.003]}).model)


CANDIDATES = (
    Planted("last_value", "repeats the last value", "naive", lambda f: f.fit("last_value")),
    Planted("upside_down", "forecasts the opposite of what will be", "naive", upside_down),
    Planted("half_naive", "half seasonal naive, half line", "line",
            lambda f: f.mixed(naive=0.5, line=0.5)),
    Planted("hourly_mean", "mean of the last four days by step", "line", hourly_mean),
    Planted("undertrained", "a PatchTST after one step of training", "line", undertrained),
    Planted("fitted_on_all", "ridge, fitted on the test part too", "leak", fitted_on_all),
    Planted("calibrated_on_test", "the law, its intervals from the test part", "leak", calibrated_on_test),
    Planted("plan_is_target", "ridge; a column known ahead is the target", "leak", plan_is_the_target),
    Planted("filled_in_later", "copies a past column that knows tomorrow", "leak", filled_in_later),
    Planted("too_sure", "the law, intervals half as wide", "coverage", lambda f: spread(f, 0.5)),
    Planted("too_unsure", "the law, intervals twice as wide", "coverage", lambda f: spread(f, 2.0)),
    Planted("no_number", "the law, but no number for a constant series", "canary",
            fails_where_nothing_happens),
    Planted("copy", "the champion once more", "champion", lambda f: f.mixed(law=0.5, line=0.5)),
    Planted("hair_better", "the champion, better by less than the margin", "champion",
            lambda f: f.mixed(law=0.506, line=0.494)),
    Planted("line_again", "the line with another penalty, a hair luckier", "line", line_again, champion=None),
    Planted("ruins_one", "the law; one series gets seasonal naive", "slices", ruins_one, champion=0.2),
    Planted("out_of_date", "the law, until its table of days ends", "slices", out_of_date, champion=0.2),
    Planted("first", "half law, half line; nobody is champion", "",
            lambda f: f.mixed(law=0.5, line=0.5), champion=None),
    Planted("better", "the law against half law, half line", "", lambda f: f.mixed(law=1.0)),
    Planted("somewhat_better", "six tenths law against a half", "", lambda f: f.mixed(law=0.6, line=0.4)),
)  # fmt: skip


def verdicts(folder: Path) -> Iterator[tuple[Planted, Verdict, Scores]]:
    """The gate's verdict on each, by the scores of one backtest, through what training calls."""
    field = Field(folder)
    made = {planted.name: planted.make(field) for planted in CANDIDATES}
    champions = {share: field.mixed(law=share, line=1 - share) for share in (0.2, 0.5)}
    scores = backtest(
        {**made, **field.fitted, **{named(share): c for share, c in champions.items()}},
        field.material,
        field.experiment.backtest,
    )
    version = ModelVersion("planted", "1", "planted", "", "", "")
    old = {
        share: Incumbent(1, Entrant(named(share), champion, version=version))
        for share, champion in champions.items()
    }
    for planted in CANDIDATES:
        entrants = field.fitted | {planted.name: made[planted.name]}
        own = replace(field.experiment, model=PlantedSpec(kind=planted.name))
        comparison = Comparison(
            own, field.material, tuple(Entrant(n, f) for n, f in entrants.items()), scores
        )
        incumbent = Incumbent() if planted.champion is None else old[planted.champion]
        yield planted, judge(comparison, incumbent), scores


def named(share: float) -> str:
    """A champion as it stands on the leaderboard."""
    return f"{share:.0%} law"


def rows(folder: Path) -> list[Mapping[str, str]]:
    """What was planted and what the gate said, a row each."""
    found = []
    for planted, verdict, scores in verdicts(folder):
        decision = verdict.decisions[planted.name]
        (row,) = scores.leaderboard.filter(pl.col("model") == planted.name).to_dicts()
        found.append(
            {
                "candidate": planted.name,
                "what it is": planted.what,
                "WQL": f"{row['wql']:.4f}",
                "80 % interval": f"{row['coverage']:.0%}",
                "must be": f"refused: {planted.rule}" if planted.rule else "promoted",
                "the gate": decision.word,
            }
        )
    return found
