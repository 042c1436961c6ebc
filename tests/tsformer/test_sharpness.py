"""Sharpness-aware minimisation: its closed form, and all that a second pass could leave behind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from tests.tsformer.windows import ArrayWindows, LinearMap, Noisy, linear_windows
from tsformer.batch import Batch, Shape, Target
from tsformer.descent import Descent, build_optimizer
from tsformer.errors import ConfigError, DivergedError
from tsformer.losses import LOSSES
from tsformer.model import Model
from tsformer.recipe import Training
from tsformer.sharpness import gradient_norm, uphill
from tsformer.train import Progress, fit

SHAPE = Shape(context=8, horizon=3, variates=2)
TRAINING = Training(epochs=3, batch_size=32, learning_rate=0.01, sharpness=0.5)
Weights = dict[str, Tensor]


def noisy(dropout: float = 0.3) -> Noisy:
    torch.manual_seed(5)
    return Noisy(SHAPE, dropout=dropout)


def windows(count: int = 100) -> ArrayWindows:
    return linear_windows(count, shape=SHAPE)


def one_batch() -> tuple[Batch, Target]:
    return windows(30).batch(torch.arange(30))


def state_of(model: nn.Module) -> Weights:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def descent(model: Model, *, optimizer: Adam | None = None, **how: object) -> Descent:
    optimizer = optimizer or build_optimizer(model, name="adam", weight_decay=0.0)
    settings = {"loss": LOSSES["mse"], "precision": torch.float32, "sharpness": 0.5, **how}
    return Descent(model, optimizer=optimizer, **settings)  # type: ignore[arg-type]


# Closed form


class Bowl(Model):
    """A forecast whose mean squared error against 0 is the bowl w' H w / 2, H = diag(2 c^2 / n)."""

    def __init__(self, weights: Tensor, slopes: Tensor) -> None:
        super().__init__(Shape(context=1, horizon=len(weights)))
        self.first, self.second = (nn.Parameter(part.clone()) for part in weights.split(1))
        self.slopes = slopes

    def forward(self, batch: Batch) -> Tensor:
        height = torch.cat((self.first, self.second)) * self.slopes
        return height.expand(len(batch), -1)[..., None, None]

    @property
    def place(self) -> Tensor:
        return torch.cat((self.first, self.second)).detach().clone()


class Plain(Adam):
    """Steepest descent, so that a step shows its gradient."""

    def __init__(self, model: Model, decay: float = 0.0) -> None:
        super().__init__(model.parameters(), weight_decay=decay)

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(group["lr"] * (p.grad + group["weight_decay"] * p))


WEIGHTS, SLOPES = torch.tensor([3.0, -2.0]).double(), torch.tensor([1.0, 2.0]).double()
HESSIAN = SLOPES.square()  # of sum (c w)^2 / 2


def bowl_step(
    radius: float, *, rate: float = 0.1, decay: float = 0.0, clip: float = 0.0
) -> tuple[Bowl, float]:
    """One step of steepest descent in the bowl, and the loss that it reports."""
    bowl = Bowl(WEIGHTS, SLOPES)
    how = {"optimizer": Plain(bowl, decay), "sharpness": radius, "clip": clip}
    loss = descent(bowl, **how).step(*nothing(), learning_rate=rate)  # type: ignore[arg-type]
    return bowl, loss


def nothing() -> tuple[Batch, Target]:
    past, future = torch.zeros(1, 1, 1).double(), torch.zeros(1, 2, 1).double()
    return Batch(past, past == 0), Target(future, future == 0)


@pytest.mark.parametrize("radius", [0.1, 0.5, 10.0])
def test_a_step_in_a_quadratic_bowl_is_its_closed_form(radius: float) -> None:
    """w1 = w0 - lr H (w0 + rho g/|g|), one norm over both weights, though they are two tensors."""
    bowl, loss = bowl_step(radius)
    gradient = HESSIAN * WEIGHTS
    expected = WEIGHTS - 0.1 * HESSIAN * (WEIGHTS + radius * gradient / gradient.norm())
    torch.testing.assert_close(bowl.place, expected)
    assert loss == pytest.approx(float((HESSIAN * WEIGHTS.square()).sum() / 2))  # that of w0


def test_weight_decay_pulls_from_where_the_weights_are() -> None:
    """Decay taken at the displaced weights would pull towards a place that depends on the batch."""
    plain, decayed = bowl_step(0.5)[0].place, bowl_step(0.5, decay=0.25)[0].place
    torch.testing.assert_close(decayed, plain - 0.1 * 0.25 * WEIGHTS)


def test_only_the_gradient_stepped_by_is_clipped() -> None:
    """A clip of the first gradient would change nothing, and leave the second without a bound."""
    free, bound = bowl_step(0.5)[0].place - WEIGHTS, bowl_step(0.5, clip=1.0)[0].place - WEIGHTS
    torch.testing.assert_close(bound, free / free.norm() * 0.1, rtol=1e-5, atol=0)


