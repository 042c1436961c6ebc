"""The benchmark of workers: what is divided by the steps is the time of so many steps."""

from __future__ import annotations

from benchmarks.training import TASKS
from benchmarks.workers import CONTENDERS, EPOCHS, NAMES, STEPS, alone, job_of, shown, timed


def test_a_fit_has_the_steps_that_its_time_is_divided_by() -> None:
    """A figure for ten steps that were nine is ten per cent too good."""
    job = job_of(TASKS["nlinear"], steps=2)
    assert job.training.steps_per_epoch(len(job.train)) == 2
    done, meter = alone(job)
    assert len(done.history) == EPOCHS
    assert {*meter.at} == {*range(1, EPOCHS + 1)}
    found = timed(alone, job_of(TASKS["nlinear"], steps=2), steps=2)
    assert 0 < found.step < 60
    assert found.processor > 0
    kept = shown("nlinear", {label: [found] for label in CONTENDERS})
    assert all(kept[label]["times_as_fast_as_the_process"] == [1.0] for label in CONTENDERS)


def test_every_name_can_be_measured() -> None:
    """A name that nothing knows would only show minutes into a measurement."""
    assert {*NAMES} == {*STEPS} <= {*TASKS}
