"""A model under watch: how its forecasts turned out, whether its data changed, what follows."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace

import numpy as np
import polars as pl
import sqlalchemy as sa

from pipelines import actuals
from pipelines import times as clock
from pipelines.actuals import Received, read_actuals
from pipelines.drift import (
    Alarm,
    Measure,
    Tolerance,
    alarm,
    edges,
    grid_back,
    measure,
    stamps,
)
from pipelines.frequency import Frequency
from pipelines.keys import TENANT
from pipelines.live import Live, live
from pipelines.profile import PROFILE_FILE, Profile
from pipelines.published import data_of
from pipelines.recording import name_for, upsert
from pipelines.registry import Registry
from pipelines.store import Store, now_ms
from pipelines.store_tables import DRIFT_ALARM
from pipelines.times import DAY
from pipelines.versions import ModelVersion, Reference
from tsformer.errors import ArtifactError, ConfigError, NotFoundError

LEAST_POINTS = 100  # with an actual, before a live score says anything
SPANS = {"h": DAY // 24, "d": DAY, "w": 7 * DAY}  # microseconds
WINDOW = re.compile(r"([1-9][0-9]{0,5})([hdw]?)")
USUAL_WINDOW = {True: "720", False: "30d"}  # whether steps are numbers


@dataclass(frozen=True, slots=True)
class Watched:
    """A version with what it takes to watch it."""

    version: ModelVersion
    found: Profile | None
    frequency: Frequency

    @staticmethod
    def of(registry: Registry, reference: str) -> Watched:
        """The version behind a reference."""
        fetched = registry.fetch(reference)
        stored = fetched.directory / PROFILE_FILE
        profile = Profile.load(stored) if stored.exists() else None
        frequency = Frequency.parse(str(fetched.version.card["freq"]))
        return Watched(fetched.version, profile, frequency)

    @property
    def profile(self) -> Profile:
        """What its series were like; ConfigError where it does not say."""
        if self.found is None:
            raise ConfigError(
                f"{self.version} does not say what its series were like: it was published by "
                "another release. Train it again."
            )
        return self.found

    @property
    def tz(self) -> str:
        """The zone of its stamps, or an offset, or nothing."""
        return "" if self.found is None else self.found.tz


@dataclass(frozen=True, slots=True)
class Condition:
    """One version: its live scores, if any of its forecasts have come true, and its drift.

    Without `found` the drift is not known: the version was removed, or has no profile.
    """

    version: str
    live: Live | None
    found: Measure | None


@dataclass(frozen=True, slots=True)
class Monitor:
    """A model: the span of actuals that was looked at (microseconds), and its versions."""

    watched: Watched
    after_us: int
    until_us: int
    conditions: tuple[Condition, ...]

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.watched.version.name

    @property
    def after(self) -> str:
        """Where the span begins, as text."""
        return self.stamp(self.after_us)

    @property
    def until(self) -> str:
        """Where the span ends, as text."""
        return self.stamp(self.until_us)

    def stamp(self, stamp_us: int) -> str:
        """A stamp as text, in the zone of the model."""
        tz = self.watched.tz
        if clock.is_offset(tz):
            stamp_us += clock.offset_seconds(tz) * clock.SECOND
        return str(clock.text(stamps(np.array([stamp_us]), tz, self.watched.frequency), tz)[0])


def receive(registry: Registry, reference: str, table: pl.DataFrame) -> Received:
    """Keeps the actuals in `table`, whose columns are those of the version's training table.

    What they say of the champion is known when this is done: see `watch`.
    """
    watched = Watched.of(registry, reference)
    data = data_of(watched.version)
    rows = read_actuals(table, data, frequency=watched.frequency, tz=watched.profile.tz)
    received = actuals.add(registry.store, watched.version.name, rows, time=data.time)
    watch(registry, watched.version.name)
    return received


def monitor(
    registry: Registry, reference: str, *, window: str = "", tenant: str = TENANT
) -> Monitor | None:
    """The state of a model; of one version where `reference` names one. None without actuals.

    `window` is counted back from the newest actual: `30d`, `12h`, `2w`, or a number of steps.
    """
    wanted = Reference.parse(reference)
    watched, store = Watched.of(registry, reference), registry.store
    name = name_for(wanted.name, tenant)
    until = actuals.newest(store, name)
    if until is None:
        return None
    after = _back(watched, until, window or USUAL_WINDOW[watched.frequency.is_integer])
    only = wanted.version
    scores = {
        one.version: one for one in live(store, name, after_us=after, until_us=until, version=only)
    }
    others = {*scores} - {watched.version.version}
    names = {watched.version.version: watched} | {
        number: _watched(registry, f"{wanted.name}/{number}") for number in others
    }
    conditions = [
        Condition(
            number,
            scores.get(number),
            None
            if one is None or one.found is None
            else _look(store, one, name, until, scores.get(number)),
        )
        for number, one in sorted(names.items(), key=lambda item: -int(item[0]))
    ]
    return Monitor(watched, after, until, tuple(conditions))


def _watched(registry: Registry, reference: str) -> Watched | None:
    """An earlier version, whose scores outlive it; None where it cannot be watched any more."""
    try:
        return Watched.of(registry, reference)
    except (NotFoundError, ArtifactError, ConfigError):
        return None


def look(registry: Registry, reference: str) -> Measure:
    """The drift of a model's newest actuals from what its version knew, and its live accuracy."""
    watched, store = Watched.of(registry, reference), registry.store
    name, number = watched.version.name, watched.version.version
    until = actuals.newest(store, name)
    if until is None:
        return Measure(0, ())
    after = _back(watched, until, USUAL_WINDOW[watched.frequency.is_integer])
    scores = live(store, name, after_us=after, until_us=until, version=number)
    return _look(store, watched, name, until, next(iter(scores), None))


