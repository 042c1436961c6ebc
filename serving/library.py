"""Model versions in memory, and which of them a reference means at the moment.

An alias is asked for again every few seconds. A new version is fetched, verified, built and run
once beside the old one; only then does the reference move, so nobody waits for it and a bad
version never serves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from pipelines import shares
from pipelines.forecaster import Forecaster
from pipelines.query import Floats32, Query
from pipelines.versions import ModelVersion, Reference
from serving.runtimes import Runtimes
from tsformer.errors import (
    ArtifactError,
    IncompatibleError,
    NotFoundError,
    TsformerError,
    UnavailableError,
)

if TYPE_CHECKING:  # importing it imports MLflow, which reads the environment as it does
    from pipelines.locks import Lease
    from pipelines.registry import Registry

LOG = logging.getLogger(__name__)
FIRST_S = 0.05
MOST_REST = 32  # looks, a minute as shipped: a version that cannot serve is fetched anew at each


class NoDefaultError(UnavailableError):
    """No model is registered, or several are and none is named as the default."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version that is ready to answer; while it is in memory, no clean-up removes it."""

    version: ModelVersion
    forecaster: Forecaster
    lease: Lease | None = field(default=None, compare=False, repr=False)


class Shelf:
    """Forecasters of explicit versions (`name/version`), the least recently used put away.

    Without `weights` a forecaster knows everything about its model, but answers no more once it has
    shown that it can: enough for a process that asks another one.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        capacity: int,
        device: str = "auto",
        runtimes: Runtimes | None = None,
        weights: bool = True,
    ) -> None:
        self.registry = registry
        self._capacity = capacity
        self._device = device
        self._runtimes = runtimes
        self._weights = weights
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._loading: dict[str, asyncio.Task[Loaded]] = {}

    async def get(self, version: str) -> Loaded:
        """The forecaster of `name/version`, loaded and run once if it was not yet."""
        loaded = self._loaded.get(version) or await self._load_once(version)
        self._loaded[version] = loaded  # which others may have put away since it came
        self._loaded.move_to_end(version)
        while len(self._loaded) > self._capacity:
            self._loaded.popitem(last=False)
        return loaded

    @property
    def loaded(self) -> tuple[str, ...]:
        """The versions in memory, as `name/version`."""
        return tuple(self._loaded)

    def knows(self, version: str) -> bool:
        """Whether `name/version`, or another version of that model, is in memory."""
        return name_of(version) in map(name_of, self._loaded)

    def forget(self, name: str) -> None:
        """Puts all versions of a model away."""
        for version in [each for each in self._loaded if name_of(each) == name]:
            del self._loaded[version]

    async def _load_once(self, version: str) -> Loaded:
        """Loads in a task of its own: who asked may leave, and whoever asks again waits for the same."""
        loading = self._loading.get(version)
        if loading is None:
            loading = asyncio.create_task(self._put(version))
            self._loading[version] = loading
            loading.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(loading)

    async def _put(self, version: str) -> Loaded:
        try:
            self._loaded[version] = await asyncio.to_thread(self._load, version)
            return self._loaded[version]
        finally:
            del self._loading[version]

    def _load(self, version: str) -> Loaded:
        fetched = self.registry.fetch(version)
        forecaster = Forecaster.load(
            fetched.directory, digest=fetched.version.digest, device=self._device
        )
        if self._runtimes is not None:
            self._runtimes.equip(forecaster, name=version)
        warm_up(forecaster, name=version)
        if not self._weights and shares.kind_of(forecaster) is None:  # which explain where they are
            forecaster.model.to("meta")
        return Loaded(fetched.version, forecaster, fetched.lease)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a reference cannot move to `version`, and for how many looks nobody tries."""

    version: str
    kind: type[Exception] | None = None
    tries: int = 0
    rest: int = 0

    def met(self, kind: type[Exception]) -> Obstacle:
        """Met once more. What cannot change by itself is tried after ever more looks."""
        if not issubclass(kind, ArtifactError | IncompatibleError):
            return replace(self, kind=kind, rest=0)
        tries = self.tries + 1
        return Obstacle(self.version, kind, tries, min(2**tries, MOST_REST) - 1)


