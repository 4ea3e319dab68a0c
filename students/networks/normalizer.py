"""Whitening of observations with running statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MIN_STD = 1e-3  # entries that hardly move (an arm at rest) are not blown up to noise
CLIP = 10.0


class Normalizer(nn.Module):
    """(x - mean) / std, clipped to ±10, with the mean and variance of everything seen by `update`.

    Statistics are merged batch by batch (Chan, Golub and LeVeque, 1983) in double precision and on the device.
    Before the first update it is the identity, and for `scaled` entries always.
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    scaled: Tensor

    def __init__(self, dim: int, scaled: Sequence[bool] = ()) -> None:
        """For rows of `dim` entries; `scaled` marks those that need no whitening, none where empty."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("var", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scaled", torch.tensor(scaled or [False] * dim, dtype=torch.bool), persistent=False)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take in observations [N, dim]; call it once per observation that is collected, never in the epochs."""
        x = x.double()
        n = x.shape[0]
        total = self.count + n
        delta = x.mean(0) - self.mean
        # M2 = M2_a + M2_b + delta^2 n_a n_b / (n_a + n_b)
        m2 = self.var * self.count + x.var(0, correction=0) * n + delta.square() * self.count * n / total
        self.mean += delta * n / total
        self.var.copy_(m2 / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """Whiten [N, dim]."""
        mean, std = self.mean.float(), self.var.float().sqrt().clamp(min=MIN_STD)
        return torch.where(self.scaled, x, (x - mean) / std).clamp(-CLIP, CLIP)
