"""What every model owes its users, at random weights; a new kind joins through the table."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tsformer import artifact
from tsformer.batch import Batch, Shape
from tsformer.model import Capabilities, ClosedForm, Model, ModelSpec
from tsformer.models import MODELS, build, spec_from_mapping

SHAPE = Shape(context=32, horizon=6, variates=3, series=4)
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)

# What a kind cannot be built without; every other kind stands here with its defaults.
# A seasonal ARIMA of a thousand windows takes minutes, so it stands here without a season.
NEEDED: dict[str, dict[str, object]] = {
    **{kind: {"season": 4} for kind in ("seasonal_naive", "autoregression", "ets", "theta")},
    "sarimax": {"season": 1},
}

# Every choice that is not a default: what is only reached by a line in a YAML file owes as much.
VARIANTS: dict[str, dict[str, object]] = {
    "patchtst affine": {"affine": "scalar"},
    "patchtst layer norm": {"norm": "layer"},
    "patchtst plain attention": {"attention": "plain"},
    "patchtst no padding": {"padding": "none", "activation": "relu"},
    "ridge last": {"center": "last"},
    "pooled_ridge last": {"center": "last"},
    "rlinear affine": {"affine": "scalar"},
    "samformer without affine": {"affine": "none"},
}
NAMES = (*MODELS, *VARIANTS)
# Kinds that are not free of the unit, and yet follow a change of level: anchored at one value.
ANCHORED = {"nlinear"}


def kind_of(name: str) -> str:
    return name.partition(" ")[0]


def capabilities_of(name: str) -> Capabilities:
    return MODELS[kind_of(name)].capabilities


def spec_of(name: str) -> ModelSpec:
    """The specification of a kind, or of a variant of one."""
    kind = kind_of(name)
    return spec_from_mapping({"kind": kind, **NEEDED.get(kind, {}), **VARIANTS.get(name, {})})


def built(name: str, shape: Shape = SHAPE) -> Model:
    """The model called `name` at random weights, whatever it would start from."""
    model = build(spec_of(name), shape).eval()
    for key, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if key.endswith("running_var") else (-0.5, 0.5)
            tensor.uniform_(low, high)
    return model


def windows(count: int = 4, *, shape: Shape = SHAPE, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random walks around zero, `[batch, time, variate]`."""
    return torch.randn(count, shape.context, shape.variates, dtype=dtype).cumsum(1)


def numbers(past: Tensor, *told: int) -> Tensor:
    """The numbers of the series of `past`, `[batch, variate]`."""
    return torch.tensor(told).expand(len(past), -1)


def batch_of(
    past: Tensor, observed: Tensor | None = None, *, series: tuple[int, ...] = (1, 2, 3)
) -> Batch:
    """A batch of `past`, all of it observed and the variates numbered in order unless told."""
    observed = torch.ones_like(past, dtype=torch.bool) if observed is None else observed
    return Batch(past, observed, series=numbers(past, *series))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def networks() -> list[str]:
    """What learns by gradient."""
    models = {name: build(spec_of(name), SHAPE) for name in NAMES}
    return [
        name
        for name, model in models.items()
        if any(p.requires_grad for p in model.parameters()) and not isinstance(model, ClosedForm)
    ]


def with_dropout(spec: ModelSpec, dropout: float) -> ModelSpec:
    dropouts = [field.name for field in fields(spec) if "dropout" in field.name]
    return replace(spec, **dict.fromkeys(dropouts, dropout))


@torch.no_grad()
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("deviations", [0.0, -3.0, 1e6])
def test_units_and_levels_do_not_change_the_forecast(
    name: str, unit: float, deviations: float
) -> None:
    """Sales in cents, kelvin or a counter that starts at a million: the same curve in that unit."""
    capabilities = capabilities_of(name)
    if not capabilities.unit_free and not (name in ANCHORED and unit == 1):
        pytest.skip(f"{name} says that it knows the unit it was trained in")
    model = built(name, replace(SHAPE, levels=LEVELS if capabilities.native_quantiles else ()))
    past, level = windows(), unit * deviations
    forecast = model(batch_of(unit * past + level))
    expected = unit * model(batch_of(past)) + level
    deviation = unit * past.std(1, correction=0)[:, None, :, None]
    assert ((forecast - expected).abs() < 1e-4 * deviation).all()


