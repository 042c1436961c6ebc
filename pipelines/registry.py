"""Model versions in MLflow's registry: publish, describe, fetch, promote and rollback, side by side.

A version is the files that `tsformer.artifact.seal` sealed, inside an MLflow model that anyone
can load by `mlflow.pyfunc`. The service does not: it fetches the sealed files into a local
folder, verifies them against the digest in the project's store, and only then reads them. The
fetched copy is also what serves while MLflow or the store is away.

An alias is moved by compare-and-set in the store and then in MLflow, whose alias is what serves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from pipelines import audit, digests, entries, publication
from pipelines.aliases import Aliases
from pipelines.audit import Actor, Change
from pipelines.champions import Champion, mark, move, moved_meanwhile, standing
from pipelines.copies import Copies
from pipelines.crashpoint import crashpoint
from pipelines.home import Home
from pipelines.link import Link
from pipelines.locks import Lease, turn
from pipelines.store import Store
from pipelines.versions import (
    CANDIDATE,
    CHAMPION,
    Fetched,
    ModelVersion,
    Reference,
    checked_alias,
    checked_name,
    checked_new_name,
    is_name,
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


class Registry:
    """The model versions of one home. Safe to share between threads."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.copies = Copies(home.models)
        self.link = Link(home)
        self.aliases = Aliases(self.link)

    @property
    def store(self) -> Store:
        """The project's own database, made on first use."""
        return self.link.store

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
            self.link.writing() as client,
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
        with self.link.writing() as client:
            if passed is not None:
                verdict = entries.PASSED if passed else entries.REFUSED
                client.set_model_version_tag(name, number, entries.GATE_TAG, verdict)
            page = entries.page(client, text, run_id=described.run_id, card=described.card)
            client.update_model_version(name, number, description=page)

    # --- describe ---------------------------------------------------------------------------

    def models(self) -> tuple[str, ...]:
        """The names of all models that have a version which forecasts: of no encoder.

        A model of another tool whose name is none of ours is not among them.
        """
        with self.link.reading() as client:
            found = entries.pages(client.search_registered_models)
        ours = [model for model in found if is_name(model.name)]
        return tuple(sorted(model.name for model in ours if entries.forecasts(model)))

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """All versions of `name`, newest first. Raises NotFoundError for an unknown name."""
        checked_name(name)
        with self.link.reading() as client:
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
        with self.link.reading() as client:
            return entries.find(client, wanted)

    def agreed(self) -> dict[Reference, str]:
        """The versions of all aliases on which MLflow and the store agree, by one question to each."""
        return self.aliases.agreed()

    def champion(self, name: str, *, alias: str = CHAMPION) -> Champion | None:
        """Where the champion, or another alias, of `name` stands in the store; None for nowhere."""
        return self.aliases.one(name, alias)

    def champions(self, name: str) -> Mapping[str, Champion]:
        """Where all aliases of `name` stand, those included that were moved by hand in MLflow.

        One that was moved to what cannot be verified stands where it did.
        """
        on, known = self.aliases.in_mlflow(name), self.aliases.all(name)
        strays = [a for a, v in on.items() if a not in known or known[a].version != str(v)]
        for alias in strays:
            with suppress(ArtifactError, NotFoundError):
                self.reconcile(name, alias=alias)
        return self.aliases.all(name) if strays else known

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
            if digests.vouched(connection, version.name, version.version) is not None:
                digests.trusted(connection, version)
                return version
        _, lease = self.copies.take(version, download=self.download)
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
                digests.hold(connection, version)
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
            self.aliases.settle(version.name, alias)
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
            none = f"{name}@{alias} has no version before that it could go back to."
            raise ConflictError(
                f"{none} `tsformer promote {name}/VERSION` moves it anywhere.",
                told=f"{none} PUT /v1/models/{name}/aliases/{alias} moves it anywhere.",
            )
        if from_version not in (None, now.version):
            raise ConflictError(
                f"{now} is on version {now.version}, not on {from_version}: it has moved already."
            )
        version = self.describe(f"{name}/{now.previous}")
        _, lease = self.local(version)
        with lease:
            with self.store.begin() as connection:
                digests.hold(connection, version)
                move(connection, now, to=version.version, previous=None)
                change = now.change("rollback", to=version.version, reason=reason)
                audit.append(connection, change, who)
            crashpoint("promote-moved")
            self.aliases.settle(name, alias)
        return self.describe(str(version))

    def reconcile(self, name: str, *, alias: str = CHAMPION) -> Champion | None:
        """Makes the store and MLflow agree on where `alias` is, and gives that.

        A move that was interrupted is finished. An alias that was moved by hand in MLflow is
        adopted, once its version is verified. Raises ArtifactError where it cannot be.
        """
        now = self.champion(name, alias=alias)
        if now is not None and not now.settled:
            self.aliases.settle(name, alias)
        on = self.aliases.in_mlflow(name).get(alias)
        now = self.champion(name, alias=alias)
        if on is not None and (now is None or now.version != on):
            version = self.describe(f"{name}/{on}")
            _, lease = self.local(version)
            with lease:
                self.aliases.follow(version, alias)
        return self.champion(name, alias=alias)

    # --- parts ------------------------------------------------------------------------------

    def local(self, version: ModelVersion) -> tuple[Path, Lease]:
        """The verified copy of a version that the store vouches for, and a lease on it.

        The store is asked again after the lease is taken: a clean-up claims the version and then
        looks for leases.
        """
        self._trusted(version)
        try:
            copy, lease = self.copies.take(version, download=self.download)
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

    def removed(self, versions: Sequence[ModelVersion]) -> set[str]:
        """Those of `versions`, as `name/version`, of which the store says not to load them any more."""
        if not versions:
            return set()
        with self.store.read() as connection:
            known = [digests.vouched(connection, each.name, each.version) for each in versions]
        return {str(entry) for entry in known if entry is not None and entry.removed_ms is not None}

    def download(self, version: ModelVersion, scratch: Path) -> Path:
        """The files of `version` as MLflow has them, not verified yet, as a folder in `scratch`."""
        with self.link.reading() as client:
            return entries.download(client, self.home, version, scratch)

    def _trusted(self, version: ModelVersion) -> None:
        """Raises unless the store vouches for the digest that MLflow has of `version`."""
        with self.store.read() as connection:
            digests.trusted(connection, version)


def _decision(version: ModelVersion, alias: str, *, override: bool, reason: str) -> str:
    """How the audit calls this promotion; ConflictError for what the gate refused."""
    if alias == CANDIDATE or version.gate != entries.REFUSED:
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


def _free(connection: sa.Connection, run_id: str) -> str | None:
    """`run_id`, unless another version has it; older releases published several in a run."""
    taken = run_id and digests.vouched_of_run(connection, run_id)
    return None if taken or not run_id else run_id
