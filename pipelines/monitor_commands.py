"""`tsformer actuals add` and `tsformer monitor`: what happened, and what it says of a model."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

from pipelines.home import Home

app = typer.Typer(no_args_is_help=True)


@app.callback()
def actuals() -> None:
    """Makes `add` a command of its own, though it is the only one."""


@app.command("add")
def add_command(
    model: Annotated[str, typer.Argument(help="NAME, NAME@ALIAS or NAME/VERSION.")],
    table: Annotated[
        str, typer.Argument(help="CSV or Parquet with the columns it was trained on.")
    ],
) -> None:
    """Keep what really happened; a later value takes the place of an earlier one."""
    from pipelines.monitor import receive
    from pipelines.published import data_of
    from pipelines.registry import Registry
    from pipelines.sources import load

    registry = Registry(Home.of(os.environ))
    version = registry.describe(model)
    rows, _ = load(table, id=data_of(version).id)
    got = receive(registry, str(version), rows)
    Console(markup=False).print(
        f"{got.received:,} actuals of {version.name}: {got.inserted:,} new, {got.replaced:,} "
        f"replaced, {got.unchanged:,} known already; {got.matched:,} match a recorded forecast.",
        highlight=False,
        soft_wrap=True,
    )


def monitor_command(reference: str, *, window: str, tenant: str, home: Home) -> None:
    """`tsformer monitor`."""
    from pipelines.keys import TENANT
    from pipelines.monitor import monitor
    from pipelines.monitor_display import show
    from pipelines.registry import Registry

    console = Console(markup=False)
    found = monitor(Registry(home), reference, window=window, tenant=tenant)
    if found is not None:
        show(found, console=console)
        return
    bring = (
        f"Bring them with: tsformer actuals add {reference} TABLE. Those of another tenant: --tenant."
        if tenant == TENANT
        else "Its clients send them to /v1/actuals; they count where a forecast was recorded."
    )
    console.print(
        f"{reference}: there are no actuals of tenant {tenant} yet. {bring}",
        highlight=False,
        soft_wrap=True,
    )
