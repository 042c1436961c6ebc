"""`tsformer schedule add | list | show | pause | resume | trigger | remove | run`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipelines.home import Home
from tsformer.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.executors import Executor
    from pipelines.ledger import Ledger
    from pipelines.schedule import Trigger
    from pipelines.timetable import Timetable

app = typer.Typer(no_args_is_help=True)

RUNS_SHOWN = 5

Name = Annotated[str, typer.Argument(help="The name of the schedule.")]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A name for the schedule.")],
    experiment: Annotated[Path, typer.Argument(help="What is retrained, e.g. sales.yaml.")],
    cron: Annotated[
        str, typer.Option(help="Minute, hour, day, month, weekday: '30 2 * * 1' is Mondays 02:30.")
    ] = "",
    tz: Annotated[str, typer.Option(help="The zone of --cron, such as Europe/Berlin.")] = "",
    every: Annotated[str, typer.Option(help="An interval instead: 60s, 15m, 6h, 1d.")] = "",
    on_drift: Annotated[
        bool, typer.Option("--on-drift", help="When the data of the model have drifted.")
    ] = False,
    jitter: Annotated[
        str, typer.Option(help="Begin up to so much later; a fixed part of it for each schedule.")
    ] = "0s",
    catch_up: Annotated[
        str, typer.Option(help="How old the newest missed run may be to be caught up; 0s for none.")
    ] = "24h",
) -> None:
    """Retrain an experiment again and again; what is better is promoted."""
    from pipelines.experiment import Experiment
    from pipelines.schedule import Schedule
    from pipelines.schedule_words import next_run, now, say, seconds, told

    schedule = Schedule(
        name=name,
        experiment=str(experiment.absolute() if experiment.is_file() else experiment),
        model=Experiment.read(experiment).name,
        trigger=_trigger(cron=cron, tz=tz, every=every, on_drift=on_drift),
        cron=cron or None,
        tz=tz or None,
        every_s=seconds(every, option="--every") if every else None,
        jitter_s=seconds(jitter, option="--jitter"),
        catch_up_s=seconds(catch_up, option="--catch-up"),
    )
    made = _timetable().add(schedule)
    say(f"{made.name}: {experiment} is retrained {told(made)}. {next_run(made, now())}")
    say("Runs begin while 'tsformer schedule run' or 'tsformer serve' is running.")


@app.command("list")
def list_command() -> None:
    """All schedules: when they run next, and how the last run went."""
    from pipelines.schedule_words import now, say, schedules_table

    ledger, schedules = _ledger(), _timetable().all()
    if not schedules:
        say("There is no schedule yet: tsformer schedule add NAME EXPERIMENT --every 1d")
        return
    last = {each.name: ledger.runs(each.name, newest=1) for each in schedules}
    Console().print(schedules_table(schedules, last, now()))


@app.command()
def show(name: Name) -> None:
    """One schedule, and its newest runs."""
    from pipelines.schedule_words import next_run, now, runs_table, say, told, zone_of

    schedule = _timetable().one(name)
    say(f"{schedule.name}: {schedule.experiment} is retrained {told(schedule)}.")
    say(next_run(schedule, now()))
    say(
        f"{schedule.missed} due times were missed while nobody looked, {schedule.skipped} skipped "
        "because another run had not ended."
    )
    runs = _ledger().runs(name, newest=RUNS_SHOWN)
    if runs:
        Console().print(runs_table(runs, zone_of(schedule)))


@app.command()
def pause(name: Name) -> None:
    """Nothing comes due until it is resumed; a run at work goes on."""
    from pipelines.schedule_words import say

    _timetable().pause(name)
    say(f"{name} is paused. To go on: tsformer schedule resume {name}")


@app.command()
def resume(name: Name) -> None:
    """Due times count again, from now on."""
    from pipelines.schedule_words import next_run, now, say

    schedule = _timetable().resume(name)
    say(f"{name} goes on. {next_run(schedule, now())}")


@app.command()
def trigger(name: Name) -> None:
    """A run now, whatever the clock says."""
    from pipelines.schedule_words import say

    ledger = _ledger()
    run_id = _timetable().trigger(name, ledger=ledger, reason="by hand")
    if ledger.run(run_id).state == "skipped":
        say(
            f"{name}: skipped, since another run of it waits or is at work: "
            f"tsformer runs list --schedule {name}"
        )
        return
    say(f"{name}: run {run_id}. To see how it goes: tsformer runs follow {run_id}")
    say("It begins while 'tsformer schedule run' or 'tsformer serve' is running.")


@app.command()
def remove(name: Name) -> None:
    """Ends a schedule. Its runs are kept."""
    from pipelines.schedule_words import say

    _timetable().remove(name)
    say(f"{name} is removed. A run at work goes on.")


@app.command()
def run(
    on: Annotated[
        str,
        typer.Option(
            help="Where runs are executed: ray (a local cluster), processes, or the address of a "
            "cluster's dashboard such as http://127.0.0.1:8265."
        ),
    ] = "ray",
) -> None:
    """The scheduler: looks every second what is due, until interrupted. Several may run."""
    import signal
    import threading

    from pipelines.schedule_words import say, stamped
    from pipelines.scheduler import Scheduler

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    ledger = _ledger()
    with _executor(on) as executor:
        say("Looking what is due. Ctrl-C ends the scheduler; runs at work go on.")
        Scheduler(ledger, executor, report=lambda text: say(stamped(text))).run(stop)
    say("The scheduler has ended.")


def _trigger(*, cron: str, tz: str, every: str, on_drift: bool) -> Trigger:
    given: dict[Trigger, bool] = {"cron": bool(cron), "interval": bool(every), "drift": on_drift}
    chosen = [trigger for trigger, is_given in given.items() if is_given]
    if len(chosen) != 1 or (tz and not cron):
        raise ConfigError("Say when: either --cron with --tz, or --every, or --on-drift.")
    return chosen[0]


def _ledger() -> Ledger:
    from pipelines.ledger import Ledger
    from pipelines.store import Store

    return Ledger(Store.of(Home.of(os.environ)))


def _timetable() -> Timetable:
    from pipelines.store import Store
    from pipelines.timetable import Timetable

    return Timetable(Store.of(Home.of(os.environ)))


@contextmanager
def _executor(on: str) -> Iterator[Executor]:
    """Where runs are executed, ready to take them."""
    from pipelines.executors import LocalProcesses, RayJobs, check_shared, cluster_at, job_variables
    from pipelines.ray_head import RayHead
    from pipelines.schedule_words import say

    home = Home.of(os.environ)
    if on == "processes":
        yield LocalProcesses(home.folder / "runs")
    elif on == "ray":
        head = RayHead(home.folder)
        with head.needed():
            say("Starting a local Ray cluster, or finding that of another scheduler ...")
            say(f"Its dashboard: {head.cluster().address}, its token: {head.folder / 'token'}")
            yield RayJobs(head.cluster, job_variables(home))
    else:
        cluster = cluster_at(on, os.environ)
        check_shared(cluster, home)
        yield RayJobs(lambda: cluster, job_variables(home))
