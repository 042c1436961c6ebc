"""`tsformer runs list | show | follow`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from pipelines.home import Home

if TYPE_CHECKING:
    from pipelines.ledger import Ledger

app = typer.Typer(no_args_is_help=True)

FOLLOW_S = 0.5

RunId = Annotated[str, typer.Argument(metavar="ID", help="A run that 'tsformer runs list' shows.")]


@app.command("list")
def list_command(
    schedule: Annotated[str, typer.Option(help="Only those of this schedule.")] = "",
    newest: Annotated[int, typer.Option(help="How many.", min=1, max=1000)] = 20,
) -> None:
    """The newest runs, newest first."""
    from pipelines.schedule_words import here, runs_table, say

    runs = _ledger().runs(schedule or None, newest=newest)
    if not runs:
        say("There is no run yet: tsformer schedule trigger NAME")
        return
    Console().print(runs_table(runs, here()))


@app.command()
def show(run_id: RunId) -> None:
    """One run: what happened, and why."""
    from pipelines.schedule_words import about, here, line, say

    ledger, zone = _ledger(), here()
    for sentence in about(ledger.run(run_id), zone):
        say(sentence)
    for event in ledger.events(run_id):
        if event.kind != "progress":
            say(line(event, zone))


@app.command()
def follow(run_id: RunId) -> None:
    """What a run says, as it says it, until it ends; status 1 if it did not succeed."""
    from pipelines.ledger_rows import FINAL
    from pipelines.schedule_words import here, line, say

    ledger, zone, seen = _ledger(), here(), 0
    while True:
        run = ledger.run(run_id)  # before its words: so none is missed
        for event in ledger.events(run_id, after=seen):
            say(line(event, zone))
            seen = event.seq
        if run.state in FINAL:
            break
        time.sleep(FOLLOW_S)
    if run.error:
        say(f"Error: {run.error}")
    if run.state in ("failed", "dead"):
        raise typer.Exit(1)


def _ledger() -> Ledger:
    from pipelines.ledger import Ledger
    from pipelines.store import Store

    return Ledger(Store.of(Home.of(os.environ)))
