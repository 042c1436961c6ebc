"""Ridge with a correction for each series: the shared map, the own one, and what lies between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tsformer.batch import Batch, Shape, Target
from tsformer.errors import ConfigError
from tsformer.models.pooled_ridge import PooledRidge, PooledRidgeSpec, corrected, numbers_kept
from tsformer.models.ridge import RidgeSpec

CONTEXT, HORIZON, VARIATES = 6, 2, 3
SHAPE = Shape(CONTEXT, HORIZON, variates=VARIATES, series=VARIATES + 1)


@dataclass
class Kept:
    """Windows kept as tensors, the variates numbered 1, 2, 3 unless told."""

    values: Tensor
    numbers: tuple[int, ...] | None = (1, 2, 3)
    observed: Tensor | None = None

    @property
    def shape(self) -> Shape:
        return SHAPE

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        values = self.values[index]
        seen = torch.ones_like(values, dtype=torch.bool)
        if self.observed is not None:
            seen = self.observed[index]
        series = None
        if self.numbers is not None:
            series = torch.tensor(self.numbers).expand(len(index), -1)
        past = Batch(values[:, :CONTEXT], seen[:, :CONTEXT], series=series)
        return past, Target(values[:, CONTEXT:], seen[:, CONTEXT:])


def walks(count: int, *, seed: int, apart: float = 1.0) -> Kept:
    """Autoregressions of order 1 around a level, with another coefficient in each variate."""
    chance = torch.Generator().manual_seed(seed)
    coefficient = torch.tensor([0.5, 0.5, 0.5]) + apart * torch.tensor([-0.4, 0.0, 0.4])
    steps = [torch.randn(count, VARIATES, generator=chance, dtype=torch.float64)]
    for _ in range(CONTEXT + HORIZON + 20):
        noise = torch.randn(count, VARIATES, generator=chance, dtype=torch.float64)
        steps.append(coefficient * steps[-1] + noise)
    return Kept(torch.stack(steps[-(CONTEXT + HORIZON) :], 1))


def solved(train: Kept, validation: Kept, *, corrections: tuple[float, ...]) -> PooledRidge:
    torch.manual_seed(0)
    model = PooledRidgeSpec(corrections=corrections).build(SHAPE)
    assert isinstance(model, PooledRidge)
    model.solve(train, validation)
    return model


def error(model: torch.nn.Module, windows: Kept) -> Tensor:
    """The mean squared error of each variate."""
    batch, target = windows.batch(torch.arange(len(windows)))
    return (model(batch)[..., 0] - target.values).square().mean((0, 1))


def test_without_penalty_each_series_has_its_own_least_squares_map() -> None:
    """The closed form, from numpy's point of view: the correction completes the shared map."""
    train = walks(400, seed=0)
    model = solved(train, train, corrections=(1e-9,))  # in sample nothing beats least squares
    batch, target = train.batch(torch.arange(len(train)))
    mean = batch.past.mean(1, keepdim=True)
    std = batch.past.std(1, correction=0, keepdim=True)
    forecast = model(batch)[..., 0]
    for place in range(VARIATES):
        rows = torch.cat(((batch.past - mean)[..., place], std[..., place]), 1)
        ahead = (target.values - mean)[..., place]
        own = rows @ torch.linalg.lstsq(rows, ahead, driver="gelsd").solution + mean[..., place]
        torch.testing.assert_close(forecast[..., place], own, rtol=1e-4, atol=1e-4)


def test_series_that_differ_gain_and_series_that_do_not_lose_nothing() -> None:
    """A correction that fits noise would make the baseline worse than the shared line."""
    corrections = (0.1, 1.0, 10.0, 100.0)
    for apart, least_gain in ((1.0, 0.02), (0.0, -0.005)):
        train, validation = walks(600, seed=2, apart=apart), walks(600, seed=3, apart=apart)
        test = walks(4000, seed=4, apart=apart)
        model = solved(train, validation, corrections=corrections)
        gain = 1 - error(model, test).mean() / error(model.shared, test).mean()
        assert gain > least_gain


def test_an_unknown_series_is_forecast_by_the_shared_map() -> None:
    """Training never saw it: it has no map of its own, and needs none."""
    model = solved(walks(200, seed=5), walks(200, seed=6), corrections=(0.1,))
    past, _ = walks(5, seed=7).batch(torch.arange(5))
    unknown = replace(past, series=torch.zeros_like(past.series))
    assert torch.equal(model(unknown), model.shared(past))
    assert torch.equal(model(replace(past, series=None)), model.shared(past))
    assert not torch.equal(model(past), model.shared(past))


