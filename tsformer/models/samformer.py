"""SAMformer: one attention layer over the variates, beside a linear map of every variate.

"SAMformer: Unlocking the Potential of Transformers in Time Series Forecasting with
Sharpness-Aware Minimization and Channel-Wise Attention", Ilbert et al., arXiv 2402.10198 (ICML
2024), section 4. With X [variate, time] normalised by window, the forecast is

    (X + A (X W_V + b_V) W_O + b_O) W + b,   A = softmax((X W_Q + b_Q)(X W_K + b_K)' / sqrt(width))

put back. One head; no feed-forward part, no norm, no positions, no dropout. With W_O = 0 it is the
linear map under instance normalisation that it must be compared with. It wants sharpness-aware
minimisation, an option of training (`tsformer.sharpness`): without, it overfits.

Deviations: the paper's normalisation learns a weight and a bias for each variate, which ties the
network to the variates it was trained on; here all share one pair, or have none, so any number of
variates can be forecast, unseen ones too. No epsilon in the normalisation (`tsformer.scale`); a
quantile head where levels are asked for. Covariates of the past are rows of X that are attended to
and never forecast; they are read as they come, in training deviations, not normalised by window. A
variate without any observed step is not attended to.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor, nn

from tsformer.batch import Batch, Shape
from tsformer.columns import indicator_width, indicators
from tsformer.errors import unlike
from tsformer.heads import head
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.scale import Affine, Scaled, check_choice
from tsformer.tokens import attended, unfold_variates


@dataclass(frozen=True, slots=True)
class SAMformerSpec(ModelSpec):
    """SAMformer with the official width of queries, keys and values.

    `affine` is "scalar" or "none" (see `tsformer.scale.Scaled`).
    """

    kind: ClassVar[str] = "samformer"
    capabilities: ClassVar[Capabilities] = Capabilities(
        past=True, cross_series=True, native_quantiles=True
    )

    width: int = 16
    affine: Affine = "scalar"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise unlike("width must be at least 1", self.width)
        check_choice(self.affine, ("none", "scalar"), name="affine")

    def build(self, shape: Shape) -> Model:
        return Scaled(SAMformer(self, shape), affine=self.affine)


class SAMformer(Model):
    """The network between the scalings: normalised windows in, normalised forecast out.

    Takes any number of variates. Kernels start Glorot-uniform, biases at 0.
    """

    def __init__(self, spec: SAMformerSpec, shape: Shape) -> None:
        super().__init__(shape)
        self.query = nn.Linear(shape.context, spec.width)
        self.key = nn.Linear(shape.context, spec.width)
        self.value = nn.Linear(shape.context, spec.width)
        self.output = nn.Linear(spec.width, shape.context)
        self.head = head(shape.context, shape=shape, dropout=0.0)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.zeros_(parameter)

    def forward(self, batch: Batch) -> Tensor:
        tokens = self.tokens(batch)
        variates = batch.past.shape[2]
        mixed = self.scores(tokens, batch).softmax(-1) @ self.value(tokens)
        features = tokens[:, :variates] + self.output(mixed)  # [batch, variate, time]
        return unfold_variates(self.head(features.flatten(0, 1)), variates=variates)

    @property
    def covariate_tokens(self) -> tuple[str, ...]:
        """The columns behind the tokens after the variates, by role and number.

        A category stands once for each of its indicators.
        """
        widths = [indicator_width([size]) for size in self.shape.past]
        return tuple(f"past {column}" for column, width in enumerate(widths) for _ in range(width))

    def variate_scores(self, batch: Batch) -> Tensor:
        """Scores before the softmax, of normalised windows: `[layer, batch, head, variate, token]`.

        What is not attended to has minus infinity.
        """
        return self.scores(self.tokens(batch), batch)[None, :, None]

    def tokens(self, batch: Batch) -> Tensor:
        """What is attended to: variates, then covariates of the past, `[batch, token, time]`."""
        batch.check_context(self.shape.context)
        if not self.shape.past:
            return batch.past.mT
        covariates = batch.given("covariates", columns=len(self.shape.past))
        columns = indicators(covariates, sizes=self.shape.past).to(batch.past.dtype)
        return torch.cat((batch.past, columns), -1).mT

    def scores(self, tokens: Tensor, batch: Batch) -> Tensor:
        """How well each variate and each of the `tokens` of `batch` fit: `[batch, variate, token]`.

        Their softmax is the share taken; nothing is taken where nothing was observed.
        """
        query, key = self.query(tokens[:, : batch.past.shape[2]]), self.key(tokens)
        seen = attended(batch, tokens=tokens.shape[1])
        fit = query @ key.mT / sqrt(key.shape[-1])
        return fit.masked_fill(~seen[:, None], -torch.inf)
