"""The temporal fusion transformer: covariates of every kind, quantiles, and what was read.

"Temporal Fusion Transformers for Interpretable Multi-horizon Time Series Forecasting", arXiv
1912.09363 (International Journal of Forecasting 37, 2021), following the official code in what
the paper leaves open: skips that change the width, attention to the own step, maps without bias,
the epsilon of layer norms.

Deviations:

- Every window is normalised by its own statistics (see `tsformer.scale`) instead of every entity
  by those of its training part, so that unseen series are forecast, in any unit.
- Quantiles are the median and steps away from it, so they cannot cross.
- Every variate is forecast by itself. Identifiers are no input unless given as a static column.
- A target that was not observed stands as 0, the mean of its window; so that the network can
  tell the two apart, the embedding of the target has a second input, 1 where observed.
- Lagged values of the target are known inputs; one that is missing stands as the window's mean.
- Without known inputs the decoder reads the position of each step, in contexts from the cutoff.
- Without static columns there are no context maps, which is the same as contexts of zero.
- Categories count as unknown now and then while training (see `ColumnEmbedding`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from tsformer.attention import InterpretableAttention
from tsformer.batch import Batch, Shape
from tsformer.embeddings import ColumnEmbedding, NumberEmbedding
from tsformer.errors import ConfigError, unlike
from tsformer.gates import Gate, GatedResidual, VariableSelection
from tsformer.heads import spread_from_median
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.scale import Scaled
from tsformer.tokens import unfold_variates


@dataclass(frozen=True, slots=True)
class TFTSpec(ModelSpec):
    """The temporal fusion transformer, at a size for a few thousand windows and a CPU.

    `width` is that of every vector (the paper has 160 to 320), `heads` are those of the
    attention, `dropout` is the probability in every gate but the last, and `unknown_rate` that of
    a category of a window to count as unknown while training.
    """

    kind: ClassVar[str] = "tft"
    capabilities: ClassVar[Capabilities] = Capabilities(
        known=True, past=True, static=True, lags=True, native_quantiles=True
    )

    width: int = 64
    heads: int = 4
    dropout: float = 0.1
    unknown_rate: float = 0.05

    def __post_init__(self) -> None:
        if self.width < 4:
            hint = " A layer norm over less leaves little but signs."
            raise unlike("width must be at least 4", self.width, hint)
        if self.heads < 1:
            raise unlike("heads must be at least 1", self.heads)
        if self.width % self.heads:
            raise unlike(f"width must be a multiple of heads ({self.heads})", self.width)
        for name in ("dropout", "unknown_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise unlike(f"{name} must be in [0, 1)", getattr(self, name))

    def build(self, shape: Shape) -> Model:
        return Scaled(TFT(self, shape))


@dataclass(frozen=True, slots=True)
class Selected:
    """How much each of `variables` counted: `weights` `[..., variable]`, which sum to 1."""

    variables: tuple[str, ...]
    weights: Tensor


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a forecast was read from (arXiv 1912.09363, section 7), before any averaging.

    - `static`: weights `[batch, variate, variable]`, without any variable where none is given.
    - `past`: weights `[batch, time, variate, variable]` of the inputs of the context.
    - `known`: weights `[batch, horizon, variate, variable]` of the inputs of the horizon.
    - `attention` `[batch, variate, horizon, time + horizon]`: how much each step of the horizon
      attended to each position; a row sums to 1, and what lies after the step has 0.

    Columns are called by their role and number ("known 0"), lags by their steps ("lag 24"), the
    observed target is "target", and "step" is the position where nothing else is known.

    A weight says how much of a variable was mixed in, not how much the forecast depends on it: a
    variable whose own network has become constant can weigh as much as one that counts. Shuffle a
    column over windows and forecast again before believing it.
    """

    static: Selected
    past: Selected
    known: Selected
    attention: Tensor


@torch.no_grad()
def explain(model: Model, batch: Batch) -> Explanation:
    """What `model`, as `TFTSpec` builds it, reads from `batch` in the unit of the data.

    Runs in the mode of the model: call `eval()` first, or dropout is part of the answer. Raises
    ConfigError for a model of another kind.
    """
    if not isinstance(model, Scaled) or not isinstance(model.inner, TFT):
        raise ConfigError(f"explain needs a model of kind '{TFTSpec.kind}', got another.")
    _, explanation = model.inner.read(model.normalised(batch)[0])
    return explanation


