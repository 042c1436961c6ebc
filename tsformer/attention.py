"""Self-attention over the token axis: plain, residual and interpretable.

The forms in ATTENTIONS have the same signature: what the layers below attended by comes in and
goes on, so an encoder need not know which one it holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from tsformer.errors import ConfigError


class Compared(NamedTuple):
    """What attention scores are made of: `[row, head, token, width]` each."""

    query: Tensor
    key: Tensor


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product attention (arXiv 1706.03762, section 3.2), SDPA inside.

    Query, key and value come from one fused projection with bias: the same numbers, bounds of
    initialisation and parameter count as three. `dropout` is that of the attention weights, as
    in iTransformer's official code; PatchTST's has none.
    """

    def __init__(self, width: int, *, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width must be a multiple of heads ({heads}), got {width}.")
        self.heads = heads
        self.dropout = dropout
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def extra_repr(self) -> str:
        return f"heads={self.heads}, dropout={self.dropout}"

    def forward(
        self, tokens: Tensor, _below: Compared | None, attended: Tensor | None = None
    ) -> tuple[Tensor, Compared]:
        """Mixed tokens `[row, token, width]`, and what was compared, for the layer above.

        `attended` `[row, token]` bool: which tokens give anything to the others, at least one in
        each row; None for all.
        """
        query, key, value = self._split(tokens)
        return self._join(self._mix(query, key, value, attended)), Compared(query, key)

    def _split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fused = self.project(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = fused.transpose(1, 3).unbind(2)  # [row, head, token, width] each
        return query, key, value

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, attended: Tensor | None) -> Tensor:
        """Values weighted by the softmax of the scores, `[row, head, token, width]`."""
        return scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if attended is None else attended[:, None, None],
            dropout_p=self.dropout if self.training else 0.0,
            scale=(self.project.in_features // self.heads) ** -0.5,
        )

    def _join(self, mixed: Tensor) -> Tensor:
        mixed = mixed.transpose(1, 2).flatten(-2)  # [row, token, width]
        return self.output(mixed)


class ResidualSelfAttention(SelfAttention):
    """Attention whose scores add up over the layers before the softmax (arXiv 2012.11747).

    Layer n has the scores S_n = Q_n K_n' / sqrt(d) + S_(n-1). Unrolled, that is one product of
    concatenated rows, S_n = [Q_1 .. Q_n] [K_1 .. K_n]' / sqrt(d): so queries and keys are handed
    up instead of scores. It is the same function, but no `token x token` matrix ever stands in
    memory, and the fused kernel runs.
    """

    def forward(
        self, tokens: Tensor, below: Compared | None, attended: Tensor | None = None
    ) -> tuple[Tensor, Compared]:
        query, key, value = self._split(tokens)
        width = value.shape[-1]
        if below is not None:
            query = torch.cat((below.query, query), -1)  # [row, head, token, layer * width]
            key = torch.cat((below.key, key), -1)
            # The fused kernels want values as wide as keys; the zeros are cut off again.
            value = pad(value, (0, query.shape[-1] - width))
        mixed = self._mix(query, key, value, attended)
        return self._join(mixed[..., :width]), Compared(query, key)


ATTENTIONS: dict[str, type[SelfAttention]] = {
    "plain": SelfAttention,
    "residual": ResidualSelfAttention,
}


class InterpretableAttention(nn.Module):
    """Causal attention whose heads share one value map (arXiv 1912.09363, section 4.4).

    So the mean over heads is one attention (equations 14 to 16), and its weights say what was
    read. A token attends to itself and to those before it; no map has a bias (official code).
    Deviation: no dropout inside. The official code has one on each head and one on the output,
    before that of the gate which follows; the paper has the last alone.
    """

    def __init__(self, width: int, *, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width must be a multiple of heads ({heads}), got {width}.")
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width // heads, bias=False)
        self.output = nn.Linear(width // heads, width, bias=False)

    def extra_repr(self) -> str:
        return f"heads={self.heads}"

    def forward(self, tokens: Tensor, *, queries: int) -> tuple[Tensor, Tensor]:
        """What the last `queries` tokens read, and by which weights, averaged over heads.

        From tokens `[row, token, width]` come `[row, query, width]` and `[row, query, token]`.
        """
        weights = self._weights(tokens, queries)
        mixed = weights @ self.value(tokens)  # [row, query, width / heads]
        return self.output(mixed), weights

    def _weights(self, tokens: Tensor, queries: int) -> Tensor:
        query = self._split(self.query(tokens[:, -queries:]))
        key = self._split(self.key(tokens))
        scores = query @ key.mT * key.shape[-1] ** -0.5  # [row, head, query, token]
        every = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        later = every.triu(tokens.shape[1] - queries + 1)
        return scores.masked_fill(later, -torch.inf).softmax(-1).mean(1)

    def _split(self, projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (self.heads, -1)).transpose(
            1, 2
        )  # [row, head, token, width]
