"""iTransformer: a token is the whole context of a variate, attention is among variates.

"iTransformer: Inverted Transformers Are Effective for Time Series Forecasting", Liu et al., arXiv
2310.06625 (ICLR 2024), section 3, following github.com/thuml/iTransformer in what the paper leaves
open: norms after the branches and one more at the end, dropout of tokens, attention weights and
branches. Tokens have no position, so the order of the variates means nothing, and there may be
any number of them, unseen ones too; `variate_share` of training is the paper's efficient training.

Deviations: no calendar marks (the official code reads those of the context as four more tokens
through the same embedding, which changes no parameter count); no epsilon in the normalisation
(`tsformer.scale`); a variate without any observed step is not attended to, so that padding with
one changes nothing; a quantile head where levels are asked for.

Our own extension, not in the paper: each covariate column is a token too, of all its steps (context
and horizon of one that is known ahead, the context of one that is not; categories as indicators)
through an embedding of its own. These tokens are attended to and never forecast. They are read as
they come, in training deviations: normalised by window, a day that is all holiday would be none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tsformer.batch import Batch, Shape
from tsformer.columns import indicator_width, indicators
from tsformer.dropout import Dropout
from tsformer.encoder import Encoder, LayerSpec
from tsformer.errors import unlike
from tsformer.heads import head
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.scale import Scaled
from tsformer.tokens import attended, unfold_variates


@dataclass(frozen=True, slots=True)
class ITransformerSpec(ModelSpec):
    """iTransformer with the official settings for ETTh1 and horizons up to 192.

    `width` is that of a token, `feedforward` that of the hidden layer; `dropout` is a probability.
    """

    kind: ClassVar[str] = "itransformer"
    capabilities: ClassVar[Capabilities] = Capabilities(
        known=True, past=True, cross_series=True, native_quantiles=True
    )

    depth: int = 2
    width: int = 256
    heads: int = 8
    feedforward: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("depth", "width", "heads", "feedforward"):
            if getattr(self, name) < 1:
                raise unlike(f"{name} must be at least 1", getattr(self, name))
        if not 0 <= self.dropout < 1:
            raise unlike("dropout must be in [0, 1)", self.dropout)
        if self.width % self.heads:
            raise unlike(f"width must be a multiple of heads ({self.heads})", self.width)

    def build(self, shape: Shape) -> Model:
        return Scaled(ITransformer(self, shape))


class ITransformer(Model):
    """The network between the scalings: normalised windows in, normalised forecast out."""

    def __init__(self, spec: ITransformerSpec, shape: Shape) -> None:
        super().__init__(shape)
        steps = shape.context + shape.horizon
        self.embedding = nn.Linear(shape.context, spec.width)
        self.known = ColumnTokens(shape.known, steps=steps, width=spec.width)
        self.covariates = ColumnTokens(shape.past, steps=shape.context, width=spec.width)
        self.dropout = Dropout(spec.dropout)
        layer = LayerSpec(
            width=spec.width,
            heads=spec.heads,
            feedforward=spec.feedforward,
            dropout=spec.dropout,
            attention="plain",
            norm="layer",
            attention_dropout=spec.dropout,
            weight_dropout=spec.dropout,
        )
        self.encoder = Encoder(layer, depth=spec.depth)
        self.norm = nn.LayerNorm(spec.width)
        self.head = head(spec.width, shape=shape, dropout=0.0)

    def forward(self, batch: Batch) -> Tensor:
        variates = batch.past.shape[2]
        mixed = self.encoder(*self._read(batch))
        features = self.norm(mixed[:, :variates])  # [batch, variate, width]
        return unfold_variates(self.head(features.flatten(0, 1)), variates=variates)

    @property
    def covariate_tokens(self) -> tuple[str, ...]:
        """The columns behind the tokens after the variates, by role and number."""
        known = (f"known {column}" for column in range(len(self.shape.known)))
        past = (f"past {column}" for column in range(len(self.shape.past)))
        return (*known, *past)

    def variate_scores(self, batch: Batch) -> Tensor:
        """Scores before the softmax, of normalised windows: `[layer, batch, head, variate, token]`.

        What is not attended to has minus infinity.
        """
        tokens, seen = self._read(batch)
        layers = [
            query[:, :, : batch.past.shape[2]] @ key.mT * key.shape[-1] ** -0.5
            for query, key in self.encoder.compared(tokens, seen)
        ]
        return torch.stack(layers).masked_fill(~seen[:, None, None], -torch.inf)

    def _read(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the encoder reads: tokens, and which of them are attended to."""
        tokens = self.dropout(self.tokens(batch))
        return tokens, attended(batch, tokens=tokens.shape[1])

    def tokens(self, batch: Batch) -> Tensor:
        """Variates, then covariates known ahead, then past ones: `[batch, token, width]`."""
        shape = self.shape
        batch.check_context(shape.context)
        parts = [self.embedding(batch.past.mT)]
        if shape.known:
            parts.append(self.known(batch.given("known", columns=len(shape.known))))
        if shape.past:
            parts.append(self.covariates(batch.given("covariates", columns=len(shape.past))))
        return torch.cat(parts, 1)


class ColumnTokens(nn.Module):
    """A token for each covariate column, of all its steps, through a linear map of its own.

    `sizes` has an entry for each column, as `Shape` has them: `[batch, step, column]` to
    `[batch, column, width]`.
    """

    def __init__(self, sizes: Sequence[int], *, steps: int, width: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.maps = nn.ModuleList(
            nn.Linear(steps * indicator_width([size]), width) for size in sizes
        )

    def forward(self, columns: Tensor) -> Tensor:
        dtype = next(self.parameters()).dtype
        parts = zip(self.maps, self.sizes, columns.split(1, -1), strict=True)
        tokens = [
            embedding(indicators(column, sizes=[size]).to(dtype).flatten(1))
            for embedding, size, column in parts
        ]
        return torch.stack(tokens, 1)  # [batch, column, width]