@torch.no_grad()
def test_permuting_variates_permutes_the_forecast(name: str) -> None:
    """The order of columns in somebody's table means nothing."""
    model, past, order = built(name), windows(), torch.tensor([2, 0, 1])
    permuted = model(batch_of(past[..., order], series=(3, 1, 2)))
    torch.testing.assert_close(permuted, model(batch_of(past))[:, :, order], rtol=0, atol=1e-5)


@torch.no_grad()
def test_another_variate_has_no_influence(name: str) -> None:
    """One broken sensor must not spoil the forecasts of its neighbours."""
    if capabilities_of(name).cross_series:
        pytest.skip(f"{name} learns from the other variates on purpose")
    model, past = built(name), windows()
    changed = past.clone()
    changed[..., 1] = 1e6
    before, after = model(batch_of(past)), model(batch_of(changed))
    torch.testing.assert_close(after[:, :, [0, 2]], before[:, :, [0, 2]], rtol=0, atol=1e-5)


WITH_COVARIATES = replace(SHAPE, known=(0, 4), past=(0, 3), static=(0, 5), lags=(6, 50))


def with_covariates(past: Tensor) -> Batch:
    """A batch of `past` with a number and a category of every kind, and two lags."""
    size, steps = len(past), SHAPE.context + SHAPE.horizon

    def columns(*axes: int, words: int) -> Tensor:
        number = torch.randn(*axes, dtype=torch.float64)
        return torch.stack((number, torch.randint(1, words, axes).double()), -1)

    return Batch(
        past,
        torch.ones_like(past, dtype=torch.bool),
        known=columns(size, steps, words=4),
        covariates=columns(size, SHAPE.context, words=3),
        static=columns(size, SHAPE.variates, words=5),
        lagged=past.mean() + torch.randn(size, steps, SHAPE.variates, 2, dtype=torch.float64),
        series=numbers(past, 1, 2, 3),
    )


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "number": lambda values: torch.stack((values[..., 0] + 1, values[..., 1]), -1),
    "category": lambda values: torch.stack((values[..., 0], 0 * values[..., 1]), -1),
}
FIELDS = {"known": "known", "past": "covariates", "static": "static"}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("use", FIELDS)
def test_a_covariate_counts_exactly_where_it_is_said_to(name: str, use: str, change: str) -> None:
    """A promised covariate that does nothing, or an ignored one that leaks in, both deceive."""
    model, before = built(name, WITH_COVARIATES), with_covariates(windows())
    values = getattr(before, FIELDS[use])
    changed = CHANGES[change](values)
    if use == "known":  # over the horizon: that of the context may count for nothing
        changed = torch.cat((values[:, : SHAPE.context], changed[:, SHAPE.context :]), 1)
    after = replace(before, **{FIELDS[use]: changed})
    same = torch.equal(model(before), model(after))
    assert same is not getattr(capabilities_of(name), use)


@torch.no_grad()
def test_the_number_of_a_series_counts_exactly_where_it_is_said_to(name: str) -> None:
    """What was learnt about one series must be used for it, and never for its neighbour."""
    model, batch = built(name), batch_of(windows())
    forecast = model(batch)
    renumbered = model(replace(batch, series=numbers(batch.past, 1, 3, 3)))
    assert torch.equal(renumbered[:, :, 1], forecast[:, :, 1]) is not capabilities_of(name).series
    torch.testing.assert_close(renumbered[:, :, [0, 2]], forecast[:, :, [0, 2]], rtol=0, atol=1e-5)