class Library:
    """What references mean now.

    `default` is the model of a request that names none; empty means the only registered one.
    `prepare` makes a version ready wherever it will be asked; `on_refusal` hears the name of a
    model of which a new version cannot serve, once for each reason.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        default: str,
        prepare: Callable[[str], Awaitable[None]],
        on_refusal: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.shelf = shelf
        self._named = default
        self._only = ""
        self._several = False
        self._prepare = prepare
        self._on_refusal = on_refusal
        self._heard = time.monotonic()
        self._away = False
        self._versions: dict[Reference, ModelVersion] = {}
        self._obstacles: dict[Reference, Obstacle] = {}
        self.trouble: str | None = None
        """Why the default model is not loaded, in words that anyone may read."""

    @property
    def default(self) -> str:
        """The model of a request that names none, as far as it is known."""
        return self._named or self._only

    @property
    def ready(self) -> bool:
        """Whether the default model is loaded and has run once; or requests must name one of several."""
        return self._several or self._is_loaded

    @property
    def _is_loaded(self) -> bool:
        return bool(self.default) and Reference.parse(self.default) in self._versions

    async def settled(self) -> None:
        """Waits until the default model is loaded, or it is known why not."""
        while not self.ready and self.trouble is None:
            await asyncio.sleep(FIRST_S)

    @property
    def stale_s(self) -> float:
        """Seconds since the registry last answered; what serves meanwhile is its last answer."""
        return time.monotonic() - self._heard

    @property
    def references(self) -> Mapping[Reference, ModelVersion]:
        """What the references in use mean now."""
        return self._versions

    async def resolve(self, text: str | None) -> Loaded:
        """The version that `text` means, ready to answer; without text, the default model.

        Raises NotFoundError for a model nobody knows, UnavailableError when the registry does not
        answer and no copy of its last answer is left.
        """
        reference = Reference.parse(text or await self.default_name())
        version = self._versions.get(reference) or await self._ready(reference)
        return await self.shelf.get(str(version))

    async def refresh(self) -> None:
        """Asks the registry once where all aliases are, and moves the references that changed.

        A promotion that was interrupted is finished, one that was made by hand in MLflow recorded.
        A version that was taken away answers no more to its number.
        """
        registry = self.shelf.registry
        numbered = [version for each, version in self._versions.items() if each.alias is None]
        try:
            agreed = await asyncio.to_thread(registry.agreed)
            removed = await asyncio.to_thread(registry.removed, numbered)
        except UnavailableError as error:
            if not self._away:  # once, not every few seconds
                LOG.warning("all versions stay as they are: %s", error)
            self._away = True
            return
        self._away = False
        for reference in [each for each in self._versions if str(each) in removed]:
            del self._versions[reference]
        followed = [each for each in self._versions.items() if each[0].alias is not None]
        moved = [each for each in followed if agreed.get(each[0]) != each[1].version]
        for reference in self._obstacles.keys() - dict(moved).keys():
            del self._obstacles[reference]
        if all([await self._follow(reference, version) for reference, version in moved]):
            self._heard = time.monotonic()

    async def _follow(self, reference: Reference, version: ModelVersion) -> bool:
        """Moves a reference from `version` to what it means now; False where nobody could say."""
        registry, wanted = self.shelf.registry, ""
        try:
            there = await asyncio.to_thread(registry.aliases.in_mlflow, reference.name)
            wanted = there.get(reference.alias or "", "")
            if await self._rests(reference, wanted):
                return True
            await asyncio.to_thread(registry.reconcile, reference.name, alias=reference.alias or "")
            now = await asyncio.to_thread(registry.describe, str(reference))
            wanted = now.version
            if now.version != version.version:
                await self._ready(reference)
                LOG.info("%s is now version %s", reference, now.version)
        except Exception as error:  # whatever it is, the version in use keeps answering
            if isinstance(error, NotFoundError) and await self._is_retired(version):
                self.forget(reference.name)
                return True
            self._meet(reference, version, wanted, error)
            return not isinstance(error, UnavailableError)
        self._obstacles.pop(reference, None)
        return True

    async def _rests(self, reference: Reference, wanted: str) -> bool:
        """Whether it is too soon to try once more what could not be had.

        A move that was interrupted is finished at once, whatever MLflow still says.
        """
        met = self._obstacles.get(reference)
        if met is None or met.version != wanted or not met.rest:
            return False
        self._obstacles[reference] = replace(met, rest=met.rest - 1)
        stands = await asyncio.to_thread(
            self.shelf.registry.champion, reference.name, alias=reference.alias or ""
        )
        return stands is None or stands.settled

    def _meet(
        self, reference: Reference, version: ModelVersion, wanted: str, error: Exception
    ) -> None:
        """Keeps why a reference stays at `version`; said once, however often it is met."""
        met = self._obstacles.get(reference)
        before = met if met and met.version == wanted else Obstacle(wanted)
        self._obstacles[reference] = before.met(type(error))
        if before.kind is type(error):
            return
        known = isinstance(error, TsformerError)
        LOG.warning(
            "%s stays at version %s: %s", reference, version.version, error,
            exc_info=None if known else error,
        )  # fmt: skip
        if not isinstance(error, UnavailableError):
            self._on_refusal(reference.name)

    def forget(self, name: str) -> None:
        """Answers no more by a model that was taken away."""
        for reference in [each for each in self._versions if each.name == name]:
            del self._versions[reference]
        self.shelf.forget(name)

    async def watch(self, *, every_s: float) -> None:
        """Loads the default model as soon as it can be, and follows aliases; until cancelled."""
        pause = min(every_s, FIRST_S)  # what is missing at the start is often there in a moment
        while True:
            try:
                if self.ready:
                    await self.refresh()
                else:
                    await self.resolve(None)
                    LOG.info("ready: the default model is loaded")
                self.trouble = None
            except Exception as error:  # the next round may do; without a next one it never will
                self._note(error)
            pause = every_s if self.ready else min(every_s, 2 * pause)
            await asyncio.sleep(pause)

    async def _is_retired(self, version: ModelVersion) -> bool:
        """Whether a version was taken away, rather than an alias moved off it."""
        try:
            return bool(await asyncio.to_thread(self.shelf.registry.removed, [version]))
        except UnavailableError:
            return False

    def _note(self, error: Exception) -> None:
        """Keeps why there is no default model, and logs it once."""
        trouble = in_words(error)
        if trouble != self.trouble:
            if isinstance(error, TsformerError):
                LOG.warning("%s%s", "" if self.ready else "not ready: ", error)
            else:
                LOG.error("not ready", exc_info=error)
        self.trouble = trouble

    async def default_name(self) -> str:
        """The model of a request that names none; NoDefaultError where nobody knows which."""
        if not self._named and not self._is_loaded:  # the only one of before may be gone
            names = await asyncio.to_thread(self.shelf.registry.models)
            self._several = len(names) > 1
            if len(names) != 1:
                told = (
                    f"{len(names)} models are registered; requests must name one, or "
                    "models.default in the file of --config must."
                )
                raise NoDefaultError(told, told=told)
            self._only = names[0]
        return self.default

    async def _ready(self, reference: Reference) -> ModelVersion:
        fetched = await asyncio.to_thread(self.shelf.registry.fetch, str(reference))
        await self.shelf.get(str(fetched.version))
        await self._prepare(str(fetched.version))
        self._versions[reference] = fetched.version
        if fetched.fresh:
            self._heard = time.monotonic()
        return fetched.version


def name_of(version: str) -> str:
    """The model of `name/version`."""
    return version.partition("/")[0]


def in_words(error: Exception) -> str:
    """Why a model cannot be loaded, without paths and addresses; those are in the log."""
    if isinstance(error, NotFoundError | NoDefaultError):
        return str(error)  # names and counts alone
    if isinstance(error, ArtifactError):
        return (
            "The files of the default model are damaged, not what was published, or not known to "
            "this installation's store; the log of the service says which. Train again, or import "
            "it: tsformer registry import."
        )
    if isinstance(error, UnavailableError):
        return "The registry or the model's replica does not answer, or there is no registry yet."
    return "The default model cannot be loaded; the log of the service says where it failed."


def warm_up(forecaster: Forecaster, *, name: str) -> None:
    """Runs the model once on a plain ramp; a version that gives no finite number is refused."""
    recipe, shape = forecaster.recipe, forecaster.model.shape
    steps = recipe.context + recipe.horizon
    past = np.linspace(0.0, 1.0, recipe.context)[None, :, None]
    ramp = Query(
        past,
        known=_zeros(1, steps, len(shape.known)),
        covariates=_zeros(1, recipe.context, len(shape.past)),
        static=_zeros(1, 1, len(shape.static)),
        lagged=np.zeros((1, steps, 1, len(shape.lags))) if shape.lags else None,
    )
    answer = forecaster.answer(ramp, forecaster.levels)
    if not np.isfinite(answer).all():
        raise ArtifactError(f"{name}: its forecast of a plain ramp is not finite. Train it again.")


def _zeros(*axes: int) -> Floats32 | None:
    return np.zeros(axes, np.float32) if axes[-1] else None
