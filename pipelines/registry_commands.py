"""`tsformer promote | rollback`, `tsformer registry import | pin | unpin | clean | verify | audit`."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from rich.console import Console

from pipelines.home import Home

app = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The name of a model.")]
Version = Annotated[str, typer.Argument(metavar="NAME/VERSION", help="The version.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the audit.")]
SHOWN = 20  # rows of the audit


def promote_command(reference: str, *, home: Home, alias: str, reason: str, override: bool) -> None:
    """`tsformer promote`."""
    from pipelines.registry import Registry

    version = Registry(home).promote(reference, alias=alias, reason=reason, override=override)
    _say(f"{version.name}@{alias} is version {version.version} ({version.kind}) now.")


def rollback_command(name: str, *, home: Home, from_version: str | None, reason: str) -> None:
    """`tsformer rollback`."""
    from pipelines.registry import Registry

    version = Registry(home).rollback(name, from_version=from_version, reason=reason)
    _say(f"{version.name}@champion is back on version {version.version} ({version.kind}).")


@app.command("import")
def import_command(reference: Version, reason: Reason = "") -> None:
    """Trust a version that was published with another store, or before there was one."""
    from pipelines.registry import Registry

    version = Registry(_home()).adopt(reference, reason=reason)
    _say(f"{version} ({version.kind}, SHA-256 {version.digest[:12]}) can be served and promoted.")


@app.command("pin")
def pin_command(reference: Version) -> None:
    """Keep a version from every clean-up."""
    from pipelines.registry import Registry
    from pipelines.retention import pin

    _say(f"{pin(Registry(_home()), reference)} is pinned.")


@app.command("unpin")
def unpin_command(reference: Version) -> None:
    """Let clean-ups remove a version again."""
    from pipelines.registry import Registry
    from pipelines.retention import unpin

    _say(f"{unpin(Registry(_home()), reference)} is not pinned.")


@app.command("clean")
def clean_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models; default: all that forecast.")
    ] = None,
    keep: Annotated[int, typer.Option(help="How many of the newest versions stay anyway.")] = 10,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove old versions with their files; what serves, served before or is pinned stays."""
    from pipelines.registry import Registry
    from pipelines.retention import clean, planned

    registry = Registry(_home())
    for name in names or registry.models():
        cleaned = (planned if dry_run else clean)(registry, name, keep=keep)
        for version in cleaned.removed:
            _say(f"{version} ({version.kind}) {'would be' if dry_run else 'was'} removed.")
        for number, why in cleaned.kept.items():
            _say(f"{name}/{number} stays: {why}.")


@app.command("verify")
def verify_command() -> None:
    """Hold every version against what was published, and name what belongs to none."""
    from pipelines.registry import Registry
    from pipelines.verification import verified

    found = verified(Registry(_home()))
    for fault in found.faults:
        _say(fault)
    _say(f"{len(found.sound)} versions are as they were published; {len(found.faults)} faults.")
    if found.faults:
        raise typer.Exit(1)


@app.command("audit")
def audit_command(
    last: Annotated[int, typer.Option(help="How many of the newest rows to show.")] = SHOWN,
    noted: Annotated[str | None, typer.Option(help="A hash that was noted before.")] = None,
) -> None:
    """Show who changed what and why, and whether a row was altered or taken out."""
    from datetime import UTC, datetime

    from pipelines.audit import entries, faults
    from pipelines.store import Store

    with Store.of(_home()).read() as connection:
        chain = entries(connection)
    for entry in chain[-last:] if last else ():
        at = datetime.fromtimestamp(entry.at_ms / 1000, tz=UTC).isoformat(timespec="seconds")
        moved = f"{entry.before or '-'} -> {entry.after or '-'}"
        why = f": {entry.reason}" if entry.reason else ""
        _say(
            f"{entry.seq} {at} {entry.who} ({entry.role}) {entry.what} {entry.subject} {moved}{why}"
        )
    wrong = faults(chain, noted=noted)
    for fault in wrong:
        _say(fault)
    if wrong:
        raise typer.Exit(1)
    hash_now = f" The newest has the hash {chain[-1].hash}." if chain else ""
    _say(f"{len(chain)} rows, none altered or missing.{hash_now}")


def _home() -> Home:
    return Home.of(os.environ)


def _say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
