"""Gates of the temporal fusion transformer: what may be skipped, and which variables count.

arXiv 1912.09363, sections 4.1 and 4.2. Each part also exists for many variables at once, with
weights of its own for each, as one batched product instead of a loop over variables.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, layer_norm

from tsformer.dropout import Dropout

# Under the root of every layer norm: Keras's default, which the official code keeps.
NORM_EPS = 1e-3


class VariableLinear(nn.Module):
    """A linear map for each variable: `[variable, row, input]` to `[variable, row, output]`.

    Starts as `nn.Linear` does.
    """

    def __init__(self, inputs: int, outputs: int, *, variables: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(variables, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(variables, 1, outputs).uniform_(-bound, bound))

    def forward(self, rows: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, rows, self.weight)


class VariableNorm(nn.Module):
    """A layer norm for each variable over the last axis of `[variable, row, width]`."""

    def __init__(self, width: int, *, variables: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(variables, 1, width))
        self.bias = nn.Parameter(torch.zeros(variables, 1, width))

    def forward(self, rows: Tensor) -> Tensor:
        normal = layer_norm(rows, rows.shape[-1:], eps=NORM_EPS)
        return torch.addcmul(self.bias, normal, self.weight)


class Gate(nn.Module):
    """LN(skip + GLU(dropout(branch))): a branch that can be shut (equations 3 to 5).

    GLU(x) = (W5 x + b5) * sigmoid(W4 x + b4), both maps in one product. With `variables` there is
    a gate for each, over rows `[variable, row, input]`.
    """

    def __init__(self, inputs: int, outputs: int, *, dropout: float, variables: int = 0) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.linear = _linear(inputs, 2 * outputs, variables)
        self.norm = _norm(outputs, variables)

    def forward(self, branch: Tensor, skip: Tensor) -> Tensor:
        value, gate = self.linear(self.dropout(branch)).chunk(2, -1)
        # torch's own glu takes four times as long backward over many rows on a CPU
        gated: Tensor = self.norm(skip + value * gate.sigmoid())
        return gated


class GatedResidual(nn.Module):
    """The gated residual network: a nonlinear map that can fall back to its input.

    Equations 2 to 5: LN(a + GLU(W1 ELU(W2 a + b2 + W3 c) + b1)), with dropout before the GLU. The
    skip is a linear map where input and output differ in width (official code). A context `c` is
    optional and has no bias.
    """

    def __init__(
        self,
        inputs: int,
        *,
        width: int,
        outputs: int,
        dropout: float,
        variables: int = 0,
        context: bool = False,
    ) -> None:
        super().__init__()
        self.input = _linear(inputs, width, variables)
        self.context = nn.Linear(width, width, bias=False) if context else None
        self.hidden = _linear(width, width, variables)
        self.skip = nn.Identity() if inputs == outputs else _linear(inputs, outputs, variables)
        self.gate = Gate(width, outputs, dropout=dropout, variables=variables)

    def forward(self, rows: Tensor, context: Tensor | None = None) -> Tensor:
        """`rows` `[..., input]` as `[..., output]`; `context` `[..., width]` broadcasts to them."""
        hidden = self.input(rows)
        if self.context is not None:
            hidden = hidden + self.context(context)
        gated: Tensor = self.gate(self.hidden(elu(hidden)), self.skip(rows))
        return gated


class VariableSelection(nn.Module):
    """A weighted mean of variables, each after a network of its own (section 4.2).

    The weights are the softmax of a gated residual network of all variables and, where there is
    one, a static context. A single variable has the weight 1 and needs no such network. That
    network ends in a layer norm, so of two variables the weights tell hardly more than which one
    is preferred.
    """

    def __init__(self, variables: int, width: int, *, dropout: float, context: bool) -> None:
        super().__init__()
        self.each = GatedResidual(
            width, width=width, outputs=width, dropout=dropout, variables=variables
        )
        self.joint = (
            GatedResidual(
                variables * width, width=width, outputs=variables, dropout=dropout, context=context
            )
            if variables > 1
            else None
        )

    def forward(self, embedded: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From `[..., variable, width]` what was selected `[..., width]`, and by which weights.

        The weights are `[..., variable]`; `context` `[..., width]` broadcasts to the rows.
        """
        weights = self._weights(embedded, context)
        rows = embedded.flatten(0, -3).transpose(0, 1)  # [variable, row, width]
        columns = weights.flatten(0, -2).mT.unsqueeze(-1)  # [variable, row, 1]
        mixed = (self.each(rows) * columns).sum(0)  # [row, width]
        return mixed.unflatten(0, weights.shape[:-1]), weights

    def _weights(self, embedded: Tensor, context: Tensor | None) -> Tensor:
        if self.joint is None:
            return torch.ones_like(embedded[..., 0])
        logits: Tensor = self.joint(embedded.flatten(-2), context)
        return logits.softmax(-1)


def _linear(inputs: int, outputs: int, variables: int) -> nn.Module:
    if not variables:
        return nn.Linear(inputs, outputs)
    return VariableLinear(inputs, outputs, variables=variables)


def _norm(width: int, variables: int) -> nn.Module:
    if variables:
        return VariableNorm(width, variables=variables)
    return nn.LayerNorm(width, eps=NORM_EPS)
