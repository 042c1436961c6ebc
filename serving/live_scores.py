"""How the recorded forecasts of the models in use turned out, looked at now and then for /metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set

from pipelines import monitor
from serving.library import Library
from serving.metrics import Metrics
from tsformer.errors import TsformerError

LOG = logging.getLogger(__name__)


async def watch(library: Library, metrics: Metrics, *, every_s: float) -> None:
    """Keeps the live scores in `metrics`; until cancelled."""
    names: Set[str] = frozenset()
    while True:
        names = await look(library, metrics, before=names)
        await asyncio.sleep(every_s)


async def look(library: Library, metrics: Metrics, *, before: Set[str] = frozenset()) -> Set[str]:
    """Takes the live scores of all models in use; what cannot be told now stays as it was.

    Gives their names. Of those that were in use `before` and are no more nothing is told.
    """
    names = {reference.name for reference in library.references}
    for name in before - names:
        metrics.turned_out(name, ())
    for name in sorted(names):
        try:
            found = await asyncio.to_thread(monitor.monitor, library.shelf.registry, name)
        except TsformerError as error:
            LOG.info("the live scores of %s are not known: %s", name, error)
        except Exception:  # the next look may do; without one the numbers would stand for ever
            LOG.exception("the live scores of %s cannot be made", name)
        else:
            conditions = found.conditions if found else ()
            metrics.turned_out(name, [one.live for one in conditions if one.live is not None])
    return names
