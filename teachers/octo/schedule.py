"""Diffusion noise: Octo's cosine schedule, and two samplers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, int], Tensor]
"""(x, t) -> predicted noise in x, of the same shape."""


class Schedule(NamedTuple):
    """Noise schedule of T steps, float32 [T]."""

    beta: Tensor
    alpha: Tensor
    alpha_bar: Tensor

    @property
    def steps(self) -> int:
        """Number of steps, T."""
        return len(self.beta)


def cosine(steps: int) -> Schedule:
    """Nichol & Dhariwal's schedule (2021, eq. 17) as in Octo: float32 throughout."""
    u = torch.arange(steps + 1, dtype=torch.float32) / steps
    f = torch.cos((u + 0.008) / 1.008 * (math.pi / 2)).square()
    f = f / f[0]
    beta = (1 - f[1:] / f[:-1]).clamp_max(0.999)
    return Schedule(beta, 1 - beta, (1 - beta).cumprod(0))


def ddpm(denoise: Denoiser, schedule: Schedule, x: Tensor, noise: Tensor, limit: float, free: Tensor | None = None) -> Tensor:
    """Denoise through all T steps (Ho et al., 2020, algorithm 2, with variance beta), clipping each to `limit`.

    Args:
        denoise: the network.
        schedule: schedule of T steps.
        x: [..., K] standard normal.
        noise: [T, ..., K] standard normal; entry 0 belongs to the first step, t = T - 1.
        limit: largest absolute value.
        free: [K] bool: numbers that the data lack, which are kept at the noise level of the previous step; None: none.
    """
    for i, t in enumerate(reversed(range(schedule.steps))):
        beta, alpha, alpha_bar = (float(table[t]) for table in schedule)
        x = (x - beta / math.sqrt(1 - alpha_bar) * denoise(x, t)) / math.sqrt(alpha)
        if t > 0:
            x = x + math.sqrt(beta) * noise[i]
        x = x.clamp(-limit, limit)
        if free is not None:
            x = torch.where(free, math.sqrt(1 - alpha_bar) * noise[i], x)
    return x


def ddim(denoise: Denoiser, schedule: Schedule, x: Tensor, noise: Tensor, limit: float, free: Tensor | None = None) -> Tensor:
    """Denoise in len(noise) <= T deterministic steps (Song et al., 2021, eq. 12 with sigma = 0).

    Arguments as in `ddpm`; `noise` is only used for `free` numbers. The predicted clean action is clipped, and the predicted
    noise
    adapted, at every step: the first step divides by sqrt(alpha_bar) = 0.001.
    """
    times = torch.linspace(schedule.steps - 1, 0, len(noise)).round().int().tolist()
    for i, t in enumerate(times):
        now = float(schedule.alpha_bar[t])
        then = float(schedule.alpha_bar[times[i + 1]]) if i + 1 < len(times) else 1.0
        clean = ((x - math.sqrt(1 - now) * denoise(x, t)) / math.sqrt(now)).clamp(-limit, limit)
        eps = (x - math.sqrt(now) * clean) / math.sqrt(1 - now)
        x = math.sqrt(then) * clean + math.sqrt(1 - then) * eps
        if free is not None:
            x = torch.where(free, math.sqrt(1 - now) * noise[i], x)
    return x
