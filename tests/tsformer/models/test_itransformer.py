"""iTransformer against the official sizes and against its definition, written out in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, ShapeError
from tsformer.model import Model
from tsformer.models.itransformer import ITransformerSpec

ETTH1 = ITransformerSpec()
SMALL = ITransformerSpec(depth=2, width=8, heads=2, feedforward=10)
WITH_COVARIATES = Shape(12, 5, variates=3, known=(0, 4), past=(3, 0))
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def sized(width: int, *, depth: int = 2) -> ITransformerSpec:
    return replace(ETTH1, depth=depth, width=width, feedforward=width)


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        (ETTH1, {96: 841_568, 192: 866_240}),
        (sized(512), {96: 3_255_904, 336: 3_379_024, 720: 3_576_016}),
        (sized(128), {96: 224_224, 720: 304_720}),
        (sized(512, depth=3), {96: 4_833_888, 720: 5_154_000}),
        (sized(512, depth=4), {96: 6_411_872, 720: 6_731_984}),
    ],
)
def test_parameter_counts_are_those_of_the_official_code(
    spec: ITransformerSpec, counts: dict[int, int]
) -> None:
    """A forgotten feedforward width or a marks embedding of its own is another model; this tells."""
    for variates in (1, 321):
        built = {h: parameters(spec.build(Shape(96, h, variates=variates))) for h in counts}
        assert built == counts


def linear(values: Array, state: dict[str, Array], name: str) -> Array:
    return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(tokens: Array, state: dict[str, Array], name: str) -> Array:
    centered = tokens - tokens.mean(-1, keepdims=True)
    normal = centered / np.sqrt(centered.var(-1, keepdims=True) + 1e-5)
    return normal * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(values: Array) -> Array:
    return values * (1 + np.vectorize(math.erf)(values / math.sqrt(2))) / 2


def words(column: Array, *, count: int) -> Array:
    """A 1 for the word of each step, words from 1; the unknown 0 has none. Flat: `[step * word]`."""
    return np.array(
        [[float(value == word) for word in range(1, count)] for value in column]
    ).ravel()


def reference(window: Array, covariates: list[tuple[str, Array]], state: dict[str, Array]) -> Array:
    """One window `[time, variate]` through the paper's equations: `[horizon, variate]`."""
    mean, std = window.mean(0), window.std(0)
    tokens = linear(((window - mean) / std).T, state, "embedding")
    extra = [linear(column, state, name) for name, column in covariates]
    tokens = np.stack([*tokens, *extra])
    each = SMALL.width // SMALL.heads
    for depth in range(SMALL.depth):
        name = f"encoder.layers.{depth}"
        query, key, value = np.split(linear(tokens, state, f"{name}.attention.project"), 3, -1)
        mixed = []
        for index in range(SMALL.heads):
            cut = slice(index * each, (index + 1) * each)
            weight = np.exp(query[:, cut] @ key[:, cut].T / math.sqrt(each))
            mixed.append(weight / weight.sum(-1, keepdims=True) @ value[:, cut])
        branch = linear(np.concatenate(mixed, -1), state, f"{name}.attention.output")
        tokens = norm(tokens + branch, state, f"{name}.attention_norm")
        hidden = gelu(linear(tokens, state, f"{name}.feedforward.0"))
        branch = linear(hidden, state, f"{name}.feedforward.3")
        tokens = norm(tokens + branch, state, f"{name}.feedforward_norm")
    features = norm(tokens[: window.shape[1]], state, "norm")
    return linear(features, state, "head.linear").T * std + mean


def at_random(model: Model) -> Model:
    """`model` in float64 at weights that leave nothing near zero."""
    for tensor in model.double().eval().state_dict().values():
        tensor.uniform_(-0.5, 0.5)
    return model


def batch_of(shape: Shape, *, size: int = 3) -> Batch:
    """A batch for `shape`, of which the covariates are those of `WITH_COVARIATES` or none."""
    past = torch.randn(size, shape.context, shape.variates, dtype=torch.float64) * 7 + 40
    if not shape.known:
        return Batch(past, torch.ones_like(past, dtype=torch.bool))
    steps = shape.context + shape.horizon
    known = torch.stack((torch.randn(size, steps), torch.randint(0, 4, (size, steps))), -1)
    word = torch.randint(0, 3, (size, shape.context))
    covariates = torch.stack((word, torch.randn(size, shape.context)), -1)
    return Batch(
        past,
        torch.ones_like(past, dtype=torch.bool),
        known=known.double(),
        covariates=covariates.double(),
    )


