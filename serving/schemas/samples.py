"""The samples of the HTTP contract at full length: every one is an example in the OpenAPI document.

They name models and datasets of each other, as the contract does; the numbers are made up.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from pydantic import ConfigDict
from pydantic.config import JsonDict, JsonValue

ZONE = "Europe/Berlin"


def shown(*examples: JsonValue) -> ConfigDict:
    """The configuration of a schema that has these examples."""
    return ConfigDict(json_schema_extra={"examples": [*examples]})


def _days(rows: int, *, last: date) -> list[JsonValue]:
    return [(last - timedelta(days=rows - 1 - row)).isoformat() for row in range(rows)]


def _hours(rows: int, *, last: datetime, offset: str = "") -> list[JsonValue]:
    """Stamps up to `last`; with an `offset` they are instants."""
    stamps = [last - timedelta(hours=rows - 1 - row) for row in range(rows)]
    return [stamp.isoformat() + offset for stamp in stamps]


def _same(value: JsonValue, rows: int) -> list[JsonValue]:
    return [value] * rows


def _cycle(rows: int, *, period: int, base: float) -> list[JsonValue]:
    """Values that rise over each period, with something of their own in every row."""
    return [base + row % period / 4 + row * 7 % 5 / 10 for row in range(rows)]


# --- of one series, daily: across the day of 23 hours ---------------------------------------------

DAYS = 28
VALUES: list[JsonValue] = [*_cycle(DAYS - 3, period=7, base=10), 10.0, None, 12.5]
DATES = _days(DAYS, last=date(2026, 3, 28))
DAILY: JsonDict = {"unique_id": _same("a", DAYS), "ds": DATES, "y": VALUES}
RECORDED: JsonDict = {  # for the default model
    "h": 2,
    "data": [{"ds": day, "y": y} for day, y in zip(DATES, VALUES, strict=True)],
}
UNIVARIATE: JsonDict = {
    "model": "patchtst@champion",
    "h": 3,
    "freq": "D",
    "tz": ZONE,
    "quantiles": [0.1, 0.9],
    "data": DAILY,
    "options": {"on_invalid": "skip", "fallback": "seasonal_naive"},
}

# --- with covariates, hourly: the hour from 2 to 3 does not exist ---------------------------------

HOURS = 48
COVARIATES: JsonDict = {
    "model": "tft/12",
    "h": 3,
    "freq": "h",
    "tz": ZONE,
    "quantiles": [0.1, 0.5, 0.9],
    "data": {
        "unique_id": _same("s1", HOURS),
        "ds": _hours(HOURS, last=datetime(2026, 3, 28, 23), offset="+01:00"),
        "y": [*_cycle(HOURS - 2, period=24, base=28), 31.0, 29.0],
        "price": _same(2.0, HOURS),
    },
    "future": {
        "unique_id": _same("s1", 3),
        "ds": [
            "2026-03-29T00:00:00+01:00",
            "2026-03-29T01:00:00+01:00",
            "2026-03-29T03:00:00+02:00",
        ],
        "price": [2.0, 1.5, 1.5],
    },
    "static": {"unique_id": ["s1"], "store": ["X1"]},
}

# --- a group, in the form of series ---------------------------------------------------------------


def _member(name: str, *, base: float, last: list[JsonValue]) -> JsonDict:
    y = [*_cycle(HOURS - len(last), period=24, base=base), *last]
    start = "2026-01-01T00:00:00"
    return {"unique_id": name, "start": start, "y": y, "static": {"group_id": "t1"}}


GROUP: JsonDict = {
    "model": "itransformer",
    "h": 2,
    "freq": "h",
    "series": [
        _member("HUFL", base=5, last=[5.8, 5.7, 5.2, 5.2]),
        _member("OT", base=27, last=[30.5, 27.8, 27.8, 25.0]),
    ],
}

# --- of every route that reads such series --------------------------------------------------------

COMPARED: JsonDict = {
    **UNIVARIATE,
    "models": ["patchtst", "linear"],
    "options": {"holdout": 3, "baselines": True},
}
del COMPARED["model"]
WATCHED: JsonDict = {
    "model": "seasonal_naive",
    "freq": "h",
    "data": {
        "unique_id": _same("s1", 3 * HOURS),
        "ds": _hours(3 * HOURS, last=datetime(2026, 3, 28, 23)),
        "y": _cycle(3 * HOURS, period=24, base=28),
    },
    "detect": {"level": 99, "last": 48, "h": 1},
}

# --- datasets, and what is ordered of them --------------------------------------------------------

WEEKS = 14 * 24
HOURLY: JsonDict = {
    "name": "m4-hourly",
    "freq": "h",
    "data": {
        "unique_id": _same("H1", WEEKS),
        "ds": _hours(WEEKS, last=datetime(2026, 1, 14, 23)),
        "y": _cycle(WEEKS, period=24, base=600),
    },
}
HOURLY_VERSION = "f4ace5e93697ed69"  # the hash of its content
LESSONS = _cycle(4 * DAYS, period=7, base=10)
LOAD: JsonDict = {
    "name": "load",
    "freq": "D",
    "tz": ZONE,
    "data": {
        "unique_id": _same("a", 4 * DAYS),
        "ds": _days(4 * DAYS, last=date(2026, 3, 28)),
        "y": LESSONS,
    },
}
FORECAST_JOB: JsonDict = {"type": "forecast", "spec": UNIVARIATE}
BACKTEST: JsonDict = {
    "type": "backtest",
    "spec": {
        "dataset": f"m4-hourly/{HOURLY_VERSION}",
        "models": ["patchtst", "linear"],
        "h": 48,
        "folds": 4,
    },
}
SCHEDULED: JsonDict = {
    "name": "weekly-load",
    "cron": "30 2 * * 1",
    "tz": ZONE,
    "enabled": True,
    "catch_up_hours": 24,
    "job": {
        "type": "train",
        "spec": {
            "dataset": "load",
            "kind": "patchtst",
            "name": "load",
            "mode": "warm_start",
            "parent": "load@champion",
        },
    },
    "gate": {
        "metric": "mase",
        "folds": 4,
        "must_beat": ["champion", "seasonal_naive"],
        "alpha": 0.05,
        "min_coverage": {"0.8": 0.75},
    },
    "on_pass": {"promote": "champion"},
}
ACTUALS: JsonDict = {"data": DAILY, "tz": ZONE}
