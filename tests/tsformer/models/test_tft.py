"""The temporal fusion transformer against its equations, and what it may and may not read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape, Target
from tsformer.errors import ConfigError, ShapeError
from tsformer.gates import Gate
from tsformer.losses import pinball
from tsformer.model import Model
from tsformer.models.patchtst import PatchTSTSpec
from tsformer.models.tft import TFTSpec, explain
from tsformer.scale import Scaled

SPEC = TFTSpec(width=8, heads=2)
TIME, HORIZON = 10, 6
LEVELS = (0.1, 0.5, 0.9)
SHAPE = Shape(
    TIME, HORIZON, variates=2, known=(0, 3), past=(4,), static=(5, 0), lags=(7,), levels=LEVELS
)
Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
State = dict[str, Array]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def built(shape: Shape = SHAPE, spec: TFTSpec = SPEC) -> Scaled:
    """The model in float64 at random weights."""
    model = spec.build(shape).double().eval()
    assert isinstance(model, Scaled)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.7, 0.7)
    return model


def inputs(count: int = 3) -> Batch:
    """Windows with all that SHAPE names, no category unknown."""
    past = torch.randn(count, TIME, 2, dtype=torch.float64) * 7 + 40

    def words(size: int, *axes: int) -> Tensor:
        return torch.randint(1, size, axes).double()

    known = torch.randn(count, TIME + HORIZON, 2, dtype=torch.float64)
    known[..., 1] = words(3, count, TIME + HORIZON)
    static = torch.randn(count, 2, 2, dtype=torch.float64)
    static[..., 0] = words(5, count, 2)
    return Batch(
        past,
        torch.rand(past.shape) > 0.2,
        known=known,
        covariates=words(4, count, TIME, 1),
        static=static,
        lagged=torch.randn(count, TIME + HORIZON, 2, 1, dtype=torch.float64) * 7 + 40,
    )


# --- the equations, for one window of one variate ---------------------------------------------


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def softmax(scores: Array) -> Array:
    return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)


def linear(rows: Array, state: State, name: str, variable: int | None) -> Array:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return rows @ weight.T + bias if variable is None else rows @ weight[variable] + bias[variable]


def gate(branch: Array, skip: Array, state: State, name: str, variable: int | None = None) -> Array:
    value, opening = np.split(linear(branch, state, f"{name}.linear", variable), 2, -1)
    rows = skip + value * sigmoid(opening)
    centered = rows - rows.mean(-1, keepdims=True)
    normal = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-3)
    weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
    return normal * (weight if variable is None else weight[variable]) + (
        bias if variable is None else bias[variable]
    )


def residual(
    rows: Array, state: State, name: str, context: Array | None = None, variable: int | None = None
) -> Array:
    hidden = linear(rows, state, f"{name}.input", variable)
    if context is not None:
        hidden = hidden + context @ state[f"{name}.context.weight"].T
    branch = np.where(hidden > 0, hidden, np.exp(hidden) - 1)
    branch = linear(branch, state, f"{name}.hidden", variable)
    bent = f"{name}.skip.weight" in state
    skip = linear(rows, state, f"{name}.skip", variable) if bent else rows
    return gate(branch, skip, state, f"{name}.gate", variable)


def select(embedded: list[Array], state: State, name: str, context: Array | None) -> Array:
    joint = residual(np.concatenate(embedded, -1), state, f"{name}.joint", context)
    each = [residual(one, state, f"{name}.each", None, j) for j, one in enumerate(embedded)]
    weights = softmax(joint)
    return np.sum([weights[..., j, None] * one for j, one in enumerate(each)], axis=0)


def recur(rows: Array, state: State, name: str, hidden: Array, cell: Array) -> list[Array]:
    steps = []
    for row in rows:
        gates = row @ state[f"{name}.weight_ih_l0"].T + state[f"{name}.bias_ih_l0"]
        gates = gates + hidden @ state[f"{name}.weight_hh_l0"].T + state[f"{name}.bias_hh_l0"]
        opening, keep, new, out = np.split(gates, 4)
        cell = sigmoid(keep) * cell + sigmoid(opening) * np.tanh(new)
        hidden = sigmoid(out) * np.tanh(cell)
        steps.append(hidden)
    return [np.stack(steps), hidden, cell]


def attend(steps: Array, state: State, heads: int) -> Array:
    query, key = (steps @ state[f"attention.{name}.weight"].T for name in ("query", "key"))
    value, mixed = steps @ state["attention.value.weight"].T, []
    each = query.shape[-1] // heads
    for head in range(heads):
        cut = slice(head * each, (head + 1) * each)
        scores = query[:, cut] @ key[:, cut].T / math.sqrt(each)
        scores[np.triu_indices(len(steps), 1)] = -np.inf
        mixed.append(softmax(scores) @ value)
    return np.mean(mixed, axis=0) @ state["attention.output.weight"].T


def number(values: Array, state: State, name: str, column: int = 0) -> Array:
    return values[:, None] * state[f"{name}.weight"][column] + state[f"{name}.bias"][column]


def reference(batch: Batch, state: State, row: int, variate: int) -> Array:
    """The forecast `[horizon, level]` by arXiv 1912.09363, section 4, step by step."""
    series = batch.past[row, :, variate].numpy()
    seen = batch.observed[row, :, variate].numpy()
    mean, std = series[seen].mean(), series[seen].std()
    target = np.stack([np.where(seen, (series - mean) / std, 0), seen], -1)
    known, covariates, static, lagged = (
        values.numpy() for values in (batch.known, batch.covariates, batch.static, batch.lagged)
    )
    known_inputs = [
        number(known[row, :, 0], state, "inputs.known.numbers"),
        state["inputs.known.tables.0.weight"][known[row, :, 1].astype(int)],
        number((lagged[row, :, variate, 0] - mean) / std, state, "inputs.lags"),
    ]
    past_inputs = [
        linear(target, state, "inputs.target", None),
        state["inputs.past.tables.0.weight"][covariates[row, :, 0].astype(int)],
    ]
    static_inputs = [
        state["inputs.static.tables.0.weight"][static[row, variate, :1].astype(int)],
        number(static[row, variate, 1:], state, "inputs.static.numbers"),
    ]
    chosen = select(static_inputs, state, "static.select", None)[0]
    names = ("selection", "enrichment", "hidden", "cell")
    selection, enrichment, hidden, cell = (
        residual(chosen, state, f"static.{name}") for name in names
    )
    past = select(
        past_inputs + [one[:TIME] for one in known_inputs], state, "past", context=selection
    )
    future = select([one[TIME:] for one in known_inputs], state, "known", context=selection)
    encoded, hidden, cell = recur(past, state, "encoder", hidden, cell)
    decoded, _, _ = recur(future, state, "decoder", hidden, cell)
    steps = gate(
        np.concatenate([encoded, decoded]), np.concatenate([past, future]), state, "local_gate"
    )
    enriched = residual(steps, state, "enrichment", enrichment)
    attended = gate(attend(enriched, state, SPEC.heads), enriched, state, "attention_gate")
    features = gate(residual(attended, state, "feedforward"), steps, state, "output_gate")
    low, median, high = linear(features[TIME:], state, "head", None).T
    spread = [median - np.log1p(np.exp(low)), median, median + np.log1p(np.exp(high))]
    return np.stack(spread, -1) * std + mean


def test_forward_is_the_papers_equations() -> None:
    """Ports of this network differ in a dozen quiet ways; this one is what its docstring says."""
    model, batch = built(), inputs()
    state = {k.removeprefix("inner."): v.numpy() for k, v in model.state_dict().items()}
    forecast = model(batch).detach()
    assert forecast.shape == (3, HORIZON, 2, len(LEVELS))
    for row in range(3):
        for variate in range(2):
            expected = reference(batch, state, row, variate)
            np.testing.assert_allclose(forecast[row, :, variate], expected, rtol=1e-9)


def test_parameters_are_those_counted_by_hand() -> None:
    """A part that is doubled, shared or left out shows in the count."""
    shape = Shape(TIME, HORIZON, known=(0, 3), past=(0,), static=(4, 0), levels=LEVELS)
    residual_network = 2 * (8 * 8 + 8) + (8 * 16 + 16) + 16
    context = 8 * 8

    def selection(variables: int) -> int:
        logits = (8 * 8 * variables + 8) + (8 * 8 + 8) + (8 * 2 * variables + 2 * variables)
        skip, norm = 8 * variables * variables + variables, 2 * variables
        return variables * residual_network + logits + skip + norm

    parts = {
        "embeddings": (2 * 8 + 8) + (16 + 3 * 8) + 16 + (4 * 8 + 16),
        "static": selection(2) + 4 * residual_network,
        "past": selection(4) + context,
        "known": selection(2) + context,
        "recurrence": 2 * 4 * (8 * 8 + 8 * 8 + 8 + 8),
        "gates": 3 * ((8 * 16 + 16) + 16),
        "enrichment": residual_network + context,
        "attention": 2 * 8 * 8 + 2 * 8 * 4,
        "feedforward": residual_network,
        "head": 8 * 3 + 3,
    }
    count = sum(parameter.numel() for parameter in SPEC.build(shape).parameters())
    assert count == sum(parts.values()) == 7539


def test_every_gate_but_the_last_has_dropout() -> None:
    """Noise straight before the head is noise of the forecast, and no official run had it."""
    model = built(spec=replace(SPEC, dropout=0.5))
    rates = {
        name: gate.dropout.p for name, gate in model.inner.named_modules() if isinstance(gate, Gate)
    }
    assert rates.pop("output_gate") == 0
    assert set(rates.values()) == {0.5}


def test_gradient_reaches_every_parameter_of_every_input() -> None:
    """A parameter without gradient is paid for in memory and never learns."""
    model = built()
    model.train()
    model(inputs(64)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


# --- what it reads ----------------------------------------------------------------------------


def changed_at(place: int, values: Tensor) -> Tensor:
    """`values` with one position of the time axis changed; a category stays one."""
    after = values.clone()
    after[:, place] = torch.where(values[:, place] == 1, 2, 1)
    return after


@torch.no_grad()
@pytest.mark.parametrize("field", ["known", "lagged"])
def test_a_known_input_has_no_influence_on_the_steps_before_it(field: str) -> None:
    """A mask off by one lets a forecast lean on what its step could not know of."""
    model, batch = built(), inputs()
    before = model(batch)
    for step in range(HORIZON):
        values = changed_at(TIME + step, getattr(batch, field))
        after = model(replace(batch, **{field: values}))
        torch.testing.assert_close(after[:, :step], before[:, :step], rtol=1e-12, atol=1e-12)
        assert ((after - before)[:, step:].abs() > 1e-6).all()


@torch.no_grad()
def test_every_kind_of_input_of_the_context_counts() -> None:
    """An input that does nothing is a promise broken in silence."""
    model, batch = built(), inputs()
    before = model(batch)
    for field in ("past", "known", "covariates", "lagged"):
        for place in (0, TIME - 1):
            observed = torch.ones_like(batch.observed)
            whole = replace(batch, observed=observed)
            after = model(replace(whole, **{field: changed_at(place, getattr(batch, field))}))
            assert not torch.equal(after, model(whole)), field
    assert batch.static is not None
    for column in (0, 1):
        static = batch.static.clone()
        static[..., column] = 0
        assert not torch.equal(model(replace(batch, static=static)), before)


@torch.no_grad()
def test_a_missing_step_is_not_the_mean_of_its_window() -> None:
    """Where nothing was measured nothing happened to be average."""
    model, batch = built(), inputs()
    observed = torch.ones_like(batch.observed)
    observed[:, 4] = False
    missing = model.normalised(replace(batch, observed=observed))[0]
    assert (missing.past[:, 4] == 0).all()
    average = replace(missing, observed=torch.ones_like(observed))
    assert not torch.allclose(model.inner(missing), model.inner(average))


@torch.no_grad()
def test_a_model_without_known_inputs_knows_the_position() -> None:
    """A decoder that reads the same at every step says little about any."""
    shape = Shape(TIME, HORIZON, variates=2)
    model, batch = built(shape), inputs()
    forecast = model(Batch(batch.past, batch.observed))
    assert forecast.shape == (3, HORIZON, 2, 1)
    explanation = explain(model, Batch(batch.past, batch.observed))
    assert explanation.past.variables == ("target", "step")
    assert explanation.known.variables == ("step",)
    assert explanation.static.variables == ()
    assert explanation.static.weights.shape == (3, 2, 0)
    assert torch.equal(explanation.known.weights, torch.ones(3, HORIZON, 2, 1))


@torch.no_grad()
def test_one_model_forecasts_any_number_of_variates() -> None:
    model, batch = built(Shape(TIME, HORIZON, known=(0, 3))), inputs()
    past = batch.past[..., :1].repeat(1, 1, 5)
    forecast = model(Batch(past, torch.ones_like(past, dtype=torch.bool), known=batch.known))
    assert forecast.shape == (3, HORIZON, 5, 1)
    torch.testing.assert_close(forecast[:, :, 4], forecast[:, :, 0])


def test_the_unknown_of_every_category_is_trained() -> None:
    """A shop that opens after training would be forecast from a vector nobody ever fitted."""
    model = SPEC.build(SHAPE).train()
    model(inputs(200)).sum().backward()
    tables = {k: p for k, p in model.named_parameters() if ".tables." in k}
    assert len(tables) == 3
    for name, table in tables.items():
        assert table.grad is not None
        assert (table.grad.abs().sum(-1) > 0).all(), name


def driven(count: int) -> tuple[Batch, Target]:
    """Windows of a driver known ahead plus noise of 0.3, between two decoys drawn alike."""
    known = torch.randn(count, 20, 3)
    values = (known[..., 1] + 0.3 * torch.randn(count, 20)).unsqueeze(-1)
    past, future = values.split((16, 4), 1)
    batch = Batch(past, torch.ones_like(past, dtype=torch.bool), known=known)
    return batch, Target(future, torch.ones_like(future, dtype=torch.bool))


def test_training_finds_the_driver_and_leaves_decoys_alone() -> None:
    """A covariate that is accepted, passed on and never learnt from is worse than none."""
    shape = Shape(16, 4, known=(0, 0, 0), levels=LEVELS)
    model = TFTSpec(width=8, heads=2, dropout=0.0).build(shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(200):
        batch, target = driven(128)
        loss = pinball(model(batch), target, LEVELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batch, target = driven(2000)
    assert batch.known is not None
    with torch.no_grad():
        forecast = model.eval()(batch)
        losses = []
        for column in range(3):
            shuffled = batch.known.clone()
            shuffled[..., column] = shuffled[torch.randperm(2000), :, column]
            losses.append(pinball(model(replace(batch, known=shuffled)), target, LEVELS).item())
    loss = pinball(forecast, target, LEVELS)
    # of noise alone it is 0.075, the mean pinball loss of N(0, 0.3) at these levels
    assert loss < 0.1
    assert losses[1] > 3 * loss
    assert max(losses[0], losses[2]) < 1.1 * loss
    inside = (target.values >= forecast[..., 0]) & (target.values <= forecast[..., 2])
    assert 0.72 < inside.double().mean() < 0.88


# --- what it says of itself -------------------------------------------------------------------


@torch.no_grad()
def test_an_explanation_names_what_it_weighs_and_adds_up() -> None:
    """Importances that do not sum to 1, or stand under another name, explain something else."""
    explanation = explain(built(), inputs())
    assert explanation.static.variables == ("static 0", "static 1")
    assert explanation.past.variables == ("target", "past 0", "known 0", "known 1", "lag 7")
    assert explanation.known.variables == ("known 0", "known 1", "lag 7")
    assert explanation.static.weights.shape == (3, 2, 2)
    assert explanation.past.weights.shape == (3, TIME, 2, 5)
    assert explanation.known.weights.shape == (3, HORIZON, 2, 3)
    assert explanation.attention.shape == (3, 2, HORIZON, TIME + HORIZON)
    for part in (explanation.static, explanation.past, explanation.known):
        torch.testing.assert_close(part.weights.sum(-1), torch.ones_like(part.weights[..., 0]))
        assert (part.weights > 0).all()
    rows = explanation.attention.sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))
    later = torch.ones(HORIZON, TIME + HORIZON, dtype=torch.bool).triu(TIME + 1)
    assert (explanation.attention[..., later] == 0).all()
    assert (explanation.attention[..., ~later] > 0).all()


@torch.no_grad()
def test_what_weighs_nothing_does_nothing() -> None:
    """The weight shown is the weight used: a variable shut out is out of the forecast."""
    model, batch = built(), inputs()
    for place, key in ((2, "past"), (0, "known")):
        state = model.state_dict()
        state[f"inner.{key}.joint.gate.norm.bias"][place] = -1e6
    batch = replace(batch, observed=torch.ones_like(batch.observed))
    explanation = explain(model, batch)
    assert (explanation.past.weights[..., 2] == 0).all()
    assert (explanation.known.weights[..., 0] == 0).all()
    assert batch.known is not None
    # the joint network still reads it; shut its column there as well
    for key, start in (("past", 16), ("known", 0)):
        for part in ("input", "skip"):
            state[f"inner.{key}.joint.{part}.weight"][:, start : start + 8] = 0
    other = batch.known.clone()
    other[..., 0] += 5
    assert torch.equal(model(replace(batch, known=other)), model(batch))


def test_only_this_kind_is_explained() -> None:
    model: Model = PatchTSTSpec().build(Shape(32, 4))
    past = torch.randn(2, 32, 1)
    with pytest.raises(ConfigError, match="kind 'tft'"):
        explain(model, Batch(past, torch.ones_like(past, dtype=torch.bool)))


# --- what it refuses --------------------------------------------------------------------------

LACKING: dict[str, tuple[Callable[[Batch], Batch], str]] = {
    "known": (lambda batch: replace(batch, known=None), "2 covariates known ahead, got none"),
    "past": (
        lambda batch: replace(batch, covariates=batch.past),
        "1 covariates of the past, got 2",
    ),
    "static": (lambda batch: replace(batch, static=None), "2 static covariates"),
    "lags": (lambda batch: replace(batch, lagged=None), "1 lagged values"),
    "context": (lambda batch: batch.recent(8), r"reads 10 steps, got 8\. Cut or pad"),
}


@pytest.mark.parametrize("lacking", LACKING)
def test_inputs_that_are_not_those_it_was_built_for_are_refused(lacking: str) -> None:
    change, message = LACKING[lacking]
    with pytest.raises(ShapeError, match=message):
        built()(change(inputs()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 18}, r"width must be a multiple of heads \(4\), got 18"),
        ({"width": 2}, "width must be at least 4"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"unknown_rate": -0.1}, r"unknown_rate must be in \[0, 1\)"),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TFTSpec(**wrong)  # type: ignore[arg-type]
