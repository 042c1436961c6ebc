"""Explanations are the numbers that the forecast is made with, and add up to what they claim."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import tsformer.attention
from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, IncompatibleError
from tsformer.explain import (
    EXPLAINED_BY,
    LEVELS,
    REGIME,
    by_role,
    correlations,
    explanations,
    kappa,
    lag_importance,
    lag_weights,
    lags_of,
    pattern,
    regimes,
    resemblance,
    selection,
    variables,
    variate_attention,
)
from tsformer.model import Model
from tsformer.models import MODELS, build, spec_from_mapping
from tsformer.models.itransformer import ITransformer
from tsformer.models.samformer import SAMformer
from tsformer.models.tft import Selected
from tsformer.scale import Scaled

TIME, HORIZON, VARIATES = 32, 6, 4
SHAPE = Shape(TIME, HORIZON, variates=VARIATES)
SIZES = {
    "tft": {"width": 8, "heads": 2},
    "itransformer": {"width": 16, "heads": 2, "feedforward": 8, "depth": 2},
}
SEASONAL = ("seasonal_naive", "autoregression", "ets", "theta", "sarimax")
LINEAR = EXPLAINED_BY["lags"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def built(kind: str, shape: Shape = SHAPE, **settings: object) -> Model:
    """A small model of `kind` in float64 at random weights."""
    season = {"season": 4} if kind in SEASONAL else {}
    mapping = {"kind": kind, **SIZES.get(kind, {}), **season, **settings}
    model = build(spec_from_mapping(mapping), shape).double().eval()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def inner_of(model: Model) -> Model:
    assert isinstance(model, Scaled)
    return model.inner


def inputs(shape: Shape = SHAPE, *, count: int = 5) -> Batch:
    """Random walks, and numbers for all columns that `shape` names; categories are words."""
    steps = shape.context + shape.horizon

    def columns(sizes: tuple[int, ...], *axes: int) -> Tensor | None:
        if not sizes:
            return None
        parts = [
            torch.randint(size, axes).double() if size else torch.randn(axes) for size in sizes
        ]
        return torch.stack([part.double() for part in parts], -1)

    past = torch.randn(count, shape.context, shape.variates, dtype=torch.float64).cumsum(1) + 20
    lagged = torch.randn(count, steps, shape.variates, len(shape.lags), dtype=torch.float64) + 20
    return Batch(
        past,
        torch.ones_like(past, dtype=torch.bool),
        known=columns(shape.known, count, steps),
        covariates=columns(shape.past, count, shape.context),
        static=columns(shape.static, count, shape.variates),
        lagged=lagged if shape.lags else None,
    )


def adds_up(shares: Tensor) -> bool:
    return bool((shares >= 0).all()) and torch.allclose(
        shares.sum(-1), torch.ones_like(shares[..., 0])
    )


# --- who explains -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_a_kind_explains_exactly_what_is_said_of_it(kind: str) -> None:
    """Whoever asks another model is told which one to ask, and that one must not refuse too."""
    model = built(kind, replace(SHAPE, variates=1) if kind in SEASONAL[1:] else SHAPE)
    said = tuple(name for name, kinds in EXPLAINED_BY.items() if kind in kinds)
    assert explanations(model) == said
    batch = inputs()
    asked = {
        "selection": lambda: selection(model, batch),
        "variates": lambda: variate_attention(model, batch),
        "lags": lambda: lag_weights(model),
    }
    for name, ask in asked.items():
        if name in said:
            ask()
        else:
            with pytest.raises(IncompatibleError, match=", ".join(EXPLAINED_BY[name])):
                ask()


@pytest.mark.parametrize("kind", ["tft", "itransformer", "rlinear"])
def test_a_model_in_training_is_not_explained(kind: str) -> None:
    """Weights under dropout are another draw at every call."""
    model = built(kind).train()
    ask = {"tft": selection, "itransformer": variate_attention}.get(kind)
    with pytest.raises(ConfigError, match="eval"):
        lag_weights(model) if ask is None else ask(model, inputs())


# --- variates -----------------------------------------------------------------------------------

WIDE = replace(SHAPE, known=(0, 4), past=(3, 0))


@torch.no_grad()
@pytest.mark.parametrize(("shape", "depth"), [(SHAPE, 3), (WIDE, 1)])
def test_the_attention_shown_is_the_attention_used(
    monkeypatch: pytest.MonkeyPatch, shape: Shape, depth: int
) -> None:
    """A map computed beside the forecast may be of another layer, scale or mask than the real one."""
    model, batch = built("itransformer", shape, depth=depth), inputs(shape)
    batch = replace(batch, observed=batch.observed & (torch.arange(VARIATES) != 1))
    expected, inner = model(batch), inner_of(model)
    assert isinstance(model, Scaled)
    assert isinstance(inner, ITransformer)
    layers = iter(inner.variate_scores(model.normalised(batch)[0]).softmax(-1))

    def explicit(_query: Tensor, _key: Tensor, value: Tensor, **_: object) -> Tensor:
        mixed = next(layers) @ value
        columns = torch.zeros_like(value[:, :, VARIATES:])  # of the last layer nobody reads them
        return torch.cat((mixed, columns), 2)

    monkeypatch.setattr(tsformer.attention, "scaled_dot_product_attention", explicit)
    torch.testing.assert_close(model(batch), expected, rtol=1e-5, atol=1e-5)
    assert next(layers, None) is None


@torch.no_grad()
def test_the_attention_of_samformer_is_the_one_it_forecasts_with() -> None:
    """A transposed map names the readers as what was read."""
    model, batch = built("samformer"), inputs()
    assert isinstance(model, Scaled)
    inner = inner_of(model)
    assert isinstance(inner, SAMformer)
    normal, unit = model.normalised(batch)
    weights = variate_attention(model, batch).weights[:, 0]
    rows = normal.past.mT
    features = rows + inner.output(weights @ inner.value(rows))  # [batch, variate, time]
    forecast = inner.head(features.flatten(0, 1)).unflatten(0, (-1, VARIATES)).transpose(1, 2)
    assert model.affine is not None
    torch.testing.assert_close(unit.undo(model.affine.undo(forecast)), model(batch))


@pytest.mark.parametrize(
    ("kind", "shape", "columns"),
    [
        ("itransformer", WIDE, ("known 0", "known 1", "past 0", "past 1")),
        ("samformer", replace(WIDE, known=()), ("past 0", "past 1")),
    ],
)
def test_variate_attention_adds_up_over_variates_and_columns(
    kind: str, shape: Shape, columns: tuple[str, ...]
) -> None:
    """Shares that leave out a column, or split one by its words, overstate all the others."""
    model, batch = built(kind, shape), inputs(shape)
    observed = batch.observed.clone()
    observed[0, :, 2] = False
    found = variate_attention(model, replace(batch, observed=observed))
    assert found.columns == columns
    layers = SIZES.get(kind, {}).get("depth", 1)
    assert found.weights.shape == (5, layers, VARIATES, VARIATES + len(columns))
    assert found.scores.shape == (5, layers, VARIATES, VARIATES)
    assert adds_up(found.weights)
    assert (found.weights[0, :, :, 2] == 0).all()
    assert (found.weights[1:] > 0).all()


def test_attention_set_by_hand_is_found() -> None:
    """Everybody reads the second variate: that is what must stand there, in its column."""
    model, batch = built("samformer", affine="none"), inputs()
    inner = inner_of(model)
    assert isinstance(inner, SAMformer)
    wave = torch.cos(torch.arange(TIME, dtype=torch.float64) * torch.pi)
    with torch.no_grad():
        inner.query.weight.zero_()
        inner.query.bias.fill_(1.0)
        inner.key.weight.copy_(wave.expand_as(inner.key.weight))
        inner.key.bias.zero_()
    past = batch.past.clone()
    past[..., 1] = 20 + 3 * wave  # the walks hardly have this wave in them
    weights = variate_attention(model, replace(batch, past=past)).weights
    assert (weights[..., 1] > 0.99).all()


@torch.no_grad()
def test_every_head_counts_as_much_as_any_other() -> None:
    """The first head alone is a map of a part of the network, and looks like the whole one."""
    model, batch = built("itransformer", depth=2), inputs()
    inner = inner_of(model)
    assert isinstance(model, Scaled)
    assert isinstance(inner, ITransformer)
    scores = inner.variate_scores(model.normalised(batch)[0])  # [layer, batch, head, from, to]
    assert scores.shape[2] == 2
    found = variate_attention(model, batch)
    for layer, heads in enumerate(scores):
        one, other = heads.unbind(1)
        assert not torch.allclose(one, other)
        shares = (one.softmax(-1) + other.softmax(-1)) / 2
        torch.testing.assert_close(found.weights[:, layer], shares)
        torch.testing.assert_close(found.scores[:, layer], (one + other) / 2)


@pytest.mark.parametrize("missing", [False, True])
def test_correlations_are_pearsons(missing: bool) -> None:
    """The paper's claim is about these; a covariance would be about units."""
    batch = inputs()
    observed = batch.observed.clone()
    observed[:, 5] = not missing
    found = correlations(torch.where(observed, batch.past, torch.nan), observed)
    for window, correlation in zip(batch.past, found, strict=True):
        seen = np.delete(window.numpy(), 5, axis=0) if missing else window.numpy()
        np.testing.assert_allclose(correlation, np.corrcoef(seen.T), atol=1e-12)
    flat = batch.past.clone()
    flat[..., 0] = 7.1
    assert (correlations(flat, batch.observed)[:, 0] == 0).all()


