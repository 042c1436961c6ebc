"""A due time comes once: across the changes of the clocks, after an outage, and by a wrong clock."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from pipelines.schedule import Due, Schedule, due, next_due_ms
from tests.figures import Told
from tsformer.errors import ConfigError

BERLIN = ZoneInfo("Europe/Berlin")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def ms(text: str, zone: ZoneInfo = BERLIN) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)


def wall(time_ms: int, zone: ZoneInfo = BERLIN) -> str:
    return datetime.fromtimestamp(time_ms / 1000, zone).strftime("%Y-%m-%d %H:%M")


def cron(line: str, *, at: str = "2027-01-01", tz: str = "Europe/Berlin") -> Schedule:
    anchor = ms(at, ZoneInfo(tz))
    return Schedule("s", "e.yaml", "m", "cron", cron=line, tz=tz, anchor_ms=anchor)


def interval(seconds: int) -> Schedule:
    return Schedule("s", "e.yaml", "m", "interval", every_s=seconds, anchor_ms=1_000_000)


def times(schedule: Schedule, until: str) -> Iterator[int]:
    now, end = schedule.since_ms, ms(until)
    while (following := next_due_ms(schedule, now)) is not None and following < end:
        yield following
        now = following


def after(schedule: Schedule, found: Due) -> Schedule:
    """The schedule as the table has it once `found` is dealt with."""
    return replace(schedule, last_due_ms=found.until_ms, missed=schedule.missed + found.missed)


def watch(schedule: Schedule, clock: list[int]) -> tuple[list[int], Schedule]:
    """The runs of a scheduler that looks at the times of `clock`, and the schedule after them."""
    runs = []
    for now in clock:
        found = due(schedule, now)
        if found is None:
            continue
        schedule = after(schedule, found)
        if found.run_ms is not None:
            runs.append(found.run_ms)
    return runs, schedule


@pytest.fixture
def far_away() -> Iterator[None]:
    """A machine whose own clock is set to another zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "America/New_York"
    time.tzset()
    yield
    os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
    time.tzset()


@pytest.mark.usefixtures("far_away")
def test_a_year_of_nights_in_berlin(record_property: Told) -> None:
    """F17: 365 runs for 365 local days, though one 02:30 does not exist and one comes twice."""
    runs = list(times(cron("30 2 * * *", at="2026-12-31T12:00"), "2028-01-01"))
    days = Counter(wall(run)[:10] for run in runs)
    assert len(runs) == 365
    assert set(days.values()) == {1}
    hours = Counter(wall(run)[11:] for run in runs)
    assert hours == {"02:30": 364, "03:00": 1}
    assert wall(runs[86]) == "2027-03-28 03:00"
    record_property("F17", f"{len(runs)} runs for {len(days)} local days")


def test_a_repeated_hour_runs_the_first_time() -> None:
    """A night that has 02:30 twice must not train twice."""
    runs = list(times(cron("30 2 * * *", at="2027-10-30T12:00"), "2027-11-02"))
    assert [wall(run) for run in runs] == [
        "2027-10-31 02:30",
        "2027-11-01 02:30",
    ]
    first = datetime.fromtimestamp(runs[0] / 1000, BERLIN)
    assert first.utcoffset() == timedelta(hours=2)


def test_an_hourly_line_crosses_both_changes() -> None:
    """No instant twice, none out of order, and the gap gives one run, not one for each of its times."""
    spring = list(times(cron("*/20 * * * *", at="2027-03-28T01:00"), "2027-03-28T04:00"))
    assert [wall(run)[11:] for run in spring] == [
        *("01:20", "01:40", "03:00", "03:20", "03:40"),
    ]
    autumn = list(times(cron("0 * * * *", at="2027-10-31T00:30"), "2027-10-31T05:00"))
    assert [later - earlier for earlier, later in pairwise(autumn)] == [
        *(HOUR_MS, 2 * HOUR_MS, HOUR_MS),
    ]


def test_a_start_in_the_second_of_two_equal_hours_waits_for_the_next_day() -> None:
    """A scheduler that starts at the second 02:10 must not run 02:30 again."""
    second = int(
        datetime(2027, 10, 31, 2, 10, tzinfo=BERLIN, fold=1).timestamp() * 1000,
    )
    following = next_due_ms(cron("30 2 * * *"), second)
    assert following is not None
    assert wall(following) == "2027-11-01 02:30"


def test_a_day_that_a_zone_left_out() -> None:
    """Samoa had no 30 December 2011: its run comes as the 31st begins, which has its own at noon."""
    zone = ZoneInfo("Pacific/Apia")
    schedule = cron("0 12 * * *", at="2011-12-29T13:00", tz="Pacific/Apia")
    first = next_due_ms(schedule, schedule.anchor_ms)
    assert first is not None
    second = next_due_ms(schedule, first)
    assert second is not None
    assert [wall(run, zone) for run in (first, second)] == ["2011-12-31 00:00", "2011-12-31 12:00"]


def test_a_day_without_a_scheduler_is_caught_up_once(record_property: Told) -> None:
    """F17: after 24 h of outage of an hourly schedule, one run and 23 counted as missed."""
    schedule = cron("0 * * * *", at="2027-05-01T00:30")
    back = ms("2027-05-02T00:30")
    found = due(schedule, back)
    assert found == Due(run_ms=ms("2027-05-02T00:00"), missed=23, until_ms=ms("2027-05-02T00:00"))
    assert due(after(schedule, found), back) is None
    record_property("F17", f"after 24 h of outage: 1 run, {found.missed} missed")


