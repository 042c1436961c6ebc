"""Jobs and runs of schedules, executed by this service: looked for again and again, in a thread.

Any number of services and schedulers may look at one store, and each may die at any moment; the
ledger says who does what.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pipelines
from pipelines.executors import LocalProcesses, job_variables
from pipelines.home import Home
from pipelines.jobs import Jobs
from pipelines.ledger import Ledger
from pipelines.registry import Registry
from pipelines.scheduler import Scheduler
from serving.settings import Settings
from tsformer.errors import TsformerError

LOG = logging.getLogger(__name__)
CLEAR_S = 3600.0
AGAIN_S = 5.0
# Of jobs: each has a third of what a forecast gets of a core that both want, and all of one that is free.
NICENESS = 5
OF_RAY = ("RAY_", "CUDA_VISIBLE_DEVICES")  # of an actor of Ray, which a job is not


@contextmanager
def running(registry: Registry, settings: Settings, woken: threading.Event) -> Iterator[None]:
    """Executes what is to be done while the block is open; what was begun goes on after it.

    Whoever enters a job sets `woken`, so that it need not wait for the next look. Results are cleared
    away whoever made them.
    """
    stop = threading.Event()
    threads = [threading.Thread(target=_clear, args=(registry, settings, stop), daemon=True)]
    if settings.jobs.at_once > 0:
        asked = (registry, settings, stop, woken)
        threads.append(threading.Thread(target=_run, args=asked, name="runner", daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        woken.set()


def _run(
    registry: Registry, settings: Settings, stop: threading.Event, woken: threading.Event
) -> None:
    """Looks until `stop` is set; a store that is away now may answer later."""
    while not stop.is_set():
        try:
            scheduler = Scheduler(
                Ledger(registry.store),
                executor(registry.home, os.environ, settings),
                report=LOG.info,
                alone=settings.jobs.at_once,
            )
            scheduler.run(stop, every_s=settings.jobs.look_s, woken=woken)
        except TsformerError as error:
            LOG.warning("jobs cannot be executed now: %s", error)
        except Exception:  # the next look may do; without one no job would ever begin
            LOG.exception("looking for jobs failed")
        stop.wait(AGAIN_S)


def _clear(registry: Registry, settings: Settings, stop: threading.Event) -> None:
    """Removes results that are past their time."""
    while not stop.wait(AGAIN_S):
        begun = time.monotonic()
        try:
            jobs = Jobs.of(registry.home, registry.store)
            count = jobs.clear(days=settings.limits.result_days)
            if count:
                LOG.info("%s results are past their time", count)
        except Exception:
            LOG.exception("results cannot be cleared")
        stop.wait(max(0.0, CLEAR_S - (time.monotonic() - begun)))


def executor(home: Home, environment: Mapping[str, str], settings: Settings) -> LocalProcesses:
    """Processes of this machine that know home and settings, and nothing of this one's Ray.

    Forecasts go first.
    """
    here = str(Path(pipelines.__file__).parents[1])
    kept = {name: value for name, value in environment.items() if not name.startswith(OF_RAY)}
    paths = [here, *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    variables = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        **job_variables(home),
        **settings.variables(),
    }
    return LocalProcesses(
        home.folder / "runs", environment={**kept, **variables}, niceness=NICENESS
    )