def test_what_is_frozen_is_not_moved_by_the_gradient_of_an_earlier_training() -> None:
    """A probe of a pretrained encoder would be trained on an encoder that nobody has."""
    torch.manual_seed(0)
    ends = []
    for left in (None, torch.full((8, 8), 100.0)):
        model = noisy(dropout=0.0)
        frozen = model.read.requires_grad_(requires_grad=False)
        frozen.weight.grad = left
        descent(model).step(*one_batch(), learning_rate=0.01)
        ends.append(state_of(model))
    assert same(*ends)


def test_at_the_bottom_there_is_no_uphill() -> None:
    """A gradient of exactly 0 (a batch without observed targets) must not be divided by 0."""
    bowl = Bowl(0 * WEIGHTS, SLOPES)
    loss = descent(bowl, optimizer=Plain(bowl)).step(*nothing(), learning_rate=0.1)
    assert (loss, bowl.place.tolist()) == (0.0, [0.0, 0.0])


def test_a_radius_of_zero_is_the_plain_step_bit_by_bit() -> None:
    """Who does not ask for sharpness must get the training of before."""
    model, plain = noisy(), noisy()
    torch.manual_seed(1)
    loss = descent(model, sharpness=0.0, clip=0.7).step(*one_batch(), learning_rate=0.01)
    torch.manual_seed(1)
    optimizer = build_optimizer(plain, name="adam", weight_decay=0.0)
    batch, target = one_batch()
    expected = LOSSES["mse"](plain(batch), target, ())
    expected.backward()
    nn.utils.clip_grad_norm_(plain.parameters(), 0.7)
    optimizer.param_groups[0]["lr"] = 0.01
    optimizer.step()
    assert loss == float(expected.detach())
    assert same(state_of(model), state_of(plain))


# What the second pass must not leave behind


class Masked(Noisy):
    """Remembers what dropout took in each pass."""

    def __init__(self) -> None:
        super().__init__(SHAPE, dropout=0.5)
        self.masks: list[Tensor] = []
        self.dropout.register_forward_hook(lambda _, read, left: self.masks.append(left == 0))  # noqa: ARG005


def test_statistics_of_a_batch_norm_are_updated_once() -> None:
    """Else a network is evaluated with statistics of weights that it never had."""
    sharp, plain = noisy(), noisy()
    descent(sharp).step(*one_batch(), learning_rate=0.01)
    plain(one_batch()[0])
    assert int(sharp.norm.num_batches_tracked) == 1
    for name, value in plain.named_buffers():
        assert torch.equal(sharp.get_buffer(name), value), name


def test_both_passes_drop_the_same_and_the_next_step_others() -> None:
    """With other masks the second gradient is that of another function, not of a place nearby."""
    model = Masked()
    model.norm.bias.data.fill_(10.0)  # far from the 0 of the relu: what is 0 was dropped
    step = descent(model, sharpness=1e-6)
    for _ in range(2):
        step.step(*one_batch(), learning_rate=1e-6)
    first, second, third, fourth = model.masks
    assert 0.3 < first.double().mean() < 0.7
    assert torch.equal(first, second)
    assert torch.equal(third, fourth)
    assert not torch.equal(first, third)


def test_the_two_passes_are_one_radius_apart() -> None:
    """The radius is all that a user sets; in another norm it would mean another thing."""
    model = LinearMap(SHAPE)
    places: list[Tensor] = []
    model.register_forward_pre_hook(lambda *_: places.append(place(model)))
    descent(model, sharpness=0.3).step(*one_batch(), learning_rate=1e-3)
    assert len(places) == 2
    assert float((places[1] - places[0]).norm()) == pytest.approx(0.3, rel=1e-5)


def test_weights_come_back_as_they_were_bit_by_bit() -> None:
    """w + e - e is not w in float32: subtraction would add noise to every step."""
    model = noisy()
    model(one_batch()[0]).square().sum().backward()
    before = state_of(model)
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    factor = 1e3 / gradient_norm(model.parameters())
    with uphill(model, parameters=model.parameters(), factor=factor):
        assert not same(state_of(model), before)
        model(one_batch()[0])  # moves the statistics of the batch norm
    assert same(state_of(model), before)
    left = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(gradients, left, strict=True))


class Fragile(LinearMap):
    """Fails in the second pass: with an error, or with a number that is not finite."""

    def __init__(self, failure: str) -> None:
        super().__init__(SHAPE)
        self.failure = failure
        self.passes = 0

    def forward(self, batch: Batch) -> Tensor:
        self.passes += 1
        if self.passes < 2:
            return super().forward(batch)
        if self.failure == "error":
            raise torch.OutOfMemoryError
        return super().forward(batch) * math.inf


