"""Instance normalisation: statistics by hand, its inverse, and what must never happen."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError
from tsformer.model import Model
from tsformer.scale import Center, Scale, Scaled, Scaling, location_scale, scaling


class Echo(Model):
    """Forecasts the last `horizon` normalised values, times a weight: shows what it was given."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch) -> Tensor:
        assert batch.past.dtype == self.weight.dtype
        return (self.weight * batch.past[:, -self.shape.horizon :])[..., None]


def column(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype).reshape(1, -1, 1)


def seen(values: Tensor) -> Tensor:
    return torch.ones_like(values, dtype=torch.bool)


def test_mean_and_biased_deviation_by_hand() -> None:
    values = column(2, 4, 4, 4, 5, 5, 7, 9)  # the textbook example: mean 5, deviation 2
    location, scale = location_scale(values, seen(values))
    assert location.item() == pytest.approx(5)
    assert scale.item() == pytest.approx(2)
    assert location.shape == scale.shape == (1, 1, 1)


def test_last_observed_value_is_the_center_exactly() -> None:
    """A forecast anchored at the last value would jump if that value were off by rounding."""
    values = column(0.1, 0.7, 0.3, math.nan)
    observed = torch.tensor([True, True, True, False]).reshape(1, -1, 1)
    location, scale = location_scale(values, observed, center="last")
    assert location.item() == 0.3
    assert scale.item() == pytest.approx(math.sqrt(0.56 / 9))  # still around the mean, 1.1 / 3


@pytest.mark.parametrize("hidden", [0.0, 1e30, math.nan, math.inf])
def test_statistics_are_those_of_observed_steps(hidden: float) -> None:
    values = column(hidden, 1, 3, hidden)
    observed = torch.tensor([False, True, True, False]).reshape(1, -1, 1)
    location, scale = location_scale(values, observed)
    assert (location.item(), scale.item()) == pytest.approx((2, 1))
    normal = Scaling(location, scale).apply(values, observed)
    assert normal.flatten().tolist() == pytest.approx([0, -1, 1, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 0.1, -1e-30, 12345.678, 3e30])
def test_a_flat_window_has_no_spread_and_its_level_exactly(
    level: float, dtype: torch.dtype
) -> None:
    """0.1 added up 97 times and divided by 97 is not 0.1; a stuck sensor must not wobble."""
    values = torch.full((2, 97, 3), level, dtype=dtype)
    location, scale = location_scale(values, seen(values))
    assert torch.equal(scale, torch.zeros_like(scale))
    assert torch.equal(location, values[:, :1])


def test_rounding_on_a_high_level_is_flat_and_real_motion_is_not() -> None:
    """One unit in the last place of 1e9 must not be blown up into a full deviation."""
    level = torch.full((1, 64, 1), 1e9, dtype=torch.float64)
    jitter = level.clone()
    jitter[0, ::2] = torch.nextafter(level[0, ::2], torch.tensor(2e9, dtype=torch.float64))
    moving = level + 1e-3 * torch.arange(64, dtype=torch.float64).reshape(1, -1, 1)
    assert location_scale(jitter, seen(jitter))[1].item() == 0
    assert location_scale(moving, seen(moving))[1].item() == pytest.approx(
        1e-3 * math.sqrt((64**2 - 1) / 12), rel=1e-4
    )


@pytest.mark.parametrize("unit", [1e-300, 1e300])
def test_neither_tiny_nor_huge_units_lose_the_spread(unit: float) -> None:
    """The squares of 1e-300 and 1e300 leave float64; their deviation does not."""
    values = column(2, 4, 4, 4, 5, 5, 7, 9) * unit
    location, scale = location_scale(values, seen(values))
    assert location.item() == pytest.approx(5 * unit)
    assert scale.item() == pytest.approx(2 * unit)


def test_a_window_nobody_observed_is_zero() -> None:
    values = torch.full((1, 5, 1), math.nan)
    for center in ("mean", "last"):
        location, scale = location_scale(values, ~seen(values), center=center)
        assert (location.item(), scale.item()) == (0, 0)


