"""A model that says nonsense of one series: a baseline answers in its place, and somebody is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from pipelines.home import Home
from pipelines.query import Floats, Query
from pipelines.registry import Registry
from serving.alarms import Alarms
from serving.app import create
from serving.host import Lane, LocalEngine
from serving.library import Shelf
from serving.settings import Settings
from tests.figures import Told
from tests.serving.running import Running, listening, series, table
from tests.serving.test_metrics import gained, numbers

MARK = 77.25  # the last value of the series that a model fails on
LEVELS = [0.1, 0.5, 0.9]


def nan(values: Floats) -> None:
    values[3] = np.nan


def infinite(values: Floats) -> None:
    values[-1, :, 1] = np.inf


def huge(values: Floats) -> None:
    values[0, :, 0] = 1e40


def crossed(values: Floats) -> None:
    values[..., 1:] = values[..., :0:-1].copy()


FAULTS: dict[str, Callable[[Floats], None]] = {
    "NaN": nan, "infinity": infinite, "1e40": huge, "crossed quantiles": crossed,
}  # fmt: skip


class Lying(LocalEngine):
    """The engine of the service, with a network that has gone wrong for what it is shown."""

    fault = staticmethod(nan)

    async def run(self, version: str, query: Query, levels: tuple[float, ...]) -> Floats:
        """See `Engine.run`."""
        values = (await super().run(version, query, levels)).copy()
        for row in np.flatnonzero(query.past[:, -1, 0] == MARK):
            self.fault(values[row])
        return values


@pytest.fixture(scope="module")
def lying(home: Home) -> Lying:
    return Lying(Shelf(Registry(home), capacity=4, device="cpu"))


@pytest.fixture(scope="module")
def nonsense(home: Home, lying: Lying) -> Iterator[Running]:
    """A service whose model says nonsense of marked series."""
    settings = Settings.read({"models": {"default": "small"}, "jobs": {"at_once": 0}})
    door = Shelf(Registry(home), capacity=4, device="cpu", weights=False)
    yield from listening(create(door, Lane(lying), settings))


def asked(*, model: str = "small", marked: int | None = None) -> dict[str, Any]:
    """Eight series, of which one may be marked."""
    columns = [series(seed=seed) for seed in range(8)]
    if marked is not None:
        columns[marked][-1] = MARK
    return {"data": table(*columns), "freq": "h", "quantiles": LEVELS, "model": model}


def rows(answer: dict[str, Any], name: str) -> dict[str, list[float]]:
    """The numbers of one series."""
    at = [row for row, own in enumerate(answer["forecast"]["unique_id"]) if own == name]
    columns = ("mean", "q0.1", "q0.5", "q0.9")
    return {column: [answer["forecast"][column][row] for row in at] for column in columns}


@pytest.mark.parametrize("fault", FAULTS)
def test_nonsense_of_one_series_is_replaced_and_counted(
    nonsense: Running, lying: Lying, record_property: Told, fault: str
) -> None:
    """B7: a planner would order by 1e40, or a script die of NaN; seven others asked beside it."""
    lying.fault = FAULTS[fault]  # type: ignore[method-assign]
    clean = nonsense.post("/v1/forecasts", asked()).json()
    before = numbers(nonsense)
    answer = nonsense.post("/v1/forecasts", asked(marked=5)).json()
    after = numbers(nonsense)
    baseline = nonsense.post("/v1/forecasts", asked(model="seasonal_naive", marked=5)).json()
    entry = answer["series"][5]
    assert entry["fallback"] == {"model": "seasonal_naive", "reason": "nonfinite_output"}
    assert rows(answer, "s5") == {
        column: cells[:24] for column, cells in rows(baseline, "s5").items()
    }
    others = [f"s{place}" for place in range(8) if place != 5]
    same = sum(rows(answer, name) == rows(clean, name) for name in others)
    why = {"model": "small", "reason": "nonfinite_output"}
    counted = gained(before, after, "tsformer_fallback_series_total", **why)
    rings = after["tsformer_fallback_alarm", frozenset({"model": "small"}.items())]
    record_property(
        "B7", f"{fault}: replaced and named, {same} of 7 others bit-identical, counter +{counted:g},"
        f" alarm {rings:g}",
    )  # fmt: skip
    assert (same, counted, rings) == (7, 1, 1)


def test_the_alarm_rings_above_one_in_twenty_and_for_five_minutes() -> None:
    """An alarm for one series in a thousand, or one that never ends, is soon switched off."""
    now = 0.0
    alarms = Alarms(lambda: now)
    alarms.count("m", series=95, failed=0)
    now = 100.0
    alarms.count("m", series=5, failed=5)
    assert alarms.ringing() == {"m": False}  # 5 %
    alarms.count("m", series=1, failed=1)
    assert alarms.ringing() == {"m": True}
    now = 399.0  # the good ones are forgotten first
    assert alarms.ringing() == {"m": True}
    now = 400.0
    assert alarms.ringing() == {"m": False}


@pytest.mark.parametrize("scale", [1e39, 1e300, 0.0])
def test_a_series_of_such_numbers_is_forecast_by_its_model(nonsense: Running, scale: float) -> None:
    """What is huge because the series is huge is no nonsense."""
    data = table([scale * value for value in series()])
    answer = nonsense.post("/v1/forecasts", {"data": data, "freq": "h", "quantiles": LEVELS}).json()
    assert answer["series"][0]["fallback"] is None