def test_resemblance_leaves_out_what_always_agrees() -> None:
    """With the diagonal, a map that only looks at itself would resemble any data."""
    scores = torch.randn(3, 2, VARIATES, VARIATES)
    batch = inputs(count=3)
    correlation = correlations(batch.past, batch.observed)
    apart = ~np.eye(VARIATES, dtype=bool)
    found = resemblance(scores, correlation)
    for window in range(3):
        for layer in range(2):
            pair = scores[window, layer].numpy()[apart], correlation[window].numpy()[apart]
            np.testing.assert_allclose(found[window, layer], np.corrcoef(*pair)[0, 1], atol=1e-6)
    selfish = 9 * torch.eye(VARIATES).expand(3, 1, VARIATES, VARIATES)
    assert resemblance(selfish, correlation).isnan().all()


# --- lags ---------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("levels", [(), (0.1, 0.5, 0.9)])
@pytest.mark.parametrize("kind", LINEAR)
def test_lag_weights_are_the_map_that_the_model_is(kind: str, levels: tuple[float, ...]) -> None:
    """A map without its moving average or its anchor looks plausible and forecasts something else."""
    if levels and not MODELS[kind].capabilities.native_quantiles:
        pytest.skip(f"{kind} gives a point")
    settings = {"dlinear": {"kernel": 5}, "rlinear": {"affine": "scalar"}}.get(kind, {})
    lags = (6, 40) if kind == "ridge" else ()
    shape = replace(SHAPE, lags=lags, levels=levels)
    for center in ("mean", "last") if kind == "ridge" else (None,):
        model = built(kind, shape, **settings, **({"center": center} if center else {}))
        if MODELS[kind].capabilities.unit_free:  # there a bias grows with the deviation
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
        first, second = inputs(shape), inputs(shape)
        weights = lag_weights(model)
        assert weights.shape == (HORIZON, TIME + len(lags)) == lags_of(shape).shape
        change = (model(second) - model(first))[..., shape.point]
        moved = (second.past - first.past).mT @ weights[:, :TIME].T  # [batch, variate, horizon]
        if lags:
            assert first.lagged is not None
            assert second.lagged is not None
            ahead = (second.lagged - first.lagged)[:, TIME:]
            moved = moved + torch.einsum("bhvl,hl->bvh", ahead, weights[:, TIME:])
        torch.testing.assert_close(change, moved.mT)


