"""The post-norm transformer encoder over tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tsformer.attention import ATTENTIONS, Compared
from tsformer.dropout import Dropout


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the features of tokens; statistics over all rows and tokens.

    The official code transposes to `[row, width, token]` and back for the same numbers.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        flat = tokens.flatten(0, 1)  # [row * token, width]
        return super().forward(flat).view_as(tokens)  # [row, token, width]


NORMS: dict[str, type[TokenBatchNorm] | type[nn.LayerNorm]] = {
    "batch": TokenBatchNorm,
    "layer": nn.LayerNorm,
}


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What an encoder layer is made of: `attention` of ATTENTIONS, `norm` of NORMS.

    `width` is that of a token, `feedforward` that of the hidden layer; `dropout` is a probability.
    """

    width: int
    heads: int
    feedforward: int
    dropout: float
    attention: str
    norm: str


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a residual branch and a norm after it.

    arXiv 2211.14730, appendix A.1.2, as the official code has it. Its attention branch passes
    two dropouts in series (one in the output projection, one on the branch); their product is
    one dropout that keeps (1 - p)^2, which is what stands here.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.attention = ATTENTIONS[spec.attention](spec.width, heads=spec.heads)
        self.attention_dropout = Dropout(1 - (1 - spec.dropout) ** 2)
        self.attention_norm = NORMS[spec.norm](spec.width)
        self.feedforward = nn.Sequential(
            nn.Linear(spec.width, spec.feedforward),
            nn.GELU(),
            Dropout(spec.dropout),
            nn.Linear(spec.feedforward, spec.width),
            Dropout(spec.dropout),
        )
        self.feedforward_norm = NORMS[spec.norm](spec.width)

    def forward(self, tokens: Tensor, below: Compared | None) -> tuple[Tensor, Compared | None]:
        mixed, compared = self.attention(tokens, below)
        tokens = self.attention_norm(tokens + self.attention_dropout(mixed))
        return self.feedforward_norm(tokens + self.feedforward(tokens)), compared


class Encoder(nn.Module):
    """`depth` encoder layers: tokens `[row, token, width]` in, the same out. No norm at the end."""

    def __init__(self, layer: LayerSpec, *, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(layer) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        below: Compared | None = None
        for layer in self.layers:
            tokens, below = layer(tokens, below)
        return tokens
