"""Aliases: where they stand in the store, and in MLflow, whose aliases are what serves.

Both are made to agree here. The store moves first, by compare-and-set; MLflow follows, by one
process at a time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from pipelines import audit, digests, entries
from pipelines.audit import Actor
from pipelines.champions import Champion, all_standings, mark, move, standing, standings
from pipelines.crashpoint import crashpoint
from pipelines.link import Link
from pipelines.locks import turn
from pipelines.versions import ModelVersion, Reference, checked_alias, checked_name
from tsformer.errors import UnavailableError

MOVE_SECONDS = 30.0  # to wait for another move of an alias of the same model
OUTSIDE = Actor("MLflow", role="outside")


@dataclass(frozen=True, slots=True)
class Aliases:
    """The aliases of the models of one home."""

    link: Link

    def one(self, name: str, alias: str) -> Champion | None:
        """Where an alias of `name` stands in the store; None for nowhere."""
        with self.link.store.read() as connection:
            now = standing(connection, checked_name(name), checked_alias(alias))
        return now if now.rev else None

    def all(self, name: str) -> dict[str, Champion]:
        """Where the aliases of `name` stand in the store."""
        with self.link.store.read() as connection:
            known = standings(connection, checked_name(name))
        return {now.alias: now for now in known if now.rev}

    def in_mlflow(self, name: str) -> dict[str, str]:
        """The aliases of `name` in MLflow and the version each is on."""
        with self.link.reading() as client:
            return entries.aliases_of(client, name)

    def agreed(self) -> dict[Reference, str]:
        """The versions of all aliases on which MLflow and the store agree, by one question to each."""
        with self.link.reading() as client:
            models = entries.pages(client.search_registered_models)
        on = {(model.name, alias): str(v) for model in models for alias, v in model.aliases.items()}
        with self.link.store.read() as connection:
            known = all_standings(connection)
        return {
            Reference(now.model, alias=now.alias): now.version
            for now in known
            if now.settled
            and now.version is not None
            and on.get((now.model, now.alias)) == now.version
        }

    def settle(self, name: str, alias: str) -> None:
        """Moves MLflow's alias to where the store says that it is."""
        try:
            with self._turn(name), self.link.writing() as client:
                now = self.one(name, alias)
                if now is None or now.settled:
                    return
                client.set_registered_model_alias(name, alias, now.version)
                crashpoint("promote-followed")
                with self.link.store.begin() as connection:
                    mark(connection, now, settled=True)
        except UnavailableError as error:
            raise UnavailableError(
                f"{name}@{alias} is moved in the store. MLflow's alias, which is what serves, "
                f"follows when it can be reached: {error}"
            ) from error

    def follow(self, version: ModelVersion, alias: str) -> None:
        """Adopts an alias that was moved to `version` by hand, unless it was not after all."""
        name = version.name
        with self._turn(name), self.link.reading() as client:
            if entries.aliases_of(client, name).get(alias) != version.version:
                return
            with self.link.store.begin() as connection:
                digests.hold(connection, version)
                now = standing(connection, name, alias)
                if now.settled and now.version != version.version:
                    move(connection, now, to=version.version, previous=now.version, settled=True)
                    change = now.change("moved outside", to=version.version)
                    audit.append(connection, change, OUTSIDE)

    def _turn(self, name: str) -> AbstractContextManager[None]:
        """MLflow's aliases of `name` are moved, and compared, by one process at a time."""
        return turn(self.link.store, f"move-{name}", wait_s=MOVE_SECONDS)
