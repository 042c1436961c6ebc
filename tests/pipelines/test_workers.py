"""Fits by workers of Ray Train: the model of one process, whatever becomes of the workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from pipelines.joint_fit import Job, _follow, fit_together
from pipelines.local_ray import local_ray
from pipelines.material import Material
from pipelines.shared import Shared
from pipelines.storage import Place
from pipelines.training import fit_all
from pipelines.windows import PanelWindows
from pipelines.workers import Workers
from tests.panels import experiment_on, hourly, waves
from tests.pipelines.held import Held, kill
from tests.tsformer.together import together
from tsformer.checkpoint import Checkpoint, newest
from tsformer.errors import ConfigError, DivergedError, UnavailableError
from tsformer.models import build, spec_from_mapping
from tsformer.ranks import Ranks
from tsformer.train import Fit, Progress, Training, fit

EPOCHS, STEPS = 5, 5
TRAINING = Training(epochs=EPOCHS, batch_size=64, windows_per_epoch=STEPS * 64)
Report = Callable[[Progress], None]


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """One Ray for all tests here."""
    with local_ray(processors=4, shared_bytes=0):
        yield


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder = tmp_path_factory.mktemp("table")
    return Material.of(experiment_on(folder, hourly(waves(3, 500))))


def job_of(material: Material, kind: str = "patchtst", *, held: Held | None = None) -> Job:
    shape = replace(material.shape, series=0)
    torch.manual_seed(0)
    model = build(spec_from_mapping({"kind": kind}), shape)
    if held:
        model.register_forward_pre_hook(held)
    windows = [material.training_windows(part, shape) for part in ("train", "validation")]
    return Job(model, *windows, TRAINING)


@dataclass
class Trained:
    """What came of a job."""

    weights: dict[str, Tensor]
    fit: Fit
    reports: list[Progress]

    @property
    def curve(self) -> np.ndarray:
        return np.array([(row.train_loss, row.validation_loss) for row in self.fit.history])


def by_workers(job: Job, place: Place, report: Report | None = None) -> Trained:
    reports: list[Progress] = []

    def tell(progress: Progress) -> None:
        reports.append(progress)
        if report:
            report(progress)

    done = fit_together(job, workers=Workers(2), storage=place, report=tell)
    return Trained(job.model.state_dict(), done, reports)


def by_ranks(job: Job) -> Trained:
    """The same by the processes of a group that nothing happens to."""
    model = deepcopy(job.model)  # what came through a pipe lies in the memory of all of them
    done = fit(
        model, train=job.train, validation=job.validation, training=job.training,
        ranks=Ranks.here(),
    )  # fmt: skip
    return Trained(model.state_dict(), done, [])


@pytest.fixture(scope="module")
def unbroken(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same fit by ranks that nobody kills."""
    with together(2, tmp_path_factory.mktemp("group")) as ranks:
        first, _ = ranks(by_ranks, job_of(material))
    return first


