"""Points outside of their forecast interval, each forecast from the points before it alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.panel import Panel
from serving import answers, tables
from serving.inquiry import Inquiry
from serving.models import Model, registered
from serving.problems import Item, Problem
from serving.rolling import Cuts, Rolled, read, roll
from serving.schemas.forecasts import AnomalyRequest, Detect
from serving.scoring import Floats, HeldOut, hold_out
from serving.service import Service
from serving.tables import Data
from serving.threads import off_loop

OWN = ("mean", "lo", "hi", "anomaly", "score")  # columns of the answer that are not the client's


@dataclass(frozen=True, slots=True)
class Judged:
    """Points with their forecasts: `lo` and `hi` bound the interval, all of one shape, NaN missing."""

    y: Floats
    mean: Floats
    lo: Floats
    hi: Floats

    @property
    def outside(self) -> NDArray[np.bool_]:
        """True beyond the interval; nothing is known where y or its forecast is missing."""
        return (self.y < self.lo) | (self.y > self.hi)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether there are a value and a forecast."""
        return np.isfinite(self.y) & np.isfinite(self.mean)

    @property
    def score(self) -> Floats:
        """The signed distance from the mean in half-widths; NaN where the interval has no width."""
        half = (self.hi - self.lo) / 2
        away = self.y - self.mean
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            score = np.where(away == 0, 0.0, away / half)
        return np.where(np.isfinite(score), score, np.nan)


@dataclass(frozen=True, slots=True)
class Detected:
    """A request, its series without the judged points and those points, and their forecasts."""

    asked: AnomalyRequest
    data: Data
    held: HeldOut
    rolled: Rolled

    @property
    def panel(self) -> Panel:
        """The rows before the first judged point."""
        return self.held.context

    @property
    def stamps(self) -> pl.Series:
        """The stamps of the judged points, series after series."""
        return self.panel.following(self.asked.detect.last)

    @property
    def numbers(self) -> Floats:
        """The forecasts `[series, last, 1 + level]`; NaN where there is none."""
        values, last = self.rolled.numbers, self.asked.detect.last
        blocks = -(-last // self.asked.detect.h)
        every = values.reshape(len(self.panel.ids), blocks * values.shape[1], values.shape[2])
        return every[:, :last]

    @property
    def judged(self) -> Judged:
        """The judged points `[series, last]`."""
        numbers = self.numbers
        lo, hi = (
            numbers[..., 1 + self.asked.quantiles.index(level)]
            for level in bounds(self.asked.detect.level)
        )
        return Judged(self.held.actuals, numbers[..., 0], lo, hi)


def check(asked: AnomalyRequest) -> None:
    """Raises for what no request about known points can ask."""
    tables.check_free(asked.columns, asked.quantiles, own=OWN, roles=("id", "time", "target"))
    if asked.options.record:
        message = "Forecasts of points that are known already are not recorded. Leave it out."
        raise Problem("invalid-request", message, [Item(message, "/options/record")])


def bounds(level: float) -> tuple[float, float]:
    """The quantiles between which `level` percent of the values lie."""
    half = level / 200
    return round(0.5 - half, 6), round(0.5 + half, 6)


async def detect(service: Service, asked: AnomalyRequest, *, seconds: float, size: int) -> Detected:
    """What `asked` asks for, of a body of `size` bytes, within `seconds`."""
    limits, wanted = service.settings.limits, asked.detect
    check(asked)
    for name, pointer, value in (
        ("quantiles", "/quantiles", len(asked.quantiles)),
        ("horizon", "/detect/h", wanted.h),
    ):
        limits.check_count(name, pointer, count=value, maximum=getattr(limits, name))
    model = await registered(service, asked.model)
    lo, hi = bounds(wanted.level)
    _check_level(model, lo, hi)
    levels = sorted({*asked.quantiles, lo, hi})
    asked = asked.model_copy(update={"h": wanted.h, "quantiles": levels})
    with tables.placed(asked.columns):
        data = await off_loop(size, read, service, asked, asked.options, model)
        longest = int(np.diff(data.panel.offsets).max(initial=1))
        wanted = wanted.model_copy(update={"last": min(wanted.last, longest)})  # none has more
        asked = asked.model_copy(update={"detect": wanted})
        limits.check_output(len(data.panel.ids) * wanted.last * (5 + len(levels)))
        held = await off_loop(size, hold_out, data.panel, wanted.last, fill="none")
        if held.empty and asked.options.on_invalid == "fail":
            raise answers.insufficient(held.empty)
        inquiry = Inquiry(asked, asked.options, data.panel, len(data.report.series), size)
        rolled = await roll(
            service, model, inquiry, _cuts(data.panel, held, wanted),
            steps=min(wanted.h, wanted.last), seconds=seconds,
        )  # fmt: skip
    return Detected(asked, data, held, rolled)


def _check_level(model: Model | None, lo: float, hi: float) -> None:
    served = model.forecaster.levels if model is not None else ()
    if model is None or (served and served[0] <= lo and hi <= served[-1]):
        return
    most = 100 * (min(1 - 2 * served[0], 2 * served[-1] - 1) if served else 0)
    able = f"levels up to {most:g}" if served else "no intervals"
    item = Item(f"This model serves {able}.", "/detect/level")
    raise Problem("model-incompatible", f"The model serves {able}.", [item])


def _cuts(panel: Panel, held: HeldOut, wanted: Detect) -> Cuts:
    """Where the blocks of judged points begin; the last block may be shorter than the others."""
    place = {name: position for position, name in enumerate(panel.ids)}
    places = np.array([place[name] for name in held.context.ids], dtype=np.int64)
    back = np.arange(wanted.last, 0, -wanted.h)
    rows = np.diff(panel.offsets)[places][:, None] - back
    return Cuts(places.repeat(len(back)), rows.ravel())
