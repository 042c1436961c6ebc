"""The one `fit`: what it finds, what it repeats, when it stops, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.figures import Told
from tests.tsformer.windows import ArrayWindows, LinearMap, Noisy, Persistence, linear_windows
from tsformer.batch import Batch, Shape, Target, Windows
from tsformer.descent import Descent, build_optimizer
from tsformer.errors import ConfigError, DataError, DivergedError, ShapeError
from tsformer.losses import LOSSES
from tsformer.model import Model
from tsformer.train import Fit, Progress, Training, evaluate, fit

SHAPE = Shape(context=8, horizon=3, variates=2)
TRAINING = Training(epochs=4, batch_size=32, learning_rate=0.01)
Weights = dict[str, Tensor]


def noisy(seed: int = 5, dropout: float = 0.3) -> Noisy:
    torch.manual_seed(seed)
    return Noisy(SHAPE, dropout=dropout)


def trained(training: Training = TRAINING, **how: object) -> tuple[Weights, Fit]:
    """The weights that a noisy network ends with, on always the same windows."""
    model = noisy()
    train, validation = linear_windows(100, shape=SHAPE), linear_windows(50, shape=SHAPE, seed=1)
    result = fit(model, train=train, validation=validation, training=training, **how)
    return model.state_dict(), result


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def without_seconds(result: Fit) -> list[tuple[float, ...]]:
    return [(e.epoch, e.train_loss, e.validation_loss, e.learning_rate) for e in result.history]


# What it finds


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_a_linear_map_reaches_the_least_squares_solution(optimizer: str) -> None:
    shape = Shape(context=4, horizon=2, variates=2)
    windows = linear_windows(200, shape=shape, noise=0.5)
    rows = windows.past.mT.flatten(0, 1).double().numpy()
    actual = windows.future.mT.flatten(0, 1).double().numpy()
    design = np.column_stack([rows, np.ones(len(rows))])
    solution, *_ = np.linalg.lstsq(design, actual, rcond=None)
    optimum = float(((design @ solution - actual) ** 2).mean())

    model = LinearMap(shape)
    training = Training(
        epochs=300, batch_size=200, optimizer=optimizer, learning_rate=0.1, schedule="cosine"
    )
    result = fit(model, train=windows, validation=windows, training=training)

    np.testing.assert_allclose(model.map.weight.detach().T, solution[:-1], atol=1e-3)
    np.testing.assert_allclose(model.map.bias.detach(), solution[-1], atol=1e-3)
    assert result.validation_loss == pytest.approx(optimum, rel=1e-4)


def test_a_model_without_parameters_is_only_scored() -> None:
    windows = linear_windows(20, shape=SHAPE)
    result = fit(Persistence(SHAPE), train=windows, validation=windows, training=TRAINING)
    last = windows.past[:, -1:]
    assert result.validation_loss == pytest.approx(float(((windows.future - last) ** 2).mean()))
    assert (result.history, result.best_epoch) == ((), 0)


class Solved(LinearMap):
    """Least squares by equation; satisfies `ClosedForm`."""

    def solve(self, train: Windows, validation: Windows) -> None:
        batch, target = train.batch(torch.arange(len(train)))
        rows = batch.past.mT.flatten(0, 1)
        design = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        weight = torch.linalg.lstsq(design, target.values.mT.flatten(0, 1)).solution
        self.map.weight.data, self.map.bias.data = weight[:-1].mT.clone(), weight[-1].clone()
        self.solved_on = len(train), len(validation)


def test_a_closed_form_is_solved_by_the_same_call() -> None:
    train, validation = linear_windows(99, shape=SHAPE), linear_windows(50, shape=SHAPE, seed=1)
    model = Solved(SHAPE)
    result = fit(model, train=train, validation=validation, training=TRAINING)
    assert model.solved_on == (99, 50)
    assert result.validation_loss == evaluate(model, windows=validation, training=TRAINING)
    assert result.validation_loss < 0.02  # the noise has variance 0.01


def test_bfloat16_on_a_cpu_learns_with_float32_weights() -> None:
    weights, result = trained(replace(TRAINING, precision="bfloat16", epochs=10))
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert weights["read.weight"].dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_every_precision_learns_on_a_gpu(precision: str) -> None:
    weights, result = trained(replace(TRAINING, precision=precision, epochs=10), device="cuda")
    assert result.history[-1].train_loss < result.history[0].train_loss
    assert all(value.isfinite().all() for value in weights.values())


# What it repeats


def test_the_seed_decides_everything() -> None:
    first, result = trained()
    again, repeated = trained()
    other, _ = trained(replace(TRAINING, seed=1))
    assert same(first, again)
    assert without_seconds(result) == without_seconds(repeated)
    assert not same(first, other)


def test_the_callers_random_state_neither_changes_nor_matters() -> None:
    train, validation = linear_windows(100, shape=SHAPE), linear_windows(50, shape=SHAPE, seed=1)
    ends = []
    for state in (1, 2):
        model = noisy()
        torch.manual_seed(state)
        np.random.seed(state)
        before, expected = torch.get_rng_state(), np.random.get_state()[1].copy()
        fit(model, train=train, validation=validation, training=TRAINING)
        assert torch.equal(torch.get_rng_state(), before)
        assert (np.random.get_state()[1] == expected).all()
        ends.append(model.state_dict())
    assert same(*ends)


def test_the_model_ends_in_evaluation_mode_with_the_score_it_reports() -> None:
    model = noisy(dropout=0.5)
    windows = linear_windows(60, shape=SHAPE)
    result = fit(model, train=windows, validation=windows, training=TRAINING)
    assert not model.training
    assert evaluate(model, windows=windows, training=TRAINING) == result.validation_loss


# How windows are used


class Recorded(ArrayWindows):
    """Windows that remember which were asked for."""

    def __init__(self, windows: ArrayWindows) -> None:
        super().__init__(windows.past, windows.future)
        self.asked: list[list[int]] = []

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        self.asked.append(index.tolist())
        return super().batch(index)


def test_each_epoch_sees_each_window_once_in_batches_of_one_size() -> None:
    train, validation = Recorded(linear_windows(100, shape=SHAPE)), linear_windows(9, shape=SHAPE)
    fit(noisy(), train=train, validation=validation, training=replace(TRAINING, epochs=2))
    assert [len(batch) for batch in train.asked] == [25] * 8  # not 32, 32, 32 and 4
    epochs = [[*chain(*train.asked[:4])], [*chain(*train.asked[4:])]]
    assert [sorted(epoch) for epoch in epochs] == [[*range(100)]] * 2
    assert epochs[0] != epochs[1]


def test_windows_per_epoch_draws_anew_without_replacement() -> None:
    train, validation = Recorded(linear_windows(100, shape=SHAPE)), linear_windows(9, shape=SHAPE)
    training = replace(TRAINING, epochs=5, windows_per_epoch=40)
    fit(noisy(), train=train, validation=validation, training=training)
    epochs = [set(one + two) for one, two in zip(train.asked[::2], train.asked[1::2], strict=True)]
    assert [len(epoch) for epoch in epochs] == [40] * 5
    assert len(set.union(*epochs)) > 80


def test_validation_drops_nothing_and_keeps_the_order() -> None:
    train, validation = linear_windows(40, shape=SHAPE), Recorded(linear_windows(70, shape=SHAPE))
    fit(noisy(), train=train, validation=validation, training=replace(TRAINING, epochs=1))
    assert [*chain(*validation.asked)] == [*range(70)]


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_a_score_does_not_depend_on_the_batch_size(loss: str) -> None:
    windows = linear_windows(70, shape=SHAPE)
    # most of the last windows is missing, so a mean of batch means would differ
    windows.observed[50:, 1:] = False
    windows.future[50:, 1:] = torch.nan
    model = noisy().eval()
    with torch.no_grad():
        forecast = model(windows.batch(torch.arange(70))[0])[..., 0].double()
    error = (forecast - windows.future)[windows.observed]
    expected = float((error**2 if loss == "mse" else error.abs()).mean())
    for batch_size in (1, 7, 32, 70, 1000):
        training = Training(batch_size=batch_size, loss=loss)
        score = evaluate(model, windows=windows, training=training)
        assert score == pytest.approx(expected, rel=1e-6)


def test_nothing_observed_is_nothing_to_score() -> None:
    windows = linear_windows(5, shape=SHAPE)
    windows.observed[:] = False
    with pytest.raises(DataError, match="observed"):
        evaluate(noisy(), windows=windows, training=TRAINING)


# When it stops


def worsening(epochs: int, **changes: object) -> tuple[Weights, Fit]:
    """Training on one map, validation on its opposite: the first epoch stays the best."""
    train = linear_windows(100, shape=SHAPE)
    validation = ArrayWindows(train.past, -train.future)
    training = replace(TRAINING, epochs=epochs, schedule="constant", **changes)
    model = noisy(dropout=0.0)
    result = fit(model, train=train, validation=validation, training=training)
    return model.state_dict(), result


def test_patience_stops_and_the_best_weights_come_back() -> None:
    weights, result = worsening(50, patience=3)
    assert len(result.history) == 1 + 3
    assert result.best_epoch == 1
    assert result.validation_loss == result.history[0].validation_loss
    assert same(weights, worsening(1)[0])


def test_without_patience_all_epochs_run_and_the_best_weights_come_back_too() -> None:
    weights, result = worsening(6, patience=0)
    assert len(result.history) == 6
    assert same(weights, worsening(1)[0])


def test_an_improvement_below_min_delta_is_none() -> None:
    _, small = trained(replace(TRAINING, epochs=20, patience=2, min_delta=1e9))
    assert (small.best_epoch, len(small.history)) == (1, 3)
    _, any_improvement = trained(replace(TRAINING, epochs=20, patience=2))
    assert any_improvement.best_epoch > 3


def test_progress_is_reported_for_every_step_and_every_epoch() -> None:
    reports: list[Progress] = []
    _, result = trained(replace(TRAINING, epochs=2, schedule="halving"), report=reports.append)
    steps = [(p.epoch, p.step) for p in reports if p.validation_loss is None]
    assert steps == [(epoch, step) for epoch in (1, 2) for step in (1, 2, 3, 4)]
    ends = [p for p in reports if p.validation_loss is not None]
    assert [p.validation_loss for p in ends] == [e.validation_loss for e in result.history]
    assert [p.loss for p in ends] == [e.train_loss for e in result.history]
    assert {(p.epochs, p.steps, p.learning_rate) for p in reports} == {(2, 4, 0.01)}
    mean = sum(p.loss for p in reports[:4]) / 4  # four batches of one size
    assert ends[0].loss == pytest.approx(mean)


# Steps


def gradient_norm(clip: float) -> float:
    model = LinearMap(SHAPE)
    optimizer = build_optimizer(model, name="adam", weight_decay=0.0)
    descent = Descent(
        model, optimizer=optimizer, loss=LOSSES["mse"], precision=torch.float32, clip=clip
    )
    batch, target = linear_windows(30, shape=SHAPE).batch(torch.arange(30))
    descent.step(batch, target, learning_rate=1e-3)
    return float(torch.stack([p.grad.norm() for p in model.parameters()]).norm())


def test_the_gradient_clip_bounds_the_global_norm() -> None:
    torch.manual_seed(0)
    free = gradient_norm(0.0)
    assert free > 1
    assert gradient_norm(0.5) == pytest.approx(0.5, rel=1e-4)
    torch.manual_seed(0)
    assert gradient_norm(1e6) == free


def test_each_step_takes_the_rate_of_its_schedule() -> None:
    # the first step of Adam moves every weight by the learning rate, whatever the gradient
    before = noisy().state_dict()["read.weight"].clone()
    training = Training(
        epochs=1, batch_size=100, learning_rate=0.5, schedule="onecycle", warmup=0.0
    )
    after, _ = trained(replace(training, optimizer="adam"))
    steps = (after["read.weight"] - before).abs()
    assert float(steps.median()) == pytest.approx(0.5, rel=1e-3)


# Numbers that are not finite


def broken(spoil: Callable[[ArrayWindows], None], validation: bool = False) -> tuple[str, int]:
    """The message of the error, and how many steps were reported before it."""
    train, scored = linear_windows(100, shape=SHAPE), linear_windows(50, shape=SHAPE, seed=1)
    spoil(scored if validation else train)
    reports: list[Progress] = []
    with pytest.raises(DivergedError) as caught:
        fit(noisy(), train=train, validation=scored, training=TRAINING, report=reports.append)
    return str(caught.value), len(reports)


class Spoilt(torch.autograd.Function):
    """The identity, with an error in its numbers, or in its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, forth: float, back: float) -> Tensor:
        ctx.back = back
        return values * forth

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return gradient * ctx.back, None, None


