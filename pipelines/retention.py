"""Retention: which versions stay, and a clean-up that removes the others with all their files.

What stays: every version that an alias is on, the one that a rollback would restore, pinned ones,
those that a process of this machine has loaded, the newest ones, and all that this store did not
see published. A service elsewhere that is asked for a version by its number needs a pin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from pipelines import audit, digests, entries
from pipelines.audit import Actor, Change
from pipelines.champions import leave, standings
from pipelines.crashpoint import crashpoint
from pipelines.digests import Vouched
from pipelines.locks import removal, turn
from pipelines.registry import Registry
from pipelines.versions import ModelVersion, checked_name
from tsformer.errors import ConfigError

KEEP = 10  # of the newest versions of a model
CLEAN_SECONDS = 30.0  # to wait for another clean-up of the same model
IN_USE = "loaded by a process on this machine"


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a clean-up of a model did: versions removed, and the reason for each that was kept."""

    removed: tuple[ModelVersion, ...]
    kept: Mapping[str, str]


def clean(registry: Registry, name: str, *, keep: int = KEEP, who: Actor | None = None) -> Cleaned:
    """Removes the versions of `name` that nothing keeps, oldest first, and says what stayed.

    Interrupted at any point, the next one goes on. Each removal is a row of the audit.
    """
    with turn(registry.store, f"clean-{checked_name(name)}", wait_s=CLEAN_SECONDS):
        plan = planned(registry, name, keep=keep)
        removed, kept = [], dict(plan.kept)
        for version in plan.removed:
            why = _remove(registry, version, who=who or Actor.here())
            if why is None:
                removed.append(version)
            else:
                kept[version.version] = why
        registry.copies.sweep(name, known=registry.versions(name))
    return Cleaned(tuple(removed), kept)


def retire(registry: Registry, name: str, *, who: Actor | None = None) -> None:
    """Takes a whole model away: from now on it has no alias, and no version that anybody loads.

    The copy that a process has in memory stays for a clean-up after its end. Interrupted at any
    point, the next one goes on.
    """
    with turn(registry.store, f"clean-{checked_name(name)}", wait_s=CLEAN_SECONDS):
        versions = registry.versions(name)
        with registry.store.begin() as connection:
            for version in versions:
                known = digests.hold_alone(connection, name, version.version)
                if known is None or known.removed_ms is not None:
                    continue
                digests.set_removed(connection, name, version.version)
                change = Change("retire", str(version), before=version.digest)
                audit.append(connection, change, who or Actor.here())
            leave(connection, name)
        with registry.link.writing() as client:
            for alias in entries.aliases_of(client, name):
                client.delete_registered_model_alias(name, alias)
            for version in versions:
                registry.copies.remove(version)
                entry = entries.entry_of(client, name, version.version)
                entries.withdraw(client, registry.home, entry)


def planned(registry: Registry, name: str, *, keep: int = KEEP) -> Cleaned:
    """What `clean` would do now."""
    if keep < 0:
        raise ConfigError(f"--keep must be 0 or more, got {keep}.")
    removed, kept = [], {}
    for age, version in enumerate(registry.versions(name)):
        why = f"one of the newest {keep}" if age < keep else _kept(registry, version)
        if why is None:
            removed.append(version)
        else:
            kept[version.version] = why
    return Cleaned(tuple(reversed(removed)), kept)


def pin(registry: Registry, reference: str, *, who: Actor | None = None) -> ModelVersion:
    """Keeps a version from every clean-up until it is unpinned."""
    return _set_pinned(registry, reference, pinned=True, who=who)


def unpin(registry: Registry, reference: str, *, who: Actor | None = None) -> ModelVersion:
    """Lets clean-ups remove a version again."""
    return _set_pinned(registry, reference, pinned=False, who=who)


def _set_pinned(
    registry: Registry, reference: str, *, pinned: bool, who: Actor | None
) -> ModelVersion:
    version = registry.describe(reference)
    with registry.store.begin() as connection:
        known = digests.hold(connection, version)
        if known.pinned != pinned:
            digests.set_pinned(connection, known.model, known.version, pinned=pinned)
            change = Change("pin" if pinned else "unpin", str(version))
            audit.append(connection, change, who or Actor.here())
    return version


def _kept(registry: Registry, version: ModelVersion) -> str | None:
    """Why a version stays, as things are now."""
    if version.aliases:
        return ", ".join(f"@{alias}" for alias in version.aliases)
    with registry.store.read() as connection:
        known = digests.vouched(connection, version.name, version.version)
        why = _needed(connection, known)
    if why is not None:
        return why
    with removal(registry.copies.path(version)) as free:
        return None if free else IN_USE


def _needed(connection: sa.Connection, known: Vouched | None) -> str | None:
    """Why the store needs a version."""
    if known is None:
        return "not published with this store"
    if known.removed_ms is not None:  # a clean-up that was interrupted
        return None
    if known.pinned:
        return "pinned"
    for alias in standings(connection, known.model):
        if known.version == alias.version:
            return f"@{alias.alias}"
        if known.version == alias.previous:
            return f"@{alias.alias} was on it before"
    return None


def _remove(registry: Registry, version: ModelVersion, *, who: Actor) -> str | None:
    """Removes a version, unless it is needed after all: then says why.

    First it is claimed, and then leases are looked for: whoever takes one looks for claims after
    it (`Registry.local`), so of two at once at least one sees the other.
    """
    with registry.link.reading() as client:
        for alias, on in entries.aliases_of(client, version.name).items():
            if on == version.version:
                return f"@{alias}"
        why, begun = _claim(registry, version, who)
        if why is not None:
            return why
        crashpoint("clean-claimed")
        if not registry.copies.remove(version):
            if not begun:  # one that was interrupted may have removed files already
                _give_back(registry, version, who)
            return IN_USE
        crashpoint("clean-copy-removed")
        entry = entries.entry_of(client, version.name, version.version)
        entries.withdraw(client, registry.home, entry)
    return None


def _claim(registry: Registry, version: ModelVersion, who: Actor) -> tuple[str | None, bool]:
    """From now on nobody loads or promotes the version, unless it is needed: then says why.

    Says also whether an interrupted clean-up had claimed it before.
    """
    with registry.store.begin() as connection:
        known = digests.hold_alone(connection, version.name, version.version)
        why = _needed(connection, known)
        begun = known is not None and known.removed_ms is not None
        if why is None and not begun:
            digests.set_removed(connection, version.name, version.version)
            change = Change("clean", str(version), before=version.digest)
            audit.append(connection, change, who)
    return why, begun


def _give_back(registry: Registry, version: ModelVersion, who: Actor) -> None:
    """Takes a claim back: somebody has loaded the version a moment before it."""
    with registry.store.begin() as connection:
        digests.set_kept(connection, version.name, version.version)
        change = Change("clean undone", str(version), after=version.digest, reason=IN_USE)
        audit.append(connection, change, who)
