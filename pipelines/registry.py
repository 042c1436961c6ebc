"""Model versions in MLflow's registry: publish, describe, fetch, promote and rollback, side by side.

A version is the files that `tsformer.artifact.seal` sealed, inside an MLflow model that anyone
can load by `mlflow.pyfunc`. The service does not: it fetches the sealed files into a local
folder, verifies them against the digest in the project's store, and only then reads them. The
fetched copy is also what serves while MLflow or the store is away.

An alias is moved by compare-and-set in the store and then in MLflow, whose alias is what serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipelines import audit, digests, entries, publication
from pipelines.audit import Actor, Change
from pipelines.champions import (
    Champion,
    all_standings,
    mark,
    move,
    moved_meanwhile,
    standing,
    standings,
)
from pipelines.copies import Copies
from pipelines.crashpoint import crashpoint
from pipelines.digests import Vouched
from pipelines.home import Home, address, reach
from pipelines.locks import Lease, turn
from pipelines.store import Store
from pipelines.tracking import connect
from pipelines.versions import (
    CHAMPION,
    Fetched,
    ModelVersion,
    Reference,
    checked_alias,
    checked_name,
    checked_new_name,
)
from tsformer.artifact import verify
from tsformer.errors import (
    ArtifactError,
    ConfigError,
    ConflictError,
    NotFoundError,
    UnavailableError,
)

PUBLISH_SECONDS = 600.0  # to wait for another upload under the same name
MOVE_SECONDS = 30.0  # to wait for another move of an alias of the same model
OUTSIDE = Actor("MLflow", role="outside")


class Registry:
    """The model versions of one home. Safe to share between threads."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.copies = Copies(home.models)
        self._client: MlflowClient | None = None
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """The project's own database, made on first use."""
        if self._store is None:
            self._store = Store.of(self.home)
        return self._store

    # --- publish ----------------------------------------------------------------------------

    def publish(
        self,
        name: str,
        directory: Path,
        *,
        digest: str,
        run_id: str,
        card: Mapping[str, Any],
        description: str = "",
    ) -> ModelVersion:
        """The sealed `directory` as a new version of `name`, made by the run `run_id`.

        `digest` is what `seal` gave; `card` is the forecaster's, with what else is worth knowing.
        A run has one version: publishing the same files again gives it, also to two at once, and
        completes what was interrupted; other files are a ConflictError. Nobody loads a version
        before the last step is done.
        """
        checked_new_name(name)
        verify(directory, digest)
        what = publication.Publication(name, directory, digest, run_id, card, description)
        with (
            turn(self.store, f"publish-{name}", wait_s=PUBLISH_SECONDS),
            self.asking(self.writer) as client,
        ):
            made = publication.publish(what, client=client, home=self.home, store=self.store)
        return self.describe(str(made))

    def annotate(
        self, version: ModelVersion | str, text: str, *, passed: bool | None = None
    ) -> None:
        """Says on the version's page in MLflow why it was promoted or not; links are added.

        `passed` is the gate's verdict: what it refused is promoted by an override only.
        """
        described = self.describe(str(version))
        name, number = described.name, described.version
        with self.asking(self.writer) as client:
            if passed is not None:
                verdict = entries.PASSED if passed else entries.REFUSED
                client.set_model_version_tag(name, number, entries.GATE_TAG, verdict)
            page = entries.page(client, text, run_id=described.run_id, card=described.card)
            client.update_model_version(name, number, description=page)

    # --- describe ---------------------------------------------------------------------------

    def models(self) -> tuple[str, ...]:
        """The names of all models that have a version which forecasts: of no encoder."""
        with self.asking(self.reader) as client:
            found = entries.pages(client.search_registered_models)
        return tuple(sorted(model.name for model in found if entries.forecasts(model)))

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """All versions of `name`, newest first. Raises NotFoundError for an unknown name."""
        checked_name(name)
        with self.asking(self.reader) as client:
            aliases = entries.aliases_of(client, name)
            found = entries.pages(client.search_model_versions, f"name = '{name}'")
        ours = [entry for entry in found if entries.DIGEST_TAG in entry.tags]
        newest_first = sorted(ours, key=lambda entry: int(entry.version), reverse=True)
        return tuple(entries.version_of(entry, aliases) for entry in newest_first)

    def describe(self, reference: str) -> ModelVersion:
        """The version that `reference` names, as the registry knows it now.

        Raises NotFoundError with what is known instead, UnavailableError when nothing answers.
        """
        wanted = Reference.parse(reference)
        with self.asking(self.reader) as client:
            return entries.find(client, wanted)

    def agreed(self) -> dict[Reference, str]:
        """The versions of all aliases on which MLflow and the store agree, by one question to each."""
        with self.asking(self.reader) as client:
            models = entries.pages(client.search_registered_models)
        on = {(model.name, alias): str(v) for model in models for alias, v in model.aliases.items()}
        with self.store.read() as connection:
            known = all_standings(connection)
        return {
            Reference(now.model, alias=now.alias): now.version
            for now in known
            if now.settled
            and now.version is not None
            and on.get((now.model, now.alias)) == now.version
        }

    def champion(self, name: str, *, alias: str = CHAMPION) -> Champion | None:
        """Where the champion, or another alias, of `name` stands in the store; None for nowhere."""
        with self.store.read() as connection:
            now = standing(connection, checked_name(name), checked_alias(alias))
        return now if now.rev else None

    def champions(self, name: str) -> Mapping[str, Champion]:
        """Where all aliases of `name` stand, those included that were moved by hand in MLflow.

        One that was moved to what cannot be verified stands where it did.
        """
        with self.asking(self.reader) as client:
            on = entries.aliases_of(client, name)
        known = self._standings(name)
        strays = [a for a, v in on.items() if a not in known or known[a].version != str(v)]
        for alias in strays:
            with suppress(ArtifactError, NotFoundError):
                self.reconcile(name, alias=alias)
        return self._standings(name) if strays else known

    def _standings(self, name: str) -> dict[str, Champion]:
        with self.store.read() as connection:
            return {now.alias: now for now in standings(connection, checked_name(name)) if now.rev}

    # --- fetch ------------------------------------------------------------------------------

    def fetch(self, reference: str) -> Fetched:
        """A verified local copy of the version that `reference` names.

        When MLflow or the store is away, the copy that the same reference gave last. Raises
        ArtifactError for files that are not what was published, and never reads them.
        """
        wanted = Reference.parse(reference)
        try:
            version = self.describe(reference)
            directory, lease = self.local(version)
        except UnavailableError:
            last = self.copies.recall(wanted)
            if last is None:
                raise
            return Fetched(last[0], self.copies.path(last[0]), fresh=False, lease=last[1])
        with suppress(OSError):  # a full disk costs the answer, not the forecast
            self.copies.remember(wanted, version)
        return Fetched(version, directory, fresh=True, lease=lease)

    def adopt(self, reference: str, *, who: Actor | None = None, reason: str = "") -> ModelVersion:
        """Takes in a version that this store did not see published: from now on it is trusted.

        Its files must be those of the digest that MLflow has. It is an operator who decides this.
        """
        version = self.describe(reference)
        with self.store.read() as connection:
            known = digests.vouched(connection, version.name, version.version)
        if known is not None:
            _require(known, version)
            return version
        _, lease = self.copies.take(version, download=self._download)
        with lease, self.store.begin() as connection:
            if digests.vouched(connection, version.name, version.version) is None:
                digests.vouch(
                    connection,
                    model=version.name,
                    version=version.version,
                    run_id=_free(connection, version.run_id),
                    digest=version.digest,
                )
                change = Change("import", str(version), after=version.digest, reason=reason)
                audit.append(connection, change, who or Actor.here())
        return version

    # --- promote and roll back --------------------------------------------------------------

    def promote(
        self,
        reference: str,
        *,
        alias: str = CHAMPION,
        seen: int | None = None,
        who: Actor | None = None,
        reason: str = "",
        override: bool = False,
    ) -> ModelVersion:
        """Moves `alias` to the version that `reference` names, after its files were verified.

        `seen` is the revision (`champion().rev`, 0 for an alias on nothing) that the decision was
        made on; without it, the one of now. Whoever comes second raises ConflictError. What the
        gate refused needs an `override` with a reason.
        """
        version = self.describe(reference)
        what = _decision(version, checked_alias(alias), override=override, reason=reason)
        who = who or Actor.here()
        who.check(what, version.name)
        _, lease = self.local(version)
        with lease:
            with suppress(ArtifactError):  # moved by hand to what cannot be loaded: moved away now
                self.reconcile(version.name, alias=alias)
            with self.store.begin() as connection:
                self.hold(connection, version)
                now = standing(connection, version.name, alias)
                if seen not in (None, now.rev):
                    raise moved_meanwhile(now, seen=seen)
                if now.version == version.version:
                    mark(connection, now, settled=False)  # MLflow's alias may be gone
                else:
                    move(connection, now, to=version.version, previous=now.version)
                    change = now.change(what, to=version.version, reason=reason)
                    audit.append(connection, change, who)
            crashpoint("promote-moved")
            self._settle(version.name, alias)
        return self.describe(str(version))

    def rollback(
        self,
        name: str,
        *,
        alias: str = CHAMPION,
        from_version: str | None = None,
        who: Actor | None = None,
        reason: str = "",
    ) -> ModelVersion:
        """Moves `alias` back to the version it had before, after its files were verified.

        Only from `from_version`, where it is given; and only once: the version that was left is
        not the one before. Otherwise raises ConflictError.
        """
        who = who or Actor.here()
        who.check("rollback", name)
        with suppress(ArtifactError):
            self.reconcile(name, alias=alias)
        now = self.champion(name, alias=alias)
        if now is None or now.previous is None:
            raise ConflictError(
                f"{name}@{alias} has no version before that it could go back to. "
                f"`tsformer promote {name}/VERSION` moves it anywhere."
            )
        if from_version not in (None, now.version):
            raise ConflictError(
                f"{now} is on version {now.version}, not on {from_version}: it has moved already."
            )
        version = self.describe(f"{name}/{now.previous}")
        _, lease = self.local(version)
        with lease:
            with self.store.begin() as connection:
                self.hold(connection, version)
                move(connection, now, to=version.version, previous=None)
                change = now.change("rollback", to=version.version, reason=reason)
                audit.append(connection, change, who)
            crashpoint("promote-moved")
            self._settle(name, alias)
        return self.describe(str(version))

    def reconcile(self, name: str, *, alias: str = CHAMPION) -> Champion | None:
        """Makes the store and MLflow agree on where `alias` is, and gives that.

        A move that was interrupted is finished. An alias that was moved by hand in MLflow is
        adopted, once its version is verified. Raises ArtifactError where it cannot be.
        """
        now = self.champion(name, alias=alias)
        if now is not None and not now.settled:
            self._settle(name, alias)
        with self.asking(self.reader) as client:
            on = entries.aliases_of(client, name).get(alias)
        now = self.champion(name, alias=alias)
        if on is not None and (now is None or now.version != on):
            self._follow(self.describe(f"{name}/{on}"), alias)
        return self.champion(name, alias=alias)

    # --- parts ------------------------------------------------------------------------------

    def writer(self) -> MlflowClient:
        """The client; the first use of an own database makes it."""
        if self._client is None:
            if self.home.database is None:
                reach(self.home)
            self._client = connect(self.home)
        return self._client

    def reader(self) -> MlflowClient:
        """The client of a registry that is there already: reading makes nothing."""
        if self._client is None:
            reach(self.home)
        return self.writer()

    @contextmanager
    def asking(self, client: Callable[[], MlflowClient]) -> Iterator[MlflowClient]:
        """Whatever goes wrong on the way to the registry or in it becomes UnavailableError."""
        try:
            yield client()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise UnavailableError(
                f"{address(self.home)} cannot be used: {entries.sentence(error)}"
            ) from error

    def local(self, version: ModelVersion) -> tuple[Path, Lease]:
        """The verified copy of a version that the store vouches for, and a lease on it.

        The store is asked again after the lease is taken: a clean-up claims the version and then
        looks for leases.
        """
        self._trusted(version)
        try:
            copy, lease = self.copies.take(version, download=self._download)
        except (ArtifactError, UnavailableError):
            self._trusted(version)  # if a clean-up came in between, that is the reason
            raise
        try:
            self._trusted(version)
        except NotFoundError:
            lease.end()
            self.copies.remove(version)
            raise
        return copy, lease

    def hold(self, connection: sa.Connection, version: ModelVersion) -> Vouched:
        """The store's word for `version`, which no clean-up takes back in this transaction."""
        return _require(digests.hold(connection, version.name, version.version), version)

    def is_removed(self, version: ModelVersion) -> bool:
        """Whether the store says that `version` is not to be loaded any more."""
        with self.store.read() as connection:
            known = digests.vouched(connection, version.name, version.version)
        return known is not None and known.removed_ms is not None

    def _download(self, version: ModelVersion, scratch: Path) -> Path:
        with self.asking(self.reader) as client:
            return entries.download(client, self.home, version, scratch)

    def _trusted(self, version: ModelVersion) -> None:
        """Raises unless the store vouches for the digest that MLflow has of `version`."""
        with self.store.read() as connection:
            _require(digests.vouched(connection, version.name, version.version), version)

    def _settle(self, name: str, alias: str) -> None:
        """Moves MLflow's alias to where the store says that it is."""
        try:
            with self._turn(name), self.asking(self.writer) as client:
                now = self.champion(name, alias=alias)
                if now is None or now.settled:
                    return
                client.set_registered_model_alias(name, alias, now.version)
                crashpoint("promote-followed")
                with self.store.begin() as connection:
                    mark(connection, now, settled=True)
        except UnavailableError as error:
            raise UnavailableError(
                f"{name}@{alias} is moved in the store. MLflow's alias, which is what serves, "
                f"follows when it can be reached: {error}"
            ) from error

    def _follow(self, version: ModelVersion, alias: str) -> None:
        """Adopts an alias that was moved to `version` by hand, unless it was not after all."""
        _, lease = self.local(version)
        with lease, self._turn(version.name), self.asking(self.reader) as client:
            if entries.aliases_of(client, version.name).get(alias) != version.version:
                return
            with self.store.begin() as connection:
                self.hold(connection, version)
                now = standing(connection, version.name, alias)
                if now.settled and now.version != version.version:
                    move(connection, now, to=version.version, previous=now.version, settled=True)
                    change = now.change("moved outside", to=version.version)
                    audit.append(connection, change, OUTSIDE)

    def _turn(self, name: str) -> AbstractContextManager[None]:
        """MLflow's aliases of `name` are moved, and compared, by one process at a time."""
        return turn(self.store, f"move-{name}", wait_s=MOVE_SECONDS)


