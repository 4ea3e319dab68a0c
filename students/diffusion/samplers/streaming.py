"""A buffer of actions, the next ones clean and the last ones noise, that moves on while it is denoised.

Streaming Diffusion Policy (arXiv 2406.04806). Needs a policy that was trained on actions of different noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from envs.errors import ConfigError
from students.diffusion.samplers.base import Sampler, SamplerConfig

if TYPE_CHECKING:
    from students.diffusion.policy import DiffusionPolicy


class Stream(SamplerConfig):
    """streaming: a rolling buffer whose actions are the noisier the later they are; few steps per chunk."""

    execute: int | None = Field(4, ge=1)
    """Actions that become clean and are executed before the buffer moves on; divides the horizon."""
    steps: int = Field(4, ge=1)
    """Network evaluations for them."""


class Streaming(Sampler):
    """The buffer is H / execute groups; a tick takes each group one group's worth of noise down, in `steps` steps."""

    def __init__(self, policy: DiffusionPolicy, config: Stream) -> None:
        super().__init__(policy, config)
        horizon, levels = policy.config.horizon, policy.config.levels
        if policy.config.noise != "action":
            raise ConfigError("it needs a policy trained with --diffusion.noise action")
        if horizon % self.execute:
            raise ConfigError(f"execute={self.execute} does not divide the horizon of {horizon} actions")
        groups = horizon // self.execute
        if config.steps * groups > levels:
            raise ConfigError(f"{groups} groups of {config.steps} steps are more than {levels} levels")
        group = torch.arange(horizon, device=policy.device) // self.execute  # [H]
        # After `done` of all groups * steps steps, group 0 of a buffer from pure noise would be at this level; -1 is clean.
        total = groups * config.steps
        line = torch.linspace(levels - 1, -1, total + 1, device=policy.device).round().long()
        done = torch.arange(total + 1, device=policy.device)[:, None] - config.steps * group  # [total + 1, H]
        self.ramp = line[done.clamp_min(0)][..., None]  # [total + 1, H, 1]
        self.steps = config.steps

    def plan(self, context: Tensor, rows: Tensor, num_envs: int) -> Tensor:
        """See `Sampler`."""
        buffer, known = self.memory.recall(rows, num_envs)
        new = self.noise(len(rows))
        if known.any():  # move on: the executed group leaves, pure noise comes in
            kept = new.shape[1] - self.execute
            new[known, :kept] = buffer[known, self.execute :]
            new[known] = self._steps(new[known], context[known], len(self.ramp) - 1 - self.steps)
        if not known.all():
            new[~known] = self._steps(new[~known], context[~known], 0)
        self.memory.store(rows, new)
        return new

    def _steps(self, x: Tensor, context: Tensor, first: int) -> Tensor:
        """Take the steps of the ramp from `first` to its end, where the first group is clean."""
        for now, then in zip(self.ramp[first:-1], self.ramp[first + 1 :], strict=True):
            x = self.policy.process.step(x, self.predict(x, now[None].clamp_min(0), context), now[None], then[None])
        return x
