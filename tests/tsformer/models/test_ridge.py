"""The closed form against numpy's least squares, written out row by row."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape, Target
from tsformer.errors import ConfigError, DataError, ShapeError
from tsformer.model import ClosedForm
from tsformer.models import ridge
from tsformer.models.ridge import Ridge, RidgeSpec

CONTEXT, HORIZON, VARIATES = 6, 3, 2


@dataclass
class Kept:
    """Windows kept as tensors; satisfies `tsformer.batch.Windows`."""

    past: Tensor
    future: Tensor
    past_observed: Tensor
    future_observed: Tensor
    known: Tensor | None = None

    @property
    def shape(self) -> Shape:
        known = () if self.known is None else (0,) * self.known.shape[2]
        return Shape(
            self.past.shape[1], self.future.shape[1], variates=self.past.shape[2], known=known
        )

    def __len__(self) -> int:
        return len(self.past)

    def batch(self, index: Tensor) -> tuple[Batch, Target]:
        known = None if self.known is None else self.known[index]
        return (
            Batch(self.past[index], self.past_observed[index], known=known),
            Target(self.future[index], self.future_observed[index]),
        )


def walks(count: int, *, seed: int, known: int = 0, steps: int = CONTEXT + HORIZON) -> Kept:
    """Windows of random walks that also follow their known covariates, all observed."""
    chance = torch.Generator().manual_seed(seed)
    values = torch.randn(count, steps, VARIATES, generator=chance, dtype=torch.float64).cumsum(1)
    covariates = torch.randn(count, steps, known, generator=chance, dtype=torch.float64)
    values = values + covariates.sum(-1, keepdim=True)
    past, future = values[:, :CONTEXT], values[:, CONTEXT:]
    return Kept(
        past,
        future,
        torch.ones_like(past, dtype=torch.bool),
        torch.ones_like(future, dtype=torch.bool),
        covariates if known else None,
    )


def by_lstsq(windows: Kept, *, step: int, penalty: float, center: str) -> np.ndarray:
    """Coefficients of context, scale and known covariates for one step, from the definition."""
    rows, targets, all_rows = [], [], []
    for window in range(len(windows)):
        for variate in range(VARIATES):
            past = windows.past[window, :, variate].numpy()
            level = past.mean() if center == "mean" else past[-1]
            spread = past.std()
            known = np.zeros(0)
            if windows.known is not None:
                covariates = windows.known[window].numpy()
                known = spread * (covariates[CONTEXT + step] - covariates[:CONTEXT].mean(axis=0))
            row = np.concatenate([past - level, [spread], known])
            all_rows.append(row)
            if windows.future_observed[window, step, variate]:
                rows.append(row)
                targets.append(float(windows.future[window, step, variate]) - level)
    columns = CONTEXT + 1
    unit = np.mean(np.sum(np.array(all_rows)[:, :columns] ** 2, axis=0))
    # Ridge is least squares with sqrt(penalty) I as further rows whose target is 0.
    extra = np.sqrt(penalty * unit) * np.eye(len(rows[0]))
    design = np.vstack([rows, extra])
    return np.linalg.lstsq(design, np.concatenate([targets, np.zeros(len(extra))]))[0]


def solved(train: Kept, validation: Kept | None = None, *, spec: RidgeSpec | None = None) -> Ridge:
    model = (spec or RidgeSpec(penalties=(0.1,))).build(train.shape)
    assert isinstance(model, Ridge)
    model.double().solve(train, train if validation is None else validation)
    return model


def coefficients(model: Ridge, step: int) -> np.ndarray:
    parts = (model.weight[step], model.bias[step : step + 1], model.known[step])
    return torch.cat(parts).numpy()


@pytest.mark.parametrize("center", ["mean", "last"])
@pytest.mark.parametrize("penalty", [1e-6, 0.1, 10.0])
@pytest.mark.parametrize("known", [0, 2])
def test_weights_are_those_of_lstsq(center: str, penalty: float, known: int) -> None:
    train = walks(60, seed=0, known=known)
    model = solved(train, spec=RidgeSpec(center=center, penalties=(penalty,)))  # type: ignore[arg-type]
    for step in range(HORIZON):
        expected = by_lstsq(train, step=step, penalty=penalty, center=center)
        np.testing.assert_allclose(coefficients(model, step), expected, rtol=1e-7, atol=1e-9)


def test_a_linear_world_is_found_exactly() -> None:
    """Where the future is a linear map of the window, nothing is left to forecast."""
    train = walks(60, seed=1)
    rule = torch.randn(HORIZON, CONTEXT, dtype=torch.float64)
    level, spread = train.past.mean(1, keepdim=True), train.past.std(1, correction=0, keepdim=True)
    train.future = level + rule @ (train.past - level) + 2 * spread
    model = solved(train, spec=RidgeSpec(penalties=(1e-12,)))
    forecast = model(train.batch(torch.arange(60))[0])[..., 0]
    torch.testing.assert_close(forecast, train.future, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("share", "tolerance"), [(0.1, 1e-3), (0.5, 0.03)])
def test_missing_targets_are_left_out_of_their_step(share: float, tolerance: float) -> None:
    """A gap in the actuals is neither a zero nor a reason to throw its whole window away.

    Each of up to ten rounds shrinks the error by about the missing share; they end where one no
    longer helps on validation.
    """
    train = walks(300, seed=2, known=1)
    train.future_observed = torch.rand(train.future.shape) > share
    train.future = torch.where(train.future_observed, train.future, torch.nan)
    model = solved(train, walks(100, seed=3, known=1))
    for step in range(HORIZON):
        expected = by_lstsq(train, step=step, penalty=0.1, center="mean")
        np.testing.assert_allclose(coefficients(model, step), expected, atol=tolerance)


def test_missing_context_counts_as_the_level() -> None:
    """What stands under the mask is never read, and the statistics do without it."""
    train = walks(60, seed=4)
    train.past_observed = torch.rand(train.past.shape) > 0.2
    filled = replace(train, past=torch.where(train.past_observed, train.past, 1e9))
    for step in range(HORIZON):
        np.testing.assert_array_equal(
            coefficients(solved(filled), step), coefficients(solved(train), step)
        )


def test_the_penalty_is_the_best_on_validation() -> None:
    """Strong where the future is noise, weak where it is a rule."""
    spec = RidgeSpec(penalties=(1e-9, 1.0, 1e3))
    noise, other = walks(12, seed=5), walks(200, seed=6)
    for windows in (noise, other):
        windows.past = torch.randn_like(windows.past)
        windows.future = torch.randn_like(windows.future)
    shrunk = solved(noise, spec=replace(spec, penalties=(1e3,)))
    chosen = solved(noise, other, spec=spec)
    torch.testing.assert_close(chosen.weight, shrunk.weight)
    for windows in (noise, other):
        windows.future = windows.past[:, :HORIZON]
    exact = solved(noise, other, spec=spec)
    error = exact(other.batch(torch.arange(200))[0])[..., 0] - other.future
    assert error.abs().max() < 1e-5


@pytest.mark.parametrize("numbers", [1, 100, 10_000])
def test_the_solution_does_not_depend_on_the_chunks(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = solved(walks(50, seed=7, known=1))
    monkeypatch.setattr(ridge, "NUMBERS_AT_A_TIME", numbers)
    parts = solved(walks(50, seed=7, known=1))
    for step in range(HORIZON):
        np.testing.assert_allclose(
            coefficients(parts, step), coefficients(whole, step), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize(("unit", "shift"), [(1e-3, 0.0), (1e4, -5e4)])
def test_the_solution_does_not_depend_on_the_unit(unit: float, shift: float) -> None:
    """Penalties are relative: kilowatts or watts, the same map."""
    train = walks(50, seed=8)
    other = replace(train, past=unit * train.past + shift, future=unit * train.future + shift)
    for step in range(HORIZON):
        np.testing.assert_allclose(
            coefficients(solved(other), step),
            coefficients(solved(train), step),
            rtol=1e-6,
            atol=1e-8,
        )


def test_flat_windows_teach_nothing() -> None:
    """A dead sensor that comes alive in the horizon must not bend the map of the others."""
    train = walks(50, seed=9)
    dead = torch.full((5, CONTEXT, VARIATES), 0.1, dtype=torch.float64)
    mixed = Kept(
        torch.cat((train.past, dead)),
        torch.cat((train.future, 100 + train.future[:5])),
        torch.cat((train.past_observed, train.past_observed[:5])),
        torch.cat((train.future_observed, train.future_observed[:5])),
    )
    for step in range(HORIZON):
        np.testing.assert_allclose(
            coefficients(solved(mixed), step), coefficients(solved(train), step), rtol=1e-9
        )


def test_only_flat_windows_still_give_a_model() -> None:
    flat = walks(5, seed=10)
    flat.past, flat.future = torch.ones_like(flat.past), torch.ones_like(flat.future)
    forecast = solved(flat)(flat.batch(torch.arange(5))[0])
    assert (forecast == 1).all()


def test_solving_is_the_closed_form_contract_and_leaves_no_gradient() -> None:
    model = solved(walks(20, seed=11))
    assert isinstance(model, ClosedForm)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_what_cannot_be_solved_says_why() -> None:
    train, none = walks(20, seed=12), walks(0, seed=12)
    with pytest.raises(DataError, match="no training window"):
        solved(none)
    with pytest.raises(DataError, match="single penalty"):
        solved(train, none, spec=RidgeSpec())
    with pytest.raises(ShapeError, match="calibrate"):
        RidgeSpec().build(replace(train.shape, levels=(0.1, 0.5, 0.9)))


def test_a_model_with_covariates_needs_them() -> None:
    """Left out in a request, they must not count as zero without a word."""
    model, without = solved(walks(20, seed=13, known=2)), walks(3, seed=13)
    with pytest.raises(ShapeError, match="2 covariates known ahead"):
        model(without.batch(torch.arange(3))[0])


@pytest.mark.parametrize(
    "wrong", [{"center": "median"}, {"penalties": []}, {"penalties": [0.0]}, {"penalty": 1.0}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RidgeSpec.from_mapping(wrong)