class Failing(LinearMap):
    """Goes wrong in its step number `step` alone."""

    def __init__(self, step: int, *, forth: float, back: float) -> None:
        super().__init__(SHAPE)
        self.left, self.forth, self.back = step, forth, back

    def forward(self, batch: Batch) -> Tensor:
        forecast = super().forward(batch)
        self.left -= self.training
        if self.left or not self.training:
            return forecast
        wrong: Tensor = Spoilt.apply(forecast, self.forth, self.back)
        return wrong


WRONG = {
    "NaN": (torch.nan, 1.0), "inf": (torch.inf, 1.0), "gradient NaN": (1.0, torch.nan),
    "gradient inf": (1.0, torch.inf), "gradient 1e30": (1.0, 1e30),
}  # fmt: skip


def test_a_fit_ends_at_the_first_number_that_is_not_finite(record_property: Told) -> None:
    """F14: a night of steps on spoilt weights would end with a model of noise."""
    late = []
    for clip in (0.0, 1.0):
        for what, (forth, back) in WRONG.items():
            if clip and what == "gradient 1e30":
                continue  # it is clipped, and no harm is done
            for step in (1, 6):
                reports: list[Progress] = []
                with pytest.raises(DivergedError, match="The loss is not finite"):
                    fit(
                        Failing(step, forth=forth, back=back),
                        train=linear_windows(100, shape=SHAPE),
                        validation=linear_windows(50, shape=SHAPE, seed=1),
                        training=replace(TRAINING, gradient_clip=clip),
                        report=reports.append,
                    )
                ends = sum(report.validation_loss is not None for report in reports)
                late.append(len(reports) - ends + 1 - step)
    assert max(late) <= 2
    record_property("F14", f"{len(late)} of {len(late)} end, at most {max(late)} steps later")


