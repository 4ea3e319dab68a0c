"""The action distribution: a clipped Gaussian per continuous dimension, a Bernoulli over {-1, +1} per discrete one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from rpd.envs.finite import nan_where_invalid
from rpd.students.row_share import RowShare, draw_rows

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class ActionDistribution:
    """Independent dimensions, N actions of A dimensions each.

    The Gaussian is unbounded here and clipped by the environment, so densities are those of the unclipped sample.
    Both families are computed for all A dimensions and one is selected: cheaper than gathering for A ~ 7, and it
    avoids synchronization with a GPU.
    """

    raw: Tensor
    """[N, A] network output: the Gaussian's mean, or the logit of +1."""
    log_std: Tensor
    """[N, A] or [A]; unused in discrete dimensions."""
    discrete: Tensor
    """[A] bool."""
    own: Tensor | None = None
    """[N, A] bool: dimensions of each row's robot, if rows of several robots are padded to the same A. None: all."""
    imitation: ActionDistribution | None = None
    """Distribution for the teacher divergence, if the network has a separate head for it (dual-head). None: this one."""

    @property
    def mean(self) -> Tensor:
        """[N, A] expectation; discrete dimensions: 2p - 1 = tanh(logit / 2)."""
        raw = nan_where_invalid(self.raw)
        return torch.where(self.discrete, torch.tanh(raw / 2), raw)

    @property
    def std(self) -> Tensor:
        """[N, A] standard deviation of the continuous dimensions."""
        return self.log_std.exp().expand_as(self.raw)

    @property
    def logits(self) -> Tensor:
        """[N, A] log-odds of +1 in the discrete dimensions."""
        return self.raw

    def mode(self) -> Tensor:
        """[N, A] the most likely action; discrete dimensions are -1 or +1. NaN where the network output is NaN."""
        raw = nan_where_invalid(self.raw)
        return torch.where(self.discrete, sign(raw), raw)

    @torch.no_grad()
    def sample(self, generator: torch.Generator | None = None, share: RowShare | None = None) -> Tensor:
        """Draw one action [N, A] per row, without gradient; for `share` see `draw_rows`."""
        (count, dims), device = self.raw.shape, self.raw.device
        noise = draw_rows(lambda n: torch.randn(n, dims, generator=generator, device=device), count, share)
        uniform = draw_rows(lambda n: torch.rand(n, dims, generator=generator, device=device), count, share)
        gaussian = self.raw + self.log_std.exp() * noise
        return torch.where(self.discrete, sign(torch.sigmoid(self.raw) - uniform), gaussian)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of actions [..., N, A], summed over dimensions: [..., N]."""
        return self.log_prob_per_dim(action).sum(-1)

    def log_prob_per_dim(self, action: Tensor) -> Tensor:
        """Log-density of actions [..., N, A] in each dimension. Discrete dimensions use the sign of the action."""
        z = (action - self.raw) * torch.exp(-self.log_std)
        gaussian = -0.5 * z.square() - self.log_std - 0.5 * LOG_2PI
        bernoulli = logsigmoid(sign(action) * self.raw)  # p(+1) = sigmoid(l), p(-1) = sigmoid(-l)
        return self.per_dim(gaussian, bernoulli)

    def entropy(self) -> Tensor:
        """Entropy [N] in nats: differential for the Gaussians."""
        gaussian = 0.5 + 0.5 * LOG_2PI + self.log_std
        bernoulli = softplus(self.raw) - self.raw * torch.sigmoid(self.raw)  # H = log(1 + e^l) - l p
        return self.total(gaussian, bernoulli)

    def total(self, continuous: Tensor, discrete: Tensor) -> Tensor:
        """Select the continuous or discrete term per dimension [N, A] and sum over the dimensions of each row's robot: [N]."""
        return self.per_dim(continuous, discrete).sum(-1)

    def per_dim(self, continuous: Tensor, discrete: Tensor) -> Tensor:
        """Select the continuous or discrete term per dimension [..., N, A]; 0 where the row's robot has no such dimension."""
        terms = torch.where(self.discrete, discrete, continuous)
        return terms if self.own is None else terms.masked_fill(~self.own, 0.0)

    def kl(self, other: ActionDistribution) -> Tensor:
        """KL(self || other) [N] in nats."""
        gap, log_ratio = self.raw - other.raw, other.log_std - self.log_std
        gaussian = log_ratio + 0.5 * ((-2 * log_ratio).exp() + (gap * torch.exp(-other.log_std)).square() - 1)
        # p (log p - log p') + (1 - p) (log (1 - p) - log (1 - p')) = p (l - l') + log(1 + e^l') - log(1 + e^l)
        bernoulli = torch.sigmoid(self.raw) * gap + softplus(other.raw) - softplus(self.raw)
        return torch.where(self.discrete, bernoulli, gaussian).sum(-1)

    def detach(self) -> ActionDistribution:
        """Copy without gradient."""
        return ActionDistribution(self.raw.detach(), self.log_std.detach(), self.discrete)


def executed(action: Tensor, discrete: Tensor) -> Tensor:
    """Action [..., A] as an environment executes it: clipped, `discrete` dimensions [A] by sign. NaN stays NaN."""
    action = nan_where_invalid(action)
    return torch.where(discrete, sign(action), action.clamp(-1, 1))


def sign(x: Tensor) -> Tensor:
    """Sign as -1 or +1, never 0. NaN stays NaN: otherwise a gripper would close on it."""
    return torch.where(x >= 0, 1.0, -1.0) + 0 * x