def test_undo_is_the_inverse_of_apply() -> None:
    values = torch.randn(4, 20, 3, dtype=torch.float64) * 50 + 1000
    unit = scaling(values, seen(values), center="mean", scale="std")
    normal = unit.apply(values, seen(values))
    torch.testing.assert_close(normal.mean(1), torch.zeros(4, 3, dtype=torch.float64))
    torch.testing.assert_close(normal.square().mean(1), torch.ones(4, 3, dtype=torch.float64))
    torch.testing.assert_close(unit.undo(normal[..., None]).squeeze(-1), values)


def test_scale_none_takes_out_the_level_alone() -> None:
    values = column(1, 2, 4)
    unit = scaling(values, seen(values), center="last", scale="none")
    assert unit.apply(values, seen(values)).flatten().tolist() == [-3, -2, 0]


def test_every_level_of_a_series_is_put_back_with_that_series_statistics() -> None:
    """Quantiles put back with another series' unit are the scrambled axes of a known defect."""
    unit = Scaling(
        location=torch.tensor([[[10.0, 20.0]]]),  # [batch, 1, variate]
        scale=torch.tensor([[[1.0, 2.0]]]),
    )
    forecast = torch.tensor([[[[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]]])  # [1, 1, variate, level]
    assert unit.undo(forecast).tolist() == [[[[9, 10, 11], [18, 20, 22]]]]


def test_a_wrapped_model_keeps_the_digits_of_float64() -> None:
    """Float32 has 0.06 between neighbours at one million; the forecast must not step like that."""
    values = 1e6 + 1e-3 * torch.randn(2, 16, 1, dtype=torch.float64)
    forecast = Scaled(Echo(Shape(16, 4)))(Batch(values, seen(values)))
    assert forecast.dtype == torch.float64
    torch.testing.assert_close(forecast[..., 0], values[:, -4:], rtol=0, atol=1e-8)


def test_affine_starts_as_nothing_and_undoes_itself() -> None:
    values = torch.randn(2, 16, 3, dtype=torch.float64)
    model = Scaled(Echo(Shape(16, 4)), affine="scalar")
    assert model.affine is not None
    assert torch.equal(model.affine(values), values)
    for log_weight, bias in ((0.0, 0.0), (-1.2, -2.0)):
        with torch.no_grad():
            model.affine.log_weight.fill_(log_weight)
            model.affine.bias.fill_(bias)
        forecast = model(Batch(values, seen(values)))
        torch.testing.assert_close(forecast[..., 0], values[:, -4:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"center": "median"}, {"scale": "mad"}, {"affine": "variate"}])
def test_unknown_choices_are_refused_by_name(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} must be one of"):
        Scaled(Echo(Shape(4, 1)), **wrong)  # type: ignore[arg-type]


def test_a_gap_in_one_window_leaves_the_others_bit_for_bit() -> None:
    """What is wholly observed takes a short cut; whose neighbour it is must not show in numbers."""
    values = torch.randn(3, 2, 300).mT
    observed = torch.ones(3, 2, 300, dtype=torch.bool).mT
    gap = observed.clone()
    gap[0, 5:9, 1] = False
    for center, scale in itertools.product(get_args(Center), get_args(Scale)):
        whole, other = (
            scaling(values, seen, center=center, scale=scale) for seen in (observed, gap)
        )
        assert torch.equal(whole.location[1:], other.location[1:])
        assert torch.equal(whole.scale[1:], other.scale[1:])
        assert torch.equal(whole.apply(values, observed)[1:], other.apply(values, gap)[1:])


def test_one_true_for_all_steps_is_as_good_as_one_for_each() -> None:
    """Windows of a table without a gap come with one flag expanded: also when it is False."""
    values = torch.randn(2, 40, 3)
    for flag in (True, False):
        expanded = torch.tensor(flag).expand(values.shape)
        found, wanted = location_scale(values, expanded), location_scale(values, expanded.clone())
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
