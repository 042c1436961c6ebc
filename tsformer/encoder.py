"""The post-norm transformer encoder over tokens."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from tsformer.attention import ATTENTIONS, Compared
from tsformer.batchnorm import TokenBatchNorm
from tsformer.dropout import Dropout

NORMS: dict[str, type[TokenBatchNorm] | type[nn.LayerNorm]] = {
    "batch": TokenBatchNorm,
    "layer": nn.LayerNorm,
}

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What an encoder layer is made of: `attention` of ATTENTIONS, `norm` of NORMS,
    `activation` of ACTIVATIONS.

    `width` is that of a token, `feedforward` that of the hidden layer. Dropouts are probabilities:
    `dropout` in the feed-forward branch, `attention_dropout` at the end of the attention branch,
    `weight_dropout` on the attention weights.
    """

    width: int
    heads: int
    feedforward: int
    dropout: float
    attention: str
    norm: str
    attention_dropout: float
    weight_dropout: float = 0.0
    activation: str = "gelu"


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with a residual branch and a norm after it.

    arXiv 2211.14730, appendix A.1.2, and arXiv 2310.06625, section 3.2, as the official codes
    have it.
    """

    def __init__(self, spec: LayerSpec) -> None:
        super().__init__()
        self.attention = ATTENTIONS[spec.attention](
            spec.width, heads=spec.heads, dropout=spec.weight_dropout
        )
        self.attention_dropout = Dropout(spec.attention_dropout)
        self.attention_norm = NORMS[spec.norm](spec.width)
        self.feedforward = nn.Sequential(
            nn.Linear(spec.width, spec.feedforward),
            ACTIVATIONS[spec.activation](),
            Dropout(spec.dropout),
            nn.Linear(spec.feedforward, spec.width),
            Dropout(spec.dropout),
        )
        self.feedforward_norm = NORMS[spec.norm](spec.width)

    def forward(
        self, tokens: Tensor, below: Compared | None, attended: Tensor | None = None
    ) -> tuple[Tensor, Compared]:
        mixed, compared = self.attention(tokens, below, attended)
        tokens = self.attention_norm(tokens + self.attention_dropout(mixed))
        return self.feedforward_norm(tokens + self.feedforward(tokens)), compared


class Encoder(nn.Module):
    """`depth` encoder layers: tokens `[row, token, width]` in, the same out. No norm at the end.

    `attended` `[row, token]` bool: which tokens are attended to, at least one in each row.
    """

    def __init__(self, layer: LayerSpec, *, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(layer) for _ in range(depth))

    def forward(self, tokens: Tensor, attended: Tensor | None = None) -> Tensor:
        below: Compared | None = None
        for layer in self.layers:
            tokens, below = layer(tokens, below, attended)
        return tokens

    def compared(self, tokens: Tensor, attended: Tensor | None = None) -> list[Compared]:
        """The queries and keys of every layer, lowest first, as `forward` makes them."""
        found: list[Compared] = []
        for layer in self.layers:
            tokens, below = layer(tokens, found[-1] if found else None, attended)
            found.append(below)
        return found
