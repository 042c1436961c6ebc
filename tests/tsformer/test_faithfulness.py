"""The check of explanations: closed forms of forecasts whose only reason is known."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

from tsformer.batch import Batch, Shape
from tsformer.errors import ConfigError, ShapeError
from tsformer.explain import ROLES, by_role, lag_weights, lags_of, selection, variate_attention
from tsformer.faithfulness import (
    Faithfulness,
    Forecast,
    check_lags,
    check_steps,
    check_variables,
    check_variates,
    faithfulness,
    hide_steps,
    hide_tokens,
    hide_variables,
)
from tsformer.model import Model
from tsformer.models import build, spec_from_mapping
from tsformer.models.samformer import SAMformer
from tsformer.scale import Scaled

TIME, HORIZON, VARIATES = 32, 4, 3
SHAPE = Shape(TIME, HORIZON, variates=VARIATES, known=(0, 3), past=(0,), static=(4, 0), lags=(5, 8))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def inputs(count: int = 6) -> Batch:
    """All that SHAPE names, nowhere 0."""
    past = torch.randn(count, TIME, VARIATES, dtype=torch.float64) + 9
    steps = TIME + HORIZON
    return Batch(
        past,
        torch.ones_like(past, dtype=torch.bool),
        known=torch.randint(1, 3, (count, steps, 2)).double(),
        covariates=torch.ones(count, TIME, 1).double(),
        static=torch.randint(1, 4, (count, VARIATES, 2)).double(),
        lagged=torch.randn(count, steps, VARIATES, 2, dtype=torch.float64) + 9,
    )


def built(kind: str, shape: Shape, **settings: object) -> Model:
    model = build(spec_from_mapping({"kind": kind, **settings}), shape).double().eval()
    for parameter in model.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    return model


def point(model: Model) -> Forecast:
    def forecast(batch: Batch) -> Tensor:
        values: Tensor = model(batch)[..., model.shape.point]
        return values

    return forecast


# --- the comparison -----------------------------------------------------------------------------


def of_step(place: int) -> Forecast:
    """The forecast that is one step of the context, in deviations, whatever else is there."""

    def forecast(batch: Batch) -> Tensor:
        seen = torch.where(batch.observed, batch.past, 0)[:, [place]]
        return seen.expand(-1, HORIZON, -1)

    return forecast


def test_the_change_is_measured_in_deviations_of_the_context() -> None:
    """Thousands of a big shop must not drown the pieces of a small one."""
    batch = inputs()
    importance = torch.zeros(6, TIME)
    importance[:, 5] = 1
    found = faithfulness(of_step(5), batch, importance, hide=hide_steps, count=1)
    assert found is not None
    deviations = batch.past[:, 5] / batch.past.std(1, correction=0)
    assert found.important == pytest.approx(float(deviations.mean()))
    assert found.others == (0.0,) * 10
    assert found.ratio == float("inf")
    assert found.distinct
    assert (found.count, found.windows) == (1, 6)
    big = replace(batch, past=1e3 * batch.past)
    again = faithfulness(of_step(5), big, importance, hide=hide_steps, count=1)
    assert again is not None
    assert again.important == pytest.approx(found.important)


def mean(batch: Batch) -> Tensor:
    """Every step matters as much as any other."""
    seen = torch.where(batch.observed, batch.past, 0).sum(1, keepdim=True) / TIME
    return seen.expand(-1, HORIZON, -1)


def test_an_importance_that_says_nothing_has_ratio_one() -> None:
    """Any list of weights looks like an explanation; only this tells one from the other."""
    batch = inputs(64)
    found = faithfulness(mean, batch, torch.rand(64, TIME), hide=hide_steps)
    assert found is not None
    assert found.count == TIME // 10
    assert found.ratio == pytest.approx(1, abs=0.05)
    wrong = torch.ones(64, TIME)
    wrong[:, 5] = 0  # the one that counts
    misled = faithfulness(of_step(5), batch, wrong, hide=hide_steps, draws=40)
    assert misled is not None
    assert misled.ratio == 0
    assert not misled.distinct


def test_the_draws_are_of_the_rest_and_the_same_at_one_seed() -> None:
    """A control that may hide the important too is too weak, and one that varies proves nothing."""
    batch, hidden = inputs(2), []

    def recorded(batch: Batch, chosen: Tensor) -> Batch:
        hidden.append(chosen)
        return hide_steps(batch, chosen)

    importance = torch.arange(TIME).double().expand(2, -1)
    candidates = torch.arange(TIME).expand(2, -1) % 2 == 0
    first = faithfulness(mean, batch, importance, hide=recorded, candidates=candidates, count=4)
    *draws, top = hidden
    assert (top.nonzero()[:, 1].view(2, 4) == torch.tensor([24, 26, 28, 30])).all()
    assert len(draws) == 10
    for draw in draws:
        assert (draw.sum(1) == 4).all()
        assert not (draw & (top | ~candidates)).any()
    assert any((draw != draws[0]).any() for draw in draws)
    again = faithfulness(mean, batch, importance, hide=hide_steps, candidates=candidates, count=4)
    assert again == first
    other = faithfulness(
        mean, batch, importance, hide=hide_steps, candidates=candidates, count=4, seed=1
    )
    assert other is not None
    assert first is not None
    assert other.important == first.important
    assert other.others != first.others


def test_nothing_is_said_where_nothing_can_be_compared() -> None:
    """One variate has no other; a flat window no deviation: a number here would be made up."""
    batch, single = inputs(), torch.ones(6, 1)
    assert faithfulness(mean, batch, single, hide=hide_tokens(())) is None
    flat = replace(batch, past=torch.full_like(batch.past, 0.1))
    assert faithfulness(mean, flat, torch.rand(6, TIME), hide=hide_steps) is None
    still = Faithfulness(0.0, (0.0, 0.0), count=1, windows=3)
    assert still.ratio != still.ratio
    assert not still.distinct
    with pytest.raises(ShapeError, match=r"\[batch, unit\]"):
        faithfulness(mean, batch, torch.rand(5, TIME), hide=hide_steps)
    with pytest.raises(ConfigError, match="draws"):
        faithfulness(mean, batch, torch.rand(6, TIME), hide=hide_steps, draws=0)


# --- what is hidden -----------------------------------------------------------------------------


def same_but(before: Batch, after: Batch, *changed: str) -> bool:
    """Whether all other fields are as they were."""
    names = {field.name for field in fields(Batch)} - {*changed}
    pairs = [(getattr(before, name), getattr(after, name)) for name in names]
    return all(one is two or torch.equal(one, two) for one, two in pairs)


def test_a_hidden_step_is_gone_with_all_that_was_known_of_it() -> None:
    """A step whose price is left in can still be guessed; one of the horizon is not context."""
    batch = inputs()
    chosen = torch.zeros(6, TIME + 2, dtype=torch.bool)
    chosen[2, 7] = chosen[3, TIME + 1] = True
    after = hide_steps(batch, chosen)
    assert after.known is not None
    assert after.covariates is not None
    assert after.lagged is not None
    assert (~after.observed).nonzero().tolist() == [[2, 7, 0], [2, 7, 1], [2, 7, 2]]
    assert (after.known == 0).nonzero().tolist() == [[2, 7, 0], [2, 7, 1]]
    assert (after.covariates == 0).nonzero().tolist() == [[2, 7, 0]]
    gone = after.lagged.isnan()
    assert gone[2, 7].all()
    assert gone[3, :, :, 1].all()
    assert gone.sum() == 2 * VARIATES + (TIME + HORIZON) * VARIATES
    assert same_but(batch, after, "observed", "known", "covariates", "lagged")
    assert same_but(inputs_again(), batch)


def inputs_again() -> Batch:
    torch.manual_seed(0)
    return inputs()


def test_hidden_tokens_are_variates_and_columns() -> None:
    batch = inputs()
    chosen = torch.zeros(6, VARIATES + 2, dtype=torch.bool)
    chosen[1, 2] = chosen[4, VARIATES] = chosen[5, VARIATES + 1] = True
    after = hide_tokens(("known 1", "past 0"))(batch, chosen)
    assert after.known is not None
    assert after.covariates is not None
    assert not after.observed[1, :, 2].any()
    assert (~after.observed).sum() == TIME
    assert (after.known[4, :, 1] == 0).all()
    assert (after.known == 0).sum() == TIME + HORIZON
    assert (after.covariates[5] == 0).all()
    assert (after.covariates == 0).sum() == TIME
    assert same_but(batch, after, "observed", "known", "covariates")
    assert same_but(inputs_again(), batch)


@pytest.mark.parametrize("role", ROLES)
def test_hidden_variables_are_those_of_their_role_alone(role: str) -> None:
    """A column hidden over the horizon too would answer for what the context did."""
    batch = inputs()
    names = by_role(selection(built("tft", SHAPE, width=8, heads=2), batch))[role].variables
    hide = hide_variables(SHAPE, role=role)
    span = slice(0, TIME) if role == "encoder" else slice(TIME, None)
    field_of = {"static": "static", "past": "covariates", "known": "known", "lag": "lagged"}
    for place, name in enumerate(names):
        chosen = torch.zeros(6, len(names), dtype=torch.bool)
        chosen[1, place] = True
        after = hide(batch, chosen)
        if name == "target":
            assert same_but(batch, after)
            continue
        use, _, number = name.partition(" ")
        column = SHAPE.lags.index(int(number)) if use == "lag" else int(number)
        assert same_but(batch, after, field_of[use])
        values = getattr(batch, field_of[use]).clone()
        where = slice(None) if use == "static" else span
        values[1, where, ..., column] = torch.nan if use == "lag" else 0
        torch.testing.assert_close(
            getattr(after, field_of[use]), values, rtol=0, atol=0, equal_nan=True
        )
    with pytest.raises(ConfigError, match="encoder"):
        hide_variables(SHAPE, role="past")


# --- each explanation ---------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("lag", [24, 5])
def test_a_model_of_one_lag_is_found_to_be_one(lag: int) -> None:
    """Where the explanation is the whole truth, the check must say so, far from 1."""
    shape = replace(SHAPE, known=(), past=(), static=())
    model, batch = built("ridge", shape), inputs()
    there = (lags_of(shape) == lag).double()
    there[:, :TIME] *= lag > HORIZON + 1  # lag 5 is read from the lagged values
    state = {"weight": there[:, :TIME], "known": there[:, TIME:], "bias": torch.zeros(HORIZON)}
    model.load_state_dict(state)
    found = check_lags(point(model), replace(batch, known=None), lag_weights(model))
    assert found is not None
    assert found.ratio > 4
    assert found.distinct


@torch.no_grad()
def test_variates_that_everybody_reads_are_found_to_matter() -> None:
    """Attention set by hand on one variate: without it the others move, without another hardly."""
    shape = Shape(TIME, HORIZON, variates=8)
    model = built("samformer", shape, affine="none")
    assert isinstance(model, Scaled)
    inner = model.inner
    assert isinstance(inner, SAMformer)
    wave = torch.cos(torch.arange(TIME, dtype=torch.float64) * torch.pi)
    inner.query.weight.zero_()
    inner.query.bias.fill_(1.0)
    inner.key.weight.copy_(wave.expand_as(inner.key.weight))
    past = torch.randn(9, TIME, 8, dtype=torch.float64).cumsum(1)
    past[..., 3] = 5 * wave
    batch = Batch(past, torch.ones_like(past, dtype=torch.bool))
    found = check_variates(point(model), batch, variate_attention(model, batch))
    assert found is not None
    assert found.ratio > 20
    assert found.distinct
    inner.output.weight.zero_()  # what is read is thrown away: the same map, and no reason left
    deaf = check_variates(point(model), batch, variate_attention(model, batch))
    assert deaf is not None
    assert deaf.important == 0
    assert not deaf.distinct


@torch.no_grad()
def test_a_variable_that_is_only_weighed_is_told_from_one_that_counts() -> None:
    """A column can have nearly all the weight and no effect: its own network may be constant."""
    model, batch = built("tft", SHAPE, width=8, heads=2), inputs(24)
    weights = dict(model.named_parameters())
    weights["inner.known.joint.gate.norm.bias"][0] += 9.0

    def check() -> Faithfulness:
        selected = by_role(selection(model, batch))["decoder"]
        assert (selected.weights[..., 0] > 0.8).all()
        found = check_variables(point(model), batch, selected, shape=SHAPE, role="decoder")
        assert found is not None
        return found

    counts = check()
    assert counts.ratio > 2
    assert counts.distinct
    weights["inner.known.each.gate.norm.weight"][0] = 0  # whatever the column, the same vector
    ignored = check()
    assert ignored.ratio < 1
    assert not ignored.distinct


@torch.no_grad()
def test_steps_that_are_attended_to_can_be_checked() -> None:
    """The same windows give the same answer, and what was never measured is not hidden again."""
    model, batch = built("tft", SHAPE, width=8, heads=2), inputs()
    observed = batch.observed.clone()
    observed[:, :20] = False
    batch = replace(batch, observed=observed)
    attention = selection(model, batch).attention
    found = check_steps(point(model), batch, attention)
    assert found is not None
    assert found == check_steps(point(model), batch, attention)
    assert found.count == 1
    assert found.important > 0
    assert min(found.others) > 0
