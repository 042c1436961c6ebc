"""When a run is due: pure, from a schedule and the clock that the caller hands in.

A cron line speaks of the wall clock of its zone. A time that the clock skips in spring is due at
the first instant after the gap; one that it shows twice in autumn is due once, the first time.
An interval counts from the schedule's beginning and knows no zone. Of all due times that nobody
was there to see, the newest is caught up, if it is not too old; the others count as missed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterError, croniter

from pipelines.keys import TENANT, TENANT_MARK
from pipelines.versions import checked_name
from tsformer.errors import ConfigError

CATCH_UP_S = 24 * 3600
# A scheduler looks every second; a restart or a busy machine makes it a little late, not absent.
ON_TIME_MS = 60_000
RANDOM = re.compile(r"\bR\b", re.IGNORECASE)
FIELDS = 5  # minute, hour, day, month, weekday: no seconds, no years

Trigger = Literal["cron", "interval", "drift"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is done when: a row of the table, and what its constructor promises of it.

    Without a `job` (JSON: its type and spec) the `experiment` is retrained. The name of a tenant's
    schedule has the tenant before it, as `pipelines.recording.name_for` writes it.
    """

    name: str
    experiment: str
    model: str
    trigger: Trigger
    cron: str | None = None
    tz: str | None = None
    every_s: int | None = None
    jitter_s: int = 0
    catch_up_s: int = CATCH_UP_S
    enabled: bool = True
    created_ms: int = 0
    anchor_ms: int = 0
    last_due_ms: int | None = None
    missed: int = 0
    skipped: int = 0
    rev: int = 0
    job: str | None = None
    owner: str | None = None
    gate: str | None = None
    promotes: bool = True

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.trigger == "cron":
            _check_cron(self.cron, self.tz)
        if self.trigger == "interval" and (self.every_s is None or self.every_s < 1):
            raise ConfigError(f"An interval must be at least one second, got {self.every_s}.")
        if self.jitter_s < 0 or self.catch_up_s < 0:
            raise ConfigError("Jitter and catch-up must be 0 or more seconds.")

    @property
    def tenant(self) -> str:
        """Whose schedule it is."""
        tenant, mark, _ = self.name.partition(TENANT_MARK)
        return tenant if mark else TENANT

    @property
    def kind(self) -> str:
        """What its runs are."""
        return "retrain" if self.job is None else str(json.loads(self.job)["type"])

    @property
    def since_ms(self) -> int:
        """The newest due time that is dealt with; until the first one, the beginning."""
        return self.anchor_ms if self.last_due_ms is None else self.last_due_ms

    @property
    def offset_ms(self) -> int:
        """How much later than due it begins: its own part of the jitter, always the same.

        So schedules of one cron line do not begin together, and stay in order.
        """
        digest = hashlib.sha256(self.name.encode()).digest()
        return int.from_bytes(digest[:8], "big") % (self.jitter_s * 1000 + 1)


@dataclass(frozen=True, slots=True)
class Due:
    """What has come due: the time to run, if any is recent enough, and the times that are not run.

    `until_ms` is the newest of all of them: everything up to it is dealt with.
    """

    run_ms: int | None
    missed: int
    until_ms: int


def next_due_ms(schedule: Schedule, after_ms: int) -> int | None:
    """The first due time after `after_ms`; None for a schedule that no clock drives."""
    return next(_times(schedule, after_ms), None)


def due(schedule: Schedule, now_ms: int) -> Due | None:
    """What has come due since the schedule last ran, at `now_ms`; None where nothing has."""
    newest, count = None, 0
    for time_ms in _times(schedule, schedule.since_ms):
        if time_ms + schedule.offset_ms > now_ms:
            break
        newest, count = time_ms, count + 1
    if newest is None:
        return None
    age_ms = now_ms - schedule.offset_ms - newest
    if age_ms <= max(schedule.catch_up_s * 1000, ON_TIME_MS):
        return Due(newest, missed=count - 1, until_ms=newest)
    return Due(None, missed=count, until_ms=newest)


def _times(schedule: Schedule, after_ms: int) -> Iterator[int]:
    if schedule.trigger == "cron" and schedule.cron is not None and schedule.tz is not None:
        return _cron_times(schedule.cron, ZoneInfo(schedule.tz), after_ms)
    if schedule.trigger == "interval" and schedule.every_s is not None:
        return _interval_times(schedule.anchor_ms, schedule.every_s * 1000, after_ms)
    return iter(())


def _interval_times(anchor_ms: int, every_ms: int, after_ms: int) -> Iterator[int]:
    number = max(0, (after_ms - anchor_ms) // every_ms) + 1
    while True:
        yield anchor_ms + number * every_ms
        number += 1


def _cron_times(line: str, zone: ZoneInfo, after_ms: int) -> Iterator[int]:
    """Instants in order; several wall times that one gap swallows are one instant."""
    wall = datetime.fromtimestamp(after_ms / 1000, zone).replace(tzinfo=None)
    walls = croniter(line, wall)
    last_ms = after_ms
    while True:
        time_ms = _instant_ms(walls.get_next(datetime), zone)
        if time_ms > last_ms:
            yield time_ms
            last_ms = time_ms


def _instant_ms(wall: datetime, zone: ZoneInfo) -> int:
    """When the clock of `zone` first shows `wall`, or has jumped over it."""
    shown = wall.replace(tzinfo=zone, fold=0)
    instant = shown.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None) != wall:
        before = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
        instant = _jump(before, instant, zone)
    return int(instant.timestamp()) * 1000


def _jump(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The first second of the offset of `after`, between the two."""
    wanted = after.astimezone(zone).utcoffset()
    low, high = 0, int((after - before).total_seconds())
    while high - low > 1:
        middle = (low + high) // 2
        there = (before + timedelta(seconds=middle)).astimezone(zone)
        low, high = (low, middle) if there.utcoffset() == wanted else (middle, high)
    return before + timedelta(seconds=high)


def _check_name(name: str) -> None:
    try:
        for part in name.split(TENANT_MARK, 1):
            checked_name(part)
    except ConfigError:
        raise ConfigError(
            f"{name!r} cannot name a schedule: it must have 1 to 64 letters, digits, '.', '_' or "
            "'-', with a letter or digit first and last."
        ) from None


def check_zone(zone: str) -> None:
    """Raises ConfigError for what is no IANA zone, by whose wall clock a cron line is read."""
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(
            f"{zone!r} is no zone. Expected an IANA name such as Europe/Berlin or UTC."
        ) from None


def _check_cron(line: str | None, zone: str | None) -> None:
    if not zone:
        raise ConfigError("A cron line speaks of a zone: name it, such as --tz Europe/Berlin.")
    check_zone(zone)
    if line is None or not _is_cron(line):
        raise ConfigError(
            f"{line!r} is no cron line{_out_of_range(line)}. Expected minute, hour, day, month and weekday, such as "
            "'30 2 * * 1' for Mondays at 02:30."
        )
    try:
        croniter(line, datetime(2024, 1, 1)).get_next(datetime)
    except CroniterError:
        raise ConfigError(f"{line!r} never comes: there is no such day.") from None


def _out_of_range(line: str | None) -> str:
    """Whether a number is, so that nobody looks for another mistake."""
    try:
        croniter(line or "")
    except CroniterError as error:
        return ": a number is out of range" if "out of range" in str(error) else ""
    return ""


def _is_cron(line: str) -> bool:
    """Five fields or a name such as @daily; not croniter's R, which is another time each time."""
    known = line.startswith("@") or len(line.split()) == FIELDS
    return known and not RANDOM.search(line) and bool(croniter.is_valid(line))