def test_lags_count_back_from_the_step_that_is_forecast() -> None:
    """The same hour yesterday is lag 24 at every step, whatever the column of the matrix."""
    lags = lags_of(Shape(4, 3, lags=(7,)))
    assert lags.tolist() == [[4, 3, 2, 1, 7], [5, 4, 3, 2, 7], [6, 5, 4, 3, 7]]


@torch.no_grad()
def test_a_model_of_one_lag_has_all_importance_there() -> None:
    """Yesterday repeated is explained by yesterday, whole."""
    shape = Shape(TIME, HORIZON)
    model = built("ridge", shape)
    there = lags_of(shape) == 24
    state = {"weight": there.double(), "bias": torch.zeros(HORIZON), "known": model.known}
    model.load_state_dict(state)
    torch.testing.assert_close(lag_importance(lag_weights(model)), there.double())
    batch = inputs(shape)
    torch.testing.assert_close(model(batch)[..., 0], batch.past[:, TIME - 24 :][:, :HORIZON])


@pytest.mark.parametrize("kind", LINEAR)
def test_lag_importance_adds_up(kind: str) -> None:
    """Shares of a step are comparable between steps and models only if they sum to 1."""
    assert adds_up(lag_importance(lag_weights(built(kind))))
    assert adds_up(lag_importance(torch.zeros(2, 7)))


