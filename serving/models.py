"""The models that a request may mean: registered ones, and the built-in baselines."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from pipelines.covariates import Inputs
from pipelines.forecaster import Forecaster
from pipelines.versions import Reference
from serving.baselines import BUILT_IN
from serving.library import NoDefaultError, in_words
from serving.problems import UNUSABLE, Item, Problem
from serving.service import Service
from tsformer.errors import ArtifactError, NotFoundError, UnavailableError

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """A forecaster and what an answer calls it; a built-in baseline has no version."""

    name: str
    version: str | None
    alias: str | None
    run_id: str | None
    forecaster: Forecaster

    def members(self) -> dict[str, str | None]:
        return {
            "name": self.name,
            "version": self.version,
            "alias": self.alias,
            "run_id": self.run_id,
        }


def inputs_of(model: Model | None) -> Inputs:
    """What a model reads beside the target."""
    return Inputs() if model is None else model.forecaster.recipe.inputs


async def default_of(service: Service, *, pointer: str = "/model") -> str:
    """The model of a request that names none; `invalid-request` where it must name one of several."""
    try:
        return await service.library.default_name()
    except NoDefaultError as error:
        if not service.library.ready:
            raise
        raise Problem("invalid-request", str(error), [Item(str(error), pointer)]) from error


def _no_default(service: Service, error: Exception) -> str:
    """Why the default model does not answer; a wrong setting is mended by nobody who waits."""
    words = in_words(error)
    if not service.settings.models.default:
        return words
    return f"{words} It is named by the service's setting models.default; waiting does not mend it."


async def registered(
    service: Service, reference: str | None, *, pointer: str = "/model"
) -> Model | None:
    """The registered model that `reference` means; None for a built-in baseline.

    `pointer` is the place of the reference in the request.
    """
    if reference in BUILT_IN:
        return None
    wanted = reference or await default_of(service, pointer=pointer)
    try:
        loaded = await service.library.resolve(wanted)
    except (NotFoundError, ArtifactError) as error:
        if reference is None:
            raise UnavailableError(str(error), told=_no_default(service, error)) from error
        if isinstance(error, ArtifactError):
            LOG.warning("%s cannot be used: %s", wanted, error)
            raise Problem("model-incompatible", UNUSABLE, [Item(UNUSABLE, pointer)]) from error
        # Names alone, of a safe alphabet: the reference was checked.
        message = error.told or str(error)
        if wanted == Reference.parse(wanted).name:
            message += f" Built in are {', '.join(BUILT_IN)}."
        raise Problem("not-found", message, [Item(message, pointer)]) from error
    version = loaded.version
    alias = Reference.parse(wanted).alias
    return Model(version.name, version.version, alias, version.run_id, loaded.forecaster)