@pytest.mark.parametrize("failure", ["error", "infinite"])
def test_a_second_pass_that_fails_leaves_the_weights_as_they_were(failure: str) -> None:
    """A run that stops there would else leave, and save, weights that nobody chose."""
    model = Fragile(failure)
    before = state_of(model)
    step = descent(model)
    if failure == "error":
        with pytest.raises(torch.OutOfMemoryError):
            step.step(*one_batch(), learning_rate=0.01)
    else:
        assert not math.isfinite(step.step(*one_batch(), learning_rate=0.01))
    assert model.passes == 2
    assert same(state_of(model), before)
    assert step.tensors() == {}  # no moment of the optimiser either


class Steep(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:  # noqa: ARG004
        return values.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG004
        return gradient * math.nan


class Cliff(LinearMap):
    """A finite loss whose gradient is not."""

    def forward(self, batch: Batch) -> Tensor:
        forecast: Tensor = Steep.apply(super().forward(batch))
        return forecast


@pytest.mark.parametrize("model", [Cliff(SHAPE), LinearMap(SHAPE)], ids=["gradient", "loss"])
def test_a_first_pass_that_is_not_finite_skips_the_whole_step(model: Model) -> None:
    """One bad batch must not turn all weights to NaN on the way uphill."""
    before = state_of(model)
    batch, target = one_batch()
    if type(model) is LinearMap:
        batch = replace(batch, past=batch.past * math.inf)
    step = descent(model)
    assert not math.isfinite(step.step(batch, target, learning_rate=0.01))
    assert same(state_of(model), before)
    assert step.tensors() == {}


def test_a_radius_too_large_is_named_among_the_remedies() -> None:
    """Who set the radius should read that it may be to blame."""
    with pytest.raises(DivergedError, match="lower learning_rate or sharpness"):
        fit(Cliff(SHAPE), train=windows(), validation=windows(9), training=TRAINING)


# Mixed precision


def test_the_loss_scale_of_float16_changes_no_step() -> None:
    """A radius in scaled gradients, or a gradient unscaled twice, would be off by that scale."""
    ends = []
    for precision in (torch.float16, torch.float32):
        torch.manual_seed(0)
        model = LinearMap(SHAPE)
        start = place(model)
        how = {"optimizer": Plain(model), "sharpness": 1.0, "precision": precision}
        step = descent(model, clip=100.0, **how)  # type: ignore[arg-type]
        if precision == torch.float16:
            step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 4096.0})
        for _ in range(3):
            step.step(*one_batch(), learning_rate=0.01)
        ends.append(place(model) - start)
    half, full = ends
    assert float((half - full).norm() / full.norm()) < 0.02  # the 11 bits of float16, three times


def place(model: nn.Module) -> Tensor:
    """All weights as one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_an_overflow_of_float16_skips_the_step_and_lowers_the_scale() -> None:
    """A scale starts too large on purpose: a run must find its scale, not stop."""
    model = LinearMap(SHAPE)
    before = state_of(model)
    step = descent(model, precision=torch.float16)
    step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": 2.0**120})
    assert math.isfinite(step.step(*one_batch(), learning_rate=0.01))
    assert same(state_of(model), before)
    assert step.facts()["scale"] == 2.0**119


# As an option of training


def trained(training: Training = TRAINING, **how: object) -> Weights:
    model = noisy()
    fit(model, train=windows(), validation=windows(50), training=training, **how)  # type: ignore[arg-type]
    return model.state_dict()


def test_it_takes_effect_and_repeats() -> None:
    """An option that changed nothing would be reported as if it had been tried."""
    assert same(trained(), trained())
    assert not same(trained(), trained(replace(TRAINING, sharpness=0.0)))


class StopError(Exception):
    """What interrupts a run."""


@pytest.mark.parametrize("after", [2, 5, 9])
def test_resumed_is_bit_equal_to_uninterrupted(tmp_path: Path, after: int) -> None:
    """A machine that restarts at night must not change which model is published."""
    training = replace(TRAINING, weight_decay=0.1, gradient_clip=1.0)
    reports: list[Progress] = []

    def report(progress: Progress) -> None:
        reports.append(progress)
        if len(reports) == after:
            raise StopError

    with pytest.raises(StopError):
        trained(training, checkpoint=tmp_path, report=report)
    assert same(trained(training, checkpoint=tmp_path), trained(training))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_every_precision_learns_on_a_gpu(precision: str) -> None:
    """The random state, the loss scale and the copies live on the device there."""
    training = replace(TRAINING, precision=precision, epochs=10)
    model = noisy()
    result = fit(model, train=windows(), validation=windows(50), training=training, device="cuda")
    assert result.history[-1].train_loss < result.history[0].train_loss


@pytest.mark.parametrize("radius", [-0.1, math.nan, math.inf])
def test_a_radius_that_cannot_be_meant_is_refused(radius: float) -> None:
    """A negative radius would seek the sharpest place instead."""
    with pytest.raises(ConfigError, match="sharpness must be at least 0"):
        Training(sharpness=radius)
