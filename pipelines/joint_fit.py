"""Fits by several processes: Ray Train places `tsformer.train.fit`, starts it and starts it again.

    tsformer train sales.yaml --workers 4 [--gpus-per-worker 1]

One worker without a GPU of its own needs no Ray and gets none. Otherwise the workers of a Ray that
this process starts or is part of, or of the cluster that RAY_ADDRESS names, share every batch
(`tsformer.ranks`).
Where one dies, Ray Train starts all of them anew, and they go on from the newest checkpoint: ours,
since the index that Ray Train keeps is written in place. Weights come back the same way, so there
is nothing that only a worker has.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pyarrow as pa

from pipelines.local_ray import last_line, some_ray
from pipelines.shared import Shared
from pipelines.storage import Place
from pipelines.windows import PanelWindows
from pipelines.workers import Workers
from tsformer.checkpoint import newest
from tsformer.errors import ConfigError, TsformerError, UnavailableError
from tsformer.memory import keep_freed_memory
from tsformer.model import Model
from tsformer.ranks import Ranks
from tsformer.train import Fit, Progress, Report, Training, fit

LOG = logging.getLogger(__name__)
MAX_FAILURES = 3  # deaths of workers after which a fit is given up
STOP_S = 30  # seconds that workers have to end
TOLD_EVERY = 0.2  # seconds between two reports of a step
HEARD_EVERY = 0.1  # seconds between two looks at what was told
ENVIRONMENT = {
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "60",  # a hung worker; by default 600
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # of a dead one, or one that is done; 2
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths stay what they were
}


class LostError(UnavailableError):
    """Workers that die again and again, which may be the fault of the fit: it wants too much."""


@dataclass(frozen=True, slots=True)
class Job:
    """A fit: what it is of, and how it goes."""

    model: Model
    train: PanelWindows
    validation: PanelWindows
    training: Training


def fit_together(job: Job, *, workers: Workers, storage: Place, report: Report | None) -> Fit:
    """As `tsformer.train.fit`, by `workers`; the model of `job` ends with the best weights here.

    Raises what `fit` raises, LostError, and UnavailableError where Ray gives out.
    """
    started = time.perf_counter()
    shared = Shared.of(train=job.train, validation=job.validation)
    processors = _processors(workers)
    with _cluster(workers, shared.bytes) as scratch:
        import ray
        from ray.util.queue import Queue

        _check_gpus(workers, int(ray.cluster_resources().get("GPU", 0)))
        told = Queue(actor_options={"num_cpus": 0})
        given = {
            "job": ray.put((job.model, job.training, shared)),
            "storage": storage.uri,
            "told": told,
            "reports": report is not None,
        }
        error = _follow(lambda: _place(given, workers, processors, scratch), told, report)
    if error is not None:
        raise error
    if newest(storage) is None:
        raise UnavailableError(
            f"The workers left no checkpoint that this machine sees in {storage}. Name a place that "
            "all machines share in TSFORMER_STORAGE, such as s3://bucket/path."
        )
    # the run is finished: nothing but its result is read
    done = fit(
        job.model,
        train=job.train,
        validation=job.validation,
        training=job.training,
        checkpoint=storage,
    )
    return replace(done, seconds=time.perf_counter() - started)


def _processors(workers: Workers) -> int:
    """How many each of the workers gets: one where others are at work on the same Ray."""
    ray = sys.modules.get("ray")  # not imported yet: it would not see what `_cluster` sets
    with_others = "RAY_ADDRESS" in os.environ or (ray and ray.is_initialized())
    return 1 if with_others else max(1, _cores() // workers.count)


def _place(
    given: dict[str, Any], workers: Workers, processors: int, scratch: Path
) -> TsformerError | None:
    """Lets Ray Train do the fit; gives the error that another attempt would only meet again."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    forget_pickled_columns()
    trainer = TorchTrainer(
        _work,
        train_loop_config=given,
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": processors, "GPU": workers.gpus},
        ),
        run_config=RunConfig(
            name=f"fit-{uuid4().hex}",  # never that of a run that was: its index is not read
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[_announcement(given["told"])],
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise LostError(
            f"The workers died more than {MAX_FAILURES} times ({_first_line(error)}). What they "
            "had learnt is kept; resume when the machine is well."
        ) from error
    failure: TsformerError | None = result.return_value
    return failure


def _work(given: dict[str, Any]) -> TsformerError | None:
    """What each worker does; an error of ours is the same in all, and no reason to try again."""
    import ray
    from ray.train.torch import get_device

    keep_freed_memory()
    model, training, shared = ray.get(given["job"])
    ranks = Ranks.here()
    report = _Reporter(given["told"]) if ranks.rank == 0 and given["reports"] else None
    try:
        fit(
            model,
            **shared.windows(),
            training=training,
            device=get_device(),
            checkpoint=Place(given["storage"]),
            report=report,
            ranks=ranks,
        )
    except TsformerError as error:
        return error
    return None


class _Reporter:
    """Tells the process that started the workers how it goes, without waiting for it."""

    def __init__(self, told: Any) -> None:
        self.told = told
        self.last = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.validation_loss is not None or now - self.last > TOLD_EVERY:
            self.told.actor.put_nowait.remote(asdict(progress))
            self.last = now


def _announcement(told: Any) -> Any:
    """What lets the controller of a fit tell who it is, so that it can be stopped.

    Of Ray's own hooks, since there is no public one: a fit in a thread cannot be stopped else, and
    its workers would outlive it.
    """
    from ray.train.v2._internal.execution.callback import ControllerCallback

    class Announcement(ControllerCallback):
        def after_controller_start(self, train_run_context: Any) -> None:  # noqa: ARG002
            import ray

            told.put({"controller": ray.get_runtime_context().current_actor})

    return Announcement()


def _follow(
    work: Callable[[], TsformerError | None], told: Any, report: Report | None
) -> TsformerError | None:
    """Does `work` in a thread, and reports in this one what is told meanwhile."""
    from ray.exceptions import RayError

    done: Future[TsformerError | None] = Future()
    Thread(target=_settle, args=(done, work), daemon=True).start()
    audience = _Audience(told, report)
    try:
        while not done.done():
            time.sleep(HEARD_EVERY)
            audience.hear()
        audience.hear()
        return done.result()
    except SystemExit:  # how Ray Tune ends a trial
        audience.stop()
        raise
    except RayError as error:
        raise UnavailableError(
            f"Ray gave out: {last_line(error)}. What the workers had learnt is kept; resume when "
            "it is well."
        ) from error


def _settle(done: Future[TsformerError | None], work: Callable[[], TsformerError | None]) -> None:
    try:
        done.set_result(work())
    except BaseException as error:
        done.set_exception(error)


class _Audience:
    """Who listens to what is `told`: progress, and before all who the controller is."""

    def __init__(self, told: Any, report: Report | None) -> None:
        self.told = told
        self.report = report
        self.controller: Any = None

    def hear(self) -> None:
        """Takes what was told since."""
        for row in self.told.get_nowait_batch(self.told.qsize()):
            if "controller" in row:
                self.controller = row["controller"]
            elif self.report is not None:
                self.report(Progress(**row))

    def stop(self) -> None:
        """Ends the fit and its workers; Ray would keep what they hold for as long as it lives."""
        import ray

        if self.controller is not None:
            with suppress(ray.exceptions.RayError):  # it ends without an answer
                ray.get(self.controller.abort.remote(), timeout=STOP_S)


def _cluster(workers: Workers, shared_bytes: int) -> AbstractContextManager[Path]:
    """The Ray that has the workers, with a folder for its files."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "RAY_ADDRESS" not in os.environ:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes it away
    return some_ray(processors=max(_cores(), workers.count), shared_bytes=shared_bytes)


def _check_gpus(workers: Workers, there: int) -> None:
    """Ray would wait for GPUs for ever; a cluster may grow, a machine does not."""
    asked = workers.count * workers.gpus
    if asked <= there:
        return
    message = f"{workers.count} workers with {workers.gpus} GPUs each need {asked}, and there are {there}."
    if "RAY_ADDRESS" not in os.environ:
        raise ConfigError(f"{message} Use fewer workers, or none with --gpus-per-worker 0.")
    LOG.warning("%s The fit waits until the cluster has grown.", message)


def forget_pickled_columns() -> None:
    """Takes back what importing Ray Train registers: an Arrow type that runs its sender's code."""
    with suppress(pa.ArrowKeyError):
        pa.unregister_extension_type("ray.data.arrow_pickled_object")


def _cores() -> int:
    return os.cpu_count() or 1


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