class TFT(Model):
    """The network between the scalings: normalised windows in, normalised forecast out.

    Takes any number of variates, since each is forecast by itself with the same weights.
    """

    def __init__(self, spec: TFTSpec, shape: Shape) -> None:
        super().__init__(shape)
        width, dropout = spec.width, spec.dropout
        context = bool(shape.static)
        self.inputs = Inputs(shape, width=width, unknown_rate=spec.unknown_rate)
        self.static = StaticEncoder(len(shape.static), width, dropout=dropout) if context else None
        past, known = len(self.inputs.past_variables), len(self.inputs.known_variables)
        self.past = VariableSelection(past, width, dropout=dropout, context=context)
        self.known = VariableSelection(known, width, dropout=dropout, context=context)
        self.encoder = nn.LSTM(width, width, batch_first=True)
        self.decoder = nn.LSTM(width, width, batch_first=True)
        self.local_gate = Gate(width, width, dropout=dropout)
        self.enrichment = GatedResidual(
            width, width=width, outputs=width, dropout=dropout, context=context
        )
        self.attention = InterpretableAttention(width, heads=spec.heads)
        self.attention_gate = Gate(width, width, dropout=dropout)
        self.feedforward = GatedResidual(width, width=width, outputs=width, dropout=dropout)
        self.output_gate = Gate(width, width, dropout=0.0)
        self.head = nn.Linear(width, shape.outputs)

    def forward(self, batch: Batch) -> Tensor:
        features, _ = self.read(batch)
        forecast = self.head(features)  # [batch * variate, horizon, level]
        if self.shape.levels:
            forecast = spread_from_median(forecast, median=self.shape.point)
        return unfold_variates(forecast, variates=batch.past.shape[2])

    def read(self, batch: Batch) -> tuple[Tensor, Explanation]:
        """Features of every step `[batch * variate, horizon, width]`, and what they come from."""
        variates = batch.past.shape[2]
        given = self.inputs(batch)
        context = NO_CONTEXT if self.static is None else self.static(given.static)
        past, past_weights = self.past(given.past, context.selection)
        known, known_weights = self.known(given.known, context.selection)
        steps = self._steps(past, known, context)  # [batch * variate, time + horizon, width]
        features, attention = self._features(steps, context)
        weights = given.static[..., 0] if context.weights is None else context.weights
        explanation = Explanation(
            static=Selected(self.inputs.static_variables, weights.unflatten(0, (-1, variates))),
            past=Selected(
                self.inputs.past_variables, unfold_variates(past_weights, variates=variates)
            ),
            known=Selected(
                self.inputs.known_variables, unfold_variates(known_weights, variates=variates)
            ),
            attention=attention.unflatten(0, (-1, variates)),
        )
        return features, explanation

    def _steps(self, past: Tensor, known: Tensor, context: Context) -> Tensor:
        """All steps in the light of their neighbours (section 4.5.1), `[row, position, width]`."""
        encoded, state = self.encoder(past, context.state)
        decoded, _ = self.decoder(known, state)
        return self.local_gate(torch.cat((encoded, decoded), 1), torch.cat((past, known), 1))

    def _features(self, steps: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """The steps of the horizon after they read all before them (sections 4.5.2 and 4.5.3)."""
        horizon = self.shape.horizon
        enriched = self.enrichment(steps, context.enrichment)
        read, attention = self.attention(enriched, queries=horizon)
        attended = self.attention_gate(read, enriched[:, -horizon:])
        features = self.output_gate(self.feedforward(attended), steps[:, -horizon:])
        return features, attention


class Context(NamedTuple):
    """What static columns say to the other parts; None throughout where there are none.

    `selection` and `enrichment` are `[row, 1, width]`, `state` the first of the encoder,
    `[1, row, width]` each, and `weights` those of the selection of columns, `[row, variable]`.
    """

    selection: Tensor | None
    enrichment: Tensor | None
    state: tuple[Tensor, Tensor] | None
    weights: Tensor | None


NO_CONTEXT = Context(None, None, None, None)


class StaticEncoder(nn.Module):
    """A selection of static columns and the four networks that read it (section 4.3)."""

    def __init__(self, columns: int, width: int, *, dropout: float) -> None:
        super().__init__()
        self.select = VariableSelection(columns, width, dropout=dropout, context=False)
        self.selection = GatedResidual(width, width=width, outputs=width, dropout=dropout)
        self.enrichment = GatedResidual(width, width=width, outputs=width, dropout=dropout)
        self.hidden = GatedResidual(width, width=width, outputs=width, dropout=dropout)
        self.cell = GatedResidual(width, width=width, outputs=width, dropout=dropout)

    def forward(self, embedded: Tensor) -> Context:
        """From columns `[row, variable, width]`."""
        selected, weights = self.select(embedded)  # [row, width], [row, variable]
        return Context(
            selection=self.selection(selected).unsqueeze(1),
            enrichment=self.enrichment(selected).unsqueeze(1),
            state=(self.hidden(selected).unsqueeze(0), self.cell(selected).unsqueeze(0)),
            weights=weights,
        )


class Embedded(NamedTuple):
    """Every input as vectors of one width, a row being one variate of one window.

    `static` is `[row, variable, width]`, `past` `[row, time, variable, width]` and `known`
    `[row, horizon, variable, width]`.
    """

    static: Tensor
    past: Tensor
    known: Tensor


class Inputs(nn.Module):
    """The embeddings of all inputs; known ones have the same over context and horizon."""

    def __init__(self, shape: Shape, *, width: int, unknown_rate: float) -> None:
        super().__init__()
        self.shape = shape
        self.width = width
        self.target = nn.Linear(2, width)  # of the value, and of whether it was observed
        self.known = _columns(shape.known, width, unknown_rate)
        self.past = _columns(shape.past, width, unknown_rate)
        self.static = _columns(shape.static, width, unknown_rate)
        self.lags = NumberEmbedding(len(shape.lags), width) if shape.lags else None
        self.step = None if shape.known or shape.lags else NumberEmbedding(1, width)

    @property
    def static_variables(self) -> tuple[str, ...]:
        return tuple(f"static {column}" for column in range(len(self.shape.static)))

    @property
    def past_variables(self) -> tuple[str, ...]:
        covariates = (f"past {column}" for column in range(len(self.shape.past)))
        return ("target", *covariates, *self.known_variables)

    @property
    def known_variables(self) -> tuple[str, ...]:
        covariates = (f"known {column}" for column in range(len(self.shape.known)))
        lags = (f"lag {lag}" for lag in self.shape.lags)
        return (*covariates, *lags) or ("step",)

    def forward(self, batch: Batch) -> Embedded:
        size, time, variates = batch.past.shape
        batch.check_context(self.shape.context)
        known = self._known(batch)  # [row, time + horizon, variable, width]
        past = [self._target(batch).unsqueeze(2)]
        if self.past is not None:
            covariates = batch.given("covariates", columns=len(self.shape.past))
            past.append(_for_variates(self.past(covariates), variates))
        static = known.new_zeros((size * variates, 0, self.width))
        if self.static is not None:
            columns = batch.given("static", columns=len(self.shape.static))
            static = self.static(columns.flatten(0, 1).unsqueeze(1)).squeeze(1)
        return Embedded(static, torch.cat((*past, known[:, :time]), 2), known[:, time:])

    def _target(self, batch: Batch) -> Tensor:
        values = torch.stack((batch.past, batch.observed.to(batch.past.dtype)), -1)
        return self.target(values).transpose(1, 2).flatten(0, 1)  # [row, time, width]

    def _known(self, batch: Batch) -> Tensor:
        variates = batch.past.shape[2]
        parts: list[Tensor] = []
        if self.known is not None:
            columns = batch.given("known", columns=len(self.shape.known))
            parts.append(_for_variates(self.known(columns), variates))
        if self.lags is not None:
            lagged = batch.given("lagged", columns=len(self.shape.lags))
            parts.append(self.lags(lagged.transpose(1, 2).flatten(0, 1)))
        if self.step is not None:
            time, horizon = self.shape.context, self.shape.horizon
            steps = torch.arange(1 - time, horizon + 1, device=batch.past.device) / time
            step = self.step(steps.unsqueeze(-1))  # [time + horizon, variable, width]
            parts.append(step.expand(batch.past.shape[0] * variates, -1, -1, -1))
        return torch.cat(parts, 2)


def _columns(sizes: tuple[int, ...], width: int, unknown_rate: float) -> ColumnEmbedding | None:
    return ColumnEmbedding(sizes, width, unknown_rate=unknown_rate) if sizes else None


def _for_variates(embedded: Tensor, variates: int) -> Tensor:
    """`[batch, time, variable, width]` for every variate, `[batch * variate, ...]`."""
    return embedded.unsqueeze(1).expand(-1, variates, -1, -1, -1).flatten(0, 1)