def test_a_context_that_is_not_finite_is_named_at_its_step() -> None:
    def spoil(windows: ArrayWindows) -> None:
        windows.past[[17, 63], 2, 1] = torch.inf

    message, steps = broken(spoil)
    assert "the context of windows" in message
    assert f"in epoch 1, step {steps + 1} of 4" in message
    assert "17" in message or "63" in message
    assert "lower learning_rate" in message


def test_a_target_that_is_not_finite_is_named() -> None:
    def spoil(windows: ArrayWindows) -> None:
        windows.future[42, 0, 0] = torch.nan

    assert "the target of windows 42 is not finite" in broken(spoil)[0]


def test_values_too_large_for_the_loss_are_said_to_be_so() -> None:
    def spoil(windows: ArrayWindows) -> None:
        windows.future[:] = 1e30

    assert "finite but too large" in broken(spoil)[0]


def test_validation_that_is_not_finite_is_named_too() -> None:
    def spoil(windows: ArrayWindows) -> None:
        windows.past[49, 0, 0] = torch.nan

    message, steps = broken(spoil, validation=True)
    assert "after epoch 1, in validation: the context of windows 49 is not finite" in message
    assert steps == 4


def test_what_is_not_observed_may_be_anything() -> None:
    windows = linear_windows(100, shape=SHAPE)
    windows.future[:50, 0] = torch.nan
    windows.observed[:50, 0] = False
    fit(noisy(), train=windows, validation=windows, training=TRAINING)


