"""Pre-norm transformer blocks of flax's Octo: layer norm with epsilon 1e-6, tanh-GELU, biases everywhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6


class Attention(nn.Module):
    """Multi-head attention through torch's fused kernels."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Attend from x [B, N, D] to memory [B, M, D]; `mask` [B or 1, 1, N, M] is additive, or bool of keys to include."""
        query, key, value = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, N or M, D / heads]
            for project, tokens in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(seen.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two-layer MLP."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """x += attention(norm(x)); x += MLP(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width, heads), MLP(width, hidden)
        self.norm1, self.norm2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        normed = self.norm1(x)
        x = x + self.attention(normed, normed, mask)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """All blocks, and the final norm."""

    def __init__(self, width: int, layers: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width, EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, N, D], and a mask as in `Attention` -> [B, N, D]."""
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


class Pool(nn.Module):
    """Multi-head attention pooling (Lee et al., 2019): learned probes attend to a set of tokens."""

    HEADS = 8

    def __init__(self, width: int, probes: int) -> None:
        """Build; `width` must be a multiple of HEADS."""
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, probes, width).normal_(std=width**-0.5))
        self.attention, self.mlp = Attention(width, self.HEADS), MLP(width, 4 * width)
        self.norm = nn.LayerNorm(width, EPSILON)

    def forward(self, tokens: Tensor, valid: Tensor | None = None) -> Tensor:
        """[..., n, D] with mask `valid` [..., n] (None: all) -> [..., probes, D]."""
        flat = tokens.flatten(0, -3)
        mask = None if valid is None else valid.reshape(len(flat), 1, 1, -1)
        x = self.attention(self.probe.expand(len(flat), -1, -1), flat, mask)
        return (x + self.mlp(self.norm(x))).unflatten(0, tokens.shape[:-2])