def _decision(version: ModelVersion, alias: str, *, override: bool, reason: str) -> str:
    """How the audit calls this promotion; ConflictError for what the gate refused."""
    if alias != CHAMPION or version.gate != entries.REFUSED:
        return "promote"
    if not override:
        why = version.description.partition("\n")[0] or "The gate refused it."
        raise ConflictError(
            f"{version}: {why} To promote it all the same: tsformer promote {version} --override "
            '--reason "WHY".'
        )
    if not reason.strip():
        raise ConfigError("To override the gate, say why: --reason. The audit keeps it.")
    return "override"


def _require(known: Vouched | None, version: ModelVersion) -> Vouched:
    """`known`, the store's row, if it vouches for `version` as MLflow has it; otherwise raises."""
    if known is None:
        raise ArtifactError(
            f"The store does not know {version}, so nobody vouches for its files. If it was "
            "published with another store (TSFORMER_STORE) and you trust it: tsformer registry "
            f"import {version}"
        )
    if known.removed_ms is not None:
        raise NotFoundError(f"{version} was removed by a clean-up.")
    if known.digest != version.digest:
        raise ArtifactError(
            f"{version}: MLflow has the digest {version.digest}, but {known.digest} was published. "
            "Somebody altered it there; train and publish again."
        )
    return known


def _free(connection: sa.Connection, run_id: str) -> str | None:
    """`run_id`, unless another version has it; older releases published several in a run."""
    taken = run_id and digests.vouched_of_run(connection, run_id)
    return None if taken or not run_id else run_id
