"""What schedules and runs look like on the terminal, and times as people write them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.ledger_rows import Run
from pipelines.run_events import Event
from pipelines.schedule import Schedule, next_due_ms
from tsformer.errors import ConfigError

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
LONGEST_S = 366 * 24 * 3600


def seconds(text: str, *, option: str) -> int:
    """60 from `60s` or `1m`; ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,9})\s*([smhd])", text.strip())
    if match is None or int(match[1]) * UNITS[match[2]] > LONGEST_S:
        raise ConfigError(
            f"{option} must be a time such as 60s, 15m, 6h or 1d, of at most 366d, got '{text}'."
        )
    return int(match[1]) * UNITS[match[2]]


def told(schedule: Schedule) -> str:
    """When it runs, in words."""
    if schedule.trigger == "drift":
        return "on drift"
    if schedule.trigger == "cron":
        return f"by cron '{schedule.cron}' in {schedule.tz}"
    return f"every {_duration(schedule.every_s or 0)}"


def _duration(count_s: int) -> str:
    unit = next(unit for unit in ("d", "h", "m", "s") if count_s % UNITS[unit] == 0)
    return f"{count_s // UNITS[unit]}{unit}"


def next_run(schedule: Schedule, now: int) -> str:
    """The next due time as a sentence."""
    when = next_time(schedule, now)
    if not schedule.enabled:
        return f"It is paused: tsformer schedule resume {schedule.name}"
    return "It waits for drift." if schedule.trigger == "drift" else f"Next run: {when}."


def next_time(schedule: Schedule, now: int) -> str:
    """The next due time in the zone of the schedule, or why there is none."""
    if not schedule.enabled:
        return "paused"
    following = next_due_ms(schedule, max(now - schedule.offset_ms, schedule.since_ms))
    if following is None:
        return "on drift"
    return at(following + schedule.offset_ms, zone_of(schedule))


def zone_of(schedule: Schedule) -> tzinfo:
    """The zone in which a person thinks of it."""
    return ZoneInfo(schedule.tz) if schedule.tz else here()


def here() -> tzinfo:
    """The zone of this machine."""
    return datetime.now().astimezone().tzinfo or UTC


def at(time_ms: int, zone: tzinfo) -> str:
    """An instant for a person, with the zone."""
    return datetime.fromtimestamp(time_ms / 1000, zone).strftime("%Y-%m-%d %H:%M:%S %Z")


def stamped(text: str) -> str:
    """A line of a log."""
    return f"{datetime.now().strftime('%H:%M:%S')}  {text}"


def line(event: Event, zone: tzinfo) -> str:
    """What a run said, and when."""
    when = datetime.fromtimestamp(event.at_ms / 1000, zone).strftime("%H:%M:%S")
    return f"{when}  {event.text}"


def about(run: Run, zone: tzinfo) -> Iterator[str]:
    """What there is to know of a run, sentence by sentence."""
    yield f"Run {run.id} of {run.subject}, {run.reason}: {run.state}."
    times = {"Due": run.due_ms, "begun": run.started_ms, "ended": run.finished_ms}
    yield ", ".join(f"{word} {at(when, zone)}" for word, when in times.items() if when) + "."
    if run.attempt > 1:
        yield f"It took {run.attempt} attempts."
    if run.result_version:
        yield f"It made {run.result_version}."
    if run.outcome:
        yield run.outcome
    if run.error:
        yield f"Error: {run.error}"


def schedules_table(
    schedules: Sequence[Schedule], last: Mapping[str, Sequence[Run]], now: int
) -> Table:
    """Schedules, one a row, each with its `last` run."""
    table = _empty("name", "model", "when", "next", "last run", title="Schedules")
    for each in schedules:
        ended = [f"{run.state} ({run.id})" for run in last[each.name]]
        table.add_row(each.name, each.model, told(each), next_time(each, now), "".join(ended))
    return table


def runs_table(runs: Sequence[Run], zone: tzinfo) -> Table:
    """Runs, one a row."""
    table = _empty("run", "schedule", "due", "state", "version", "why", title="Runs")
    for each in runs:
        due, why = at(each.due_ms, zone), each.error or each.outcome or each.reason
        cells = (each.id, each.subject, due, each.state, each.result_version, why)
        table.add_row(*(escape(cell or "") for cell in cells))
    return table


def _empty(*heads: str, title: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def now() -> int:
    """Milliseconds since 1970 by the clock of this machine, to show what comes next."""
    return time.time_ns() // 1_000_000


def say(text: str) -> None:
    """A sentence on the terminal, as it is."""
    Console().print(text, highlight=False, soft_wrap=True, markup=False)
