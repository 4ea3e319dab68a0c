"""From pure noise, every time: the whole way, or a few even steps of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor

from students.diffusion.samplers.base import Sampler, SamplerConfig, spread

if TYPE_CHECKING:
    from students.diffusion.policy import DiffusionPolicy


class AllSteps(SamplerConfig):
    """ddpm: every level, with noise in each step (Ho et al., 2020); Diffusion Policy's own."""

    steps: int | None = Field(None, ge=1)
    """Levels, evenly spread; default: all."""


class FewSteps(SamplerConfig):
    """ddim (diffusion) or euler (flow): a few levels, evenly spread, without noise (Song et al., 2021)."""

    steps: int = Field(16, ge=1)
    """Levels."""


class Denoise(Sampler):
    """Walks back from noise.

    Attributes:
        levels: that it stops at.
        random: whether its steps add noise.
    """

    def __init__(self, policy: DiffusionPolicy, config: AllSteps | FewSteps) -> None:
        super().__init__(policy, config)
        self.random = isinstance(config, AllSteps)
        levels = policy.config.levels
        self.levels = spread(levels - 1, min(config.steps or levels, levels))

    def plan(self, context: Tensor, rows: Tensor, num_envs: int) -> Tensor:
        """See `Sampler`."""
        return self.walk(self.noise(len(rows)), self.levels, context, self.random)
