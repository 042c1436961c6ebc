"""`tsformer data list | fetch | check`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tsformer.errors import DataError

if TYPE_CHECKING:
    from pipelines.data_check import Check

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A name that 'tsformer data list' shows.")]
Source = Annotated[
    str,
    typer.Argument(metavar="PATH", help="A CSV or Parquet file, an experiment (.yaml), or a name."),
]
SHOWN = 20  # problems, and warnings, on the terminal


@app.command("list")
def list_command() -> None:
    """The sample and the public benchmark sets, and which of them are on this machine."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from pipelines.catalogue import CATALOGUE
    from pipelines.sources import SAMPLE, data_folders, find

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="Data sets", title_justify="left")
    for head in ("name", "rows x series", "step", "size", "licence", "here"):
        table.add_column(head, no_wrap=True)
    table.add_row(SAMPLE, "8,760 x 23", "h", "0.4 MB", "CC0", "shipped")
    folders = data_folders(os.environ)
    for each in CATALOGUE.values():
        shape, size = f"{each.rows:,} x {each.variates}", f"{each.size_bytes / 1e6:.1f} MB"
        here = "yes" if find(each, folders) else "no"
        table.add_row(each.name, shape, each.frequency, size, each.licence, here)
    console = Console(markup=False)
    console.print(table)
    console.print(
        f"'tsformer data fetch NAME' gets one; looked for in {', '.join(map(str, folders))}.",
        highlight=False,
    )


@app.command("fetch")
def fetch_command(name: Name) -> None:
    """Download a public benchmark set into the cache; a broken download goes on where it stopped."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from pipelines.catalogue import dataset, identify
    from pipelines.download import fetch
    from pipelines.sources import SAMPLE, SAMPLE_FILE, cache_folder, data_folders, find

    console = Console(markup=False)
    if name.lower() == SAMPLE:
        console.print(f"{SAMPLE} is shipped: {SAMPLE_FILE}", highlight=False, soft_wrap=True)
        return
    wanted = dataset(name)
    if place := find(wanted, data_folders(os.environ)):
        if identify(place) != wanted:
            raise DataError(
                f"{place} is here already, but it is not the original ('tsformer data check "
                f"{wanted.name}' says more). Remove it to fetch the original."
            )
        console.print(f"{wanted.name} is here already: {place}", highlight=False, soft_wrap=True)
        return
    console.print(f"{wanted.address} (licence: {wanted.licence})", highlight=False, soft_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(wanted.name, total=wanted.size_bytes)

        def report(done: int, total: int | None) -> None:
            bars.update(task, completed=done, total=total or wanted.size_bytes)

        place = fetch(wanted, folder=cache_folder(os.environ), report=report)
    console.print(f"{place}: checksum right", highlight=False, soft_wrap=True)


@app.command("check")
def check_command(source: Source) -> None:
    """Say which data set a file is, whether it is unaltered, and what is wrong with it."""
    from pipelines.data_check import check

    found = check(source)
    console = Console(markup=False)
    for line in describe(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if found.problems:
        raise typer.Exit(1)


def describe(found: Check) -> list[str]:
    """What `check` found, in lines for a person."""
    lines = [
        f"{found.path}: {found.size_bytes:,} bytes, {found.rows:,} rows, {len(found.columns)} columns",
    ]
    if found.dataset is not None:
        lines.append(f"data set: {found.dataset}; {found.origin}")
    if found.schema is not None:
        names = found.schema.targets
        values = ", ".join(names[:4]) + (f", ... ({len(names)})" if len(names) > 4 else "")
        series = f"series by '{found.schema.id}'" if found.schema.id else "a series a column"
        lines.append(f"understood as: {series}, time '{found.schema.time}', values {values}")
    if found.frequency is not None:
        bad = f", {found.invalid} of them with problems" if found.invalid else ""
        lines.append(f"{found.series} series{bad}, step {found.frequency}")
    lines += _limited("problem", found.problems) + _limited("warning", found.warnings)
    return lines if found.problems else [*lines, "no problems"]


def _limited(kind: str, sentences: tuple[str, ...]) -> list[str]:
    rest = len(sentences) - SHOWN
    more = [f"... and {rest:,} more of the kind '{kind}'"] if rest > 0 else []
    return [f"{kind}: {sentence}" for sentence in sentences[:SHOWN]] + more