@torch.no_grad()
@pytest.mark.parametrize("shape", [Shape(12, 5, variates=3), WITH_COVARIATES])
def test_forward_is_the_papers_equations_and_a_column_is_one_more_token(shape: Shape) -> None:
    """A norm, a residual or a transpose elsewhere still learns, and is not what was published."""
    model, batch = at_random(SMALL.build(shape)), batch_of(shape)
    state = {k.removeprefix("inner."): v.numpy() for k, v in model.state_dict().items()}
    forecast = model(batch)
    assert forecast.shape == (3, 5, 3, 1)
    for row in range(3):
        columns: list[tuple[str, Array]] = []
        if batch.known is not None and batch.covariates is not None:
            known, past = batch.known[row].numpy(), batch.covariates[row].numpy()
            columns = [
                ("known.maps.0", known[:, 0]),
                ("known.maps.1", words(known[:, 1], count=4)),
                ("covariates.maps.0", words(past[:, 0], count=3)),
                ("covariates.maps.1", past[:, 1]),
            ]
        expected = reference(batch.past[row].numpy(), columns, state)
        np.testing.assert_allclose(forecast[row, ..., 0], expected, rtol=1e-9)


@torch.no_grad()
def test_one_model_forecasts_any_number_of_variates() -> None:
    """A sensor is added on Monday: the model of Sunday must still answer."""
    model = at_random(SMALL.build(Shape(12, 5, variates=2)))
    for variates in (1, 2, 40):
        assert model(batch_of(Shape(12, 5, variates=variates))).shape == (3, 5, variates, 1)


@torch.no_grad()
def test_another_variate_counts() -> None:
    """Attention that reached nobody would be an expensive linear map."""
    model, batch = at_random(SMALL.build(Shape(12, 5, variates=3))), batch_of(Shape(12, 5, 3))
    changed = batch.past.clone()
    changed[..., 1] = changed[..., 1].flip(1)
    assert not torch.allclose(model(replace(batch, past=changed))[:, :, 0], model(batch)[:, :, 0])


def test_gradient_reaches_the_embedding_of_every_column() -> None:
    """A covariate whose embedding stays random is noise with a name."""
    model = SMALL.build(WITH_COVARIATES).double()
    model(batch_of(WITH_COVARIATES)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_what_a_known_column_drives_is_learnt() -> None:
    """A plan that decides the future must be found, where the past says nothing of it."""
    torch.manual_seed(0)
    shape = Shape(8, 4, variates=2, known=(0,))
    model = replace(SMALL, dropout=0.0).build(shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        past, plan = torch.randn(32, 8, 2), torch.randn(32, 12, 1)
        scale, mean = past.std(1, correction=0, keepdim=True), past.mean(1, keepdim=True)
        target = mean + scale * plan[:, 8:]
        batch = Batch(past, torch.ones_like(past, dtype=torch.bool), known=plan)
        loss = ((model(batch)[..., 0] - target) / scale).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2  # 1 without the plan


def test_dropout_stands_where_the_official_code_has_it() -> None:
    """On tokens, attention weights and both branches at 0.1; elsewhere the settings would not hold."""
    model = ETTH1.build(Shape(96, 96))
    layers = [f"inner.encoder.layers.{depth}" for depth in range(2)]
    found = {k: m.p for k, m in model.named_modules() if isinstance(m, torch.nn.Dropout) and m.p}
    branches = ("attention_dropout", "feedforward.2", "feedforward.4")
    expected = ["inner.dropout", *(f"{layer}.{branch}" for layer in layers for branch in branches)]
    assert found == pytest.approx(dict.fromkeys(expected, 0.1))
    for layer in layers:
        assert model.get_submodule(f"{layer}.attention").dropout == 0.1


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("known", "covariates known ahead, got none.*over context and horizon"),
        ("covariates", "the context"),
    ],
)
def test_missing_covariates_are_refused(missing: str, message: str) -> None:
    """Zeros in the place of a plan that was promised would be a confident wrong forecast."""
    batch = replace(batch_of(WITH_COVARIATES), **{missing: None})
    with pytest.raises(ShapeError, match=message):
        SMALL.build(WITH_COVARIATES)(batch)


def test_another_context_is_refused_with_the_remedy() -> None:
    """The embedding reads every step by its place; a shifted window would be read wrongly."""
    with pytest.raises(ShapeError, match=r"reads 12 steps, got 13\. Cut or pad"):
        SMALL.build(Shape(12, 5))(batch_of(Shape(13, 5)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 18}, "width must be a multiple of heads"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"heads": 0}, "heads must be at least 1"),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, object], message: str) -> None:
    """The name of the setting is the remedy; a traceback out of an attention kernel is none."""
    with pytest.raises(ConfigError, match=message):
        ITransformerSpec(**wrong)  # type: ignore[arg-type]


def test_the_whole_forward_traces_as_one_graph() -> None:
    """A graph break would silently cost what compiling should gain."""
    model, batch = at_random(SMALL.build(WITH_COVARIATES)), batch_of(WITH_COVARIATES)
    traced = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(batch), model(batch))
