"""Whitening of observations with running statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

MIN_STD = 1e-3  # keeps nearly constant entries (an arm at rest) from being amplified to noise
CLIP = 10.0
PRIOR_STD = 0.1
"""Standard deviation of the prior of `Normalizer.update`."""


class Normalizer(nn.Module):
    """(x - mean) / std, clipped to ±10, with the mean and variance of all observations passed to `update`.

    Statistics are merged batch by batch (Chan, Golub and LeVeque, 1983) in double precision and on the device.
    Before the first update it is the identity; for `scaled` entries it always is.
    """

    mean: Tensor
    var: Tensor
    count: Tensor
    scaled: Tensor

    def __init__(self, dim: int, scaled: Sequence[bool] = ()) -> None:
        """Build for rows of `dim` entries; `scaled` marks entries that are not whitened (empty: none)."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim, dtype=torch.float64))
        self.register_buffer("var", torch.ones(dim, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("scaled", torch.tensor(scaled or [False] * dim, dtype=torch.bool), persistent=False)

    @torch.no_grad()
    def update(self, x: Tensor, add_up: Callable[[Tensor], Tensor] | None = None, prior: bool = False) -> None:
        """Update the statistics with observations [N, dim]; call once per collected observation, not in the update epochs.

        Args:
            x: the observations.
            add_up: returns the sum of a tensor over all processes of a run, each with observations of its own; None: one.
            prior: count as many pseudo-observations of standard deviation `PRIOR_STD`, if these observations are the first.
                They are of arms at rest: whitened with them alone, the first motion would be clipped.
        """
        x = x.double()
        n, mean, var = (x.shape[0], x.mean(0), x.var(0, correction=0)) if add_up is None else _moments(x, add_up)
        total = self.count + n
        delta = mean - self.mean
        # M2 = M2_a + M2_b + delta^2 n_a n_b / (n_a + n_b)
        m2 = self.var * self.count + var * n + delta.square() * self.count * n / total
        self.mean += delta * n / total
        pseudo = n * (self.count == 0) * prior
        self.var.copy_((m2 + pseudo * PRIOR_STD**2) / (total + pseudo))
        self.count.copy_(total + pseudo)

    def forward(self, x: Tensor) -> Tensor:
        """Whiten [N, dim]."""
        mean, std = self.mean.float(), self.var.float().sqrt().clamp(min=MIN_STD)
        return torch.where(self.scaled, x, (x - mean) / std).clamp(-CLIP, CLIP)


def _moments(x: Tensor, add_up: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the number of rows, their mean [dim] and variance [dim] over all processes."""
    sums = add_up(torch.cat([x.sum(0), x.new_tensor([float(len(x))])]))
    count, mean = sums[-1], sums[:-1] / sums[-1]
    return count, mean, add_up((x - mean).square().sum(0)) / count
