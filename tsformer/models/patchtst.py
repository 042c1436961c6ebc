"""PatchTST: patches as tokens, every variate by itself.

"A Time Series is Worth 64 Words", arXiv 2211.14730 (ICLR 2023), following
github.com/yuqinie98/PatchTST in what the paper leaves open: residual attention, batch
normalisation after each branch, the order (width, patch) of the flattened features. The defaults
are the supervised form; `SELF_SUPERVISED` is the form of masked pretraining (`tsformer.pretrain`).

Deviations: no epsilon in the instance normalisation (see `tsformer.scale`); a quantile head where
levels are asked for; `norm="layer"` builds a layer norm, while the official option of that name
builds a batch norm all the same; `head_dropout` follows the head in both forms, while the
official self-supervised code has it before the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from tsformer.attention import ATTENTIONS
from tsformer.batch import Batch, Shape
from tsformer.dropout import Dropout
from tsformer.encoder import ACTIVATIONS, NORMS, Encoder, LayerSpec
from tsformer.errors import ShapeError, unlike
from tsformer.heads import head
from tsformer.model import Capabilities, Model, ModelSpec
from tsformer.multiscale import Levelled, LevelledEmbedding
from tsformer.scale import Affine, Scaled, check_choice
from tsformer.tokens import Padding, flat_features, patch_count, patches, unfold_variates

# The official "zeros" initialisation of positions draws from U(-0.02, 0.02).
POSITION_BOUND = 0.02


@dataclass(frozen=True, slots=True)
class PatchTSTSpec(ModelSpec):
    """PatchTST with the official settings for ETTh1 and ETTh2.

    `patch` and `stride` are in steps, `width` is that of a token, `feedforward` that of the
    hidden layer. Dropouts are probabilities: `dropout` in the encoder, `head_dropout` after the
    head. `attention` is "residual" or "plain", `norm` "batch" or "layer", `activation` "gelu" or
    "relu", `padding` "end" or "none" (see `tsformer.tokens.patches`), `affine` "none" or
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
    activation: str = "gelu"
    padding: Padding = "end"
    affine: Affine = "none"

    def __post_init__(self) -> None:
        for name in ("patch", "stride", "depth", "width", "heads", "feedforward"):
            if getattr(self, name) < 1:
                raise unlike(f"{name} must be at least 1", getattr(self, name))
        for name in ("dropout", "head_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise unlike(f"{name} must be in [0, 1)", getattr(self, name))
        if self.width % self.heads:
            raise unlike(f"width must be a multiple of heads ({self.heads})", self.width)
        check_choice(self.attention, tuple(ATTENTIONS), name="attention")
        check_choice(self.norm, tuple(NORMS), name="norm")
        check_choice(self.activation, tuple(ACTIVATIONS), name="activation")
        check_choice(self.padding, ("end", "none"), name="padding")
        check_choice(self.affine, ("none", "scalar"), name="affine")

    def build(self, shape: Shape) -> Model:
        return Scaled(PatchTST(self, shape), affine=self.affine)

    def embedding(self) -> nn.Module:
        """What makes tokens `[row, patch, width]` of patches `[row, patch, step]`."""
        return nn.Linear(self.patch, self.width)


SELF_SUPERVISED = PatchTSTSpec(
    patch=12,
    stride=12,
    width=128,
    heads=16,
    feedforward=512,
    dropout=0.2,
    head_dropout=0.2,
    attention="plain",
    activation="relu",
    padding="none",
)
"""The official settings of masked pretraining, for a context of 512 (42 patches)."""


@dataclass(frozen=True, slots=True)
class LevelledPatchTSTSpec(PatchTSTSpec):
    """PatchTST that also reads at what level, and how widely, each window lies (NuTime).

    The forecast is normalised as before, but no longer blind to the unit: 1,000 sold a day and
    1 sold a day may continue differently. `level_width` is that of the embedding of a number (see
    `tsformer.multiscale`).
    """

    kind: ClassVar[str] = "patchtst_levelled"
    capabilities: ClassVar[Capabilities] = Capabilities(native_quantiles=True, unit_free=False)

    level_width: int = 32

    def __post_init__(self) -> None:
        PatchTSTSpec.__post_init__(self)
        if self.level_width < 2:
            raise unlike("level_width must be at least 2", self.level_width)

    def build(self, shape: Shape) -> Model:
        return Levelled(Scaled(PatchTST(self, shape), affine=self.affine))

    def embedding(self) -> nn.Module:
        return LevelledEmbedding(self.patch, width=self.width, level_width=self.level_width)


class PatchEncoder(nn.Module):
    """Normalised windows in, a token `[row, patch, width]` for every patch out.

    The part that forecasting and pretraining share; it moves from the one to the other with
    `tsformer.pretrain.transfer`. Takes any number of variates, each by itself.
    """

    def __init__(self, spec: PatchTSTSpec, *, context: int) -> None:
        super().__init__()
        self.spec = spec
        self.context = context
        self.count = patch_count(
            context, patch=spec.patch, stride=spec.stride, padding=spec.padding
        )
        self.frozen = False
        self.embedding = spec.embedding()
        self.position = nn.Parameter(
            torch.empty(self.count, spec.width).uniform_(-POSITION_BOUND, POSITION_BOUND)
        )
        self.dropout = Dropout(spec.dropout)
        layer = LayerSpec(
            width=spec.width,
            heads=spec.heads,
            feedforward=spec.feedforward,
            dropout=spec.dropout,
            attention=spec.attention,
            norm=spec.norm,
            activation=spec.activation,
            # two official dropouts in series (in the output projection and on the branch)
            # are one that keeps (1 - p)^2
            attention_dropout=1 - (1 - spec.dropout) ** 2,
        )
        self.stack = Encoder(layer, depth=spec.depth)

    def extra_repr(self) -> str:
        spec = self.spec
        return f"patch={spec.patch}, stride={spec.stride}, padding={spec.padding}"

    def forward(self, batch: Batch) -> Tensor:
        batch.check_context(self.context)
        spec = self.spec
        cut = patches(batch.past, patch=spec.patch, stride=spec.stride, padding=spec.padding)
        tokens = self._embed(cut.to(self.position.dtype), batch)
        return self.stack(self.dropout(tokens + self.position))

    def _embed(self, cut: Tensor, batch: Batch) -> Tensor:
        if not isinstance(self.embedding, LevelledEmbedding):
            return self.embedding(cut)  # [row, patch, width]
        if batch.static is None:
            raise ShapeError(
                "this network reads the level of its windows, got none. Let its specification "
                "build it: the model around it gives them."
            )
        return self.embedding(cut, batch.static.flatten(0, 1))

    def freeze(self) -> None:
        """Nothing changes it from now on: no gradient, no dropout, no statistics of a batch.

        The official linear probe only stops the gradient: its dropout is live and the statistics
        of its batch norms go on moving.
        """
        self.frozen = True
        self.eval().requires_grad_(False)

    def thaw(self) -> None:
        """Training changes it again."""
        self.frozen = False
        self.requires_grad_(True)

    def train(self, mode: bool = True) -> PatchEncoder:
        return super().train(mode and not self.frozen)


class PatchTST(Model):
    """The network between the scalings: normalised windows in, normalised forecast out.

    Takes any number of variates, since each is forecast by itself with the same weights.
    """

    def __init__(self, spec: PatchTSTSpec, shape: Shape) -> None:
        super().__init__(shape)
        self.encoder = PatchEncoder(spec, context=shape.context)
        features = self.encoder.count * spec.width
        self.head = head(features, shape=shape, dropout=spec.head_dropout)

    def forward(self, batch: Batch) -> Tensor:
        features = flat_features(self.encoder(batch))  # [row, width * patch]
        return unfold_variates(self.head(features), variates=batch.past.shape[2])
