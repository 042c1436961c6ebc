"""`tsformer keys add | list | revoke`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from pipelines.home import Home

if TYPE_CHECKING:
    from pipelines.store import Store

app = typer.Typer(no_args_is_help=True)


@app.command()
def add(
    role: Annotated[str, typer.Option(help="reader, forecaster or operator.")],
    tenant: Annotated[str, typer.Option(help="Whose data and jobs it sees.")] = "default",
    expires: Annotated[str, typer.Option(help="How long it is valid: 12h, 90d.")] = "90d",
) -> None:
    """Make a key and show it, this once; a running service knows it within seconds."""
    from pipelines.audit import Actor
    from pipelines.keys import add_key
    from pipelines.schedule_words import at, here, seconds

    lives_s = seconds(expires, option="--expires")
    text, key = add_key(_store(), role, tenant=tenant, lives_s=lives_s, who=Actor.here())
    print(text, flush=True)
    Console(stderr=True).print(
        f"This {key.role} key of tenant {key.tenant} is valid until {at(key.expires_ms, here())}. "
        "It is not shown again: only its SHA-256 is kept. Requests send it as the header "
        f"'Authorization: Bearer KEY'; `tsformer keys revoke {key.prefix}` ends it.",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip


@app.command("list")
def list_command() -> None:
    """All keys by their prefix: role, tenant, until when, and whether they are valid."""
    from pipelines.keys import all_keys
    from pipelines.schedule_words import at, here

    found, zone = all_keys(_store()), here()
    if not found.keys:
        print("There is no key yet: tsformer keys add --role forecaster")
        return
    table = Table("prefix", "role", "tenant", "made", "until", "state")
    for key in found.keys:
        times = at(key.created_ms, zone), at(key.expires_ms, zone)
        table.add_row(key.prefix, key.role, key.tenant, *times, key.state(found.now_ms))
    Console().print(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The 8 characters after 'tsf_', or all of it.")],
) -> None:
    """End a key now and for good; a running service refuses it within 5 seconds."""
    from pipelines.audit import Actor
    from pipelines.keys import revoke_key

    before = revoke_key(_store(), key, who=Actor.here())
    print(f"{before.prefix} {'is' if before.revoked_ms is None else 'was already'} revoked.")


def _store() -> Store:
    from pipelines.store import Store

    return Store.of(Home.of(os.environ))