def test_a_step_into_nowhere_changes_no_weight() -> None:
    model = LinearMap(SHAPE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = build_optimizer(model, name="adam", weight_decay=0.0)
    descent = Descent(
        model, optimizer=optimizer, loss=LOSSES["mse"], precision=torch.float32, clip=0.0
    )
    windows = linear_windows(4, shape=SHAPE)
    windows.past[0] = torch.nan
    assert not np.isfinite(descent.step(*windows.batch(torch.arange(4)), learning_rate=1.0))
    assert same(model.state_dict(), before)


# Interrupted and resumed


class StopError(Exception):
    """What interrupts a run in these tests."""


def interrupt(training: Training, directory: Path, *, after: int) -> None:
    """A run that is interrupted in its report number `after`."""
    count = 0

    def report(_: Progress) -> None:
        nonlocal count
        count += 1
        if count == after:
            raise StopError

    with pytest.raises(StopError):
        trained(training, checkpoint=directory, report=report)


# each epoch has 4 steps and its end: 1 is before any checkpoint, 5 and 20 right after one
@pytest.mark.parametrize("after", [1, 4, 5, 6, 13, 20])
def test_resumed_is_bit_equal_to_uninterrupted(tmp_path: Path, after: int) -> None:
    training = replace(TRAINING, weight_decay=0.1, gradient_clip=1.0, windows_per_epoch=97)
    expected, result = trained(training)
    interrupt(training, tmp_path, after=after)
    weights, resumed = trained(training, checkpoint=tmp_path)
    assert same(weights, expected)
    assert without_seconds(resumed) == without_seconds(result)
    assert resumed.best_epoch == result.best_epoch


@pytest.mark.parametrize("schedule", ["constant", "halving", "decay", "cosine"])
def test_resuming_is_exact_under_every_schedule(tmp_path: Path, schedule: str) -> None:
    training = replace(TRAINING, schedule=schedule, optimizer="adam")
    for after in (7, 3, 8):  # interrupted three times, each time further on
        interrupt(training, tmp_path, after=after)
    assert same(trained(training, checkpoint=tmp_path)[0], trained(training)[0])


def test_early_stopping_survives_a_resumption(tmp_path: Path) -> None:
    training = replace(TRAINING, epochs=20, patience=2, min_delta=1e9)
    interrupt(training, tmp_path, after=6)
    weights, result = trained(training, checkpoint=tmp_path)
    assert (result.best_epoch, len(result.history)) == (1, 3)
    assert same(weights, trained(training)[0])


def test_a_torn_newest_checkpoint_costs_one_epoch_and_no_bit(tmp_path: Path) -> None:
    interrupt(TRAINING, tmp_path, after=16)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    assert same(trained(checkpoint=tmp_path)[0], trained()[0])


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    weights, result = trained(checkpoint=tmp_path)
    reports: list[Progress] = []
    again, repeated = trained(checkpoint=tmp_path, report=reports.append)
    assert same(weights, again)
    assert repeated.history == result.history
    assert reports == []


def test_checkpoints_hold_tensors_and_no_code(tmp_path: Path) -> None:
    trained(checkpoint=tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 3}, "training.seed is 0 there and 3 here"),
        ({"epochs": 9}, "training.epochs is 4 there and 9 here"),
        ({"schedule": "cosine"}, "training.schedule"),
    ],
)
def test_another_training_does_not_resume(tmp_path: Path, change: dict, name: str) -> None:
    trained(checkpoint=tmp_path)
    with pytest.raises(ConfigError, match=name):
        trained(replace(TRAINING, **change), checkpoint=tmp_path)


