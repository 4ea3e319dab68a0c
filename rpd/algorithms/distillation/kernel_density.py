"""A teacher's samples against the student's Gaussian: a kernel density estimate, and what it says of the student's draws.

A teacher that can only be drawn from (a diffusion or flow head) answers with S samples a^j [S, A]. Its density is estimated
(Rosenblatt, 1956; Parzen, 1962) by a Gaussian about each,

    q~(a) = 1/S sum_j N(a; a^j, h² I)

over the continuous dimensions together: a sample is one way of doing it, and its dimensions belong to each other. The
bandwidth h does not shrink with S, as it would for an estimate's own sake: it is how far off still counts as the same way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from students.distribution import LOG_2PI

DRAWS = 8
"""Actions of the student per expectation, in pairs mu +- sigma eps: what is quadratic about mu has an exact gradient there."""


def log_density(action: Tensor, samples: Tensor, continuous: Tensor, std: float) -> Tensor:
    """Log q~ [..., N] at actions [..., N, A].

    Args:
        action: [..., N, A].
        samples: [N, S, A].
        continuous: [A] bool; the other dimensions are left out.
        std: the bandwidth h, in normalised action units.
    """
    z = ((action[..., None, :] - samples) / std).masked_fill(~continuous, 0.0)
    kernels = (-0.5 * z.square().sum(-1)).logsumexp(-1)
    return kernels - math.log(samples.shape[-2]) - continuous.sum() * (math.log(std) + 0.5 * LOG_2PI)


def reverse_kl(mean: Tensor, sigma: Tensor, samples: Tensor, continuous: Tensor, std: float) -> Tensor:
    """Estimate KL(S || q~) = E[log pi_S(a) - log q~(a)] [N] from `DRAWS` actions a = mean + sigma eps, differentiably.

    Draws from torch's global generator. With S = 1 and the student equal to q~ it is 0, whatever is drawn.

    Args:
        mean: [N, A].
        sigma: [N, A].
        samples: [N, S, A].
        continuous: [A] bool.
        std: the bandwidth h.
    """
    half = torch.randn(DRAWS // 2, *mean.shape, dtype=mean.dtype, device=mean.device)
    noise = torch.cat([half, -half])
    log_student = (-0.5 * noise.square() - sigma.log() - 0.5 * LOG_2PI).masked_fill(~continuous, 0.0).sum(-1)
    return (log_student - log_density(mean + sigma * noise, samples, continuous, std)).mean(0)


def moments(samples: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q~ [N, A], dimension by dimension: its variance is that of the samples, and h²."""
    return samples.mean(-2), (samples.var(-2, correction=0) + std**2).sqrt()


def nearest(mean: Tensor, samples: Tensor, continuous: Tensor) -> Tensor:
    """Squared distance [N] from a mean [N, A] to the nearest of the samples [N, S, A], over the continuous dimensions."""
    return (mean[:, None] - samples).masked_fill(~continuous, 0.0).square().sum(-1).min(-1).values
