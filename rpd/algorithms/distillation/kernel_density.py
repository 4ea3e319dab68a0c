"""Kernel density estimate of a teacher's samples, and its divergence from a Gaussian student.

A teacher that can only be sampled (a diffusion or flow head) returns S samples a^j [S, A]. Their density is estimated with a
Gaussian kernel (Rosenblatt, 1956; Parzen, 1962),

    q~(a) = 1/S sum_j N(a; a^j, h² I)

jointly over the continuous dimensions, because the dimensions of one sample belong together. The bandwidth h does not shrink
with S, as it would for a consistent estimate: it is the tolerance within which an action counts as the same solution.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rpd.students.networks.distribution import LOG_2PI

DRAWS = 8
"""Student actions per expectation, in pairs mu +- sigma eps: terms quadratic in the noise have an exact gradient in mu."""


def log_density(action: Tensor, samples: Tensor, continuous: Tensor, std: float) -> Tensor:
    """Log-density of q~ [..., N] at actions [..., N, A].

    Args:
        action: [..., N, A].
        samples: [N, S, A].
        continuous: [A] bool; the other dimensions are ignored.
        std: the bandwidth h, in normalized action units.
    """
    z = ((action[..., None, :] - samples) / std).masked_fill(~continuous, 0.0)
    kernels = (-0.5 * z.square().sum(-1)).logsumexp(-1)
    return kernels - math.log(samples.shape[-2]) - continuous.sum() * (math.log(std) + 0.5 * LOG_2PI)


def log_density_per_dim(action: Tensor, samples: Tensor, continuous: Tensor, std: float) -> Tensor:
    """Log q~(a_d | the other dimensions of a) [..., N, A], 0 in the other dimensions; arguments as in `log_density`.

    log q~(a) minus the log-density of a without dimension d. The second term does not depend on a_d, so that the score-function
    gradient of dimension d is that of the joint density, with less variance.
    """
    z = ((action[..., None, :] - samples) / std).masked_fill(~continuous, 0.0)
    kernels = -0.5 * z.square()  # [..., N, S, A]
    joint = kernels.sum(-1, keepdim=True)
    each = joint.logsumexp(-2) - (joint - kernels).logsumexp(-2) - math.log(std) - 0.5 * LOG_2PI
    return each.masked_fill(~continuous, 0.0)


def reverse_kl(mean: Tensor, sigma: Tensor, samples: Tensor, continuous: Tensor, std: float) -> Tensor:
    """Estimate KL(S || q~) = E[log pi_S(a) - log q~(a)] [N], see `log_ratio`.

    With S = 1 and the student equal to q~ the estimate is 0 for any noise.
    """
    return log_ratio(mean, sigma, samples, continuous, std).mean(0)


def log_ratio(mean: Tensor, sigma: Tensor, samples: Tensor, continuous: Tensor, std: float) -> Tensor:
    """Log pi_S(a) - log q~(a) [DRAWS, N] of student actions a = mean + sigma eps, differentiably.

    Uses torch's global random generator.

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
    return log_student - log_density(mean + sigma * noise, samples, continuous, std)


def moments(samples: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q~ [N, A] per dimension: its variance is the variance of the samples plus h²."""
    return samples.mean(-2), (samples.var(-2, correction=0) + std**2).sqrt()


def nearest(mean: Tensor, samples: Tensor, continuous: Tensor) -> Tensor:
    """Squared distance [N] from a mean [N, A] to the nearest of the samples [N, S, A], over the continuous dimensions."""
    return (mean[:, None] - samples).masked_fill(~continuous, 0.0).square().sum(-1).min(-1).values