def watch(registry: Registry, model: str, *, tolerance: Tolerance | None = None) -> Alarm | None:
    """Looks at the champion of a model and keeps the alarm, which schedules of drift wait for.

    It can only change when actuals come or another version is champion. None without a champion.
    """
    store = registry.store
    try:
        champion = registry.describe(model)
    except NotFoundError:
        return None
    before, about = _kept(store, model)
    if about != champion.version:
        before = None  # another profile: what was strange to the old one may be usual now
    found = look(registry, str(champion))
    with store.begin() as connection:
        now = now_ms(connection)
        after = alarm(before, found, now_ms=now, tolerance=tolerance or Tolerance())
        row = {"model": model, "version": champion.version, "measured_ms": now, **asdict(after)}
        connection.execute(upsert(connection, DRIFT_ALARM), row)
    return after


def _look(store: Store, watched: Watched, name: str, until: int, scores: Live | None) -> Measure:
    ends = edges(watched.profile, watched.frequency, until)
    rows = actuals.since(store, name, after_us=int(ends[0]))
    found = measure(watched.profile, rows, ends)
    return replace(found, mase_ratio=_ratio(watched.version, scores))


def _ratio(version: ModelVersion, scores: Live | None) -> float | None:
    """The live MASE over that of the backtest; None where there is too little of either."""
    usual = version.card.get("metrics", {}).get("mase")
    if scores is None or scores.points < LEAST_POINTS or "mase" not in scores.metrics or not usual:
        return None
    return scores.metrics["mase"] / float(usual)


def _back(watched: Watched, until: int, window: str) -> int:
    """The stamp from which a window up to `until` begins."""
    parts = WINDOW.fullmatch(window)
    if parts is None:
        raise ConfigError(f"window must be like 30d, 12h, 2w or a number of steps, got '{window}'.")
    if parts[2] and watched.frequency.is_integer:
        told = (
            f"window: the stamps of {watched.version.name} are step numbers, which have no days. "
            "Give a number of steps."
        )
        raise ConfigError(told, told=told)
    if parts[2]:
        return until - int(parts[1]) * SPANS[parts[2]]
    return int(grid_back(watched.tz, watched.frequency, until, int(parts[1]))[0])


def _kept(store: Store, model: str) -> tuple[Alarm | None, str]:
    """The alarm of a model as it was, and the version that it is about."""
    with store.read() as connection:
        row = connection.execute(
            sa.select(DRIFT_ALARM).where(DRIFT_ALARM.c.model == model)
        ).one_or_none()
    return (None, "") if row is None else (Alarm(row.active, row.since_ms, row.reason), row.version)