def test_another_model_shape_or_data_set_does_not_resume(tmp_path: Path) -> None:
    def run(model: Model, count: int) -> None:
        windows = linear_windows(count, shape=model.shape)
        fit(model, train=windows, validation=windows, training=TRAINING, checkpoint=tmp_path)

    run(noisy(), 50)
    others = {
        "shape.horizon is 3 there and 4 here": (Noisy(replace(SHAPE, horizon=4)), 50),
        r"module.dropout is 'Dropout\(p=0.3": (Noisy(SHAPE, dropout=0.4), 50),
        r"weight.read.weight is \(8, 8\) there and \(9, 8\) here": (Noisy(SHAPE, width=9), 50),
        "windows.train is 50 there and 51 here": (noisy(), 51),
    }
    for message, (model, count) in others.items():
        with pytest.raises(ConfigError, match=message):
            run(model, count)


# What it refuses


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"learning_rte": 0.1}, "learning_rate"),
        ({"learning_rate": "1e-3"}, "1.0e-3"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"optimizer": "adm"}, "Did you mean 'adam'"),
        ({"schedule": "linear"}, "constant, halving, decay, onecycle, cosine"),
        ({"precision": "half"}, "precision"),
        ({"loss": "mape"}, "loss must be one of"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": 0}, "batch_size"),
        ({"warmup": 1.0}, "warmup"),
        ({"patience": -1}, "patience"),
        ({"gradient_clip": float("inf")}, "gradient_clip"),
        ({"seed": True}, "seed"),
    ],
)
def test_a_training_that_cannot_be_meant_is_refused(mapping: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Training.from_mapping(mapping)


def test_windows_that_cannot_be_used_are_refused() -> None:
    some, none = linear_windows(9, shape=SHAPE), linear_windows(0, shape=SHAPE)
    with pytest.raises(DataError, match="no training window"):
        fit(noisy(), train=none, validation=some, training=TRAINING)
    with pytest.raises(DataError, match="no validation window"):
        fit(noisy(), train=some, validation=none, training=TRAINING)
    other = linear_windows(9, shape=replace(SHAPE, context=9))
    with pytest.raises(ShapeError, match="context 8, the training windows have 9"):
        fit(noisy(), train=other, validation=some, training=TRAINING)
