"""Gates and variable selection against their equations, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tsformer.gates import Gate, GatedResidual, VariableSelection

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def randomise(module: nn.Module) -> dict[str, Array]:
    """Weights in float64 that no initialisation would give; they are returned by name."""
    module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-1, 1)
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def linear(rows: Array, state: dict[str, Array], name: str) -> Array:
    return rows @ state[f"{name}.weight"].T + state.get(f"{name}.bias", np.zeros(1))


def norm(rows: Array, state: dict[str, Array], name: str) -> Array:
    centered = rows - rows.mean(-1, keepdims=True)
    normal = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-3)
    return normal * state[f"{name}.weight"] + state[f"{name}.bias"]


def gated(branch: Array, skip: Array, state: dict[str, Array], name: str) -> Array:
    value, gate = np.split(linear(branch, state, f"{name}linear"), 2, -1)
    return norm(skip + value / (1 + np.exp(-gate)), state, f"{name}norm")


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 6), (6, 3)])
@pytest.mark.parametrize("context", [False, True])
def test_the_gated_residual_is_its_equations(inputs: int, outputs: int, context: bool) -> None:
    """Equations 2 to 5; a map left out would still train, only worse than the paper says."""
    network = GatedResidual(inputs, width=5, outputs=outputs, dropout=0.3, context=context)
    state = randomise(network)
    rows, given = np.random.default_rng(0).normal(size=(2, 7, 6))[..., :inputs], None
    hidden = linear(rows, state, "input")
    if context:
        given = torch.randn(2, 1, 5, dtype=torch.float64)
        hidden = hidden + linear(given.numpy(), state, "context")
    branch = linear(np.where(hidden > 0, hidden, np.exp(hidden) - 1), state, "hidden")
    skip = rows if inputs == outputs else linear(rows, state, "skip")
    expected = gated(branch, skip, state, "gate.")
    result = network(torch.from_numpy(rows), given).detach().numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-9)


def test_a_shut_gate_leaves_the_skip_alone() -> None:
    """What a part does not need it can pass by: the paper's reason for gates."""
    gate = Gate(4, 4, dropout=0.0)
    with torch.no_grad():
        gate.linear.bias[4:] = -1e9  # type: ignore[index]
    skip = torch.randn(3, 4)
    torch.testing.assert_close(gate(torch.randn(3, 4), skip), gate.norm(skip))


def variable(state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """The weights of one of many variables, as a network for one has them."""
    return {name: tensor[index].mT.squeeze(-1) for name, tensor in state.items()}


def test_networks_of_many_variables_are_those_of_each() -> None:
    """One batched product must not mix what the paper keeps apart."""
    many = GatedResidual(4, width=4, outputs=4, dropout=0.0, variables=3)
    randomise(many)
    rows = torch.randn(3, 5, 4, dtype=torch.float64)
    for index in range(3):
        one = GatedResidual(4, width=4, outputs=4, dropout=0.0).double()
        one.load_state_dict(variable(many.state_dict(), index))
        torch.testing.assert_close(many(rows)[index], one(rows[index]))


def test_selected_is_the_weighted_mean_of_the_variables() -> None:
    """A weight shown as an importance must be the weight that was used."""
    select = VariableSelection(3, 4, dropout=0.3, context=True)
    randomise(select)
    embedded = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    mixed, weights = select(embedded, torch.randn(2, 1, 4, dtype=torch.float64))
    assert mixed.shape == (2, 5, 4)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, dtype=torch.float64))
    each = torch.stack([select.each(column.expand(3, -1, -1)) for column in embedded.flatten(0, 1)])
    own = torch.stack([each[:, index, index] for index in range(3)], 1)  # [row, variable, width]
    expected = (own * weights.flatten(0, 1).unsqueeze(-1)).sum(1).unflatten(0, (2, 5))
    torch.testing.assert_close(mixed, expected)


def test_a_single_variable_has_the_weight_one() -> None:
    select = VariableSelection(1, 4, dropout=0.0, context=True)
    _, weights = select(torch.randn(2, 5, 1, 4), torch.randn(2, 1, 4))
    assert torch.equal(weights, torch.ones(2, 5, 1))