# --- variables and steps ------------------------------------------------------------------------

FULL = replace(SHAPE, known=(0, 3), past=(0,), static=(4, 0), lags=(8,), levels=(0.1, 0.5, 0.9))


def test_importances_of_variables_and_lags_add_up() -> None:
    """A mean of shares is a share; named by what was given, in the order it was given."""
    explanation = selection(built("tft", FULL), inputs(FULL))
    parts = {role: variables(selected) for role, selected in by_role(explanation).items()}
    assert {role: part.names for role, part in parts.items()} == {
        "static": ("static 0", "static 1"),
        "encoder": ("target", "past 0", "known 0", "known 1", "lag 8"),
        "decoder": ("known 0", "known 1", "lag 8"),
    }
    patterns = [pattern(explanation.attention, step=step) for step in (1, HORIZON)]
    assert patterns[0].names == tuple(range(TIME, -1, -1))
    assert patterns[1].names == tuple(range(TIME + HORIZON - 1, -1, -1))
    for part in (*parts.values(), *patterns):
        assert adds_up(part.mean)
        assert part.quantiles.shape == (len(LEVELS), len(part.names))
        assert (part.quantiles.diff(dim=0) >= 0).all()
    bare = selection(built("tft"), inputs())
    assert list(by_role(bare)) == ["encoder", "decoder"]


def test_percentiles_are_over_samples_and_steps() -> None:
    """A median over the wrong axis is a number that nobody can tell from the right one."""
    weights = torch.rand(7, 5, 2, 3).softmax(-1)
    found = variables(Selected(("a", "b", "c"), weights))
    flat = weights.reshape(-1, 3).double().numpy()
    np.testing.assert_allclose(found.mean, flat.mean(0))
    np.testing.assert_allclose(found.quantiles, np.quantile(flat, [0.1, 0.5, 0.9], axis=0))


def test_a_pattern_is_read_at_the_lag_where_it_lies() -> None:
    """A peak one step off is another hour of the day."""
    attention = torch.zeros(3, 1, HORIZON, TIME + HORIZON)
    for step in range(HORIZON):
        attention[:, :, step, TIME + step - 24] = 1
    for step in (1, 2, HORIZON):
        found = pattern(attention, step=step)
        assert found.names[int(found.mean.argmax())] == 24
    with pytest.raises(ConfigError, match="between 1 and the horizon"):
        pattern(attention, step=0)


def test_kappa_is_a_distance_of_distributions() -> None:
    """The threshold of the paper means nothing on another scale."""
    left, right = torch.tensor([1.0, 0.0]), torch.tensor([0.25, 0.75])
    assert kappa(left, left) == 0
    assert kappa(left, 1 - left) == 1
    assert kappa(left, right) == kappa(right, left) == pytest.approx((1 - 0.25**0.5) ** 0.5)


def test_a_window_that_looks_elsewhere_is_another_regime() -> None:
    """The one crisis among ordinary weeks is what this is for; its neighbours stay ordinary."""
    attention = torch.full((20, 2, HORIZON, TIME + HORIZON), 1e-3)
    attention[:, 0, :, 3] = 1
    attention[:, 1, :, 20] = 1  # usual for this one
    attention[13, 0, :, [3, 7]] = attention[13, 0, :, [7, 3]]
    distance = regimes(attention / attention.sum(-1, keepdim=True))
    assert distance.shape == (20, 2)
    found = (distance > REGIME).nonzero().tolist()
    assert found == [[13, 0]]


def test_one_strange_step_is_no_regime() -> None:
    """The paper takes the mean over the horizon: the largest would call most windows a crisis."""
    attention = torch.zeros(100, 1, HORIZON, 4)
    attention[..., 0] = 1
    attention[7, 0, 2] = torch.tensor([0.0, 1.0, 0.0, 0.0])  # whole of one step, nothing else
    distance = regimes(attention)[:, 0]
    usual = 0.99  # the share of the first position in the mean of the windows, at that step
    strange, others = (1 - (1 - usual) ** 0.5) ** 0.5, (1 - usual**0.5) ** 0.5
    assert distance[7] == pytest.approx(strange / HORIZON, abs=1e-5)
    assert distance[8] == pytest.approx(others / HORIZON, abs=1e-5)
    assert distance[7] < REGIME < strange
