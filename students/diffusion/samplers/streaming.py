"""Rolling buffer of actions with increasing noise: the first actions are clean, the last pure noise.

Streaming Diffusion Policy (arXiv 2406.04806). Needs a policy trained with a separate noise level per action.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from rpd.envs.errors import ConfigError
from rpd.students.diffusion.samplers.base import Sampler, SamplerConfig

if TYPE_CHECKING:
    from rpd.students.diffusion.policy import DiffusionPolicy


class Stream(SamplerConfig):
    """streaming: a rolling buffer with more noise in later actions; few steps per chunk."""

    n_action_steps: int | None = Field(4, ge=1)
    """Actions that are denoised and executed before the buffer moves on; divides the horizon."""
    steps: int = Field(4, ge=1)
    """Network evaluations for them."""


class Streaming(Sampler):
    """The buffer has H / n_action_steps groups; a tick denoises each group by one group's share, in `steps` steps."""

    def __init__(self, policy: DiffusionPolicy, config: Stream) -> None:
        super().__init__(policy, config)
        horizon, levels = policy.config.horizon, policy.config.num_train_timesteps
        if policy.config.noise != "action":
            raise ConfigError("it needs a policy trained with --diffusion.noise action")
        if horizon % self.n_action_steps:
            raise ConfigError(f"n_action_steps={self.n_action_steps} does not divide the horizon of {horizon} actions")
        groups = horizon // self.n_action_steps
        if config.steps * groups > levels:
            raise ConfigError(f"{groups} groups of {config.steps} steps are more than {levels} levels")
        group = torch.arange(horizon, device=policy.device) // self.n_action_steps  # [H]
        # After `done` of all groups * steps steps, group 0 of a buffer that started as pure noise has this level; -1 is clean.
        total = groups * config.steps
        line = torch.linspace(levels - 1, -1, total + 1, device=policy.device).round().long()
        done = torch.arange(total + 1, device=policy.device)[:, None] - config.steps * group  # [total + 1, H]
        self.ramp = line[done.clamp_min(0)][..., None]  # [total + 1, H, 1]
        self.steps = config.steps

    def sample(self, context: Tensor, rows: Tensor, num_envs: int) -> Tensor:
        """See `Sampler`."""
        buffer, known = self.memory.recall(rows, num_envs)
        new = self.noise(len(rows))
        if known.any():  # shift: drop the executed group, append pure noise
            kept = new.shape[1] - self.n_action_steps
            new[known, :kept] = buffer[known, self.n_action_steps :]
            new[known] = self._steps(new[known], context[known], len(self.ramp) - 1 - self.steps)
        if not known.all():
            new[~known] = self._steps(new[~known], context[~known], 0)
        self.memory.store(rows, new)
        return new

    def _steps(self, x: Tensor, context: Tensor, first: int) -> Tensor:
        """Take the steps of the ramp from `first` to the end, where the first group is clean."""
        for now, then in zip(self.ramp[first:-1], self.ramp[first + 1 :], strict=True):
            x = self.policy.process.step(x, self.predict(x, now[None].clamp_min(0), context), now[None], then[None])
        return x
