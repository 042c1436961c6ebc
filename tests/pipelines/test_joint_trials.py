"""Trials that several workers fit, on a real Ray: the losses of one process, and nobody in the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import yaml

from pipelines.campaign import Effort
from pipelines.trials import Trial
from tests.pipelines.test_tuning import experiment_in, search_on

RATES = {"training.learning_rate": [1e-2, 1e-6]}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A Ray with no processor to spare: a second trial has those that the first has given back."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def searched(folder: Path, *, workers: int) -> list[Trial]:
    """A search of which the first trial goes to its end, and the second is stopped on the way."""
    file = experiment_in(folder, RATES)
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**content, "model": "nlinear", "workers": workers}))
    return search_on(file, folder, Effort(trials=2, parallel=1))


def test_trials_of_two_workers_are_those_of_one_process(tmp_path: Path) -> None:
    """A search must not choose other settings because it was given more machines."""
    alone = searched(tmp_path / "alone", workers=1)
    together = searched(tmp_path / "together", workers=2)
    assert [(t.state, t.last) for t in together] == [("finished", 4), ("stopped", 1)]
    for one, two in zip(alone, together, strict=True):
        assert (two.state, two.reason, two.last) == (one.state, one.reason, one.last)
        np.testing.assert_allclose(curve(two), curve(one), rtol=1e-5)


def curve(trial: Trial) -> list[tuple[float, float | None]]:
    return [(row.loss, row.train_loss) for row in trial.epochs]
