"""Real-time chunking (arXiv 2506.07339): inpaint the next chunk around the actions executed while it is computed.

The robot executes the last chunk while the next one is computed. The first `delay` actions of the new chunk are therefore
fixed, and the following ones should continue smoothly: each step is guided towards the old chunk (pseudoinverse guidance),
with decreasing weight along the chunk.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.students.diffusion.samplers.base import Sampler, SamplerConfig, even_levels, level_pairs, shift

if TYPE_CHECKING:
    from rpd.students.diffusion.policy import DiffusionPolicy

GUIDANCE = 10.0
"""Largest weight of the guidance, as in LeRobot."""


class Inpainting(SamplerConfig):
    """rtc: real-time chunking; a new chunk continues the actions that are executed while it is computed."""

    n_action_steps: int | None = Field(4, ge=1)
    """Actions of a chunk that are executed before the next chunk is drawn."""
    delay: int = Field(1, ge=0)
    """Inference delay in control steps: number of actions taken over from the last chunk."""
    steps: int = Field(16, ge=1)
    """Number of levels."""


class RealTimeChunking(Sampler):
    """Deterministic denoising steps with guidance."""

    def __init__(self, policy: DiffusionPolicy, config: Inpainting) -> None:
        super().__init__(policy, config)
        horizon = policy.config.horizon
        left = horizon - self.n_action_steps  # actions of the last chunk left to execute
        if config.delay > left:
            raise ConfigError(
                f"delay={config.delay}, but after {self.n_action_steps} of {horizon} actions {left} are left to execute"
            )
        self.delay = config.delay
        self.levels = even_levels(policy.config.num_train_timesteps - 1, min(config.steps, policy.config.num_train_timesteps))
        # w = 1 for actions executed in the meantime; then c (e^c - 1) / (e - 1), c falling from 1 to 0 (eq. 5); 0 for new
        # actions
        c = ((left - torch.arange(horizon)) / (left - config.delay + 1)).clamp(0, 1)
        weight = c * (c.exp() - 1) / (math.e - 1)
        self.weight = torch.where(torch.arange(horizon) < config.delay, 1.0, weight)[:, None].to(policy.device)  # [H, 1]

    def sample(self, context: Tensor, rows: Tensor, num_envs: int) -> Tensor:
        """See `Sampler`."""
        chunks, known = self.memory.recall(rows, num_envs)
        new = self.noise(len(rows))
        if not known.all():
            new[~known] = self.denoise(new[~known], self.levels, context[~known], random=False)
        if known.any():
            before = shift(chunks[known], self.n_action_steps)
            inpainted = self._guided(new[known], context[known], before)
            inpainted[:, : self.delay] = before[:, : self.delay]
            new[known] = inpainted
        self.memory.store(rows, new)
        return new

    def _guided(self, x: Tensor, context: Tensor, before: Tensor) -> Tensor:
        process = self.policy.process
        for now, then in level_pairs(self.levels):
            at, to = (torch.tensor(level, device=x.device).view(1, 1, 1) for level in (now, then))
            with torch.enable_grad():
                start = x.detach().requires_grad_(True)
                clean = process.clean(start, self.predict(start, at, context), at)
                error = self.weight * (before - clean)
                (pull,) = torch.autograd.grad(clean, start, error.detach())  # J^T w (before - x1)
            # In the paper's time, x = tau clean + (1 - tau) noise: processes with other factors are scaled to it.
            a, s = (float(part) for part in process.parts(at))
            noisy = s / (a + s)
            # (1 - tau) min(beta, ((1 - tau) / tau) ((1 - tau)^2 + tau^2) / (1 - tau)^2), applied to `clean` instead of the
            # velocity
            gain = noisy * min(GUIDANCE, (noisy**2 + (1 - noisy) ** 2) / max(noisy * (1 - noisy), 1e-9))
            guided = (clean + gain * (a + s) * pull).detach()
            x = process.step(start.detach(), process.prediction(start.detach(), guided, at), at, to)
        return x