@torch.no_grad()
def test_lagged_values_count_where_they_are_said_to_in_any_unit(name: str) -> None:
    """Last year's peak moves the forecast, in thousands as much as in pieces."""
    model, batch = built(name, WITH_COVARIATES), with_covariates(windows())
    assert batch.lagged is not None
    raised = replace(batch, lagged=batch.lagged + 1)
    forecast = model(batch)
    assert torch.equal(forecast, model(raised)) is not capabilities_of(name).lags
    if not capabilities_of(name).unit_free:
        return
    scaled = replace(batch, past=1e3 * batch.past - 7, lagged=1e3 * batch.lagged - 7)
    torch.testing.assert_close(model(scaled), 1e3 * forecast - 7, rtol=1e-4, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("hidden", [1e30, math.nan, math.inf])
def test_values_under_the_mask_have_no_influence(name: str, hidden: float) -> None:
    """Whatever a source writes where nothing was measured, the forecast is the same, bit by bit."""
    model, past = built(name), windows()
    observed = torch.rand(past.shape) > 0.3
    forecast = model(batch_of(past, observed))
    again = model(batch_of(torch.where(observed, past, hidden), observed))
    assert forecast.isfinite().all()
    assert torch.equal(forecast, again)


@torch.no_grad()
def test_a_variate_that_was_never_observed_is_not_there(name: str) -> None:
    """A series that has not begun, or pads a batch, would move the forecasts of all others."""
    model, past = built(name), windows()
    unseen = torch.full_like(past[..., :1], 1e9)
    observed = torch.cat((torch.ones_like(past), 0 * unseen), -1) > 0
    padded = model(batch_of(torch.cat((past, unseen), -1), observed, series=(1, 2, 3, 0)))
    torch.testing.assert_close(padded[:, :, :3], model(batch_of(past)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_series_alone_is_the_series_in_a_padded_batch(name: str) -> None:
    """Whoever asks at the same moment must not change the answer."""
    model, past = built(name), windows(64) * torch.logspace(-3, 3, 64)[:, None, None]
    observed = torch.ones_like(past, dtype=torch.bool)
    for row in range(0, 64, 3):
        observed[row, : row % SHAPE.context] = False
    crowd = model(batch_of(past, observed))
    for row in (0, 7, 33, 63):
        cut = slice(row, row + 1)
        alone = model(batch_of(past[cut], observed[cut]))
        deviation = past[cut].std(1, correction=0)[:, None, :, None]
        assert ((crowd[cut] - alone).abs() <= 1e-5 * (alone.abs() + deviation)).all()


@torch.no_grad()
def test_evaluation_is_bit_stable_at_dropout_one_half(name: str) -> None:
    """Asked twice, answered twice the same."""
    model = build(with_dropout(spec_of(name), 0.5), SHAPE).eval()
    batch = batch_of(windows())
    torch.manual_seed(1)
    first = model(batch)
    torch.manual_seed(2)
    assert torch.equal(first, model(batch))


@torch.no_grad()
def test_a_forecast_leaves_nothing_behind(name: str) -> None:
    """Two threads share one model: what one request writes on it another would read."""
    model = built(name)
    before = {key: copy.copy(vars(module)) for key, module in model.named_modules()}
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model(batch_of(windows()))
    assert {key: vars(module) for key, module in model.named_modules()} == before
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


@torch.no_grad()
def test_quantiles_never_cross(name: str) -> None:
    """A high quantile under a low one is an interval with nothing inside."""
    if not capabilities_of(name).native_quantiles:
        pytest.skip(f"{name} gives a point; its quantiles come from calibration")
    model = built(name, replace(SHAPE, levels=LEVELS))
    for key, parameter in model.named_parameters():
        if "affine" in key:
            parameter.data.fill_(-1.0)  # where training may take it
    for dtype in (torch.float32, torch.float64):
        forecast = model(batch_of(windows(32, dtype=dtype)))
        assert forecast.shape == (32, 6, 3, len(LEVELS))
        assert (forecast.diff(dim=-1) >= 0).all()


def one_step_seen() -> Batch:
    observed = torch.zeros(4, SHAPE.context, SHAPE.variates, dtype=torch.bool)
    observed[:, 5] = True
    return batch_of(windows(), observed)


HARSH: dict[str, Callable[[], Batch]] = {
    "zero": lambda: batch_of(torch.zeros_like(windows())),
    "constant": lambda: batch_of(torch.full_like(windows(), 0.1)),
    "huge": lambda: batch_of(1e30 * windows()),
    "tiny": lambda: batch_of(1e-300 * windows()),
    "one jump": lambda: batch_of((windows() * 0).index_fill_(1, torch.tensor([31]), 1e12)),
    "one step seen": one_step_seen,
    "nothing seen": lambda: batch_of(windows(), torch.zeros_like(windows(), dtype=torch.bool)),
}


@torch.no_grad()
@pytest.mark.parametrize("harsh", HARSH)
def test_the_forecast_is_finite(name: str, harsh: str) -> None:
    """A stuck, dead or exploding sensor gets a number, not a NaN that breaks the reader's sums."""
    assert built(name)(HARSH[harsh]()).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("level", [0.1, -7e9])
def test_a_flat_window_forecasts_its_level(name: str, level: float) -> None:
    """A tank that stays at 0.1 stays at 0.1: anything else is an alarm about nothing."""
    if not capabilities_of(name).unit_free:
        pytest.skip(f"{name} adds a bias in the unit it was trained in")
    forecast = built(name)(batch_of(torch.full_like(windows(), level)))
    torch.testing.assert_close(forecast, torch.full_like(forecast, level), rtol=1e-15, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_dtype_of_the_forecast(name: str, dtype: torch.dtype) -> None:
    """Everything after a model, calibration to JSON, counts on these axes."""
    for count in (1, 5):
        forecast = built(name)(batch_of(windows(count, dtype=dtype)))
        assert forecast.shape == (count, SHAPE.horizon, SHAPE.variates, 1)
        assert forecast.dtype == dtype


@torch.no_grad()
def test_saved_and_loaded_forecasts_are_bit_equal(name: str, tmp_path: Path) -> None:
    """The model that was judged is the model that serves."""
    model, spec, batch = built(name), spec_of(name), batch_of(windows())
    artifact.save(model, spec, tmp_path)
    loaded, read = artifact.load(tmp_path)
    assert read == spec
    assert torch.equal(loaded.eval()(batch), model(batch))


def test_a_specification_survives_its_mapping(name: str) -> None:
    """What stands in the tracking server builds the same model again."""
    spec = spec_of(name)
    assert spec_from_mapping({"kind": spec.kind, **spec.to_mapping()}) == spec


def test_the_same_seed_builds_the_same_weights(name: str) -> None:
    """A result that cannot be repeated cannot be checked."""
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(build(spec_of(name), SHAPE).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("network", networks())
def test_one_tiny_batch_can_be_learnt(network: str) -> None:
    """A network that cannot learn four windows by heart has a path that is cut."""
    model = build(with_dropout(spec_of(network), 0.0), SHAPE).train()
    past = torch.randn(4, SHAPE.context, SHAPE.variates)
    target = torch.randn(4, SHAPE.horizon, SHAPE.variates)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        loss = (model(batch_of(past)).squeeze(-1) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 1e-2:
            return
    pytest.fail(f"The loss is still {loss.item():.3g}.")


@pytest.mark.parametrize("network", networks())
@pytest.mark.parametrize("levels", [(), LEVELS])
def test_gradient_reaches_every_parameter(network: str, levels: tuple[float, ...]) -> None:
    """A parameter without gradient is paid for in memory and never learns."""
    if levels and not capabilities_of(network).native_quantiles:
        pytest.skip(f"{network} gives a point; its quantiles come from calibration")
    model = built(network, replace(SHAPE, levels=levels))
    model(batch_of(windows())).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("wrong", [{"kind": "patchtsd"}, {}, "patchtst"])
def test_unknown_kinds_are_refused_with_the_known(wrong: object) -> None:
    with pytest.raises(Exception, match="patchtst"):
        spec_from_mapping(wrong)  # type: ignore[arg-type]