def test_rows_without_a_number_teach_the_unknown_nothing() -> None:
    """What a few nameless series have in common is not true of the next one."""
    train, validation = walks(200, seed=21), walks(200, seed=22)
    train.numbers = validation.numbers = (0, 0, 3)
    model = solved(train, validation, corrections=(0.1,))
    assert (model.correction[:3] == 0).all()
    assert (model.correction[3] != 0).any()


def test_series_take_their_map_with_them() -> None:
    """The order of series in a request means nothing; their names do."""
    model = solved(walks(200, seed=8), walks(200, seed=9), corrections=(0.1,))
    past, _ = walks(5, seed=10).batch(torch.arange(5))
    order = torch.tensor([2, 0, 1])
    permuted = replace(
        past,
        past=past.past[..., order],
        observed=past.observed[..., order],
        series=past.series[:, order],
    )
    torch.testing.assert_close(model(permuted), model(past)[:, :, order])
    alone = replace(
        past,
        past=past.past[..., 1:2],
        observed=past.observed[..., 1:2],
        series=past.series[:, 1:2],
    )
    torch.testing.assert_close(model(alone), model(past)[:, :, 1:2])


def test_units_and_levels_do_not_change_the_forecast() -> None:
    """A correction in the unit of the training part would be one of another series."""
    model = solved(walks(200, seed=11), walks(200, seed=12), corrections=(0.1,))
    past, _ = walks(5, seed=13).batch(torch.arange(5))
    other = replace(past, past=1e4 * past.past - 7)
    torch.testing.assert_close(model(other), 1e4 * model(past) - 7, rtol=1e-5, atol=1e-2)


def test_what_validation_cannot_judge_is_not_corrected() -> None:
    """A series that ended before the validation part keeps the shared map."""
    validation = walks(200, seed=15)
    validation.observed = torch.ones_like(validation.values, dtype=torch.bool)
    validation.observed[:, CONTEXT:, 1] = False
    model = solved(walks(200, seed=14), validation, corrections=(0.1,))
    assert (model.correction[2] == 0).all()
    assert (model.correction[1] != 0).any()


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        (Shape(512, 96, series=10_001), "10,000 series at a context of 512 and a horizon of 96"),
        (Shape(96, 720, series=1001), "1,000 series at a context of 96 and a horizon of 720"),
    ],
)
def test_a_memory_that_nobody_has_is_refused(shape: Shape, named: str) -> None:
    """Gram matrices are the smaller part at long horizons: the process would just be killed."""
    with pytest.raises(ConfigError, match=f"{named}, at most"):
        PooledRidgeSpec().build(shape)


class Made(TorchDispatchMode):
    """Counts the numbers of the tensors that are made: of all together, and of the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.largest = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and all(out is not given for given in args):
            self.all += out.numel()
            self.largest = max(self.largest, out.numel())
        return out


def test_more_penalties_take_no_more_memory() -> None:
    """What is refused for its size is counted without them."""
    train, validation = walks(10, seed=19), walks(10, seed=20)
    with Made() as made:
        solved(train, validation, corrections=tuple(float(number) for number in range(1, 40)))
    assert made.largest <= numbers_kept(SHAPE)


def test_ten_times_the_series_are_ten_times_the_work() -> None:
    """Looking every series up in all rows takes hours where there are thousands."""
    work = []
    for count in (50, 500):
        rows, correction = torch.randn(count, 4), torch.randn(count, 4, 2)
        series = torch.randperm(count)
        with Made() as made:
            away = corrected(rows, series, correction)
        torch.testing.assert_close(away, torch.einsum("rt,rth->rh", rows, correction[series]))
        work.append(made.all)
    assert work[1] < 12 * work[0]


def test_without_series_it_is_ridge() -> None:
    train, validation = walks(100, seed=16), walks(100, seed=17)
    train.numbers = validation.numbers = None
    model = solved(train, validation, corrections=(0.1,))
    ridge = RidgeSpec().build(SHAPE)
    ridge.solve(train, validation)
    past, _ = walks(5, seed=18).batch(torch.arange(5))
    torch.testing.assert_close(model(past), ridge(past))