def test_what_is_too_old_to_catch_up_is_counted_alone() -> None:
    """A weekly job of four days ago would use the machine at noon instead of at night."""
    schedule = cron("30 2 * * 1", at="2027-05-01")
    found = due(schedule, ms("2027-05-07T12:00"))
    assert found is not None
    assert (found.run_ms, found.missed) == (None, 1)


def test_without_catch_up_a_scheduler_may_still_be_a_little_late() -> None:
    """A look every second never comes at the very millisecond."""
    schedule = replace(interval(3600), catch_up_s=0)
    first = schedule.anchor_ms + HOUR_MS
    late = due(schedule, first + 5_000)
    assert late is not None
    assert late.run_ms == first
    absent = due(schedule, first + 600_000)
    assert absent is not None
    assert (absent.run_ms, absent.missed) == (None, 1)


@pytest.mark.parametrize("step_ms", [-HOUR_MS, HOUR_MS])
@pytest.mark.parametrize("schedule", [interval(600), cron("*/10 * * * *", at="1970-01-01T01:00")])
def test_a_clock_that_jumps_runs_nothing_twice(
    schedule: Schedule, step_ms: int, record_property: Told
) -> None:
    """F17: steps of an hour, forth and back, give no duplicate and lose no time for good."""
    start = schedule.anchor_ms
    looks = range(start, start + 6 * HOUR_MS, 30_000)
    clock = [
        now + (step_ms if start + 2 * HOUR_MS <= now < start + 4 * HOUR_MS else 0) for now in looks
    ]
    runs, moved = watch(schedule, clock)
    assert len(runs) == len(set(runs))
    assert runs == sorted(runs)
    everything = [t for t in range(start, max(clock) + 1, 600_000) if t > start]
    expected = [t for t in everything if next_due_ms(schedule, t - 1) == t]
    assert len(runs) + moved.missed == len(expected)
    told = f"{schedule.trigger}, clock {step_ms // HOUR_MS:+} h and back: {len(runs)} runs, 0 twice"
    record_property("F17", told)


def test_an_interval_keeps_its_beat() -> None:
    """A run that begins late must not push the following ones."""
    schedule = interval(600)
    start = schedule.anchor_ms
    assert next_due_ms(schedule, start) == start + 600_000
    assert next_due_ms(schedule, start + 1_234_567) == start + 1_800_000
    assert next_due_ms(schedule, start - 5) == start + 600_000


def test_jitter_parts_schedules_and_stays_with_them() -> None:
    """Twenty schedules of one line would begin at the same second; a restart must not move them."""
    base = replace(interval(3600), jitter_s=600)
    named = [replace(base, name=f"s{number}") for number in range(20)]
    offsets = [schedule.offset_ms for schedule in named]
    assert len(set(offsets)) == 20
    assert all(0 <= offset <= 600_000 for offset in offsets)
    for schedule in named:
        first = schedule.anchor_ms + HOUR_MS
        assert due(schedule, first + schedule.offset_ms - 1) is None
        found = due(schedule, first + schedule.offset_ms)
        assert found is not None
        assert found.run_ms == first


def test_drift_has_no_clock() -> None:
    """A schedule that waits for drift must not run by the hour as well."""
    schedule = Schedule("s", "e.yaml", "m", "drift", anchor_ms=0)
    assert next_due_ms(schedule, 0) is None
    assert due(schedule, 10**15) is None


@pytest.mark.parametrize(
    ("line", "tz", "said"),
    [
        ("30 2 * * 1", "", "name it, such as --tz"),
        ("30 2 * * 1", "Berlin", "is no zone"),
        ("30 2 * * 1", "../etc/passwd", "is no zone"),
        ("30 2 * *", "UTC", "no cron line"),
        ("30 2 * * 1 0", "UTC", "no cron line"),
        ("61 2 * * 1", "UTC", "no cron line: a number is out of range"),
        ("R 2 * * 1", "UTC", "no cron line"),
        ("", "UTC", "no cron line"),
        ("0 0 30 2 *", "UTC", "never comes"),
    ],
)
def test_a_line_that_means_nothing_is_refused_when_it_is_made(
    line: str, tz: str, said: str
) -> None:
    """Else a person finds out weeks later that nothing ran."""
    with pytest.raises(ConfigError, match=said):
        Schedule("s", "e.yaml", "m", "cron", cron=line, tz=tz)


@pytest.mark.parametrize("name", ["", "a b", "../x", "é", "x" * 65])
def test_a_name_is_plain(name: str) -> None:
    """A name stands in paths and addresses."""
    with pytest.raises(ConfigError, match="cannot name a schedule"):
        Schedule(name, "e.yaml", "m", "interval", every_s=60)


def test_negative_waits_are_refused() -> None:
    """A jitter below zero would run before it is due."""
    with pytest.raises(ConfigError, match="0 or more"):
        replace(interval(60), jitter_s=-1)
    with pytest.raises(ConfigError, match="at least one second"):
        interval(0)


def test_a_day_of_minutes_is_counted_quickly() -> None:
    """A scheduler back after a long outage must not compute for minutes."""
    schedule = cron("* * * * *", at="2027-05-01")
    started = time.perf_counter()
    found = due(schedule, ms("2027-05-08"))
    assert found is not None
    assert found.missed == 7 * 24 * 60 - 1
    assert time.perf_counter() - started < 20
