"""Training on a random part of the variates: what a step sees, what repeats, what is refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tsformer.windows import ArrayWindows, LinearMap, Noisy, linear_windows
from tsformer.batch import Batch, Shape, Target
from tsformer.errors import ConfigError
from tsformer.train import Progress, Training, fit

SHAPE = Shape(context=8, horizon=3, variates=5)
TRAINING = Training(epochs=3, batch_size=20, learning_rate=0.01, variate_share=0.4)


class Numbered(ArrayWindows):
    """Windows whose every value is the number of its variate, in the context and after it."""

    def __init__(self, count: int, *, variates: int = SHAPE.variates) -> None:
        numbers = torch.arange(float(variates))
        super().__init__(numbers.expand(count, 8, -1), numbers.expand(count, 3, -1))


class Watched(LinearMap):
    """Remembers which variates it was shown in training, and how many in evaluation."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.shown: list[tuple[float, ...]] = []
        self.scored: set[int] = set()

    def forward(self, batch: Batch) -> Tensor:
        if self.training:
            self.shown.append(tuple(batch.past[0, 0].tolist()))
        else:
            self.scored.add(batch.past.shape[2])
        return super().forward(batch)


def watched(training: Training, *, variates: int = SHAPE.variates) -> Watched:
    """A model after `training` on numbered windows."""
    torch.manual_seed(0)
    model = Watched(replace(SHAPE, variates=variates))
    windows = Numbered(100, variates=variates)
    fit(model, train=windows, validation=windows, training=training)
    return model


def weights(training: Training = TRAINING, **how: object) -> dict[str, Tensor]:
    """What a noisy network ends with after `training`."""
    torch.manual_seed(0)
    model = Noisy(SHAPE)
    train, validation = linear_windows(60, shape=SHAPE), linear_windows(20, shape=SHAPE, seed=1)
    fit(model, train=train, validation=validation, training=training, **how)
    return model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def test_each_step_draws_its_share_of_the_variates_anew_and_validation_has_all() -> None:
    """A share that were drawn once would train on two sensors of five and never say so."""
    model = watched(replace(TRAINING, epochs=20))
    assert {len(numbers) for numbers in model.shown} == {2}
    assert len(set(model.shown)) == 10  # all pairs of five
    seen = Counter(number for numbers in model.shown for number in numbers)
    assert min(seen.values()) > 0.5 * max(seen.values())
    assert model.scored == {5}


def test_the_loss_is_that_of_the_variates_that_were_drawn() -> None:
    """Targets of other variates beside these forecasts would teach nonsense in silence."""
    reports: list[Progress] = []
    windows = Numbered(100)
    model = Watched(SHAPE)
    with torch.no_grad():
        model.map.weight.zero_()
        model.map.bias.zero_()
    training = replace(TRAINING, epochs=4, learning_rate=1e-30)
    fit(model, train=windows, validation=windows, training=training, report=reports.append)
    losses = [row.loss for row in reports if row.validation_loss is None]
    expected = [sum(number**2 for number in pair) / 2 for pair in model.shown]
    assert losses == pytest.approx(expected)


@pytest.mark.parametrize(
    ("share", "variates", "shown"), [(1e-9, 5, 1), (0.5, 1, 1), (1.0, 5, 5), (0.95, 5, 5)]
)
def test_at_least_one_variate_is_left(share: float, variates: int, shown: int) -> None:
    """A setting for 862 sensors must not leave a data set of one with nothing to learn from."""
    model = watched(replace(TRAINING, variate_share=share), variates=variates)
    assert {len(numbers) for numbers in model.shown} == {shown}


def test_the_seed_decides_the_draw() -> None:
    """Whoever repeats a run must get its weights."""
    first = watched(TRAINING).shown
    assert watched(TRAINING).shown == first
    assert watched(replace(TRAINING, seed=1)).shown != first


class StopError(Exception):
    """What interrupts a run."""


def test_resumed_is_bit_equal_to_uninterrupted(tmp_path: Path) -> None:
    """A machine that restarts at night must not change what is published in the morning."""

    def report(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (2, 2):
            raise StopError

    with pytest.raises(StopError):
        weights(checkpoint=tmp_path, report=report)
    assert same(weights(checkpoint=tmp_path), weights())
    with pytest.raises(ConfigError, match="variate_share"):
        weights(replace(TRAINING, variate_share=0.6), checkpoint=tmp_path)


@pytest.mark.parametrize("share", [0.0, -0.2, 1.1, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    """20 for 20 percent would train on everything, and 0 on nothing."""
    with pytest.raises(ConfigError, match="variate_share is a share"):
        Training(variate_share=share)


def test_every_part_of_a_batch_keeps_the_same_variates() -> None:
    """The attributes and last year's values of another series would be believed."""
    numbers = torch.arange(5.0)
    past = numbers.expand(2, 8, 5)
    batch = Batch(
        past,
        past > 2,
        known=torch.ones(2, 11, 3),
        covariates=torch.ones(2, 8, 4),
        static=numbers[None, :, None].expand(2, 5, 2),
        lagged=numbers[:, None].expand(2, 11, 5, 3),
    ).only(torch.tensor([1, 3]))
    kept = torch.tensor([1.0, 3.0])
    assert batch.static is not None
    assert batch.lagged is not None
    assert batch.known is not None
    assert batch.covariates is not None
    assert torch.equal(batch.past, kept.expand(2, 8, 2))
    assert torch.equal(batch.observed, (kept > 2).expand(2, 8, 2))
    assert torch.equal(batch.static, kept[None, :, None].expand(2, 2, 2))
    assert torch.equal(batch.lagged, kept[:, None].expand(2, 11, 2, 3))
    assert batch.known.shape == (2, 11, 3)
    assert batch.covariates.shape == (2, 8, 4)
    target = Target(past, past > 2).only(torch.tensor([1, 3]))
    assert torch.equal(target.values, batch.past)
    assert torch.equal(target.observed, batch.observed)
