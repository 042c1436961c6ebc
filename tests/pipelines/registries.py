"""Small sealed models for registries, and what tests run in processes of their own, which
`tests.pipelines.processes` forks.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MLflow is imported

from pipelines import audit
from pipelines.forecaster import Forecaster
from pipelines.home import Home
from pipelines.recipe import Recipe
from pipelines.registry import Registry
from pipelines.tracking import track
from pipelines.versions import ModelVersion
from tests.pipelines.processes import CONTEXT, start
from tsformer.batch import Shape
from tsformer.errors import ConflictError
from tsformer.models.naive import SeasonalNaiveSpec

LEVELS = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Sealed:
    """A forecaster on disk, as training hands it to the registry."""

    directory: Path
    digest: str
    card: dict[str, object]


def sealed(directory: Path, *, season: int = 24) -> Sealed:
    """A seasonal naive forecaster; each season is another model."""
    spec = SeasonalNaiveSpec(season=season)
    model = spec.build(Shape(context=48, horizon=24, levels=LEVELS))
    recipe = Recipe("h", season=season, context=48, min_context=24, horizon=24)
    forecaster = Forecaster(model, spec=spec, recipe=recipe, device="cpu")
    return Sealed(directory, forecaster.save(directory), forecaster.card)


def new_run(home: Home, *, name: str = "test") -> str:
    """The id of a run that publishes."""
    with track(home, experiment="flights", name=name) as run:
        return run.id


def publish(
    registry: Registry, name: str, content: Sealed, *, run_id: str | None = None
) -> ModelVersion:
    """Publishes `content` in a run, a new one if none is given."""
    return registry.publish(
        name,
        content.directory,
        digest=content.digest,
        run_id=run_id or new_run(registry.home),
        card=content.card,
    )


def published(registry: Registry, name: str, folder: Path, *, versions: int) -> list[ModelVersion]:
    """That many new versions of `name`, each another model."""
    return [
        publish(registry, name, sealed(folder / f"{name}-{season}", season=season))
        for season in range(1, versions + 1)
    ]


def publish_or_crash(
    home: Home, name: str, content: Sealed, run_id: str, crash: str, said: Connection
) -> None:
    """Publishes, unless killed at the crash point; says the version."""
    os.environ["TSF_CRASH"] = crash
    said.send(publish(Registry(home), name, content, run_id=run_id).version)


def publish_together(
    home: Home, name: str, content: Sealed, run_ids: list[str], start: Barrier, said: Connection
) -> None:
    """Publishes in each of the runs at the same moment as the others; says the versions.

    Or what went wrong: then nobody waits for this one any more.
    """
    registry = Registry(home)
    registry.models()
    try:
        for run_id in run_ids:
            start.wait(200)
            said.send(publish(registry, name, content, run_id=run_id).version)
    except Exception as error:
        start.abort()
        said.send(f"{type(error).__name__}: {error}")


def promote_or_crash(home: Home, reference: str, crash: str) -> None:
    """Promotes, unless killed at the crash point."""
    os.environ["TSF_CRASH"] = crash
    Registry(home).promote(reference)


def promote_together(home: Home, said: Connection) -> None:
    """Promotes what it is told (a reference and the revision that was seen); says who won."""
    registry = Registry(home)
    registry.models()
    said.send("ready")
    while (told := said.recv()) is not None:
        reference, seen = told
        try:
            said.send(registry.promote(reference, seen=seen).version)
        except ConflictError:
            said.send(None)


def rollback_together(home: Home, name: str, start: Barrier, said: Connection) -> None:
    """Rolls back at the same moment as the others; says the version, or None for a conflict."""
    registry = Registry(home)
    registry.models()
    start.wait(200)
    try:
        said.send(registry.rollback(name).version)
    except ConflictError:
        said.send(None)


def clean_or_crash(home: Home, name: str, crash: str) -> None:
    """Cleans up, unless killed at the crash point."""
    from pipelines.retention import clean

    os.environ["TSF_CRASH"] = crash
    clean(Registry(home), name, keep=0)


def hold_a_version(home: Home, reference: str, said: Connection) -> None:
    """Fetches a version and keeps it until it is told to end, as the service does."""
    fetched = Registry(home).fetch(reference)
    said.send(str(fetched.version))
    said.recv()


def race(home: Home, registry: Registry, *, processes: int, rounds: int) -> str:
    """Promotions by all at once, on the same revision: one wins, and both tables name it.

    Says how often, and how long it took until MLflow agreed.
    """
    pipes = [CONTEXT.Pipe() for _ in range(processes)]
    started = [start(promote_together, home, there) for _, there in pipes]
    for _, there in pipes:
        there.close()  # whoever dies is not waited for
    assert [here.recv() for here, _ in pipes] == ["ready"] * processes
    order, agreed_s = random.Random(0), 0.0
    for _ in range(rounds):
        now = registry.champion("m")
        others = [str(v) for v in range(1, processes + 2) if now is None or str(v) != now.version]
        wanted = order.sample(others, processes)
        for (here, _), number in zip(pipes, wanted, strict=True):
            here.send((f"m/{number}", now.rev if now else 0))
        winners = [version for here, _ in pipes if (version := here.recv()) is not None]
        assert len(winners) == 1
        begun = time.monotonic()
        then = registry.reconcile("m")
        agreed_s = max(agreed_s, time.monotonic() - begun)
        assert then is not None
        assert (then.version, then.rev) == (winners[0], now.rev + 1 if now else 1)
        assert registry.describe("m").version == winners[0]
    for (here, _), process in zip(pipes, started, strict=True):
        here.send(None)
        process.join(200)
    with registry.store.read() as connection:
        chain = audit.entries(connection)
    assert len(chain) == rounds
    assert audit.faults(chain) == ()
    assert agreed_s < 60
    return (
        f"{processes} processes, {rounds} rounds: one winner each, {processes - 1} conflicts, both "
        f"tables agree after at most {agreed_s:.1f} s"
    )