@pytest.fixture(scope="module")
def broken(material: Material, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A fit of which a worker is killed in its third epoch."""
    held = Held(tmp_path_factory.mktemp("held"), steps=2 * STEPS)
    first: set[int] = set()

    def kill_one(progress: Progress) -> None:
        if progress.epoch == 2 and progress.validation_loss is not None:
            first.update(held.processes)
            kill(min(first))
            held.let_go()

    place = Place(str(tmp_path_factory.mktemp("kept")))
    found = by_workers(job_of(material, held=held), place, report=kill_one)
    assert len(first) == 2
    assert len(held.processes - first) == 2  # others have gone on
    return found


def test_a_killed_worker_is_replaced_and_nothing_is_lost(
    broken: Trained, unbroken: Trained
) -> None:
    """A machine that falls out at night must cost minutes, not the run, nor change the model."""
    same(broken, unbroken)
    assert [row.epoch for row in broken.fit.history] == [*range(1, EPOCHS + 1)]


def same(found: Trained, expected: Trained) -> None:
    """Bit by bit the same weights, and the same losses on the way."""
    assert all(torch.equal(found.weights[name], expected.weights[name]) for name in found.weights)
    assert (found.curve == expected.curve).all()


def test_progress_comes_back(broken: Trained) -> None:
    """A person watches the bar here, while the work is done elsewhere."""
    ends = {p.epoch: p.validation_loss for p in broken.reports if p.validation_loss is not None}
    assert ends == {row.epoch: row.validation_loss for row in broken.fit.history}
    assert broken.fit.seconds > 0


@pytest.mark.usefixtures("broken")
def test_what_ray_train_registers_is_taken_back() -> None:
    """With its Arrow type any table that is read later could run code of whoever sent it."""
    with pytest.raises(pa.ArrowKeyError):
        pa.unregister_extension_type("ray.data.arrow_pickled_object")


@pytest.mark.faults
def test_a_loss_that_is_none_ends_the_run_at_once_and_keeps_the_last_good_checkpoint(
    material: Material, tmp_path: Path
) -> None:
    """The same number would only be met again, by every attempt."""
    job = job_of(material, "nlinear")
    values = job.train.grid.values.clone()
    values[100] = torch.nan  # in 96 windows of 837
    grid = replace(job.train.grid, values=values)
    spoilt = PanelWindows(grid, cutoffs=job.train.cutoffs.numpy(), shape=job.train.shape)
    training = replace(TRAINING, windows_per_epoch=2, epochs=100)
    with pytest.raises(DivergedError, match=r"of windows .* is not finite") as caught:
        fit_together(
            replace(job, train=spoilt, training=training),
            workers=Workers(1), storage=Place(str(tmp_path)), report=None,
        )  # fmt: skip
    assert caught.value.part == "training"
    assert caught.value.windows
    data = newest(Place(str(tmp_path)))
    assert data is not None
    assert f"in epoch {Checkpoint.decoded(data).epoch + 1}, step 1 of 1" in str(caught.value)


def test_an_error_comes_back_whole() -> None:
    """Workers hand over what they met; without its windows nobody knows which series it was."""
    import ray as cluster

    error = cluster.get(cluster.put(DivergedError("why", part="training", windows=[3, 4])))
    assert (str(error), error.part, error.windows) == ("why", "training", (3, 4))


def test_shared_windows_are_the_same_and_are_not_copied(material: Material) -> None:
    """Ten workers on a machine must not need the memory of ten tables."""
    import ray as cluster

    job = job_of(material)
    reference = cluster.put(Shared.of(train=job.train, validation=job.validation))
    first, second = cluster.get(reference), cluster.get(reference)
    arrays = [
        array
        for shared in (first, second)
        for array in (*shared.grid.values(), *shared.cutoffs.values())
        if array is not None
    ]
    assert not any(array.flags.owndata or array.flags.writeable for array in arrays)
    assert np.shares_memory(first.grid["values"], second.grid["values"])
    found = first.windows()
    for name, windows in (("train", job.train), ("validation", job.validation)):
        index = torch.tensor([0, 7, len(windows) - 1])
        batch, target = windows.batch(index)
        there, follows = found[name].batch(index)
        assert torch.equal(batch.past, there.past)
        assert torch.equal(target.values, follows.values)
        assert len(found[name]) == len(windows)


ALONE = """
import sys
from pathlib import Path
from pipelines.material import Material
from pipelines.training import fit_all
from tests.panels import experiment_on, hourly, waves
folder = Path(sys.argv[1])
experiment = experiment_on(folder, hourly(waves(2, 400)), model="nlinear", training={"epochs": 1})
fit_all(experiment, Material.of(experiment))
print([name for name in sys.modules if name.partition(".")[0] == "ray"])
"""


def test_one_worker_needs_no_ray(tmp_path: Path) -> None:
    """Whoever trains on a laptop must not wait for a cluster to start."""
    root = str(Path(__file__).parents[2])
    ran = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("count", "gpus", "device", "message"),
    [
        (0, 0, "auto", "number of workers must be at least 1, got 0"),
        (2, -1, "auto", "GPUs of a worker must be 0 or more, got -1"),
        (2, 0, "cuda", "how many GPUs each of them has"),
    ],
)
def test_workers_that_cannot_be_meant_are_refused(
    count: int, gpus: int, device: str, message: str
) -> None:
    """Before the table is read, not after."""
    with pytest.raises(ConfigError, match=message):
        Workers(count, gpus).check(device)


def test_gpus_that_are_not_there_are_not_waited_for(material: Material, tmp_path: Path) -> None:
    """Ray would wait for them in silence, all night."""
    with pytest.raises(ConfigError, match="2 workers with 4 GPUs each need 8, and there are 0"):
        fit_together(
            job_of(material, "nlinear"), workers=Workers(2, gpus=4), storage=Place(str(tmp_path)),
            report=None,
        )  # fmt: skip


def test_only_networks_are_shared(tmp_path: Path) -> None:
    """What is solved or has no weights is done before workers have started."""
    experiment = experiment_on(tmp_path, hourly(waves(2, 400)), workers=2)
    fitted = fit_all(
        experiment,
        Material.of(experiment),
        checkpoints=Place(str(tmp_path / "c")),
    )
    assert [*fitted] == ["ridge", "seasonal_naive"]
    assert not (tmp_path / "c").exists()


def test_a_ray_that_gives_out_is_one_sentence() -> None:
    """Whose cluster went down must hear that it can go on, not see Ray's tracebacks."""
    import ray as cluster
    from ray.util.queue import Queue

    told = Queue()
    cluster.kill(told.actor)
    with pytest.raises(UnavailableError, match=r"Ray gave out: .* is kept; resume when it is well"):
        _follow(lambda: None, told, print)


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_workers_that_die_again_and_again_are_given_up(material: Material, tmp_path: Path) -> None:
    """A fit that kills its machine must end, say so, and keep what it had."""
    held = Held(tmp_path / "held", steps=STEPS)
    held.folder.mkdir()
    job = job_of(material, "nlinear", held=held)
    place = Place(str(tmp_path / "kept"))

    def kill_all(progress: Progress) -> None:
        if progress.validation_loss is not None:
            for process in held.processes:
                kill(process)

    with pytest.raises(UnavailableError, match="The workers died more than 3 times"):
        by_workers(job, place, report=kill_all)
    data = newest(place)
    assert data is not None
    assert Checkpoint.decoded(data).epoch == 4  # each attempt has made one


DRIVER = """
import sys
from pathlib import Path
from pipelines.material import Material
from pipelines.storage import Place
from tests.panels import experiment_on, hourly, waves
from tests.pipelines.held import Held
from tests.pipelines.test_workers import STEPS, by_workers, job_of
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    material = Material.of(experiment_on(folder, hourly(waves(3, 500))))
    job = job_of(material, held=Held(folder / "held", steps=2 * STEPS))
    place = Place(str(folder / "kept"))
    by_workers(job, place, report=lambda p: print(p.epoch, p.validation_loss, flush=True))
"""


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_killed_driver_takes_its_workers_along_and_the_run_goes_on(
    material: Material, unbroken: Trained, tmp_path: Path
) -> None:
    """Whoever started the workers may die as well; what they had is gone on with."""
    root = str(Path(__file__).parents[2])
    held = Held(tmp_path / "held", steps=2 * STEPS)
    held.folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        assert driver.stdout is not None
        assert any(line.startswith("2 0.") for line in driver.stdout)
        workers = [psutil.Process(number) for number in held.processes]
        assert len(workers) == 2
        driver.kill()
    assert psutil.wait_procs(workers, timeout=60)[1] == []
    found = by_workers(job_of(material), Place(str(tmp_path / "kept")))
    assert found.reports[0].epoch == 3
    same(found, unbroken)
