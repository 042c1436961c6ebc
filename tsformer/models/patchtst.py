"""PatchTST: patches as tokens, every variate by itself.

"A Time Series is Worth 64 Words", arXiv 2211.14730 (ICLR 2023), supervised, following
github.com/yuqinie98/PatchTST in what the paper leaves open: residual attention, batch
normalisation after each branch, the order (width, patch) of the flattened features.

Deviations: no epsilon in the instance normalisation (see `tsformer.scale`); a quantile head where
levels are asked for; `norm="layer"` builds a layer norm, while the official option of that name
builds a batch norm all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tsformer.attention import ATTENTIONS
from tsformer.batch import Batch, Shape
from tsformer.dropout import Dropout
from tsformer.encoder import NORMS, Encoder, LayerSpec
from tsformer.errors import ConfigError, ShapeError
from tsformer.heads import head
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.scale import Affine, Scaled, check_choice
from tsformer.tokens import flat_features, patch_count, patches, unfold_variates

# The official "zeros" initialisation of positions draws from U(-0.02, 0.02).
POSITION_BOUND = 0.02


@dataclass(frozen=True, slots=True)
class PatchTSTSpec(ModelSpec):
    """PatchTST with the official settings for ETTh1 and ETTh2.

    `patch` and `stride` are in steps, `width` is that of a token, `feedforward` that of the
    hidden layer. Dropouts are probabilities: `dropout` in the encoder, `head_dropout` after the
    head. `attention` is "residual" or "plain", `norm` "batch" or "layer", `affine` "none" or
    "scalar" (see `tsformer.scale.Scaled`).
    """

    kind: ClassVar[str] = "patchtst"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True)

    patch: int = 16
    stride: int = 8
    depth: int = 3
    width: int = 16
    heads: int = 4
    feedforward: int = 128
    dropout: float = 0.3
    head_dropout: float = 0.0
    attention: str = "residual"
    norm: str = "batch"
    affine: Affine = "none"

    def __post_init__(self) -> None:
        for name in ("patch", "stride", "depth", "width", "heads", "feedforward"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        if self.width % self.heads:
            raise ConfigError(
                f"width must be a multiple of heads ({self.heads}), got {self.width}."
            )
        check_choice(self.attention, tuple(ATTENTIONS), name="attention")
        check_choice(self.norm, tuple(NORMS), name="norm")
        check_choice(self.affine, ("none", "scalar"), name="affine")

    def build(self, shape: Shape) -> Model:
        return Scaled(PatchTST(self, shape), affine=self.affine)


class PatchTST(Model):
    """The network between the scalings: normalised windows in, normalised forecast out.

    Takes any number of variates, since each is forecast by itself with the same weights.
    """

    def __init__(self, spec: PatchTSTSpec, shape: Shape) -> None:
        super().__init__(shape)
        self.patch = spec.patch
        self.stride = spec.stride
        count = patch_count(shape.context, patch=spec.patch, stride=spec.stride)
        self.embedding = nn.Linear(spec.patch, spec.width)
        self.position = nn.Parameter(
            torch.empty(count, spec.width).uniform_(-POSITION_BOUND, POSITION_BOUND)
        )
        self.dropout = Dropout(spec.dropout)
        layer = LayerSpec(
            width=spec.width,
            heads=spec.heads,
            feedforward=spec.feedforward,
            dropout=spec.dropout,
            attention=spec.attention,
            norm=spec.norm,
            # two official dropouts in series (in the output projection and on the branch)
            # are one that keeps (1 - p)^2
            attention_dropout=1 - (1 - spec.dropout) ** 2,
        )
        self.encoder = Encoder(layer, depth=spec.depth)
        self.head = head(count * spec.width, shape=shape, dropout=spec.head_dropout)

    def forward(self, batch: Batch) -> Tensor:
        _, time, variates = batch.past.shape
        if time != self.shape.context:
            raise ShapeError(
                f"this model reads {self.shape.context} steps, got {time}. Cut or pad the past "
                "(unobserved steps first) to its context."
            )
        tokens = patches(batch.past, patch=self.patch, stride=self.stride)
        tokens = self.dropout(self.embedding(tokens) + self.position)  # [row, patch, width]
        features = flat_features(self.encoder(tokens))  # [row, width * patch]
        return unfold_variates(self.head(features), variates=variates)
